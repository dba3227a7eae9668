//! The running mean of the times that pods take from creation to readiness. Pure, but for lines of the log.

use super::pods::{PodState, condition, pod_state};
use crate::target::startup_mean;
use k8s_openapi::api::core::v1::Pod;
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::time::Duration;

/// Largest time between a pod's start and its first conditions, as the kubelet writes them in whole seconds.
const SLACK: Duration = Duration::from_secs(1);

/// The mean, and the pods that may add to it.
#[derive(Debug, Default)]
pub struct Startup {
    mean: Option<Duration>,
    /// By the uid of each pod, whether its start-up time can still be measured.
    pods: BTreeMap<String, bool>,
}

impl Startup {
    /// The mean; `None` until a pod has become ready.
    pub fn mean(&self) -> Option<Duration> {
        self.mean
    }

    /// Adds the start-up times of pods that have become ready since the last call. A pod that was blocked, was ready
    /// when it was first seen, or becomes ready again does not count.
    pub fn note(&mut self, pods: &[impl Borrow<Pod>]) {
        let mut present = BTreeMap::new();
        for pod in pods.iter().map(Borrow::borrow) {
            let Some(uid) = pod.metadata.uid.clone() else { continue };
            let is_measurable = match (pod_state(pod), self.pods.get(&uid)) {
                (PodState::Starting, None) => !was_ready(pod),
                (PodState::Starting, Some(is_measurable)) => *is_measurable,
                (PodState::Ready, Some(true)) => {
                    self.add(pod);
                    false
                }
                (PodState::Ready | PodState::Blocked | PodState::Gone, _) => false,
            };
            present.insert(uid, is_measurable);
        }
        self.pods = present;
    }

    fn add(&mut self, pod: &Pod) {
        if let Some(took) = took(pod) {
            self.mean = Some(startup_mean(self.mean, took));
            tracing::info!(pod = pod.metadata.name, startup_seconds = took.as_secs(), "a replica became ready");
        }
    }
}

/// The time from a pod's creation to its readiness.
fn took(pod: &Pod) -> Option<Duration> {
    let created = pod.metadata.creation_timestamp.as_ref()?.0;
    let ready = condition(pod, "Ready")?.last_transition_time.as_ref()?.0;
    ready.duration_since(created).try_into().ok()
}

/// Whether a starting pod was ready before: its readiness changed more than [`SLACK`] after its start.
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

    fn time(second: u64) -> String {
        format!("2026-01-01T00:{:02}:{:02}Z", second / 60, second % 60)
    }

    /// A pod that was created and started at second 0, and has one condition.
    fn with(uid: &str, condition: &Value) -> Pod {
        let metadata = json!({"uid": uid, "creationTimestamp": time(0)});
        let status = json!({"startTime": time(0), "conditions": [condition]});
        serde_json::from_value(json!({"metadata": metadata, "status": status})).expect("a pod")
    }

    /// A pod whose condition `Ready` has been `ready` since `second`.
    fn pod(uid: &str, ready: &str, second: u64) -> Pod {
        with(uid, &json!({"type": "Ready", "status": ready, "lastTransitionTime": time(second)}))
    }

    #[test]
    fn only_pods_that_are_seen_to_become_ready_for_the_first_time_count() {
        let starting = || vec![pod("a", "False", 0)];
        let ready = || vec![pod("a", "True", 9)];
        let blocked =
            || vec![with("a", &json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}))];
        let (unready, again) = (|| vec![pod("a", "False", 30)], || vec![pod("a", "True", 40)]);
        let two = |b_ready: &str| vec![pod("a", "True", 10), pod("b", b_ready, if b_ready == "True" { 20 } else { 0 })];
        for (seen, seconds) in [
            (vec![ready()], None),
            (vec![starting()], None),
            (vec![starting(), ready()], Some(9.0)),
            (vec![vec![], ready()], None),
            (vec![starting(), blocked(), starting(), ready()], None),
            (vec![unready(), again()], None),
            (vec![starting(), ready(), unready(), again()], Some(9.0)),
            // The mean is 0.7 · 10 s + 0.3 · 20 s.
            (vec![vec![pod("a", "False", 0), pod("b", "False", 0)], two("False"), two("True")], Some(13.0)),
        ] {
            let mut startup = Startup::default();
            for pods in &seen {
                startup.note(pods);
            }
            assert_eq!(startup.mean().map(|mean| mean.as_secs_f64()), seconds, "{seen:?}");
        }
    }
}
