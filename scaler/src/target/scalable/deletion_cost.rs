//! Which pods a ReplicaSet should delete first when it is scaled down. Pure.
//!
//! A ReplicaSet deletes pods without a node first, then unready ones, and then those whose annotation
//! [`ANNOTATION`] has the lowest number. Without the annotation, it compares the times since which pods are ready only
//! roughly, on a logarithmic scale, and may delete a pod that has been warm for long.

use super::pods::{PodState, condition};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use std::borrow::Borrow;

/// The annotation of a pod, with a whole number. Pods without it have the cost 0.
pub const ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";

/// A pod whose annotation has to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The name of the pod.
    pub pod: String,
    /// Its new cost; `None` to remove the annotation.
    pub cost: Option<i32>,
}

/// The changes of annotations after which a ReplicaSet that loses `removed` replicas deletes unready pods first, then
/// those that do not serve, and then the newest. Only the pods to be deleted get a cost, which is negative. `states` are
/// those of `pods`. A positive cost is that of another program, which protects its pod: it stays, and the pod goes last.
pub fn changes(pods: &[impl Borrow<Pod>], states: &[PodState], removed: usize) -> Vec<Change> {
    let mut present: Vec<(&Pod, PodState)> = pods.iter().map(Borrow::borrow).zip(states.iter().copied()).collect();
    present.retain(|(pod, state)| *state != PodState::Gone && cost_of(pod).is_none_or(|cost| cost <= 0));
    // The name decides between pods of one age, so that each decision gives the same order.
    present.sort_by_cached_key(|(pod, state)| (rank(*state), std::cmp::Reverse(ready_since(pod)), pod.name_any()));
    let lowest = -i32::try_from(removed).unwrap_or(i32::MAX);
    let costs = (0..removed).map(|index| Some(lowest.saturating_add(i32::try_from(index).unwrap_or(i32::MAX))));
    let wanted = costs.chain(std::iter::repeat(None));
    let changed = present.iter().zip(wanted).filter_map(|((pod, _), cost)| {
        let before = cost_of(pod);
        // The cost of a pod that stays is removed only if this program may have set it.
        let is_stale = cost.is_none() && before.is_none_or(|before| before >= 0);
        (before != cost && !is_stale).then(|| Change { pod: pod.name_any(), cost })
    });
    changed.collect()
}

/// The present cost of `pod`; `None` if it has none, or one that is no number.
fn cost_of(pod: &Pod) -> Option<i32> {
    pod.annotations().get(ANNOTATION).and_then(|cost| cost.parse().ok())
}

fn rank(state: PodState) -> u8 {
    match state {
        PodState::Unplaced | PodState::Awaited => 0,
        PodState::Stuck => 1,
        PodState::Starting => 2,
        PodState::Lost => 3,
        PodState::Ready | PodState::Gone => 4,
    }
}

/// The time since which a pod is ready, or its creation.
fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref());
    ready.or(pod.metadata.creation_timestamp.as_ref()).map(|time| time.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, second: u64, cost: Option<&str>) -> Pod {
        let annotations = cost.map(|cost| json!({ANNOTATION: cost}));
        let time = format!("2026-01-01T00:00:{second:02}Z");
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": time}]);
        let metadata = json!({"name": name, "annotations": annotations, "creationTimestamp": "2026-01-01T00:00:00Z"});
        serde_json::from_value(json!({"metadata": metadata, "status": {"conditions": ready}})).expect("a pod")
    }

    #[test]
    fn unready_pods_go_first_and_then_the_newest() {
        use PodState::{Gone, Lost, Ready, Starting, Stuck, Unplaced};
        let pods = [
            pod("old", 1, None),
            pod("new", 40, None),
            pod("middle", 20, None),
            pod("starting", 50, None),
            pod("stuck", 2, None),
            pod("unplaced", 3, None),
            pod("lost", 4, None),
            pod("gone", 59, None),
        ];
        let states = [Ready, Ready, Ready, Starting, Stuck, Unplaced, Lost, Gone];
        let order = ["unplaced", "stuck", "starting", "lost", "new", "middle", "old"];
        for removed in 0..=9 {
            let found: Vec<(String, i32)> =
                changes(&pods, &states, removed).into_iter().map(|it| (it.pod, it.cost.expect("a cost"))).collect();
            let expected = order.iter().take(removed).enumerate();
            let expected: Vec<(String, i32)> =
                expected.map(|(index, name)| ((*name).to_owned(), index as i32 - removed as i32)).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn only_costs_that_differ_are_written_and_stale_ones_are_removed() {
        let states = [PodState::Ready; 4];
        let pods = |costs: [Option<&str>; 4]| {
            let pod = |(index, cost): (u64, &Option<&str>)| pod(&format!("p{index}"), 10 * index, *cost);
            (0..).zip(&costs).map(pod).collect::<Vec<Pod>>()
        };
        let change = |pod: &str, cost| Change { pod: pod.into(), cost };
        for (costs, removed, expected) in [
            ([None, None, Some("-1"), Some("-2")], 2, vec![change("p3", Some(-2)), change("p2", Some(-1))]),
            ([None, None, Some("-1"), Some("-1")], 1, vec![change("p2", None)]),
            // Another program protects a pod, or has written nonsense.
            ([Some("100"), None, None, Some("-1")], 1, vec![]),
            ([Some("much"), None, None, Some("-1")], 1, vec![]),
            ([None, None, None, Some("7")], 1, vec![change("p2", Some(-1))]),
            ([Some("1"), None, None, Some("7")], 4, vec![change("p2", Some(-4)), change("p1", Some(-3))]),
            ([None, None, None, Some("0")], 1, vec![change("p3", Some(-1))]),
        ] {
            let found = changes(&pods(costs), &states, removed);
            let expected: Vec<Change> = expected
                .into_iter()
                .filter(|it: &Change| {
                    costs[it.pod[1..].parse::<usize>().expect("an index")]
                        != it.cost.map(|cost| cost.to_string()).as_deref()
                })
                .collect();
            assert_eq!(found, expected, "{costs:?}");
        }
    }
}
