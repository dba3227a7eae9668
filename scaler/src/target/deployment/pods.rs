//! PURE: what the pods of a Deployment come to: which of them serve, are on their way, or are stuck.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use law::observation::Replicas;
use std::borrow::Borrow;

/// Reasons for which a container waits until somebody changes something, or dies again.
const STUCK: [&str; 7] = [
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
];

/// How far a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Serves.
    Ready,
    /// On its way.
    Starting,
    /// Cannot be placed or started, or keeps dying.
    Blocked,
    /// Finished, or being deleted: no longer a replica.
    Gone,
}

/// How far this one is.
pub fn phase(pod: &Pod) -> Phase {
    let status = pod.status.as_ref();
    let finished = status.and_then(|status| status.phase.as_deref()).is_some_and(|phase| {
        // The ReplicaSet has replaced it already.
        ["Succeeded", "Failed"].contains(&phase)
    });
    if pod.metadata.deletion_timestamp.is_some() || finished {
        return Phase::Gone;
    }
    if condition(pod, "Ready").is_some_and(|ready| ready.status == "True") {
        return Phase::Ready;
    }
    let unschedulable = condition(pod, "PodScheduled")
        .is_some_and(|placed| placed.status == "False" && placed.reason.as_deref() == Some("Unschedulable"));
    let mut containers =
        status.into_iter().flat_map(|status| [&status.init_container_statuses, &status.container_statuses]).flatten();
    if unschedulable || containers.any(|list| list.iter().any(stuck)) { Phase::Blocked } else { Phase::Starting }
}

/// Its condition of this type.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Replicas by state. Those that the Deployment asks for and that have no pod yet are on their way, unless it says that
/// pods cannot be created (a quota, an admission check).
pub fn count(deployment: &Deployment, pods: &[impl Borrow<Pod>]) -> Replicas {
    let desired = desired(deployment);
    let of = |wanted: Phase| pods.iter().filter(|&pod| phase(pod.borrow()) == wanted).count();
    let (ready, starting, blocked) = (of(Phase::Ready), of(Phase::Starting), of(Phase::Blocked));
    let missing = desired.saturating_sub(ready + starting + blocked);
    let conditions = deployment.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    if conditions.iter().any(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True") {
        Replicas { desired, ready, starting, blocked: blocked + missing }
    } else {
        Replicas { desired, ready, starting: starting + missing, blocked }
    }
}

/// What keeps one of them from being placed or started, in the words of whoever tried; nothing if nothing does.
pub fn obstacle(pods: &[impl Borrow<Pod>]) -> Option<String> {
    let pod: &Pod = pods.iter().map(Borrow::borrow).find(|pod| phase(pod) == Phase::Blocked)?;
    let unplaced = condition(pod, "PodScheduled").filter(|placed| placed.status == "False");
    let said = unplaced.and_then(|placed| placed.message.clone()).or_else(|| {
        let container = pod.status.as_ref()?.container_statuses.iter().flatten().find(|container| stuck(container))?;
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let reasons = [waiting.and_then(|state| state.reason.clone()), ended.and_then(|state| state.reason.clone())];
        Some(reasons.into_iter().flatten().collect::<Vec<_>>().join(", last time "))
    });
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    Some(format!("{name}: {}", said.unwrap_or_default()))
}

/// What the Deployment asks for; one, if it does not say (DeploymentSpec's own documentation).
pub fn desired(deployment: &Deployment) -> usize {
    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    usize::try_from(replicas).unwrap_or_default()
}

fn stuck(container: &ContainerStatus) -> bool {
    let state = container.state.as_ref();
    let waiting = state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.as_deref());
    let killed = [state, container.last_state.as_ref()].into_iter().flatten().any(|state| {
        state.terminated.as_ref().and_then(|terminated| terminated.reason.as_deref()) == Some("OOMKilled")
    });
    killed && !container.ready || waiting.is_some_and(|reason| STUCK.contains(&reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "status": status})).expect("a pod")
    }

    fn waiting(reason: &str) -> Value {
        json!({"phase": "Pending", "containerStatuses": [container(false, &json!({"waiting": {"reason": reason}}), &json!({}))]})
    }

    fn container(ready: bool, state: &Value, last: &Value) -> Value {
        json!({"name": "replica", "image": "", "imageID": "", "restartCount": 0, "ready": ready, "state": state,
            "lastState": last})
    }

    #[test]
    fn pods_are_ready_starting_blocked_or_gone() {
        let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let crashed = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        let running = json!({"running": {}});
        let conditions =
            |ready: &str| json!([{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": ready}]);
        let placed = |reason: &str| json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": reason}]});
        for (status, expected) in [
            (json!({}), Phase::Starting),
            (json!({"phase": "Pending"}), Phase::Starting),
            (json!({"phase": "Running", "conditions": conditions("False")}), Phase::Starting),
            (json!({"phase": "Running", "conditions": conditions("Unknown")}), Phase::Starting),
            (json!({"phase": "Running", "conditions": conditions("True")}), Phase::Ready),
            (json!({"phase": "Succeeded", "conditions": conditions("True")}), Phase::Gone),
            (json!({"phase": "Failed", "reason": "Evicted"}), Phase::Gone),
            (placed("Unschedulable"), Phase::Blocked),
            (placed("SchedulingGated"), Phase::Starting),
            (waiting("ContainerCreating"), Phase::Starting),
            (waiting("PodInitializing"), Phase::Starting),
            (waiting("CrashLoopBackOff"), Phase::Blocked),
            (waiting("ImagePullBackOff"), Phase::Blocked),
            (waiting("ErrImagePull"), Phase::Blocked),
            (waiting("CreateContainerConfigError"), Phase::Blocked),
            (
                json!({"initContainerStatuses": [container(false, &json!({"waiting": {"reason": "CrashLoopBackOff"}}), &json!({}))]}),
                Phase::Blocked,
            ),
            (json!({"containerStatuses": [container(false, &running, &killed)]}), Phase::Blocked),
            (json!({"containerStatuses": [container(false, &killed, &json!({}))]}), Phase::Blocked),
            (json!({"containerStatuses": [container(false, &running, &crashed)]}), Phase::Starting),
            // It recovered.
            (
                json!({"conditions": conditions("True"), "containerStatuses": [container(true, &running, &killed)]}),
                Phase::Ready,
            ),
        ] {
            assert_eq!(phase(&pod(&status)), expected, "{status}");
        }
        let mut leaving = pod(&json!({"phase": "Running", "conditions": conditions("True")}));
        leaving.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time"));
        assert_eq!(phase(&leaving), Phase::Gone);
    }

    #[test]
    fn what_is_in_the_way_is_told_in_the_words_of_whoever_tried() {
        let unplaced = json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient cpu."}]});
        let state = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let last = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let dying = json!({"containerStatuses": [container(false, &state, &last)]});
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        for (statuses, expected) in [
            (vec![&ready], None),
            (vec![&ready, &unplaced], Some("a: 0/1 nodes are available: 1 Insufficient cpu.")),
            (vec![&dying], Some("a: CrashLoopBackOff, last time OOMKilled")),
            (vec![], None),
        ] {
            let pods: Vec<Pod> = statuses.into_iter().map(pod).collect();
            assert_eq!(obstacle(&pods).as_deref(), expected);
        }
    }

    #[test]
    fn replicas_without_a_pod_are_starting_or_blocked() {
        let ready = pod(&json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        let pods = [ready, pod(&json!({})), pod(&waiting("ErrImagePull")), pod(&json!({"phase": "Failed"}))];
        let failure = |status: &str| json!({"conditions": [{"type": "ReplicaFailure", "status": status}]});
        for (spec, status, expected) in [
            (json!(3), json!({}), Replicas { desired: 3, ready: 1, starting: 1, blocked: 1 }),
            (json!(5), json!({}), Replicas { desired: 5, ready: 1, starting: 3, blocked: 1 }),
            (json!(5), failure("False"), Replicas { desired: 5, ready: 1, starting: 3, blocked: 1 }),
            (json!(5), failure("True"), Replicas { desired: 5, ready: 1, starting: 1, blocked: 3 }),
            (json!(0), failure("True"), Replicas { desired: 0, ready: 1, starting: 1, blocked: 1 }),
            (json!(null), json!({}), Replicas { desired: 1, ready: 1, starting: 1, blocked: 1 }),
        ] {
            let deployment =
                json!({"metadata": {}, "spec": {"replicas": spec, "selector": {}, "template": {}}, "status": status});
            let deployment: Deployment = serde_json::from_value(deployment).expect("a Deployment");
            assert_eq!(count(&deployment, &pods), expected, "{spec} {status}");
        }
    }
}
