//! The node: a kubelet that runs programs of the workspace as processes, with what a cluster needs around it: addresses of
//! Services, their names, and metrics.k8s.io.

mod container;
mod directory;
mod metrics;
mod names;
mod plan;
mod pod;
mod probe;
mod quantity;
mod server;
mod services;
mod status;

use crate::images::Images;
use crate::network::{self, Network};
use anyhow::{Context, Result};
use directory::Directory;
use k8s_openapi::api::core::v1::{Endpoints, Node as Object, Pod, Service};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use rustix::process::{Pid, Signal, kill_process};
use scaler::cluster::request;
use scaler::target::cgroup::{Controller, Group, Limits};
use scaler::target::deployment::mirror::Mirror;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Before a watch that failed begins again.
const RETRY: Duration = Duration::from_millis(500);

/// Pods at most, as a kubelet's.
const PODS: u32 = 110;

/// What kind of node.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// Cores that it offers.
    pub cores: f64,
    /// What one of them is of a core of this machine.
    pub share: f64,
    /// What it can run.
    pub images: Images,
    /// Where logs go.
    pub folder: PathBuf,
}

/// A running node. Its pods end with it.
pub struct Node {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

/// What its parts share.
struct Shared {
    name: String,
    share: f64,
    images: Images,
    folder: PathBuf,
    client: Client,
    network: Network,
    authority: String,
    /// Where pods find the API server.
    api: (Ipv4Addr, u16),
    cores: watch::Sender<f64>,
    /// Held while a container is started.
    starting: tokio::sync::Mutex<()>,
    /// One for each combination of limits.
    controllers: Mutex<Vec<Controller>>,
    processes: Mutex<BTreeMap<String, Pid>>,
    pods: Mutex<BTreeMap<String, Arc<Pod>>>,
}

impl Shared {
    /// The process of each pod's container, by the pod's name.
    fn processes(&self) -> MutexGuard<'_, BTreeMap<String, Pid>> {
        self.processes.lock().expect("nobody panics with it")
    }

    /// The pods that are here, by name. Names are the cluster's own makings and so never the same in two namespaces.
    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Pod>>> {
        self.pods.lock().expect("nobody panics with it")
    }

    /// A control group with these limits, in the node's cores; nothing if there are none.
    fn group(&self, limits: Limits) -> Result<Option<Group>> {
        let limits = Limits { cores: limits.cores.map(|cores| cores * self.share), memory: limits.memory };
        if limits == Limits::default() {
            return Ok(None);
        }
        let mut controllers = self.controllers.lock().expect("nobody panics with it");
        if !controllers.iter().any(|controller| controller.limits() == limits) {
            controllers.push(Controller::find(limits).context("limit what pods may use")?);
        }
        let controller = controllers.iter().find(|controller| controller.limits() == limits);
        Ok(controller.map(Controller::group).transpose()?)
    }

    fn log(&self, pod: &Pod) -> PathBuf {
        self.folder.join(format!("{}.log", pod.name_any()))
    }
}

impl Node {
    /// Registers it and serves from now on.
    ///
    /// # Errors
    /// When the API server refuses, or the system does.
    pub async fn start(spec: Spec, client: Client, network: Network, authority: String) -> Result<Self> {
        std::fs::create_dir_all(&spec.folder).with_context(|| format!("create {}", spec.folder.display()))?;
        let services = Api::<Service>::namespaced(client.clone(), "default");
        let kubernetes = services.get("kubernetes").await.context("look for the API server's own Service")?;
        let address =
            kubernetes.spec.and_then(|spec| spec.cluster_ip).context("the API server's Service has no address")?;
        let shared = Arc::new(Shared {
            name: spec.name,
            share: spec.share,
            images: spec.images,
            folder: spec.folder,
            network,
            authority,
            api: (address.parse().context("the API server's address is of version 4")?, 443),
            cores: watch::Sender::new(spec.cores),
            starting: tokio::sync::Mutex::default(),
            controllers: Mutex::default(),
            processes: Mutex::default(),
            pods: Mutex::default(),
            client: client.clone(),
        });
        shared.register().await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(heartbeat(shared.clone()));
        let directory = Directory::default();
        let (services_changed, changed) = watch::channel(());
        let known = directory.clone();
        tasks.spawn(follow(Api::<Service>::all(client.clone()), watcher::Config::default(), move |services| {
            known.set_services(services);
            services_changed.send_replace(());
        }));
        let known = directory.clone();
        tasks.spawn(follow(Api::<Endpoints>::all(client.clone()), watcher::Config::default(), move |endpoints| {
            known.set_endpoints(endpoints);
        }));
        tasks.spawn(services::serve(directory.clone(), changed));
        names::serve(directory).await?;
        server::serve(&shared).await?;
        let mut lives = Lives { shared: shared.clone(), told: BTreeMap::new(), tasks: JoinSet::new() };
        let own = watcher::Config::default().fields(&format!("spec.nodeName={}", shared.name));
        tasks.spawn(follow(Api::<Pod>::all(client), own, move |pods| lives.update(pods)));
        Ok(Self { shared, tasks })
    }

    /// Offers so many cores from now on.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn offer(&self, cores: f64) -> Result<()> {
        self.shared.cores.send_replace(cores);
        self.shared.beat().await
    }

    /// Cores that it offers.
    pub fn cores(&self) -> f64 {
        *self.shared.cores.borrow()
    }

    /// Kills the process of a pod's container.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill(&self, pod: &str) -> Result<()> {
        let pid = self.shared.processes().get(pod).copied().with_context(|| format!("pod {pod} does not run here"))?;
        kill_process(pid, Signal::KILL).with_context(|| format!("kill {pod}"))
    }

    /// Where the logs of its pods are.
    pub fn logs(&self) -> &Path {
        &self.shared.folder
    }

    /// Ends every pod, and the node.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

impl Shared {
    async fn register(&self) -> Result<()> {
        let nodes = Api::<Object>::all(self.client.clone());
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name,
            "labels": {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux"}}});
        nodes
            .patch(&self.name, &PatchParams::apply("node").force(), &Patch::Apply(object))
            .await
            .context("register the node")?;
        self.beat().await
    }

    /// Says that it is well, and what it offers.
    async fn beat(&self) -> Result<()> {
        let now = Timestamp::now().to_string();
        let condition = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now});
        let cores = format!("{:.0}m", *self.cores.borrow() * 1000.0);
        let offer = json!({"cpu": cores, "memory": "64Gi", "pods": PODS.to_string()});
        let address = json!({"type": "InternalIP", "address": network::NODE.to_string()});
        let port = json!({"kubeletEndpoint": {"Port": server::PORT}});
        let status = json!({"status": {"conditions": [condition], "capacity": offer, "allocatable": offer,
            "addresses": [address], "daemonEndpoints": port}});
        let nodes = Api::<Object>::all(self.client.clone());
        let told = request(nodes.patch_status(&self.name, &PatchParams::default(), &Patch::Strategic(status))).await;
        told.map(drop).context("say that the node is well")
    }
}

async fn heartbeat(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        // The API server may be away; it is told again soon.
        let _told = shared.beat().await;
    }
}

/// Tells all objects at every change, for ever.
async fn follow<K>(api: Api<K>, config: watcher::Config, mut tell: impl FnMut(Vec<Arc<K>>))
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let mut mirror = Mirror::new(api, config);
    loop {
        if mirror.next().await.is_err() {
            tokio::time::sleep(RETRY).await;
        } else if let Some(objects) = mirror.objects() {
            tell(objects);
        }
    }
}

/// One task for each pod, by its uid.
struct Lives {
    shared: Arc<Shared>,
    told: BTreeMap<String, watch::Sender<Option<Arc<Pod>>>>,
    tasks: JoinSet<()>,
}

impl Lives {
    fn update(&mut self, pods: Vec<Arc<Pod>>) {
        let present: BTreeMap<String, Arc<Pod>> =
            pods.iter().filter_map(|pod| Some((pod.uid()?, pod.clone()))).collect();
        *self.shared.pods() = pods.into_iter().map(|pod| (pod.name_any(), pod)).collect();
        self.told.retain(|uid, told| {
            if !present.contains_key(uid) {
                told.send_replace(None);
            }
            present.contains_key(uid)
        });
        for (uid, pod) in present {
            if let Some(told) = self.told.get(&uid) {
                told.send_replace(Some(pod));
                continue;
            }
            let (sender, told) = watch::channel(Some(pod));
            self.told.insert(uid, sender);
            self.tasks.spawn(pod::live(self.shared.clone(), told));
        }
        while self.tasks.try_join_next().is_some() {}
    }
}
