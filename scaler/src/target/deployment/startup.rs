//! PURE: how long replicas take from creation to ready, learnt from pods as they are seen.

use super::pods::{Phase, condition, phase};
use crate::target::startup_mean;
use k8s_openapi::api::core::v1::Pod;
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::time::Duration;

/// Kubelets write a pod's start and its first conditions within a second of each other; times are whole seconds.
const SLACK: Duration = Duration::from_secs(1);

/// The running mean, and what it needs to know of each pod.
#[derive(Debug, Default)]
pub struct Startup {
    mean: Option<Duration>,
    /// By uid: whether it can still teach something.
    pods: BTreeMap<String, bool>,
}

impl Startup {
    /// Nothing until a pod was seen to become ready.
    pub fn mean(&self) -> Option<Duration> {
        self.mean
    }

    /// Learns from the pods that are ready now and were starting when they were seen before. One that was ready from
    /// the first, was ready already once, or was blocked for a while teaches nothing.
    pub fn note(&mut self, pods: &[impl Borrow<Pod>]) {
        let mut present = BTreeMap::new();
        for pod in pods.iter().map(Borrow::borrow) {
            let Some(uid) = pod.metadata.uid.clone() else { continue };
            let open = match (phase(pod), self.pods.get(&uid)) {
                (Phase::Starting, None) => !was_ready(pod),
                (Phase::Starting, Some(open)) => *open,
                (Phase::Ready, Some(true)) => {
                    if let Some(took) = took(pod) {
                        self.mean = Some(startup_mean(self.mean, took));
                        tracing::info!(
                            pod = pod.metadata.name,
                            startup_seconds = took.as_secs(),
                            "a replica became ready"
                        );
                    }
                    false
                }
                (Phase::Ready, _) | (Phase::Blocked | Phase::Gone, _) => false,
            };
            present.insert(uid, open);
        }
        self.pods = present;
    }
}

/// Creation → ready.
fn took(pod: &Pod) -> Option<Duration> {
    let created = pod.metadata.creation_timestamp.as_ref()?.0;
    let ready = condition(pod, "Ready")?.last_transition_time.as_ref()?.0;
    ready.duration_since(created).try_into().ok()
}

/// Whether it was ready before and is no longer: unready since later than it started.
fn was_ready(pod: &Pod) -> bool {
    let since = condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref());
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let (Some(since), Some(started)) = (since, started) else { return false };
    Duration::try_from(since.0.duration_since(started.0)).is_ok_and(|unready_after| unready_after > SLACK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Created and started at second 0, with `ready` since that second.
    fn pod(uid: &str, ready: &str, second: u64) -> Pod {
        of(uid, &json!({"type": "Ready", "status": ready, "lastTransitionTime": time(second)}))
    }

    fn of(uid: &str, condition: &Value) -> Pod {
        let pod = json!({"metadata": {"uid": uid, "creationTimestamp": time(0)},
            "status": {"startTime": time(0), "conditions": [condition]}});
        serde_json::from_value(pod).expect("a pod")
    }

    fn time(second: u64) -> String {
        format!("2026-01-01T00:{:02}:{:02}Z", second / 60, second % 60)
    }

    #[test]
    fn only_what_is_seen_to_become_ready_for_the_first_time_counts() {
        let unplaced = || of("a", &json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}));
        for (seen, seconds) in [
            (vec![vec![pod("a", "True", 9)]], None),
            (vec![vec![pod("a", "False", 0)]], None),
            (vec![vec![pod("a", "False", 0)], vec![pod("a", "True", 9)]], Some(9.0)),
            (vec![vec![], vec![pod("a", "True", 9)]], None),
            (
                vec![
                    vec![pod("a", "False", 0)],
                    vec![unplaced()],
                    vec![pod("a", "False", 0)],
                    vec![pod("a", "True", 9)],
                ],
                None,
            ),
            // Ready again after a while of not being so.
            (vec![vec![pod("a", "False", 30)], vec![pod("a", "True", 40)]], None),
            (
                vec![
                    vec![pod("a", "False", 0)],
                    vec![pod("a", "True", 9)],
                    vec![pod("a", "False", 30)],
                    vec![pod("a", "True", 40)],
                ],
                Some(9.0),
            ),
            // 0.7 · 10 + 0.3 · 20.
            (
                vec![
                    vec![pod("a", "False", 0), pod("b", "False", 0)],
                    vec![pod("a", "True", 10), pod("b", "False", 0)],
                    vec![pod("a", "True", 10), pod("b", "True", 20)],
                ],
                Some(13.0),
            ),
        ] {
            let mut startup = Startup::default();
            for pods in &seen {
                startup.note(pods);
            }
            assert_eq!(startup.mean().map(|mean| mean.as_secs_f64()), seconds, "{seen:?}");
        }
    }
}
