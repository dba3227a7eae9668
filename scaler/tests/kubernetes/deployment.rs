//! The Deployment target on a real API server. No kubelet runs the pods: the tests write their status.

use crate::control_plane::{ControlPlane, PATIENCE, apply, control_plane, eventually, namespace, node};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::{Api, Client, ResourceExt};
use law::observation::Replicas;
use scaler::target::deployment::{self, ScaledDeployment};
use scaler::target::{Desired, Handle, TargetState};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const NODE: &str = "node";

/// One Deployment in a namespace of its own, and the target that follows it.
struct Scene {
    _control_plane: Arc<ControlPlane>,
    client: Client,
    deployments: Api<Deployment>,
    pods: Api<Pod>,
    namespace: String,
    _tasks: JoinSet<()>,
}

impl Scene {
    /// A scene with a Deployment of one replica on a node that runs nothing.
    async fn new(control_plane: Arc<ControlPlane>, name: &str) -> Self {
        Self::with(control_plane, name, &json!({})).await
    }

    /// A scene whose pods have something more in their specification.
    async fn with(control_plane: Arc<ControlPlane>, name: &str, more: &Value) -> Self {
        let client = control_plane.client().await;
        // The node of all pods of all tests. Without it the pods would be deleted.
        let mut tasks = JoinSet::new();
        node(&client, NODE, &mut tasks).await;
        namespace(&client, name).await;
        let scene = Self {
            _control_plane: control_plane,
            deployments: Api::namespaced(client.clone(), name),
            pods: Api::namespaced(client.clone(), name),
            client,
            namespace: name.into(),
            _tasks: tasks,
        };
        let mut spec = more.clone();
        spec["nodeName"] = NODE.into();
        scene.deploy(&spec).await;
        scene
    }

    /// Creates the Deployment, with something more in its pods' specification.
    async fn deploy(&self, more: &Value) {
        let mut spec =
            json!({"containers": [{"name": "replica", "image": "replica"}], "automountServiceAccountToken": false});
        spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let labels = json!({"app": "replica"});
        let template = json!({"metadata": {"labels": labels}, "spec": spec});
        let deployment = json!({"metadata": {"name": "replica"},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}});
        let deployment = serde_json::from_value(deployment).expect("a Deployment");
        self.deployments.create(&PostParams::default(), &deployment).await.expect("created");
    }

    fn follow(&self) -> Handle {
        self.follow_with(self.client.clone())
    }

    fn follow_with(&self, client: Client) -> Handle {
        deployment::run(self.spec(), client)
    }

    fn spec(&self) -> ScaledDeployment {
        let name = format!("deployment:{}/replica", self.namespace).parse().expect("a name");
        ScaledDeployment { name, identity: "test".into() }
    }

    async fn replicas(&self) -> i32 {
        let scale = self.deployments.get_scale("replica").await.expect("it answers");
        scale.spec.and_then(|spec| spec.replicas).unwrap_or_default()
    }

    async fn set_replicas(&self, replicas: usize) {
        let change = json!({"spec": {"replicas": replicas}});
        let params = PatchParams::default();
        self.deployments.patch_scale("replica", &params, &Patch::Merge(change)).await.expect("set");
    }

    /// Waits until so many pods are not being deleted; their names.
    async fn alive(&self, count: usize) -> Vec<String> {
        eventually(&format!("{count} pods"), async || {
            let pods = self.pods.list(&ListParams::default()).await.expect("it answers").items;
            let alive = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
            let names: Vec<String> = alive.map(ResourceExt::name_any).collect();
            (names.len() == count).then_some(names)
        })
        .await
    }

    /// Writes a pod's status, as a kubelet would.
    async fn becomes(&self, pod: &str, status: Value) {
        let patch = Patch::Merge(json!({"status": status}));
        self.pods.patch_status(pod, &PatchParams::default(), &patch).await.expect("patched");
    }

    /// Makes a pod ready, so many seconds after it was created.
    async fn becomes_ready(&self, pod: &str, seconds: i64) {
        let created = self.pods.get(pod).await.expect("a pod").metadata.creation_timestamp.expect("a time").0;
        let ready = created + k8s_openapi::jiff::SignedDuration::from_secs(seconds);
        let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": ready.to_string()});
        self.becomes(pod, json!({"phase": "Running", "conditions": [condition]})).await;
    }
}

fn ask(target: &Handle, replicas: usize) {
    target.desired.send_replace(Desired { replicas, reason: format!("{replicas} are needed"), ..Desired::default() });
}

async fn until(target: &Handle, what: &str, is_it: impl FnMut(&TargetState) -> bool) -> TargetState {
    let mut state = target.state.clone();
    let waited = tokio::time::timeout(PATIENCE, state.wait_for(is_it)).await;
    match waited {
        Ok(state) => state.expect("the task lives").clone(),
        Err(_elapsed) => panic!("not in time: {what}; {:?}", target.state.borrow()),
    }
}

async fn until_replicas(target: &Handle, replicas: Replicas) -> TargetState {
    until(target, &format!("{replicas:?}"), |state| state.replicas == replicas && state.refusal.is_none()).await
}

async fn until_refused(target: &Handle, why: &str) -> TargetState {
    let refuses = |state: &TargetState| state.refusal.as_ref().is_some_and(|refusal| refusal.contains(why));
    until(target, &format!("a refusal with {why:?}"), refuses).await
}

fn starting(desired: usize) -> Replicas {
    Replicas { desired, starting: desired, ..Replicas::default() }
}

#[tokio::test]
async fn desired_replicas_change_the_deployment_and_an_event_says_why() {
    let Some(control_plane) = control_plane() else { return };
    let scene = Scene::new(control_plane, "asked").await;
    let target = scene.follow();
    assert!(target.state.borrow().refusal.is_some(), "nothing has been read yet");
    until_replicas(&target, starting(1)).await;
    assert_eq!(scene.replicas().await, 1, "no replicas were asked for");

    ask(&target, 3);
    until_replicas(&target, starting(3)).await;
    assert_eq!(scene.replicas().await, 3);
    let pods = scene.alive(3).await;
    scene.becomes_ready(&pods[0], 4).await;
    let one = Replicas { desired: 3, ready: 1, starting: 2, blocked: 0 };
    assert_eq!(until_replicas(&target, one).await.startup, Some(Duration::from_secs(4)));
    scene.becomes_ready(&pods[1], 14).await;
    let two = Replicas { desired: 3, ready: 2, starting: 1, blocked: 0 };
    assert_eq!(until_replicas(&target, two).await.startup, Some(Duration::from_secs(7)), "0.7 · 4 + 0.3 · 14");

    // No kubelet ends the pods, so two stay for ever, terminating.
    ask(&target, 1);
    until_replicas(&target, Replicas { desired: 1, ready: 1, ..Replicas::default() }).await;
    assert_eq!(scene.replicas().await, 1);
    ask(&target, 0);
    until_replicas(&target, Replicas::default()).await;

    let events = Api::<Event>::namespaced(scene.client.clone(), &scene.namespace);
    let mut notes = eventually("an Event for each change", async || {
        let list = events.list(&ListParams::default()).await.expect("it answers").items;
        let ours = list.into_iter().filter(|event| event.reporting_controller.as_deref() == Some("roundhouse-scaler"));
        let notes: Vec<String> = ours.filter_map(|event| event.note).collect();
        (notes.len() == 3).then_some(notes)
    })
    .await;
    notes.sort();
    let expected = ["from 1 to 0", "from 1 to 3", "from 3 to 1"];
    for (note, start) in notes.iter().zip(expected) {
        let needed = start.rsplit(' ').next().expect("a number");
        assert_eq!(*note, format!("{start} replicas: {needed} are needed"));
    }

    // The task ends and the Deployment stays.
    drop(target.desired);
    target.done.await.expect("it ends");
}

#[tokio::test]
async fn pods_that_cannot_run_are_blocked() {
    let Some(control_plane) = control_plane() else { return };
    let scene = Scene::new(control_plane, "blocked").await;
    scene.set_replicas(2).await;
    let target = scene.follow();
    until_replicas(&target, starting(2)).await;
    let pods = scene.alive(2).await;
    let waiting = json!({"name": "replica", "image": "", "imageID": "", "ready": false, "restartCount": 3,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
    scene.becomes(&pods[0], json!({"containerStatuses": [waiting]})).await;
    until_replicas(&target, Replicas { desired: 2, ready: 0, starting: 1, blocked: 1 }).await;

    // The scheduler itself says so of these.
    let nowhere = json!({"spec": {"template": {"spec": {"nodeName": null, "nodeSelector": {"place": "none"}}},
        "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "100%"}}}});
    scene.deployments.patch("replica", &PatchParams::default(), &Patch::Merge(nowhere)).await.expect("patched");
    until_replicas(&target, Replicas { desired: 2, ready: 0, starting: 0, blocked: 2 }).await;
}

#[tokio::test]
async fn replicas_beyond_a_quota_are_blocked() {
    let Some(control_plane) = control_plane() else { return };
    let scene = Scene::new(control_plane, "quota").await;
    let target = scene.follow();
    until_replicas(&target, starting(1)).await;
    scene.alive(1).await;
    let quotas = Api::<ResourceQuota>::namespaced(scene.client.clone(), &scene.namespace);
    apply(&quotas, "pods", json!({"spec": {"hard": {"pods": "1"}}})).await;
    eventually("the quota in force", async || {
        quotas.get("pods").await.expect("it answers").status?.used?.get("pods").cloned()
    })
    .await;
    ask(&target, 3);
    until_replicas(&target, Replicas { desired: 3, ready: 0, starting: 1, blocked: 2 }).await;
    ask(&target, 1);
    until_replicas(&target, starting(1)).await;
}

#[tokio::test]
async fn a_deleted_target_is_refused_until_it_is_back() {
    let Some(control_plane) = control_plane() else { return };
    let scene = Scene::new(control_plane, "deleted").await;
    let target = scene.follow();
    until_replicas(&target, starting(1)).await;
    scene.deployments.delete("replica", &DeleteParams::background()).await.expect("deleted");
    let state = until_refused(&target, "deployment deleted/replica does not exist").await;
    assert_eq!(state.replicas, Replicas::default());
    ask(&target, 5);
    scene.deploy(&json!({"nodeName": NODE})).await;
    until_replicas(&target, starting(1)).await;
    ask(&target, 2);
    until_replicas(&target, starting(2)).await;
}

#[tokio::test]
async fn a_deployment_that_another_autoscaler_owns_is_left_alone() {
    let Some(control_plane) = control_plane() else { return };
    let scene = Scene::new(control_plane, "owned").await;
    let keda = Arc::new(AtomicBool::new(false));
    let (client, present) = (scene.client.clone(), keda.clone());
    let with_keda = tower::service_fn(move |request: hyper::Request<Body>| {
        let (client, present) = (client.clone(), present.load(Ordering::SeqCst));
        async move {
            if present && request.uri().path() == "/apis/keda.sh/v1alpha1/namespaces/owned/scaledobjects" {
                let object = json!({"metadata": {"name": "queue"}, "spec": {"scaleTargetRef": {"name": "replica"}}});
                let list = json!({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObjectList", "metadata": {},
                    "items": [object]});
                return Ok(hyper::Response::new(Body::from(list.to_string().into_bytes())));
            }
            client.send(request).await
        }
    });
    let target = scene.follow_with(Client::new(with_keda, "default"));
    until_replicas(&target, starting(1)).await;

    let same = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "replica"});
    let autoscalers = Api::<HorizontalPodAutoscaler>::namespaced(scene.client.clone(), &scene.namespace);
    let spec = json!({"spec": {"scaleTargetRef": same, "minReplicas": 1, "maxReplicas": 2}});
    apply(&autoscalers, "cpu", spec).await;
    // It is found when replicas are asked for, if not before.
    ask(&target, 3);
    until_refused(&target, "HorizontalPodAutoscaler owned/cpu scales deployment owned/replica already").await;
    assert_eq!(scene.replicas().await, 1);
    autoscalers.delete("cpu", &DeleteParams::default()).await.expect("deleted");
    until_replicas(&target, starting(1)).await;

    // The proxy above adds KEDA's objects to the API.
    keda.store(true, Ordering::SeqCst);
    until_refused(&target, "ScaledObject owned/queue scales").await;
    keda.store(false, Ordering::SeqCst);
    until_replicas(&target, starting(1)).await;
    ask(&target, 2);
    until_replicas(&target, starting(2)).await;
}

#[tokio::test]
async fn without_the_api_server_the_last_state_stays() {
    let Some(control_plane) = control_plane() else { return };
    let mut line = control_plane.line().await;
    let cuttable = control_plane.client_over(&line).await;
    let scene = Scene::new(control_plane, "away").await;
    scene.set_replicas(2).await;
    let target = scene.follow_with(cuttable);
    until_replicas(&target, starting(2)).await;
    line.cut();
    let state = until_refused(&target, "the API server does not answer").await;
    assert_eq!(state.replicas, starting(2), "kept");
    // The change of the Deployment is not seen, and the desired replicas are forgotten.
    ask(&target, 7);
    scene.set_replicas(3).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(target.state.borrow().replicas, starting(2), "kept");
    line.mend().await;
    until_replicas(&target, starting(3)).await;
    assert_eq!(scene.replicas().await, 3);
    ask(&target, 4);
    until_replicas(&target, starting(4)).await;
}

#[tokio::test]
async fn a_conflicting_write_is_repeated_and_a_rivals_change_stands() {
    let Some(control_plane) = control_plane() else { return };
    let scene = Scene::new(control_plane, "conflict").await;
    // Between reading and writing the scale, another client writes: at first an annotation, and later replicas.
    let (noted, rivalled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let (client, deployments) = (scene.client.clone(), scene.deployments.clone());
    let once = (noted.clone(), rivalled.clone());
    let meddling = tower::service_fn(move |request: hyper::Request<Body>| {
        let (client, deployments, (noted, rivalled)) = (client.clone(), deployments.clone(), once.clone());
        async move {
            if request.method() == hyper::Method::PATCH && request.uri().path().ends_with("/scale") {
                let params = PatchParams::default();
                if !noted.swap(true, Ordering::SeqCst) {
                    let note = Patch::Merge(json!({"metadata": {"annotations": {"note": "changed"}}}));
                    deployments.patch("replica", &params, &note).await?;
                } else if !rivalled.swap(true, Ordering::SeqCst) {
                    let rival = Patch::Merge(json!({"spec": {"replicas": 2}}));
                    deployments.patch_scale("replica", &params, &rival).await?;
                }
            }
            client.send(request).await
        }
    });
    let target = scene.follow_with(Client::new(meddling, "default"));
    until_replicas(&target, starting(1)).await;
    ask(&target, 3);
    until_replicas(&target, starting(3)).await;
    assert!(noted.load(Ordering::SeqCst), "the first write was overtaken");

    rivalled.store(false, Ordering::SeqCst);
    ask(&target, 5);
    until_replicas(&target, starting(2)).await;
    assert_eq!(scene.replicas().await, 2, "the rival's change stands");
    ask(&target, 5);
    until_replicas(&target, starting(5)).await;
}

#[tokio::test]
async fn a_forbidden_write_is_a_refusal_and_is_tried_again() {
    let Some(control_plane) = control_plane() else { return };
    let limited = control_plane.client_of("limited").await;
    let scene = Scene::new(control_plane, "forbidden").await;
    let target = scene.follow_with(limited);
    until_refused(&target, "check the API server and the scaler's Role").await;

    let roles = Api::<Role>::namespaced(scene.client.clone(), &scene.namespace);
    let bindings = Api::<RoleBinding>::namespaced(scene.client.clone(), &scene.namespace);
    let read =
        json!({"apiGroups": ["", "apps"], "resources": ["deployments", "pods"], "verbs": ["get", "list", "watch"]});
    let scale = json!({"apiGroups": ["apps"], "resources": ["deployments/scale"], "resourceNames": ["replica"], "verbs": ["get", "patch"]});
    apply(&roles, "scaler", json!({"rules": [read]})).await;
    let of_role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "scaler"});
    let to_user = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "limited"}]);
    apply(&bindings, "scaler", json!({"roleRef": of_role, "subjects": to_user})).await;
    // The scaler may not list other autoscalers either, and goes on without.
    until_replicas(&target, starting(1)).await;

    ask(&target, 2);
    until_refused(&target, "cannot scale deployment forbidden/replica to 2: ").await;
    assert_eq!(scene.replicas().await, 1);
    apply(&roles, "scaler", json!({"rules": [read, scale]})).await;
    // It tries again by itself. That it may not publish Events stops nothing.
    until_replicas(&target, starting(2)).await;
}
