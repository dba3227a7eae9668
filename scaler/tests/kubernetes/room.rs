//! Which pods go first when replicas are removed, room that placeholders keep, and nodes that are lost. The pods are placed
//! by the real scheduler and deleted by the real controllers.

use crate::control_plane::{apply, control_plane, node, report, wait_for};
use crate::scalable::{
    TestDeployment, follow, minor_version, scale_to, set_desired_until_done, starting, wait_for_replicas,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use law::observation::Replicas;
use scaler::target::scalable::deletion_cost::ANNOTATION;
use scaler::target::scalable::{self, ScalableSpec};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// The name of the replica's pod with the annotation of its deletion cost.
async fn costs(deployment: &TestDeployment) -> Vec<(String, Option<String>, bool)> {
    let pods = deployment.pods.list(&ListParams::default()).await.expect("the API server answers").items;
    let cost = |pod: &Pod| {
        let is_deleted = pod.metadata.deletion_timestamp.is_some();
        (pod.name_any(), pod.annotations().get(ANNOTATION).cloned(), is_deleted)
    };
    pods.iter().map(cost).collect()
}

#[tokio::test]
async fn unready_pods_and_then_the_newest_get_the_lowest_deletion_costs() {
    let Some(control_plane) = control_plane() else { return };
    let deployment = TestDeployment::new(control_plane, "costs").await;
    deployment.set_replicas(4).await;
    let pods = deployment.wait_for_pods(4).await;
    for (pod, second) in pods.iter().zip([10, 30, 20]) {
        deployment.make_pod_ready(pod, second).await;
    }
    let name = "deployment:costs/replica".parse().expect("the text names a Deployment");
    let spec = ScalableSpec { name, identity: "test".into(), has_deletion_costs: true, is_advised: false };
    let target = scalable::run(spec, deployment.client.clone(), None);
    wait_for_replicas(&target, Replicas { desired: 4, ready: 3, starting: 1, ..Replicas::default() }).await;
    set_desired_until_done(&deployment, &target, 2).await;
    let found = costs(&deployment).await;
    let cost = |pod: &str| found.iter().find(|(name, ..)| name == pod).and_then(|(_, cost, _)| cost.clone());
    let expected = [None, Some("-1"), None, Some("-2")].map(|cost| cost.map(str::to_owned));
    let found_costs: Vec<Option<String>> = pods.iter().map(|pod| cost(pod)).collect();
    assert_eq!(found_costs, expected, "{found:?}");
    // Without a kubelet, the deleted pods stay. Since 1.22, the costs decide which pods these are.
    if minor_version(&deployment.client).await >= 22 {
        wait_for("two deleted pods", async || {
            let deleted = costs(&deployment).await.iter().filter(|(.., is_deleted)| *is_deleted).count();
            (deleted == 2).then_some(())
        })
        .await;
        for (name, cost, is_deleted) in costs(&deployment).await {
            assert_eq!(is_deleted, cost.is_some(), "{name}");
        }
    } else {
        report("skipped: which pods are deleted, since this API server is older than v1.22");
    }
}

/// The container of a pod that requests a core.
fn core() -> Value {
    json!([{"name": "replica", "image": "replica", "resources": {"requests": {"cpu": "1"}}}])
}

/// The pods with the label `app`, and the node of each.
async fn nodes_of(deployment: &TestDeployment, app: &str) -> Vec<Option<String>> {
    let of_app = ListParams::default().labels(&format!("app={app}"));
    let pods = deployment.pods.list(&of_app).await.expect("the API server answers").items;
    let alive = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    alive.map(|pod| pod.spec.and_then(|spec| spec.node_name)).collect()
}

#[tokio::test]
async fn a_placeholder_gives_way_to_a_replica() {
    const ROOM: &str = "room";
    let Some(control_plane) = control_plane() else { return };
    let deployment = TestDeployment::new(control_plane, "placeholders").await;
    let client = &deployment.client;
    deployment.set_replicas(0).await;
    let mut tasks = JoinSet::new();
    node(client, ROOM, &mut tasks).await;
    let nodes = Api::<Node>::all(client.clone());
    let label = Patch::Merge(json!({"metadata": {"labels": {"place": ROOM}}}));
    nodes.patch(ROOM, &PatchParams::default(), &label).await.expect("the node can be changed");
    let two_cores = json!({"cpu": "2", "memory": "8Gi", "pods": "20"});
    let status = Patch::Merge(json!({"status": {"allocatable": two_cores, "capacity": two_cores}}));
    nodes.patch_status(ROOM, &PatchParams::default(), &status).await.expect("the node can be changed");
    let classes = Api::<PriorityClass>::all(client.clone());
    apply(&classes, "placeholder", json!({"value": -10, "preemptionPolicy": "Never"})).await;

    let pod = json!({"containers": core(), "nodeSelector": {"place": ROOM}, "priorityClassName": "placeholder",
        "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false});
    let labels = json!({"app": "headroom"});
    let template = json!({"metadata": {"labels": labels}, "spec": pod});
    let spec = json!({"replicas": 1, "selector": {"matchLabels": labels}, "template": template});
    apply(&deployment.deployments, "headroom", json!({"spec": spec})).await;
    let change = json!({"spec": {"template": {"spec":
        {"nodeName": null, "nodeSelector": {"place": ROOM}, "containers": core()}}}});
    deployment
        .deployments
        .patch("replica", &PatchParams::default(), &Patch::Merge(change))
        .await
        .expect("the Deployment can be changed");

    let target = follow("deployment:placeholders/replica", client);
    let name = "deployment:placeholders/replica".parse().expect("the text names a Deployment");
    let spec = ScalableSpec { name, identity: "test".into(), has_deletion_costs: false, is_advised: false };
    let placeholders = scalable::run(scaler::headroom::spec(&spec), client.clone(), None);
    scale_to(&placeholders, 2).await;
    let room = || Some(ROOM.to_owned());
    wait_for("two placeholders on the node", async || {
        (nodes_of(&deployment, "headroom").await == [room(), room()]).then_some(())
    })
    .await;
    // The node is full now. The scheduler deletes a placeholder, and its ReplicaSet creates another one, which waits.
    scale_to(&target, 1).await;
    wait_for("a replica in the room of a placeholder", async || {
        let replica_is_placed = nodes_of(&deployment, "replica").await == [room()];
        let mut placeholders = nodes_of(&deployment, "headroom").await;
        placeholders.sort();
        (replica_is_placed && placeholders == [None, room()]).then_some(())
    })
    .await;
    wait_for_replicas(&target, starting(1)).await;
    let node_time = target.state.borrow().node_time;
    assert_eq!(node_time, None, "the replica has waited for a placeholder to go, and not for a node");
}

/// The manifest that users apply, not a copy: a mistake in it would show up on their clusters only.
const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../k8s/components/headroom/headroom.yaml");

#[tokio::test]
async fn the_shipped_placeholders_are_accepted_and_scaled() {
    let Some(control_plane) = control_plane() else { return };
    let deployment = TestDeployment::new(control_plane, "shipped").await;
    let client = &deployment.client;
    let text = std::fs::read_to_string(SHIPPED).expect("the repository has the manifest");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("the manifest is YAML");
    let [class, placeholders] = objects.try_into().expect("the manifest has a PriorityClass and a Deployment");
    let name = |object: &Value| object["metadata"]["name"].as_str().expect("an object has a name").to_owned();
    assert_eq!([&class["kind"], &placeholders["kind"]], ["PriorityClass", "Deployment"]);
    let class = apply(&Api::<PriorityClass>::all(client.clone()), &name(&class), class).await;
    apply(&deployment.deployments, &name(&placeholders), placeholders).await;

    let name = "deployment:shipped/replica".parse().expect("the text names a Deployment");
    let spec = ScalableSpec { name, identity: "test".into(), has_deletion_costs: false, is_advised: false };
    let target = scalable::run(scaler::headroom::spec(&spec), client.clone(), None);
    scale_to(&target, 2).await;
    let placeholders = ListParams::default().labels("app.kubernetes.io/component=headroom");
    let pods = wait_for("two placeholders", async || {
        let found = deployment.pods.list(&placeholders).await.expect("the API server answers").items;
        (found.len() == 2).then_some(found)
    })
    .await;
    for pod in pods {
        assert_eq!(pod.spec.and_then(|spec| spec.priority), Some(class.value));
    }
}

#[tokio::test]
async fn the_pod_of_a_node_that_has_gone_silent_is_lost() {
    let Some(control_plane) = control_plane() else { return };
    let deployment = TestDeployment::new(control_plane, "silent").await;
    let mut tasks = JoinSet::new();
    node(&deployment.client, "silent", &mut tasks).await;
    let change = json!({"spec": {"template": {"spec": {"nodeName": "silent"}},
        "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "100%"}}}});
    deployment
        .deployments
        .patch("replica", &PatchParams::default(), &Patch::Merge(change))
        .await
        .expect("the Deployment can be changed");
    let target = follow("deployment:silent/replica", &deployment.client);
    let pod = wait_for("a pod on the node", async || {
        let pods = deployment.pods.list(&ListParams::default()).await.expect("the API server answers").items;
        let is_there = |pod: &&Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some("silent");
        pods.iter().find(is_there).map(ResourceExt::name_any)
    })
    .await;
    let conditions = json!([{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}]);
    deployment.set_pod_status(&pod, json!({"phase": "Running", "conditions": conditions})).await;
    wait_for_replicas(&target, Replicas { desired: 1, ready: 1, ..Replicas::default() }).await;
    // The node reports no more. The control plane marks it and its pods after 40 s.
    tasks.abort_all();
    wait_for_replicas(&target, Replicas { desired: 1, lost: 1, ..Replicas::default() }).await;
    set_desired_until_done(&deployment, &target, 2).await;
}

#[tokio::test]
async fn a_revision_whose_image_cannot_be_pulled_does_not_stop_scaling() {
    let Some(control_plane) = control_plane() else { return };
    let deployment = TestDeployment::new(control_plane, "image").await;
    let target = follow("deployment:image/replica", &deployment.client);
    let pods = deployment.wait_for_pods(1).await;
    deployment.make_pod_ready(&pods[0], 4).await;
    let ready = Replicas { desired: 1, ready: 1, ..Replicas::default() };
    wait_for_replicas(&target, ready).await;
    let broken = json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"annotations": {"revision": "2"}}}}});
    deployment
        .deployments
        .patch("replica", &PatchParams::default(), &Patch::Merge(broken))
        .await
        .expect("the Deployment can be changed");
    let all = deployment.wait_for_pods(2).await;
    let surge = all.iter().find(|pod| **pod != pods[0]).expect("the new revision has a pod");
    let waiting = json!({"name": "replica", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ImagePullBackOff"}}});
    deployment.set_pod_status(surge, json!({"phase": "Pending", "containerStatuses": [waiting]})).await;
    let state = wait_for("the reason of the new revision", async || {
        let state = target.state.borrow().clone();
        state.obstacle.as_ref().is_some_and(|obstacle| obstacle.contains("ImagePullBackOff")).then_some(state)
    })
    .await;
    assert_eq!(state.replicas, ready, "the pod of the new revision is beyond the desired one");
    set_desired_until_done(&deployment, &target, 3).await;
    wait_for_replicas(&target, Replicas { desired: 3, ready: 1, starting: 2, ..Replicas::default() }).await;
}
