//! The pods of a Deployment by state: ready, starting or blocked. Pure.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use law::observation::Replicas;
use std::borrow::Borrow;

/// Waiting reasons of a container that keeps crashing, or cannot start until its cause is removed.
const STUCK: [&str; 7] = [
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
];

/// The state of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The pod is ready.
    Ready,
    /// The pod is not ready yet.
    Starting,
    /// The pod cannot be placed or started, or keeps dying.
    Blocked,
    /// The pod has finished or is being deleted, so it is no longer a replica.
    Gone,
}

/// The state of this pod.
pub fn phase(pod: &Pod) -> Phase {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    // The ReplicaSet has already replaced a pod that has finished.
    if pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed")) {
        return Phase::Gone;
    }
    if condition(pod, "Ready").is_some_and(|ready| ready.status == "True") {
        return Phase::Ready;
    }
    let unschedulable = condition(pod, "PodScheduled")
        .is_some_and(|placed| placed.status == "False" && placed.reason.as_deref() == Some("Unschedulable"));
    let mut containers =
        status.into_iter().flat_map(|status| [&status.init_container_statuses, &status.container_statuses]).flatten();
    if unschedulable || containers.any(|list| list.iter().any(is_stuck)) { Phase::Blocked } else { Phase::Starting }
}

/// The pod's condition of this type.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Replicas by state. Replicas without a pod are starting, unless the Deployment says that pods cannot be created (a quota,
/// an admission check).
pub fn count(deployment: &Deployment, pods: &[impl Borrow<Pod>]) -> Replicas {
    let desired = desired(deployment);
    let count = |state| pods.iter().filter(|&pod| phase(pod.borrow()) == state).count();
    let (ready, starting, blocked) = (count(Phase::Ready), count(Phase::Starting), count(Phase::Blocked));
    let missing = desired.saturating_sub(ready + starting + blocked);
    let conditions = deployment.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    if conditions.iter().any(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True") {
        Replicas { desired, ready, starting, blocked: blocked + missing }
    } else {
        Replicas { desired, ready, starting: starting + missing, blocked }
    }
}

/// Why one of the pods cannot be placed or started, in the words of the scheduler or the kubelet; `None` if none is blocked.
pub fn obstacle(pods: &[impl Borrow<Pod>]) -> Option<String> {
    let pod: &Pod = pods.iter().map(Borrow::borrow).find(|pod| phase(pod) == Phase::Blocked)?;
    let unplaced = condition(pod, "PodScheduled").filter(|placed| placed.status == "False");
    let said = unplaced.and_then(|placed| placed.message.clone()).or_else(|| {
        let mut containers = pod.status.as_ref()?.container_statuses.iter().flatten();
        let container = containers.find(|container| is_stuck(container))?;
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let reasons = [waiting.and_then(|state| state.reason.clone()), ended.and_then(|state| state.reason.clone())];
        Some(reasons.into_iter().flatten().collect::<Vec<_>>().join(", last time "))
    });
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    Some(format!("{name}: {}", said.unwrap_or_default()))
}

/// The replicas that the Deployment asks for; one, if it does not say (DeploymentSpec's own documentation).
pub fn desired(deployment: &Deployment) -> usize {
    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    usize::try_from(replicas).unwrap_or_default()
}

fn is_stuck(container: &ContainerStatus) -> bool {
    let state = container.state.as_ref();
    let waiting = state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.as_deref());
    let is_killed = [state, container.last_state.as_ref()].into_iter().flatten().any(|state| {
        state.terminated.as_ref().and_then(|terminated| terminated.reason.as_deref()) == Some("OOMKilled")
    });
    is_killed && !container.ready || waiting.is_some_and(|reason| STUCK.contains(&reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "status": status})).expect("a pod")
    }

    fn container(ready: bool, state: &Value, last: &Value) -> Value {
        json!({"name": "replica", "image": "", "imageID": "", "restartCount": 0, "ready": ready, "state": state,
            "lastState": last})
    }

    fn waiting(reason: &str) -> Value {
        let container = container(false, &json!({"waiting": {"reason": reason}}), &json!({}));
        json!({"phase": "Pending", "containerStatuses": [container]})
    }

    fn condition(kind: &str, status: &str, reason: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": "0/1 nodes are available"})
    }

    #[test]
    fn pods_are_ready_starting_blocked_or_gone() {
        let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let crashed = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        let (running, none) = (json!({"running": {}}), json!({}));
        let is = |phase: &str, ready: &str| json!({"phase": phase, "conditions": [condition("PodScheduled", "True", ""), condition("Ready", ready, "")]});
        let unplaced = |reason| json!({"phase": "Pending", "conditions": [condition("PodScheduled", "False", reason)]});
        let with = |container: Value| json!({"containerStatuses": [container]});
        let init = json!({"initContainerStatuses": waiting("CrashLoopBackOff")["containerStatuses"]});
        let mut recovered = is("Running", "True");
        recovered["containerStatuses"] = json!([container(true, &running, &killed)]);
        for (status, expected) in [
            (json!({}), Phase::Starting),
            (json!({"phase": "Pending"}), Phase::Starting),
            (is("Running", "False"), Phase::Starting),
            (is("Running", "Unknown"), Phase::Starting),
            (is("Running", "True"), Phase::Ready),
            (is("Succeeded", "True"), Phase::Gone),
            (json!({"phase": "Failed", "reason": "Evicted"}), Phase::Gone),
            (unplaced("Unschedulable"), Phase::Blocked),
            (unplaced("SchedulingGated"), Phase::Starting),
            (waiting("ContainerCreating"), Phase::Starting),
            (waiting("PodInitializing"), Phase::Starting),
            (waiting("CrashLoopBackOff"), Phase::Blocked),
            (waiting("ImagePullBackOff"), Phase::Blocked),
            (waiting("ErrImagePull"), Phase::Blocked),
            (waiting("CreateContainerConfigError"), Phase::Blocked),
            (init, Phase::Blocked),
            (with(container(false, &running, &killed)), Phase::Blocked),
            (with(container(false, &killed, &none)), Phase::Blocked),
            (with(container(false, &running, &crashed)), Phase::Starting),
            (recovered, Phase::Ready),
        ] {
            assert_eq!(phase(&pod(&status)), expected, "{status}");
        }
        let mut leaving = pod(&is("Running", "True"));
        leaving.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time"));
        assert_eq!(phase(&leaving), Phase::Gone);
    }

    #[test]
    fn an_obstacle_is_told_in_the_words_of_the_scheduler_or_the_kubelet() {
        let unplaced = json!({"conditions": [condition("PodScheduled", "False", "Unschedulable")]});
        let mut dying = waiting("CrashLoopBackOff");
        dying["containerStatuses"][0]["lastState"] = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let ready = json!({"conditions": [condition("Ready", "True", "")]});
        for (statuses, expected) in [
            (&[&ready][..], None),
            (&[&ready, &unplaced], Some("a: 0/1 nodes are available")),
            (&[&dying], Some("a: CrashLoopBackOff, last time OOMKilled")),
        ] {
            let pods: Vec<Pod> = statuses.iter().map(|status| pod(status)).collect();
            assert_eq!(obstacle(&pods).as_deref(), expected);
        }
    }

    #[test]
    fn replicas_without_a_pod_are_starting_or_blocked() {
        let ready = pod(&json!({"conditions": [condition("Ready", "True", "")]}));
        let pods = [ready, pod(&json!({})), pod(&waiting("ErrImagePull")), pod(&json!({"phase": "Failed"}))];
        for (replicas, failure, desired, starting, blocked) in [
            (json!(3), "", 3, 1, 1),
            (json!(5), "", 5, 3, 1),
            (json!(5), "False", 5, 3, 1),
            (json!(5), "True", 5, 1, 3),
            (json!(0), "True", 0, 1, 1),
            (json!(null), "", 1, 1, 1),
        ] {
            let spec = json!({"replicas": replicas, "selector": {}, "template": {}});
            let status = json!({"conditions": [condition("ReplicaFailure", failure, "")]});
            let deployment = serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": status}));
            let found = count(&deployment.expect("a Deployment"), &pods);
            assert_eq!(found, Replicas { desired, ready: 1, starting, blocked }, "{replicas} {failure}");
        }
    }
}
