//! Starts a cluster on this machine: its control plane, its node and its network.

use crate::access::{Cluster, ClusterOrigin};
use crate::control_plane::ControlPlane;
use crate::images::ImageStore;
use crate::kubectl::Kubectl;
use crate::network::Network;
use crate::node::{self, Node, NodeConfig};
use crate::node_objects;
use crate::paths;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The namespace in the manifests of this repository.
pub const NAMESPACE: &str = "roundhouse";

/// The name of the cluster's only node.
const NODE_NAME: &str = "node";

/// The parts of a local cluster. They end when this value is dropped.
pub struct LocalCluster {
    /// The node. It is the first field, since it must be dropped first: its pods must end before the API server.
    pub node: Node,
    /// The control plane.
    pub control_plane: ControlPlane,
}

/// The processors of the node.
#[derive(Debug, Clone, Copy)]
pub struct Cores {
    /// The number of cores that the node offers to pods.
    pub count: f64,
    /// The processor time of a core of the node, as a share of a core of this machine.
    pub share: f64,
}

/// Starts a cluster in `network`. `binaries` is the folder with the programs of the control plane. Keys, data and logs
/// go to `folder`, which is emptied first. Container images go to `folder` with the extension `images`, which is kept.
///
/// # Errors
/// If a part of the cluster does not start.
pub async fn start(network: Network, binaries: PathBuf, folder: PathBuf, cores: Cores) -> Result<Cluster> {
    let folder_lock = paths::reserve(&folder)?;
    let control_plane = ControlPlane::start(binaries, folder.join("control-plane"), network.families).await?;
    let client = control_plane.client().await?;
    let images = ImageStore::update(folder.with_extension("images"))?;
    let families = network.families;
    let config = NodeConfig { name: NODE_NAME.into(), cores, images, folder: folder.join("pods") };
    let node = Node::start(config, client.clone(), network).await?;
    let kubectl = Kubectl::new(control_plane.kubeconfig_path(), None, NAMESPACE);
    let objects = node_objects::list(families.primary, node::serves_slices(&client).await?).to_string();
    kubectl.run_with_input(&["--namespace=kube-system", "apply", "-f", "-"], &objects).await?;
    kubectl.apply(&paths::root().join("k8s/namespace")).await?;
    let origin = ClusterOrigin::Local(Box::new(LocalCluster { node, control_plane }));
    Ok(Cluster { origin, client, kubectl, folder, folder_lock })
}

impl LocalCluster {
    /// Writes a kubeconfig to `folder`, for a user outside the cluster's network who reaches the API server at the URL
    /// `server`. Returns the path of the file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_kubeconfig(&self, folder: &Path, server: &str) -> Result<PathBuf> {
        let path = folder.join("kubeconfig");
        fs::write(&path, self.control_plane.kubeconfig(server)?)
            .with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}
