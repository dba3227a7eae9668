//! A Deployment in a namespace of its own. One task makes its pods ready. Another task records every number of replicas
//! that is written to the Deployment.

use crate::control_plane::{ApiProxy, ControlPlane, TIMEOUT, namespace, node};
use crate::program::Scaler;
use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const NODE: &str = "node";

/// The number of replicas that each test begins with.
pub(crate) const REPLICAS: i32 = 4;

/// A load that needs the four replicas, in requests per second.
pub(crate) const LOAD: f64 = 31.0;

/// A load that needs at least six replicas, in requests per second.
pub(crate) const MORE_LOAD: f64 = 60.0;

/// A load for which one replica is enough, in requests per second.
pub(crate) const LESS_LOAD: f64 = 2.0;

/// A time, and `spec.replicas` of the Deployment from that time on; `None` while there is no Deployment.
type ReplicaChange = (Instant, Option<i32>);

/// A Deployment whose number of replicas is recorded.
pub(crate) struct TestDeployment {
    pub(crate) control_plane: Arc<ControlPlane>,
    pub(crate) client: Client,
    pub(crate) namespace: String,
    folder: tempfile::TempDir,
    deployments: Api<Deployment>,
    history: Arc<Mutex<Vec<ReplicaChange>>>,
    _tasks: JoinSet<()>,
}

impl TestDeployment {
    pub(crate) async fn new(control_plane: &Arc<ControlPlane>, name: &str) -> Self {
        let client = control_plane.client().await;
        // All tests share this node. Without a live node, the control plane would delete the pods.
        let mut tasks = JoinSet::new();
        node(&client, NODE, &mut tasks).await;
        namespace(&client, name).await;
        let history = Arc::new(Mutex::new(Vec::new()));
        tasks.spawn(record_replicas(Api::namespaced(client.clone(), name), history.clone()));
        tasks.spawn(make_pods_ready(Api::namespaced(client.clone(), name)));
        let deployment = Self {
            control_plane: control_plane.clone(),
            deployments: Api::namespaced(client.clone(), name),
            client,
            namespace: name.into(),
            folder: tempfile::tempdir().expect("temporary folders can be created"),
            history,
            _tasks: tasks,
        };
        deployment.deploy().await;
        deployment
    }

    /// Creates the Deployment.
    pub(crate) async fn deploy(&self) {
        let labels = json!({"app": "replica"});
        let spec = json!({"containers": [{"name": "replica", "image": "replica"}], "nodeName": NODE,
            "automountServiceAccountToken": false});
        let deployment = json!({"metadata": {"name": "replica"}, "spec": {"replicas": REPLICAS,
            "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}}});
        let deployment = serde_json::from_value(deployment).expect("the JSON is a Deployment");
        self.deployments.create(&PostParams::default(), &deployment).await.expect("the Deployment can be created");
    }

    pub(crate) async fn delete(&self) {
        self.deployments.delete("replica", &DeleteParams::background()).await.expect("the Deployment can be deleted");
    }

    /// Flags for a scaler of this Deployment with at most eight replicas, and `more` flags.
    pub(crate) fn flags(&self, more: &[String]) -> Vec<String> {
        self.flags_up_to(8, more)
    }

    /// Flags for a scaler of this Deployment with at most `max` replicas, and `more` flags.
    pub(crate) fn flags_up_to(&self, max: u32, more: &[String]) -> Vec<String> {
        [&[format!("--target=deployment:{}/replica", self.namespace), format!("--max={max}")], more].concat()
    }

    /// Writes the cluster's kubeconfig after `change`. Returns the path of the file.
    pub(crate) fn kubeconfig(&self, change: impl FnOnce(&mut Kubeconfig)) -> PathBuf {
        let mut kubeconfig = self.control_plane.kubeconfig();
        change(&mut kubeconfig);
        let path = self.folder.path().join("kubeconfig");
        // A kubeconfig is YAML, and JSON is valid YAML.
        std::fs::write(&path, serde_json::to_vec(&kubeconfig).expect("a kubeconfig can be written as JSON"))
            .expect("the folder is writable");
        path
    }

    /// Writes a kubeconfig that reaches the API server through `proxy`. Returns the path of the file.
    pub(crate) fn kubeconfig_through(&self, proxy: &ApiProxy) -> PathBuf {
        self.kubeconfig(|kubeconfig| {
            kubeconfig.clusters[0].cluster.as_mut().expect("the kubeconfig has a cluster").server =
                Some(proxy.address());
        })
    }

    /// Writes a kubeconfig that acts as `user`, who has only the privileges that Roles grant. Returns the path of the
    /// file.
    pub(crate) fn kubeconfig_of(&self, user: &str) -> PathBuf {
        self.kubeconfig(|kubeconfig| {
            kubeconfig.auth_infos[0].auth_info.as_mut().expect("the kubeconfig has a user").impersonate =
                Some(user.into());
        })
    }

    /// Creates a folder for files of the test. Returns its path.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir(&path).expect("the folder does not exist yet");
        path
    }

    /// All numbers of replicas that the Deployment was set to, in order.
    pub(crate) fn replica_history(&self) -> Vec<i32> {
        self.history
            .lock()
            .expect("no thread panics while it holds the lock")
            .iter()
            .filter_map(|(_, replicas)| *replicas)
            .collect()
    }

    /// The numbers of replicas that the Deployment has had since `then`, including the number at that time.
    pub(crate) fn replicas_since(&self, then: Instant) -> Vec<i32> {
        let history = self.history.lock().expect("no thread panics while it holds the lock");
        let before = history.partition_point(|(at, _)| *at < then).saturating_sub(1);
        history[before..].iter().filter_map(|(_, replicas)| *replicas).collect()
    }

    /// Checks that the number of replicas was never lowered below [`REPLICAS`], nor by more than one replica. The law may
    /// overshoot by one replica at a rise, and remove it again.
    pub(crate) fn assert_never_scaled_down(&self) {
        let history = self.replica_history();
        let mut highest = 0;
        let is_kept = history.iter().all(|&replicas| {
            highest = highest.max(replicas);
            replicas >= highest - 1 && (highest <= REPLICAS || replicas >= REPLICAS)
        });
        assert!(is_kept, "{}: {history:?}", self.namespace);
    }

    /// Waits until the number of replicas satisfies `is_wanted`. `what` names that number for the message of a failure,
    /// which also has the latest decision and the log of `scaler`.
    pub(crate) async fn wait_for_replicas(&self, scaler: &Scaler, what: &str, is_wanted: impl Fn(i32) -> bool) -> i32 {
        let until = Instant::now() + TIMEOUT;
        loop {
            match self.replica_history().last() {
                Some(replicas) if is_wanted(*replicas) => return *replicas,
                _ if Instant::now() < until => tokio::time::sleep(Duration::from_millis(50)).await,
                _ => {
                    let (history, latest, log) =
                        (self.replica_history(), scaler.latest().await, scaler.log().join("\n"));
                    panic!("{}: timed out waiting for {what}; replicas: {history:?}; {latest}\n{log}", self.namespace);
                }
            }
        }
    }
}

/// Records every change of the Deployment's number of replicas.
async fn record_replicas(deployments: Api<Deployment>, history: Arc<Mutex<Vec<ReplicaChange>>>) {
    let mut events = Box::pin(watcher(deployments, Config::default()));
    while let Some(event) = events.next().await {
        let replicas = match event {
            Ok(Event::Apply(deployment) | Event::InitApply(deployment)) => {
                deployment.spec.and_then(|spec| spec.replicas)
            }
            Ok(Event::Delete(_)) => None,
            Ok(Event::Init | Event::InitDone) => continue,
            // The watcher lists the Deployments again by itself. At the end of the test, errors come without a pause, and
            // the test would never end if this task did not yield.
            Err(_) => {
                tokio::task::yield_now().await;
                continue;
            }
        };
        let mut history = history.lock().expect("no thread panics while it holds the lock");
        if history.last().is_none_or(|(_, last)| *last != replicas) {
            history.push((Instant::now(), replicas));
        }
    }
}

/// Makes every new pod ready, as a kubelet would.
async fn make_pods_ready(pods: Api<Pod>) {
    let mut events = Box::pin(watcher(pods.clone(), Config::default()));
    while let Some(event) = events.next().await {
        let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event else {
            tokio::task::yield_now().await;
            continue;
        };
        let is_new = pod.status.as_ref().is_none_or(|status| status.conditions.is_none());
        if is_new && pod.metadata.deletion_timestamp.is_none() {
            let condition =
                json!({"type": "Ready", "status": "True", "lastTransitionTime": Timestamp::now().to_string()});
            let status: Value = json!({"status": {"phase": "Running", "conditions": [condition]}});
            // The pod may have been deleted meanwhile. Then the patch fails.
            let _gone = pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status)).await;
        }
    }
}
