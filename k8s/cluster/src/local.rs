//! A cluster on this machine: control plane, node and network. It ends with the value that stands for it.

use crate::access::{Cluster, ClusterOrigin};
use crate::control_plane::ControlPlane;
use crate::images::ImageStore;
use crate::kubectl::Kubectl;
use crate::network::Network;
use crate::node::{Node, NodeConfig};
use crate::paths;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The namespace that the manifests of this repository are made for.
pub const NAMESPACE: &str = "roundhouse";

/// The name of the only node.
const NODE_NAME: &str = "node";

/// The parts of a cluster that checks can break.
pub struct LocalCluster {
    /// The node. It is dropped first, so that the pods end before the API server.
    pub node: Node,
    /// The processes of the control plane.
    pub control_plane: ControlPlane,
}

/// The processors of the node.
#[derive(Debug, Clone, Copy)]
pub struct Cores {
    /// Cores that the node offers to pods.
    pub count: f64,
    /// The worth of one of these cores, as a share of a core of this machine.
    pub share: f64,
}

/// Starts a cluster in `network` with the control plane's programs in `binaries`. Keys, data and logs go to `folder`,
/// which is emptied first; images stay in a folder beside it.
///
/// # Errors
/// If a part of the cluster does not start.
pub async fn start(network: Network, binaries: PathBuf, folder: PathBuf, cores: Cores) -> Result<Cluster> {
    let folder_lock = paths::reserve(&folder)?;
    let control_plane = ControlPlane::start(binaries, folder.join("control-plane")).await?;
    let client = control_plane.client().await?;
    let images = ImageStore::update(folder.with_extension("images"))?;
    let config = NodeConfig { name: NODE_NAME.into(), cores, images, folder: folder.join("pods") };
    let node = Node::start(config, client.clone(), network, control_plane.certificate()?).await?;
    let kubectl = Kubectl::new(control_plane.kubeconfig_path(), None, NAMESPACE);
    let node_services = paths::root().join("k8s/cluster/node.yaml").display().to_string();
    kubectl.run(&["--namespace=kube-system", "apply", "-f", &node_services]).await?;
    kubectl.apply(&paths::root().join("k8s/namespace")).await?;
    let origin = ClusterOrigin::Local(Box::new(LocalCluster { node, control_plane }));
    Ok(Cluster { origin, client, kubectl, folder, folder_lock })
}

impl LocalCluster {
    /// Writes a kubeconfig for a user outside of the cluster's network, who reaches the API server at the URL `server`,
    /// into `folder`. Returns the path of the file.
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
