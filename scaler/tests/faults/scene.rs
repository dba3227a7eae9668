//! A Deployment in a namespace of its own. One task makes its pods ready, another records every number of replicas
//! that is written to the Deployment.

use crate::control_plane::{ControlPlane, Line, PATIENCE, namespace, node};
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

/// The replicas that each test begins with.
pub(crate) const REPLICAS: i32 = 4;

/// Loads in requests per second: the four replicas are needed; at least six are needed; one is enough.
pub(crate) const LOAD: f64 = 27.0;
pub(crate) const MORE_LOAD: f64 = 50.0;
pub(crate) const LESS_LOAD: f64 = 2.0;

/// A time, and `spec.replicas` from then on; `None` while there is no Deployment.
type Asked = (Instant, Option<i32>);

pub(crate) struct Scene {
    pub(crate) control_plane: Arc<ControlPlane>,
    pub(crate) client: Client,
    pub(crate) namespace: String,
    folder: tempfile::TempDir,
    deployments: Api<Deployment>,
    asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: JoinSet<()>,
}

impl Scene {
    pub(crate) async fn new(control_plane: &Arc<ControlPlane>, name: &str) -> Self {
        let client = control_plane.client().await;
        // All tests share this node. Without a live node the control plane would delete the pods.
        let mut tasks = JoinSet::new();
        node(&client, NODE, &mut tasks).await;
        namespace(&client, name).await;
        let asked = Arc::new(Mutex::new(Vec::new()));
        tasks.spawn(write_down(Api::namespaced(client.clone(), name), asked.clone()));
        tasks.spawn(tend(Api::namespaced(client.clone(), name)));
        let scene = Self {
            control_plane: control_plane.clone(),
            deployments: Api::namespaced(client.clone(), name),
            client,
            namespace: name.into(),
            folder: tempfile::tempdir().expect("a temporary folder"),
            asked,
            _tasks: tasks,
        };
        scene.deploy().await;
        scene
    }

    /// Creates the Deployment.
    pub(crate) async fn deploy(&self) {
        let labels = json!({"app": "replica"});
        let spec = json!({"containers": [{"name": "replica", "image": "replica"}], "nodeName": NODE,
            "automountServiceAccountToken": false});
        let deployment = json!({"metadata": {"name": "replica"}, "spec": {"replicas": REPLICAS,
            "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}}});
        let deployment = serde_json::from_value(deployment).expect("a Deployment");
        self.deployments.create(&PostParams::default(), &deployment).await.expect("created");
    }

    pub(crate) async fn delete(&self) {
        self.deployments.delete("replica", &DeleteParams::background()).await.expect("deleted");
    }

    /// Flags for a scaler of this Deployment with at most eight replicas, and `more` flags.
    pub(crate) fn flags(&self, more: &[String]) -> Vec<String> {
        self.flags_up_to(8, more)
    }

    /// Flags for a scaler of this Deployment with at most `max` replicas, and `more` flags.
    pub(crate) fn flags_up_to(&self, max: u32, more: &[String]) -> Vec<String> {
        [&[format!("--target=deployment:{}/replica", self.namespace), format!("--max={max}")], more].concat()
    }

    /// Writes a kubeconfig for the cluster, after a change. Returns its path.
    pub(crate) fn kubeconfig(&self, change: impl FnOnce(&mut Kubeconfig)) -> PathBuf {
        let mut kubeconfig = self.control_plane.kubeconfig();
        change(&mut kubeconfig);
        let path = self.folder.path().join("kubeconfig");
        // kubeconfigs are YAML, and JSON is valid YAML.
        std::fs::write(&path, serde_json::to_vec(&kubeconfig).expect("text")).expect("writable");
        path
    }

    /// A kubeconfig that reaches the API server over `line`, which can be cut.
    pub(crate) fn kubeconfig_over(&self, line: &Line) -> PathBuf {
        self.kubeconfig(|kubeconfig| {
            kubeconfig.clusters[0].cluster.as_mut().expect("a cluster").server = Some(line.address());
        })
    }

    /// A kubeconfig that acts as `user`, who has only the privileges that Roles grant.
    pub(crate) fn kubeconfig_of(&self, user: &str) -> PathBuf {
        self.kubeconfig(|kubeconfig| {
            kubeconfig.auth_infos[0].auth_info.as_mut().expect("a user").impersonate = Some(user.into());
        })
    }

    /// Creates a folder that is removed with the scene.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir(&path).expect("a new folder");
        path
    }

    /// Every number of replicas that the Deployment was set to, in order.
    pub(crate) fn asked(&self) -> Vec<i32> {
        self.asked.lock().expect("whole").iter().filter_map(|(_, replicas)| *replicas).collect()
    }

    /// The numbers of replicas that the Deployment has had since `then`, the one at that time included.
    pub(crate) fn asked_since(&self, then: Instant) -> Vec<i32> {
        let asked = self.asked.lock().expect("whole");
        let before = asked.partition_point(|(at, _)| *at < then).saturating_sub(1);
        asked[before..].iter().filter_map(|(_, replicas)| *replicas).collect()
    }

    /// Checks that the number of replicas was never lowered.
    pub(crate) fn never_went_down(&self) {
        let asked = self.asked();
        assert!(asked.is_sorted(), "{}: {asked:?}", self.namespace);
    }

    /// Waits until the number of replicas satisfies `is_it`. Fails with the latest decision and the log of `scaler`.
    pub(crate) async fn until_asked(&self, scaler: &Scaler, what: &str, is_it: impl Fn(i32) -> bool) -> i32 {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.asked().last() {
                Some(replicas) if is_it(*replicas) => return *replicas,
                _ if Instant::now() < until => tokio::time::sleep(Duration::from_millis(50)).await,
                _ => {
                    let (asked, latest, log) = (self.asked(), scaler.latest().await, scaler.log().join("\n"));
                    panic!("{}: not in time: {what}; {asked:?}; {latest}\n{log}", self.namespace);
                }
            }
        }
    }
}

async fn write_down(deployments: Api<Deployment>, asked: Arc<Mutex<Vec<Asked>>>) {
    let mut events = Box::pin(watcher(deployments, Config::default()));
    while let Some(event) = events.next().await {
        let replicas = match event {
            Ok(Event::Apply(deployment) | Event::InitApply(deployment)) => {
                deployment.spec.and_then(|spec| spec.replicas)
            }
            Ok(Event::Delete(_)) => None,
            // The watcher lists the Deployment again by itself.
            Ok(Event::Init | Event::InitDone) | Err(_) => continue,
        };
        let mut asked = asked.lock().expect("whole");
        if asked.last().is_none_or(|(_, last)| *last != replicas) {
            asked.push((Instant::now(), replicas));
        }
    }
}

/// Makes every new pod ready, as a kubelet would.
async fn tend(pods: Api<Pod>) {
    let mut events = Box::pin(watcher(pods.clone(), Config::default()));
    while let Some(event) = events.next().await {
        let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event else { continue };
        let is_new = pod.status.as_ref().is_none_or(|status| status.conditions.is_none());
        if is_new && pod.metadata.deletion_timestamp.is_none() {
            let condition =
                json!({"type": "Ready", "status": "True", "lastTransitionTime": Timestamp::now().to_string()});
            let status: Value = json!({"status": {"phase": "Running", "conditions": [condition]}});
            // The pod may have been deleted meanwhile; then the patch fails.
            let _gone = pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status)).await;
        }
    }
}
