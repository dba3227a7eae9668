//! A whole cluster: control plane, node, and kubectl for it.

use crate::control_plane::{ControlPlane, url};
use crate::images::Images;
use crate::kubectl::Kubectl;
use crate::network::Network;
use crate::node::{Node, Spec};
use crate::paths;
use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::ListParams;
use kube::{Api, Client};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Everything of ours is in it.
pub const NAMESPACE: &str = "roundhouse";

/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(200);

/// The node's name.
const NODE: &str = "node";

/// Ends with this value, and whatever runs in it too.
pub struct Cluster {
    /// Runs the pods. First, as it is to end first.
    pub node: Node,
    /// Everything else.
    pub control_plane: ControlPlane,
    /// May do everything.
    pub client: Client,
    /// In our namespace.
    pub kubectl: Kubectl,
    /// Logs and reports.
    pub folder: PathBuf,
    _lock: File,
}

/// What a Deployment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas {
    /// Asked for.
    pub desired: i32,
    /// Serving.
    pub ready: i32,
}

impl Cluster {
    /// Starts everything within `network`; keys, data and logs go to `folder`, which is emptied first. The node has so
    /// many cores, each worth `share` of one of this machine's.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(network: Network, binaries: PathBuf, folder: PathBuf, cores: f64, share: f64) -> Result<Self> {
        let lock = lock(&folder)?;
        let control_plane = ControlPlane::start(binaries, folder.join("control-plane")).await?;
        let client = control_plane.client().await?;
        let images = Images::make(folder.with_extension("images"))?;
        let spec = Spec { name: NODE.into(), cores, share, images, folder: folder.join("pods") };
        let node = Node::start(spec, client.clone(), network, control_plane.authority()?).await?;
        let kubectl = Kubectl::new(control_plane.own_kubeconfig(), NAMESPACE);
        let own = paths::root().join("k8s/cluster/node.yaml").display().to_string();
        kubectl.run(&["--namespace=kube-system", "apply", "-f", &own]).await?;
        kubectl.apply(&paths::root().join("k8s/namespace")).await?;
        Ok(Self { node, control_plane, client, kubectl, folder, _lock: lock })
    }

    /// Where clients of a Service go.
    ///
    /// # Errors
    /// When there is no such Service.
    pub async fn service(&self, name: &str) -> Result<String> {
        let service = Api::<Service>::namespaced(self.client.clone(), NAMESPACE).get(name).await?;
        let address = service.spec.and_then(|spec| spec.cluster_ip);
        address.with_context(|| format!("Service {name} has no address"))
    }

    /// Its number of replicas.
    ///
    /// # Errors
    /// When there is no such Deployment.
    pub async fn replicas(&self, deployment: &str) -> Result<Replicas> {
        let deployment = Api::<Deployment>::namespaced(self.client.clone(), NAMESPACE).get(deployment).await?;
        let desired = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let ready = deployment.status.and_then(|status| status.ready_replicas).unwrap_or(0);
        Ok(Replicas { desired, ready })
    }

    /// The pods of a component, those that are being deleted left out.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn pods(&self, component: &str) -> Result<Vec<Pod>> {
        let all = self.all_pods(component).await?;
        Ok(all.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// The pods of a component.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn all_pods(&self, component: &str) -> Result<Vec<Pod>> {
        let of = ListParams::default().labels(&format!("app.kubernetes.io/component={component}"));
        Ok(Api::<Pod>::namespaced(self.client.clone(), NAMESPACE).list(&of).await?.items)
    }

    /// Waits until all replicas of a Deployment, as many as it asks for now, are the newest and serve.
    ///
    /// # Errors
    /// When that takes too long, with what its pods say.
    pub async fn roll_out(&self, deployment: &str, limit: Duration) -> Result<()> {
        let name = format!("deployment/{deployment}");
        let timeout = format!("--timeout={}s", limit.as_secs());
        let waited = self.kubectl.run(&["rollout", "status", &name, &timeout]).await;
        if let Err(error) = waited {
            let pods = self.kubectl.run(&["get", "pods", "-o", "wide"]).await?;
            let logs = self.node.logs().display();
            bail!("{error:#}\n{pods}\nlogs are in {logs}");
        }
        Ok(())
    }

    /// For a person outside of its network.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_kubeconfig(&self, server: &str) -> Result<PathBuf> {
        let path = self.folder.join("kubeconfig");
        fs::write(&path, self.control_plane.kubeconfig(server)?)
            .with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Where the API server is in its network.
    pub fn server(&self) -> String {
        url()
    }
}

/// Waits until `look` finds something.
///
/// # Errors
/// When it fails, or that takes too long.
pub async fn until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if began.elapsed() > limit {
            bail!("not within {limit:?}: {what}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Empties the folder, unless another one like this uses it.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.with_extension("lock");
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let lock = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    if lock.try_lock().is_err() {
        bail!("another one like this is running, and uses {}; end it first", folder.display());
    }
    fs::remove_dir_all(folder).with_context(|| format!("empty {}", folder.display()))?;
    fs::create_dir_all(folder)?;
    Ok(lock)
}
