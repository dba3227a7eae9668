//! Whether room is made for pods that no node has room for, as the cluster itself tells. Pure.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use std::collections::BTreeMap;

/// The reasons of Events on a pod for which a node is coming: those of cluster-autoscaler and of Karpenter.
const COMING: [&str; 2] = ["TriggeredScaleUp", "Nominated"];

/// The reason of an Event of cluster-autoscaler on a pod for which it adds no node.
const REFUSED: &str = "NotTriggerScaleUp";

/// The reason of an Event of Karpenter on a pod for which it adds no node. The scheduler has the same reason for each pod
/// that has to wait, which says nothing.
const KARPENTER_REFUSED: &str = "FailedScheduling";

/// The names under which Karpenter reports: its own, and that in EKS Auto Mode.
const KARPENTER: [&str; 2] = ["karpenter", "eks-auto-mode/compute"];

/// The longest text of an outlook, in bytes. An Event may have a note of a kilobyte.
const MAX_TEXT: usize = 300;

/// What the cluster does for a pod that no node has room for. The text says who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlook {
    /// A node is coming, or room is made on a node.
    Coming(String),
    /// The cluster's autoscaler adds no node.
    Refused(String),
}

/// The outlooks of the pods that wait for a node.
#[derive(Debug, Clone, Default)]
pub struct Outlooks {
    /// Whether the scaler may list Events. Otherwise no Event says nothing.
    pub are_told: bool,
    /// By the uid of each pod of which Events were listed.
    pub of_pods: BTreeMap<String, Option<Outlook>>,
}

impl Outlooks {
    /// The outlook of `pod`; `None` if nothing is known. Events are listed for some pods only, and those of others hold
    /// for all that are not listed: all pods have one template. An autoscaler publishes no Event for a pod that fits on a
    /// node that is coming for another one, so such a pod has the outlook of that one.
    pub fn of(&self, pod: &Pod) -> Option<Outlook> {
        if is_nominated(pod) {
            let node = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref()).unwrap_or_default();
            return Some(Outlook::Coming(format!("room is made on node {node}")));
        }
        let found = || self.of_pods.values().flatten();
        let coming = || found().find(|outlook| matches!(outlook, Outlook::Coming(_))).cloned();
        match self.of_pods.get(pod.metadata.uid.as_deref().unwrap_or_default()) {
            Some(Some(outlook)) => Some(outlook.clone()),
            Some(None) => coming(),
            None => coming().or_else(|| found().next().cloned()),
        }
    }
}

/// Whether the scheduler makes room for `pod` on a node that is there.
pub fn is_nominated(pod: &Pod) -> bool {
    let node = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
    node.is_some_and(|node| !node.is_empty())
}

/// The outlook that the Events of one pod give; `None` if none of them gives one. The latest one counts: an autoscaler
/// may give up, or find another way.
pub fn outlook(events: &[Event]) -> Option<Outlook> {
    let latest = events.iter().filter_map(|event| Some((time(event), told(event)?))).max_by_key(|(time, _)| *time);
    latest.map(|(_, outlook)| outlook)
}

fn told(event: &Event) -> Option<Outlook> {
    let reason = event.reason.as_deref().unwrap_or_default();
    let source = event.deprecated_source.as_ref().and_then(|source| source.component.as_deref());
    let reporter = event.reporting_controller.as_deref().filter(|name| !name.is_empty()).or(source).unwrap_or_default();
    let mut text = format!("{reason}: {}", event.note.as_deref().unwrap_or_default());
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    if COMING.contains(&reason) {
        Some(Outlook::Coming(text))
    } else if reason == REFUSED || (reason == KARPENTER_REFUSED && KARPENTER.contains(&reporter)) {
        Some(Outlook::Refused(text))
    } else {
        None
    }
}

/// The time at which an Event was last seen.
fn time(event: &Event) -> Timestamp {
    let series = event.series.as_ref().map(|series| series.last_observed_time.0);
    let last = event.deprecated_last_timestamp.as_ref().map(|time| time.0);
    let first = event.event_time.as_ref().map(|time| time.0);
    let created = event.creation_timestamp().map(|time| time.0);
    series.or(last).or(first).or(created).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn event(second: u64, reason: &str, reporter: &str) -> Value {
        json!({"metadata": {"name": "a"}, "reason": reason, "note": "why", "reportingController": reporter,
            "eventTime": format!("2026-01-01T00:00:{second:02}.000000Z")})
    }

    #[test]
    fn the_latest_event_of_an_autoscaler_counts() {
        let scheduler = event(59, "FailedScheduling", "default-scheduler");
        let triggered = || event(10, "TriggeredScaleUp", "cluster-autoscaler");
        let refused = || event(20, "NotTriggerScaleUp", "cluster-autoscaler");
        // Events of older programs have the times and the names in other fields.
        let old = json!({"metadata": {"name": "a"}, "reason": "FailedScheduling", "note": "why",
            "deprecatedSource": {"component": "karpenter"}, "deprecatedLastTimestamp": "2026-01-01T00:00:40Z"});
        let mut again = triggered();
        again["series"] = json!({"count": 2, "lastObservedTime": "2026-01-01T00:00:30.000000Z"});
        for (events, expected) in [
            (vec![], None),
            (vec![scheduler.clone()], None),
            (vec![triggered(), scheduler.clone()], Some(Outlook::Coming("TriggeredScaleUp: why".into()))),
            (vec![event(1, "Nominated", "karpenter")], Some(Outlook::Coming("Nominated: why".into()))),
            (
                vec![event(1, "FailedScheduling", "eks-auto-mode/compute")],
                Some(Outlook::Refused("FailedScheduling: why".into())),
            ),
            (vec![refused(), triggered()], Some(Outlook::Refused("NotTriggerScaleUp: why".into()))),
            (vec![refused(), again], Some(Outlook::Coming("TriggeredScaleUp: why".into()))),
            (vec![old, triggered()], Some(Outlook::Refused("FailedScheduling: why".into()))),
        ] {
            let parsed: Vec<Event> =
                events.iter().map(|event| serde_json::from_value(event.clone()).expect("an Event")).collect();
            assert_eq!(outlook(&parsed), expected, "{events:?}");
        }
    }

    #[test]
    fn a_long_note_is_cut() {
        let mut long = event(1, "TriggeredScaleUp", "");
        long["note"] = "ä".repeat(1 << 16).into();
        let parsed: Event = serde_json::from_value(long).expect("an Event");
        let Some(Outlook::Coming(text)) = outlook(&[parsed]) else { panic!("a node is coming") };
        assert!((MAX_TEXT - 3..=MAX_TEXT).contains(&text.len()), "{}", text.len());
    }

    #[test]
    fn a_pod_that_was_not_asked_for_has_the_outlook_of_the_others() {
        let pod = |uid: &str, node: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"uid": uid}, "status": {"nominatedNodeName": node}}))
                .expect("a pod")
        };
        let refused = Outlook::Refused("no".into());
        let of_pods = [("a".into(), None), ("b".into(), Some(refused.clone()))].into();
        let outlooks = Outlooks { are_told: true, of_pods };
        assert_eq!(outlooks.of(&pod("a", "")), None);
        assert_eq!(outlooks.of(&pod("c", "")), Some(refused.clone()));
        assert_eq!(outlooks.of(&pod("b", "n")), Some(Outlook::Coming("room is made on node n".into())));
        // A node that comes for one pod may have room for others.
        let coming = Outlook::Coming("soon".into());
        let of_pods = [("a".into(), Some(refused.clone())), ("b".into(), None), ("c".into(), Some(coming.clone()))];
        let outlooks = Outlooks { are_told: true, of_pods: of_pods.into() };
        for (uid, expected) in [("a", &refused), ("b", &coming), ("c", &coming), ("d", &coming)] {
            assert_eq!(outlooks.of(&pod(uid, "")).as_ref(), Some(expected), "{uid}");
        }
    }
}
