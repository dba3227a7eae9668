//! The node: a kubelet that runs programs of the workspace as processes, a packet filter that forwards connections to
//! Services and enforces NetworkPolicies, a name server, and metrics.k8s.io.

mod container;
mod container_config;
mod dns;
mod environment;
mod field;
mod metrics;
mod network_policy;
mod object;
mod packet_filter;
mod pod;
mod pod_config;
mod probe;
mod ruleset;
mod server;
mod service_table;
mod status;
mod volume;
mod volume_folder;

use crate::images::ImageStore;
use crate::local::Cores;
use crate::network::{IpFamily, Network};
use crate::wait::wait_for;
use anyhow::{Context, Result};
use cgroup::{Controller, Group, ResourceLimits};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node as NodeObject, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use kubernetes::mirror::Mirror;
use kubernetes::request;
use packet_filter::PacketFilter;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use service_table::ServiceTable;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use server::PORT as METRICS_PORT;

/// Time between two reports of the node's status.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// The pause before a failed watch begins again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Most pods on the node. This is the default of a kubelet.
const MAX_PODS: u32 = 110;

/// The configuration of a node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The node's name.
    pub name: String,
    /// The node's processors.
    pub cores: Cores,
    /// The container images that the node can run.
    pub images: ImageStore,
    /// The folder for the logs and volumes of the pods.
    pub folder: PathBuf,
}

/// A running node. Its pods end when this value is dropped.
pub struct Node {
    shared: Arc<NodeState>,
    /// The tasks of the node, which are aborted when this value is dropped.
    _tasks: JoinSet<()>,
}

/// The state that the tasks of the node share.
struct NodeState {
    name: String,
    /// The processor time of a core of the node, as a share of a core of this machine.
    core_share: f64,
    /// The container images that the node can run.
    images: ImageStore,
    /// The folder for the logs and volumes of the pods.
    folder: PathBuf,
    client: Client,
    network: Network,
    filter: PacketFilter,
    /// The address and the port of the Service through which pods reach the API server.
    api_server: SocketAddr,
    /// The number of cores that the node offers.
    cores: watch::Sender<f64>,
    /// The lock that is held while a container is started.
    start_lock: tokio::sync::Mutex<()>,
    /// A controller for each combination of limits.
    controllers: Mutex<Vec<Controller>>,
    /// The process id of each pod's running container, by the pod's name.
    processes: Mutex<BTreeMap<String, Pid>>,
    /// The pods on this node by name. Controllers generate the names, so no two pods have the same name.
    pods: Mutex<BTreeMap<String, Arc<Pod>>>,
}

impl NodeState {
    fn new(config: NodeConfig, client: Client, network: Network, api_server: IpAddr) -> Self {
        Self {
            name: config.name,
            core_share: config.cores.share,
            images: config.images,
            folder: config.folder,
            client,
            filter: PacketFilter::new(network.families, ServiceTable::default()),
            network,
            api_server: (api_server, 443).into(),
            cores: watch::Sender::new(config.cores.count),
            start_lock: tokio::sync::Mutex::default(),
            controllers: Mutex::default(),
            processes: Mutex::default(),
            pods: Mutex::default(),
        }
    }

    fn processes(&self) -> MutexGuard<'_, BTreeMap<String, Pid>> {
        self.processes.lock().expect("no thread panics while it holds the lock")
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Pod>>> {
        self.pods.lock().expect("no thread panics while it holds the lock")
    }

    /// A new control group with `limits`, which are in cores of the node. `None` if there are no limits.
    fn control_group(&self, limits: ResourceLimits) -> Result<Option<Group>> {
        let limits = ResourceLimits { cores: limits.cores.map(|cores| cores * self.core_share), memory: limits.memory };
        if limits == ResourceLimits::default() {
            return Ok(None);
        }
        let mut controllers = self.controllers.lock().expect("no thread panics while it holds the lock");
        let known = controllers.iter().position(|controller| controller.limits() == limits);
        let index = match known {
            Some(index) => index,
            None => {
                controllers.push(Controller::find(limits).context("find a control group for the limits of pods")?);
                controllers.len() - 1
            }
        };
        Ok(Some(controllers[index].group().context("make a control group for a pod")?))
    }

    fn log_path(&self, pod: &Pod) -> PathBuf {
        self.folder.join(format!("{}.log", pod.name_any()))
    }

    /// Creates or updates the Node object.
    async fn register(&self) -> Result<()> {
        let nodes = Api::<NodeObject>::all(self.client.clone());
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name,
            "labels": {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux",
                "kubernetes.io/arch": architecture()}}});
        let (params, patch) = (PatchParams::apply("node").force(), Patch::Apply(object));
        nodes.patch(&self.name, &params, &patch).await.context("register the node")?;
        self.send_heartbeat().await
    }

    /// Reports to the API server that the node is ready, and which resources it offers.
    async fn send_heartbeat(&self) -> Result<()> {
        let now = Timestamp::now().to_string();
        let condition = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now});
        let cores = format!("{:.0}m", *self.cores.borrow() * 1000.0);
        let resources = json!({"cpu": cores, "memory": "64Gi", "pods": MAX_PODS.to_string()});
        let address = |family: IpFamily| json!({"type": "InternalIP", "address": family.node_address().to_string()});
        // Without this entry, the API server would merge addresses of one type, and refuse the second heartbeat.
        let replacement = json!({"$patch": "replace"});
        let addresses: Vec<Value> = self.network.families.all().map(address).chain([replacement]).collect();
        let port = json!({"kubeletEndpoint": {"Port": server::PORT}});
        let status = json!({"status": {"conditions": [condition], "capacity": resources, "allocatable": resources,
            "addresses": addresses, "daemonEndpoints": port}});
        let nodes = Api::<NodeObject>::all(self.client.clone());
        let (params, patch) = (PatchParams::default(), Patch::Strategic(status));
        let answer = request(nodes.patch_status(&self.name, &params, &patch)).await;
        answer.map(drop).context("report the node's status")
    }
}

impl Node {
    /// Registers a node with the API server and runs it in `network`.
    ///
    /// # Errors
    /// If the API server refuses the node, or a port of the node is taken.
    pub async fn start(config: NodeConfig, client: Client, network: Network) -> Result<Self> {
        std::fs::create_dir_all(&config.folder).with_context(|| format!("create {}", config.folder.display()))?;
        let api_server = api_server_address(&client).await?;
        let shared = Arc::new(NodeState::new(config, client.clone(), network, api_server));
        shared.register().await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(send_heartbeats(shared.clone()));
        let filter = &shared.filter;
        watch_services(&mut tasks, &client, filter).await?;
        watch_policies(&mut tasks, &client, filter);
        tasks.spawn(filter.clone().run());
        dns::serve(filter.services().clone(), shared.network.families.primary.node_address()).await?;
        server::serve(&shared).await?;
        let mut workers = PodWorkers { shared: shared.clone(), updates: BTreeMap::new(), tasks: JoinSet::new() };
        let on_this_node = watcher::Config::default().fields(&format!("spec.nodeName={}", shared.name));
        tasks.spawn(watch_all(Api::<Pod>::all(client), on_this_node, move |pods| workers.update(pods)));
        Ok(Self { shared, _tasks: tasks })
    }

    /// Changes the number of cores that the node offers.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn set_cores(&self, cores: f64) -> Result<()> {
        self.shared.cores.send_replace(cores);
        self.shared.send_heartbeat().await
    }

    /// The number of cores that the node offers.
    pub fn cores(&self) -> f64 {
        *self.shared.cores.borrow()
    }

    /// Kills the process of the running container of the pod `pod`.
    ///
    /// # Errors
    /// If the pod does not run on this node.
    pub fn kill(&self, pod: &str) -> Result<()> {
        let pid = self.shared.processes().get(pod).copied();
        let pid = pid.with_context(|| format!("pod {pod} does not run on this node"))?;
        kill_process(pid, Signal::KILL).with_context(|| format!("kill the process of pod {pod}"))
    }

    /// The network of the node and its pods.
    pub fn network(&self) -> &Network {
        &self.shared.network
    }

    /// The container images that the node can run. Images that are added later can be run, too.
    pub fn images(&self) -> &ImageStore {
        &self.shared.images
    }

    /// The folder with the logs of the pods.
    pub fn log_folder(&self) -> &Path {
        &self.shared.folder
    }
}

/// The architecture of this machine by the name that Kubernetes has for it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Time in which the API server must have made its own Service. It is ready a moment before.
const OWN_SERVICE_TIMEOUT: Duration = Duration::from_secs(30);

/// The address of the Service through which pods reach the API server.
async fn api_server_address(client: &Client) -> Result<IpAddr> {
    let services = Api::<Service>::namespaced(client.clone(), "default");
    let service = wait_for("the Service kubernetes", OWN_SERVICE_TIMEOUT, async || {
        services.get_opt("kubernetes").await.context("get the Service kubernetes")
    })
    .await?;
    let address = service.spec.and_then(|spec| spec.cluster_ip).context("the Service kubernetes has no address")?;
    address.parse().with_context(|| format!("the Service kubernetes has no address, but {address}"))
}

async fn send_heartbeats(shared: Arc<NodeState>) {
    loop {
        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        // The API server may be down. A later heartbeat reaches it.
        let _ = shared.send_heartbeat().await;
    }
}

/// Watches the Services and their endpoints: EndpointSlices where the API server has version 1 of them, otherwise
/// Endpoints.
async fn watch_services(tasks: &mut JoinSet<()>, client: &Client, filter: &PacketFilter) -> Result<()> {
    let changed = filter.clone();
    tasks.spawn(watch_all(Api::<Service>::all(client.clone()), watcher::Config::default(), move |objects| {
        changed.services().set_services(objects);
        changed.update();
    }));
    let changed = filter.clone();
    if serves_slices(client).await? {
        tasks.spawn(watch_all(Api::<EndpointSlice>::all(client.clone()), watcher::Config::default(), move |objects| {
            changed.services().set_slices(objects);
            changed.update();
        }));
    } else {
        tasks.spawn(watch_all(Api::<Endpoints>::all(client.clone()), watcher::Config::default(), move |objects| {
            changed.services().set_endpoints(objects);
            changed.update();
        }));
    }
    Ok(())
}

/// Whether the API server has version 1 of EndpointSlices, as from Kubernetes 1.21 on.
///
/// # Errors
/// If the API server does not answer.
pub async fn serves_slices(client: &Client) -> Result<bool> {
    let groups = client.list_api_groups().await.context("list the groups of the API server")?;
    let mut versions = groups.groups.iter().flat_map(|group| &group.versions);
    Ok(versions.any(|version| version.group_version == "discovery.k8s.io/v1"))
}

/// Whether the API server takes pods with images as volumes, as from Kubernetes 1.35 on. Version 1.33 has a feature gate for them.
///
/// # Errors
/// If the API server does not tell its version.
pub async fn serves_image_volumes(client: &Client) -> Result<bool> {
    let version = client.apiserver_version().await.context("get the version of the API server")?;
    // Some clusters have a minor version such as 33+.
    let minor: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    Ok((version.major.as_str(), minor.parse().unwrap_or(0)) >= ("1", 35))
}

/// Watches the NetworkPolicies, and the namespaces, whose labels they name.
fn watch_policies(tasks: &mut JoinSet<()>, client: &Client, filter: &PacketFilter) {
    let changed = filter.clone();
    tasks.spawn(watch_all(Api::<Namespace>::all(client.clone()), watcher::Config::default(), move |namespaces| {
        changed.set_namespaces(&namespaces);
    }));
    let changed = filter.clone();
    tasks.spawn(watch_all(Api::<NetworkPolicy>::all(client.clone()), watcher::Config::default(), move |policies| {
        changed.set_policies(policies);
    }));
}

/// Watches objects, and calls `on_change` with all of them after each change. Never ends.
async fn watch_all<K>(api: Api<K>, config: watcher::Config, mut on_change: impl FnMut(Vec<Arc<K>>))
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let mut mirror = Mirror::new(api, config);
    loop {
        if mirror.next().await.is_err() {
            tokio::time::sleep(RETRY_INTERVAL).await;
        } else if let Some(objects) = mirror.objects() {
            on_change(objects);
        }
    }
}

/// The tasks that run the pods on this node, one for each pod.
struct PodWorkers {
    shared: Arc<NodeState>,
    /// The channel to each task, by the pod's uid. `None` is sent when the pod's object was deleted.
    updates: BTreeMap<String, watch::Sender<Option<Arc<Pod>>>>,
    tasks: JoinSet<()>,
}

impl PodWorkers {
    /// Sends each task the newest object of its pod, and starts tasks for new pods. `pods` are all pods on this node.
    fn update(&mut self, pods: Vec<Arc<Pod>>) {
        let present: BTreeMap<String, Arc<Pod>> =
            pods.iter().filter_map(|pod| Some((pod.uid()?, pod.clone()))).collect();
        *self.shared.pods() = pods.into_iter().map(|pod| (pod.name_any(), pod)).collect();
        self.updates.retain(|uid, update| {
            let is_present = present.contains_key(uid);
            if !is_present {
                update.send_replace(None);
            }
            is_present
        });
        for (uid, pod) in present {
            if let Some(update) = self.updates.get(&uid) {
                update.send_replace(Some(pod));
                continue;
            }
            let (update, updates) = watch::channel(Some(pod));
            self.updates.insert(uid, update);
            self.tasks.spawn(pod::run(self.shared.clone(), updates));
        }
        // Without this, tasks that have ended would stay in the set.
        while self.tasks.try_join_next().is_some() {}
    }
}
