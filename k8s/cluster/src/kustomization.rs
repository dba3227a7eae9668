//! Writes the kustomization that the checks apply.

use crate::images::PROGRAMS;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The prefix of the names of images in k8s/base and k8s/overlays.
pub const IMAGE_PREFIX: &str = "roundhouse.invalid";

/// The name of the replica's image in k8s/overlays/gpu.
const CUDA_IMAGE: &str = "replica-cuda";

/// Manifests of another kustomization, with some changes.
#[derive(Debug, Clone)]
pub struct Kustomization {
    /// The folder of the kustomization that has the manifests.
    pub base: PathBuf,
    /// The namespace to which the manifests are moved.
    pub namespace: String,
    /// The text that replaces the prefix `roundhouse.invalid` of images. Images that `base` has renamed keep their names.
    /// Nodes then fetch the images that they do not have, also if `base` is for images that were loaded.
    pub image_prefix: Option<String>,
    /// The architecture of the nodes to which pods go; `None` if the manifests decide.
    pub architecture: Option<String>,
    /// The folders of the components that are added.
    pub components: Vec<PathBuf>,
}

impl Kustomization {
    /// The manifests of `base` in `namespace`.
    pub fn new(base: PathBuf, namespace: impl Into<String>) -> Self {
        let namespace = namespace.into();
        Self { base, namespace, image_prefix: None, architecture: None, components: Vec::new() }
    }

    /// Writes the kustomization to `folder`, which is made.
    ///
    /// # Errors
    /// If `base` or a component does not exist, or the files cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        link(&self.base, &folder.join("base"))?;
        let mut components = Vec::new();
        for (index, component) in self.components.iter().enumerate() {
            components.push(format!("component-{index}"));
            link(component, &folder.join(&components[index]))?;
        }
        let images = self.image_prefix.as_ref().map(|prefix| {
            let names = PROGRAMS.into_iter().chain([CUDA_IMAGE]);
            names
                .map(|name| json!({"name": format!("{IMAGE_PREFIX}/{name}"), "newName": format!("{prefix}/{name}")}))
                .collect::<Vec<_>>()
        });
        let selectors = self.architecture.iter().map(|name| node_selector(name));
        let patches: Vec<_> = selectors.chain(self.image_prefix.iter().map(|_| pull_policy())).collect();
        let kustomization = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
            "namespace": self.namespace, "resources": ["base"], "components": components,
            "images": images.iter().flatten().collect::<Vec<_>>(),
            "patches": patches,
        });
        let path = folder.join("kustomization.yaml");
        fs::write(&path, kustomization.to_string()).with_context(|| format!("write {}", path.display()))
    }
}

/// The patch that sends the pods of all Deployments to nodes of an architecture.
fn node_selector(architecture: &str) -> Value {
    let value = json!({"kubernetes.io/arch": architecture});
    let patch = json!([{"op": "add", "path": "/spec/template/spec/nodeSelector", "value": value}]);
    json!({"target": {"kind": "Deployment"}, "patch": patch.to_string()})
}

/// The patch that has nodes fetch images that they do not have.
fn pull_policy() -> Value {
    let selector = format!("app.kubernetes.io/component in ({})", PROGRAMS.join(", "));
    let path = "/spec/template/spec/containers/0/imagePullPolicy";
    let patch = json!([{"op": "add", "path": path, "value": "IfNotPresent"}]).to_string();
    json!({"target": {"kind": "Deployment", "labelSelector": selector}, "patch": patch})
}

/// Makes a link to a kustomization at `path`, since kustomize refuses absolute paths.
fn link(kustomization: &Path, path: &Path) -> Result<()> {
    let target = fs::canonicalize(kustomization)
        .with_context(|| format!("find the kustomization {}", kustomization.display()))?;
    symlink(&target, path).with_context(|| format!("create the link {}", path.display()))
}
