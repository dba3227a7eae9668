//! The running mean of the times that pods take from creation to ready, learnt from pods as they are seen. Pure.

use super::pods::{Phase, condition, phase};
use crate::target::startup_mean;
use k8s_openapi::api::core::v1::Pod;
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::time::Duration;

/// Kubelets write a pod's start and its first conditions within a second of each other; times are whole seconds.
const SLACK: Duration = Duration::from_secs(1);

/// The mean, and whether the start-up time of each pod can still be learnt.
#[derive(Debug, Default)]
pub struct Startup {
    mean: Option<Duration>,
    /// Whether each pod can still teach something, by the pod's uid.
    pods: BTreeMap<String, bool>,
}

impl Startup {
    /// The mean; `None` until a pod was seen to become ready.
    pub fn mean(&self) -> Option<Duration> {
        self.mean
    }

    /// Learns from pods that are ready now and were starting when they were last seen. A pod that was ready when it was first
    /// seen, becomes ready again, or was blocked for a while teaches nothing.
    pub fn note(&mut self, pods: &[impl Borrow<Pod>]) {
        let mut present = BTreeMap::new();
        for pod in pods.iter().map(Borrow::borrow) {
            let Some(uid) = pod.metadata.uid.clone() else { continue };
            let can_teach = match (phase(pod), self.pods.get(&uid)) {
                (Phase::Starting, None) => !was_ready(pod),
                (Phase::Starting, Some(can_teach)) => *can_teach,
                (Phase::Ready, Some(true)) => {
                    self.learn(pod);
                    false
                }
                (Phase::Ready | Phase::Blocked | Phase::Gone, _) => false,
            };
            present.insert(uid, can_teach);
        }
        self.pods = present;
    }

    fn learn(&mut self, pod: &Pod) {
        if let Some(took) = took(pod) {
            self.mean = Some(startup_mean(self.mean, took));
            tracing::info!(pod = pod.metadata.name, startup_seconds = took.as_secs(), "a replica became ready");
        }
    }
}

/// The time from creation to ready.
fn took(pod: &Pod) -> Option<Duration> {
    let created = pod.metadata.creation_timestamp.as_ref()?.0;
    let ready = condition(pod, "Ready")?.last_transition_time.as_ref()?.0;
    ready.duration_since(created).try_into().ok()
}

/// Whether a pod was ready before and is no longer: it has been unready since later than it started.
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

    /// A pod that was created and started at second 0.
    fn with(uid: &str, condition: &Value) -> Pod {
        let metadata = json!({"uid": uid, "creationTimestamp": time(0)});
        let status = json!({"startTime": time(0), "conditions": [condition]});
        serde_json::from_value(json!({"metadata": metadata, "status": status})).expect("a pod")
    }

    /// A pod that is ready, or not, since that second.
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
            // 0.7 · 10 + 0.3 · 20.
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
