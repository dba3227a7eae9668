//! A cluster that exists already: the checks get a namespace of their own in it, which is deleted at the end.

use crate::access::{Cluster, ClusterOrigin};
use crate::images::PROGRAMS;
use crate::kubectl::Kubectl;
use crate::paths;
use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Time that kubectl waits for the namespace to be gone. Pods take up to 30 s to drain.
const DELETE_TIMEOUT: Duration = Duration::from_secs(120);

/// The prefix of the images in k8s/base.
const IMAGE_PREFIX: &str = "roundhouse";

/// The cluster that exists already, and the manifests to apply to it.
#[derive(Debug, Clone, clap::Args)]
pub struct ExistingOptions {
    /// Run the checks on the cluster of this kubeconfig, instead of starting one; they get a namespace of their own,
    /// which is deleted at the end
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig, if not its current one
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub context: Option<String>,
    /// Folder with the kustomization to apply, k8s/base if not given; it may name images
    #[arg(long, value_name = "FOLDER", requires = "kubeconfig")]
    pub apply: Option<PathBuf>,
    /// Registry and path of the images: registry.example/team for registry.example/team/replica; roundhouse by default
    #[arg(long, value_name = "PREFIX", requires = "kubeconfig")]
    pub image_prefix: Option<String>,
}

/// A namespace that is deleted when this value is dropped: also after a failure, a panic or Ctrl-C.
pub struct TemporaryNamespace {
    kubectl: Kubectl,
}

impl TemporaryNamespace {
    /// Creates a namespace that holds pods to the restricted pod security standard, as k8s/namespace does.
    async fn create(kubectl: Kubectl) -> Result<Self> {
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let metadata = json!({"name": kubectl.namespace(), "labels": labels});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
        // Made first: the API server may have created the namespace even if the answer does not arrive.
        let temporary = Self { kubectl };
        let create = temporary.kubectl.run_with_input(&["create", "-f", "-"], &namespace.to_string()).await;
        create.with_context(|| format!("create the namespace {}", temporary.kubectl.namespace()))?;
        Ok(temporary)
    }
}

impl Drop for TemporaryNamespace {
    fn drop(&mut self) {
        let name = self.kubectl.namespace();
        println!("deleting the namespace {name}");
        let timeout = format!("--timeout={}s", DELETE_TIMEOUT.as_secs());
        let delete = ["delete", "namespace", name, "--ignore-not-found", &timeout];
        let mut command = Command::new("kubectl");
        command.args(self.kubectl.arguments(&delete)).stdin(Stdio::null());
        let message = match command.output() {
            Ok(output) if output.status.success() => return,
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        eprintln!("{}\nthe namespace may be left behind; delete it: kubectl delete namespace {name}", message.trim());
    }
}

/// Connects to the cluster of `kubeconfig` in `context` (the file's current context if `None`) and creates a namespace
/// in it. Reports go to `folder`, which is emptied first.
///
/// # Errors
/// If the kubeconfig is wrong, the API server cannot be reached, or it refuses the namespace.
pub async fn connect(kubeconfig: &Path, context: Option<String>, folder: PathBuf) -> Result<Cluster> {
    let folder_lock = paths::reserve(&folder)?;
    let read = Kubeconfig::read_from(kubeconfig).with_context(|| format!("read {}", kubeconfig.display()))?;
    let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(read, &options).await;
    let client = Client::try_from(config.with_context(|| format!("use {}", kubeconfig.display()))?)?;
    // Before anything is created, so that there is nothing to delete if the cluster cannot be reached.
    let version = client.apiserver_version().await;
    version.with_context(|| format!("reach the API server of {}", kubeconfig.display()))?;
    let namespace = format!("roundhouse-check-{:08x}", rand::random::<u32>());
    let kubectl = Kubectl::new(kubeconfig.to_owned(), context, namespace);
    let origin = ClusterOrigin::Existing(TemporaryNamespace::create(kubectl.clone()).await?);
    Ok(Cluster { origin, client, kubectl, folder, folder_lock })
}

/// Writes a kustomization into `folder` that moves the kustomization in `base` to `namespace` and takes the images from
/// below `image_prefix`. Images that `base` has renamed itself stay as they are.
///
/// # Errors
/// If `base` does not exist, or the files cannot be written.
pub fn write_kustomization(folder: &Path, base: &Path, namespace: &str, image_prefix: Option<&str>) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    // kustomize takes no absolute paths.
    let base = fs::canonicalize(base).with_context(|| format!("find the kustomization {}", base.display()))?;
    symlink(&base, folder.join("base")).with_context(|| format!("create a link in {}", folder.display()))?;
    let images = image_prefix.map(|prefix| {
        let rename = |name| json!({"name": format!("{IMAGE_PREFIX}/{name}"), "newName": format!("{prefix}/{name}")});
        PROGRAMS.map(rename)
    });
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "namespace": namespace, "resources": ["base"], "images": images.iter().flatten().collect::<Vec<_>>(),
    });
    let path = folder.join("kustomization.yaml");
    fs::write(&path, kustomization.to_string()).with_context(|| format!("write {}", path.display()))
}
