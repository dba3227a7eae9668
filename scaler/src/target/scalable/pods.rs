//! The pods of an object that is scaled, by state. Pure.

use super::deletion_cost::ANNOTATION;
use super::object::Scalable;
use super::room::{Outlook, Outlooks};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use kube::api::ObjectMeta;
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
    /// No node has room for the pod yet, and a node is coming, or it is not known yet whether one is.
    Awaited,
    /// No node has room for the pod, and none is coming as far as is known.
    Unplaced,
    /// The pod cannot be started, or keeps dying.
    Stuck,
    /// The pod was ready and is not expected back soon. Its ReplicaSet keeps it until the cluster deletes it.
    Lost,
    /// The pod has finished or is being deleted, so it is no longer a replica.
    Gone,
}

/// The types of the conditions that the scaler reads.
const CONDITIONS: [&str; 3] = ["Ready", "PodScheduled", "ContainersReady"];

/// Removes from `pod` all that the scaler does not read. A whole pod takes 44 KB of memory, so the pods of a thousand nodes
/// would take more than the scaler's limit.
pub fn strip(pod: &mut Pod) {
    let metadata = std::mem::take(&mut pod.metadata);
    pod.metadata = ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        creation_timestamp: metadata.creation_timestamp,
        deletion_timestamp: metadata.deletion_timestamp,
        annotations: metadata.annotations.map(|mut all| {
            all.retain(|name, _| name == ANNOTATION);
            all
        }),
        ..ObjectMeta::default()
    };
    pod.spec = None;
    pod.status = pod.status.take().map(|status| PodStatus {
        phase: status.phase,
        reason: status.reason,
        start_time: status.start_time,
        nominated_node_name: status.nominated_node_name,
        conditions: status.conditions.map(|mut all| {
            all.retain(|condition| CONDITIONS.contains(&condition.type_.as_str()));
            all.shrink_to_fit();
            all
        }),
        container_statuses: status.container_statuses.map(strip_containers),
        init_container_statuses: status.init_container_statuses.map(strip_containers),
        ..PodStatus::default()
    });
}

fn strip_containers(containers: Vec<ContainerStatus>) -> Vec<ContainerStatus> {
    let strip = |container: ContainerStatus| ContainerStatus {
        state: container.state,
        last_state: container.last_state,
        restart_count: container.restart_count,
        ..ContainerStatus::default()
    };
    containers.into_iter().map(strip).collect()
}

/// The state of `pod`. A pod without a node is unplaced, since the pod itself does not say whether one is coming.
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
    if condition(pod, "PodScheduled")
        .is_some_and(|placed| placed.status == "False" && placed.reason.as_deref() == Some("Unschedulable"))
    {
        return PodState::Unplaced;
    }
    if is_on_lost_node(pod) {
        return PodState::Lost;
    }
    let mut containers =
        status.into_iter().flat_map(|status| [&status.init_container_statuses, &status.container_statuses]).flatten();
    if containers.any(|list| list.iter().any(is_stuck)) { PodState::Stuck } else { PodState::Starting }
}

/// Whether the control plane has lost the node of a pod that was ready. It then marks the pod as not ready, and leaves
/// what the kubelet reported about the containers. A kubelet itself gives a reason if containers are ready and the pod
/// is not: the pod's readiness gates.
fn is_on_lost_node(pod: &Pod) -> bool {
    let are_ready = condition(pod, "ContainersReady").is_some_and(|containers| containers.status == "True");
    let is_marked = condition(pod, "Ready")
        .is_some_and(|ready| ready.status != "True" && ready.reason.as_deref() != Some("ReadinessGatesNotReady"));
    let reason = pod.status.as_ref().and_then(|status| status.reason.as_deref());
    are_ready && is_marked || reason == Some("NodeLost")
}

/// The condition of `pod` with the type `kind`; `None` if there is none.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// The replicas by state. Replicas without a pod count as starting, or as blocked if the object reports that pods cannot be
/// created, for example because of a quota, or if pods are created in order and an earlier one is blocked.
///
/// During a rollout, no replica counts as blocked. Otherwise the limits would withdraw blocked replicas, and the
/// Deployment would remove ready pods of the old revision instead: it spreads a lower number over all its ReplicaSets.
/// There are also pods beyond the desired ones then. Unless they are ready, such pods do not count.
pub fn count(object: &Scalable, states: &[PodState]) -> Replicas {
    let desired = object.desired;
    let count = |state| states.iter().filter(|&&found| found == state).count();
    let ready = count(PodState::Ready);
    let lost = count(PodState::Lost).min(desired.saturating_sub(ready));
    let unready = desired.saturating_sub(ready + lost);
    let missing = unready.saturating_sub(count(PodState::Starting) + count(PodState::Awaited));
    let stuck = count(PodState::Unplaced) + count(PodState::Stuck);
    let blocked = if object.is_rollout {
        0
    } else if object.failure.is_some() || (object.is_ordered && stuck > 0) {
        missing
    } else {
        missing.min(stuck)
    };
    Replicas { desired, ready, starting: unready - blocked, blocked, lost }
}

/// The name of an unplaced or stuck pod and the reason given by the scheduler or the kubelet, or the reason why pods cannot
/// be created; `None` if there is no such pod and no such reason. `states` are those of `pods`.
pub fn obstacle(
    object: &Scalable,
    pods: &[impl Borrow<Pod>],
    states: &[PodState],
    outlooks: &Outlooks,
) -> Option<String> {
    let mut found = pods.iter().map(Borrow::borrow).zip(states);
    let Some((pod, state)) = found.find(|(_, state)| matches!(state, PodState::Unplaced | PodState::Stuck)) else {
        return object.failure.clone();
    };
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let reason = placement_message(pod).or_else(|| stuck_reason(pod)).unwrap_or_default();
    let outlook = match (state, outlooks.of(pod)) {
        (PodState::Stuck, _) => String::new(),
        (_, Some(Outlook::Refused(text))) => format!("; no node is coming: {text}"),
        (_, Some(Outlook::Coming(text))) => format!("; a node should have come long ago: {text}"),
        (_, None) if outlooks.are_told => "; no autoscaler has said that a node is coming".into(),
        (_, None) => String::new(),
    };
    Some(format!("{name}: {reason}{outlook}"))
}

/// The name of a pod that waits for a node that is coming, and who says so; `None` if there is no such pod. `states` are
/// those of `pods`.
pub fn awaited(pods: &[impl Borrow<Pod>], states: &[PodState], outlooks: &Outlooks) -> Option<String> {
    let mut found = pods.iter().map(Borrow::borrow).zip(states);
    let (pod, _) = found.find(|(_, state)| **state == PodState::Awaited)?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    Some(match outlooks.of(pod) {
        Some(Outlook::Coming(text)) => format!("a node is coming for {name}: {text}"),
        _ => format!("{name} has no node, and it is not known yet whether one is coming"),
    })
}

fn placement_message(pod: &Pod) -> Option<String> {
    condition(pod, "PodScheduled").filter(|placed| placed.status == "False")?.message.clone()
}

fn stuck_reason(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let mut containers = [&status.init_container_statuses, &status.container_statuses].into_iter().flatten().flatten();
    let container = containers.find(|container| is_stuck(container))?;
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let reasons = [waiting.and_then(|state| state.reason.clone()), ended.and_then(|state| state.reason.clone())];
    Some(reasons.into_iter().flatten().collect::<Vec<_>>().join(", last time "))
}

fn is_stuck(container: &ContainerStatus) -> bool {
    let state = container.state.as_ref();
    let waiting = state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.as_deref());
    // What killed the container before does not count: if that happens again and again, the container waits in
    // CrashLoopBackOff between its starts.
    let ended = state.and_then(|state| state.terminated.as_ref()).and_then(|ended| ended.reason.as_deref());
    ended == Some("OOMKilled") || waiting.is_some_and(|reason| STUCK_REASONS.contains(&reason))
}

#[cfg(test)]
mod tests {
    use super::super::deletion_cost;
    use super::super::pod_times::PodTimes;
    use super::*;
    use kubernetes::name::ScalableType;
    use law::observation::Observation;
    use limits::{Guard, Limiter, Limits};
    use serde_json::{Value, json};
    use std::time::Duration;
    use tokio::time::Instant;

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

    fn deployment(replicas: &Value, status: &Value) -> Scalable {
        let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": "a"}}});
        let object = serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": status}));
        Scalable::new(&ScalableType::Deployment, &object.expect("a Deployment"), None).expect("there is a selector")
    }

    #[test]
    fn a_pod_has_one_state() {
        let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let crashed = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        let (running, none) = (json!({"running": {}}), json!({}));
        let is = |phase: &str, ready: &str| json!({"phase": phase, "conditions": [condition("PodScheduled", "True", ""), condition("Ready", ready, "")]});
        let marked = |reason, containers| json!({"conditions": [condition("Ready", "False", reason), condition("ContainersReady", containers, "")]});
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
            (marked("ContainersNotReady", "False"), PodState::Starting),
            (marked("ReadinessGatesNotReady", "True"), PodState::Starting),
            (marked("", "True"), PodState::Lost),
            (json!({"reason": "NodeLost"}), PodState::Lost),
            (is("Running", "True"), PodState::Ready),
            (is("Succeeded", "True"), PodState::Gone),
            (json!({"phase": "Failed", "reason": "Evicted"}), PodState::Gone),
            (unplaced("Unschedulable"), PodState::Unplaced),
            (unplaced("SchedulingGated"), PodState::Starting),
            (waiting("ContainerCreating"), PodState::Starting),
            (waiting("PodInitializing"), PodState::Starting),
            (waiting("CrashLoopBackOff"), PodState::Stuck),
            (waiting("ImagePullBackOff"), PodState::Stuck),
            (waiting("ErrImagePull"), PodState::Stuck),
            (waiting("CreateContainerConfigError"), PodState::Stuck),
            (init, PodState::Stuck),
            (with(container(false, &running, &killed)), PodState::Starting),
            (with(container(false, &killed, &none)), PodState::Stuck),
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
    fn a_stripped_pod_tells_the_same_and_is_small() {
        let long = "x".repeat(2000);
        let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let mut stuck = container(false, &json!({"waiting": {"reason": "CrashLoopBackOff"}}), &killed);
        stuck["imageID"] = json!(long);
        let mut restarted = container(true, &json!({"running": {"startedAt": "2026-01-01T00:00:20Z"}}), &killed);
        restarted["restartCount"] = json!(1);
        let at = |kind: &str, second: u64| {
            let mut condition = condition(kind, "True", "");
            condition["lastTransitionTime"] = json!(format!("2026-01-01T00:00:{second:02}Z"));
            condition
        };
        let ready = || json!([at("PodScheduled", 4), at("Initialized", 5), at("Ready", 30)]);
        for status in [
            json!({"phase": "Running", "conditions": [condition("Ready", "True", "")]}),
            json!({"phase": "Running", "conditions": ready()}),
            json!({"phase": "Running", "conditions": ready(), "containerStatuses": [restarted]}),
            json!({"phase": "Failed"}),
            json!({"phase": "Pending", "conditions": [condition("PodScheduled", "False", "Unschedulable")]}),
            json!({"phase": "Running", "containerStatuses": [stuck]}),
            json!({"phase": "Pending", "initContainerStatuses": [stuck]}),
            json!({"conditions": [condition("Ready", "False", ""), condition("ContainersReady", "True", "")]}),
            json!({"reason": "NodeLost"}),
            json!({"startTime": "2026-01-01T00:00:00Z", "nominatedNodeName": "node"}),
        ] {
            let mut whole = pod(&status);
            let cost = (ANNOTATION.to_owned(), "-1".to_owned());
            whole.metadata.annotations = Some([cost.clone(), (long.clone(), long.clone())].into());
            whole.metadata.labels = Some([(long.clone(), long.clone())].into());
            whole.metadata.uid = Some("uid".into());
            whole.metadata.namespace = Some("shop".into());
            whole.metadata.creation_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
            whole.spec = Some(serde_json::from_value(json!({"containers": [], "nodeName": long})).expect("a spec"));
            let mut stripped = whole.clone();
            strip(&mut stripped);
            let now = Instant::now();
            let told = |pod: &Pod| {
                let (mut times, outlooks) = (PodTimes::default(), Outlooks::default());
                let states = times.note(&[pod], &outlooks, now);
                let obstacle = obstacle(&deployment(&json!(1), &json!({})), &[pod], &states, &outlooks);
                let costs = deletion_cost::changes(&[pod], &states, 2);
                let status = pod.status.as_ref().expect("a status");
                let node = status.nominated_node_name.clone();
                (states, obstacle, costs, format!("{times:?}"), status.start_time.clone(), node)
            };
            assert_eq!(told(&whole), told(&stripped), "{status}");
            let names = |pod: &Pod| (pod.metadata.namespace.clone(), pod.metadata.name.clone());
            assert_eq!(names(&whole), names(&stripped), "a copy of objects knows an object by them");
            let mut leaving = whole.clone();
            leaving.metadata.deletion_timestamp = whole.metadata.creation_timestamp.clone();
            strip(&mut leaving);
            assert_eq!(pod_state(&leaving), PodState::Gone);
            assert_eq!(stripped.metadata.annotations, Some([cost].into()), "{status}");
            let length = serde_json::to_string(&stripped).expect("a pod is JSON").len();
            assert!(length < long.len() / 2, "{length} bytes remain of {status}");
        }
    }

    #[test]
    fn an_obstacle_is_the_message_of_the_scheduler_or_the_kubelet() {
        let unplaced = json!({"conditions": [condition("PodScheduled", "False", "Unschedulable")]});
        let mut dying = waiting("CrashLoopBackOff");
        dying["containerStatuses"][0]["lastState"] = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let ready = json!({"conditions": [condition("Ready", "True", "")]});
        let init = waiting("CreateContainerConfigError")["containerStatuses"].clone();
        let fetching = json!({"phase": "Pending", "initContainerStatuses": init});
        for (statuses, expected) in [
            (&[&ready][..], None),
            (&[&ready, &unplaced], Some("a: 0/1 nodes are available")),
            (&[&dying], Some("a: CrashLoopBackOff, last time OOMKilled")),
            (&[&fetching], Some("a: CreateContainerConfigError")),
        ] {
            let pods: Vec<Pod> = statuses.iter().map(|status| pod(status)).collect();
            let states: Vec<PodState> = pods.iter().map(pod_state).collect();
            let found = obstacle(&deployment(&json!(3), &json!({})), &pods, &states, &Outlooks::default());
            assert_eq!(found.as_deref(), expected);
        }
        let quota = json!({"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]});
        let found = obstacle(&deployment(&json!(3), &quota), &[pod(&ready)], &[PodState::Ready], &Outlooks::default());
        assert_eq!(found.as_deref(), Some("exceeded quota"));
    }

    #[test]
    fn a_pod_that_waits_for_a_node_says_whether_one_is_coming() {
        let pods = [pod(&json!({"conditions": [condition("PodScheduled", "False", "Unschedulable")]}))];
        let told = |outlook: Option<Outlook>| Outlooks { are_told: true, of_pods: [(String::new(), outlook)].into() };
        let refused = told(Some(Outlook::Refused("full".into())));
        let coming = told(Some(Outlook::Coming("soon".into())));
        let full = "a: 0/1 nodes are available";
        for (state, outlooks, expected) in [
            (PodState::Unplaced, &refused, [Some(format!("{full}; no node is coming: full")), None]),
            (PodState::Unplaced, &coming, [Some(format!("{full}; a node should have come long ago: soon")), None]),
            (
                PodState::Unplaced,
                &told(None),
                [Some(format!("{full}; no autoscaler has said that a node is coming")), None],
            ),
            (PodState::Unplaced, &Outlooks::default(), [Some(full.into()), None]),
            (PodState::Awaited, &coming, [None, Some("a node is coming for a: soon".into())]),
            (
                PodState::Awaited,
                &told(None),
                [None, Some("a has no node, and it is not known yet whether one is coming".into())],
            ),
        ] {
            let object = deployment(&json!(1), &json!({}));
            let found = [obstacle(&object, &pods, &[state], outlooks), awaited(&pods, &[state], outlooks)];
            assert_eq!(found, expected, "{state:?}, {outlooks:?}");
        }
    }

    #[test]
    fn pods_that_are_created_in_order_wait_for_a_blocked_one() {
        use PodState::{Awaited, Ready, Starting, Unplaced};
        let ordered = Scalable { is_ordered: true, ..deployment(&json!(5), &json!({})) };
        for (states, [starting, blocked]) in
            [(&[Ready, Starting][..], [4, 0]), (&[Ready, Unplaced], [0, 4]), (&[Ready, Awaited], [4, 0])]
        {
            let found = count(&ordered, states);
            assert_eq!([found.starting, found.blocked], [starting, blocked], "{states:?}");
        }
    }

    #[test]
    fn replicas_are_counted_up_to_the_desired_number() {
        use PodState::{Awaited, Gone, Lost, Ready, Starting, Stuck, Unplaced};
        let (failing, well) = ("True", "False");
        let serving = [Ready; 4];
        let with = |more: &[PodState]| [&serving[..], more].concat();
        for (replicas, failure, states, [starting, blocked, lost]) in [
            // Replicas without a pod.
            (json!(3), "", vec![Ready, Starting, Stuck, Gone], [1, 1, 0]),
            (json!(5), "", vec![Ready, Starting, Stuck, Gone], [3, 1, 0]),
            (json!(5), well, vec![Ready, Starting, Unplaced, Gone], [3, 1, 0]),
            (json!(5), failing, vec![Ready, Starting, Stuck, Gone], [1, 3, 0]),
            // A node is coming.
            (json!(5), well, vec![Ready, Awaited, Unplaced, Gone], [3, 1, 0]),
            (json!(0), failing, vec![Ready, Starting, Stuck, Gone], [0, 0, 0]),
            (json!(null), "", vec![Starting], [1, 0, 0]),
            // A rollout, with pods beyond the desired ones.
            (json!(4), "", with(&[Stuck]), [0, 0, 0]),
            (json!(4), failing, with(&[Starting]), [0, 0, 0]),
            (json!(3), "", with(&[Starting, Unplaced]), [0, 0, 0]),
            (json!(5), "", with(&[Stuck, Stuck]), [0, 1, 0]),
            (json!(5), "", with(&[Starting, Stuck]), [1, 0, 0]),
            (json!(5), "", with(&[Starting, Starting]), [1, 0, 0]),
            // Lost pods stay until they are deleted.
            (json!(4), "", vec![Ready, Ready, Lost, Lost], [0, 0, 2]),
            (json!(6), "", vec![Ready, Ready, Lost, Lost], [2, 0, 2]),
            (json!(6), "", vec![Ready, Ready, Lost, Lost, Starting, Unplaced], [1, 1, 2]),
            (json!(4), "", with(&[Lost]), [0, 0, 0]),
        ] {
            let status = json!({"conditions": [condition("ReplicaFailure", failure, "")]});
            let found = count(&deployment(&replicas, &status), &states);
            let Replicas { desired, ready, .. } = found;
            assert_eq!(desired, replicas.as_u64().unwrap_or(1) as usize);
            assert_eq!(ready, states.iter().filter(|&&state| state == Ready).count());
            assert_eq!([found.starting, found.blocked, found.lost], [starting, blocked, lost], "{replicas} {states:?}");
        }
    }

    #[test]
    fn a_broken_rollout_removes_no_replicas_and_holds_up_no_growth() {
        use PodState::{Ready, Stuck};
        let states = [[Ready; 6].as_slice(), &[Stuck; 4]].concat();
        let failing = json!([condition("ReplicaFailure", "True", "")]);
        for status in [
            json!({"replicas": 10, "updatedReplicas": 4}),
            // A quota forbids the pods of the new revision.
            json!({"replicas": 6, "conditions": failing}),
        ] {
            let mut limiter = Limiter::new(Limits { guard: Guard::On, ..Limits::bounds(1, 20) });
            let mut desired = 8;
            for second in 0..70 {
                let replicas = count(&deployment(&json!(desired), &status), &states);
                let at = Duration::from_secs(second);
                (desired, _) = limiter.apply(&Observation { at, replicas, ..Observation::default() }, Some(9));
                assert_eq!(desired, 9, "at {second} s of a rollout with the status {status}");
            }
        }
        let blocked = |status| count(&deployment(&json!(8), &status), &states).blocked;
        assert_eq!(blocked(json!({"replicas": 10, "updatedReplicas": 10})), 2, "without a rollout");
    }
}
