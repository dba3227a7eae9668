//! The pods of a Deployment by state: ready, starting or blocked. Pure.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use law::observation::Replicas;
use std::borrow::Borrow;

/// The reasons of waiting containers that keep crashing, or cannot start until a user removes the cause.
const STUCK_REASONS: [&str; 7] = [
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
pub enum PodState {
    /// The pod is ready.
    Ready,
    /// The pod is not ready yet.
    Starting,
    /// The pod cannot be placed or started, or keeps dying.
    Blocked,
    /// The pod has finished or is being deleted, so it is no longer a replica.
    Gone,
}

/// The state of `pod`.
pub fn pod_state(pod: &Pod) -> PodState {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    // The ReplicaSet has already replaced a pod that has finished.
    if pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed")) {
        return PodState::Gone;
    }
    if condition(pod, "Ready").is_some_and(|ready| ready.status == "True") {
        return PodState::Ready;
    }
    let unschedulable = condition(pod, "PodScheduled")
        .is_some_and(|placed| placed.status == "False" && placed.reason.as_deref() == Some("Unschedulable"));
    let mut containers =
        status.into_iter().flat_map(|status| [&status.init_container_statuses, &status.container_statuses]).flatten();
    let is_blocked = unschedulable || containers.any(|list| list.iter().any(is_stuck));
    if is_blocked { PodState::Blocked } else { PodState::Starting }
}

/// The condition of `pod` with the type `kind`; `None` if there is none.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// The replicas by state. Replicas without a pod count as starting, or as blocked if the Deployment reports that pods
/// cannot be created, for example because of a quota.
pub fn count(deployment: &Deployment, pods: &[impl Borrow<Pod>]) -> Replicas {
    let desired = desired(deployment);
    let count = |state| pods.iter().filter(|&pod| pod_state(pod.borrow()) == state).count();
    let (ready, starting, blocked) = (count(PodState::Ready), count(PodState::Starting), count(PodState::Blocked));
    let missing = desired.saturating_sub(ready + starting + blocked);
    let conditions = deployment.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is_failing = conditions.iter().any(|found| found.type_ == "ReplicaFailure" && found.status == "True");
    let (starting, blocked) = if is_failing { (starting, blocked + missing) } else { (starting + missing, blocked) };
    Replicas { desired, ready, starting, blocked }
}

/// The name of a blocked pod and the reason given by the scheduler or the kubelet; `None` if no pod is blocked.
pub fn obstacle(pods: &[impl Borrow<Pod>]) -> Option<String> {
    let pod: &Pod = pods.iter().map(Borrow::borrow).find(|pod| pod_state(pod) == PodState::Blocked)?;
    let unplaced = condition(pod, "PodScheduled").filter(|placed| placed.status == "False");
    let message = unplaced.and_then(|placed| placed.message.clone()).or_else(|| {
        let mut containers = pod.status.as_ref()?.container_statuses.iter().flatten();
        let container = containers.find(|container| is_stuck(container))?;
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let reasons = [waiting.and_then(|state| state.reason.clone()), ended.and_then(|state| state.reason.clone())];
        Some(reasons.into_iter().flatten().collect::<Vec<_>>().join(", last time "))
    });
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    Some(format!("{name}: {}", message.unwrap_or_default()))
}

/// The desired replicas of the Deployment; one if it gives no number (documentation of DeploymentSpec).
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
    is_killed && !container.ready || waiting.is_some_and(|reason| STUCK_REASONS.contains(&reason))
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
            (json!({}), PodState::Starting),
            (json!({"phase": "Pending"}), PodState::Starting),
            (is("Running", "False"), PodState::Starting),
            (is("Running", "Unknown"), PodState::Starting),
            (is("Running", "True"), PodState::Ready),
            (is("Succeeded", "True"), PodState::Gone),
            (json!({"phase": "Failed", "reason": "Evicted"}), PodState::Gone),
            (unplaced("Unschedulable"), PodState::Blocked),
            (unplaced("SchedulingGated"), PodState::Starting),
            (waiting("ContainerCreating"), PodState::Starting),
            (waiting("PodInitializing"), PodState::Starting),
            (waiting("CrashLoopBackOff"), PodState::Blocked),
            (waiting("ImagePullBackOff"), PodState::Blocked),
            (waiting("ErrImagePull"), PodState::Blocked),
            (waiting("CreateContainerConfigError"), PodState::Blocked),
            (init, PodState::Blocked),
            (with(container(false, &running, &killed)), PodState::Blocked),
            (with(container(false, &killed, &none)), PodState::Blocked),
            (with(container(false, &running, &crashed)), PodState::Starting),
            (recovered, PodState::Ready),
        ] {
            assert_eq!(pod_state(&pod(&status)), expected, "{status}");
        }
        let mut leaving = pod(&is("Running", "True"));
        leaving.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time"));
        assert_eq!(pod_state(&leaving), PodState::Gone);
    }

    #[test]
    fn an_obstacle_is_the_message_of_the_scheduler_or_the_kubelet() {
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
