//! Makes of the state of a pod its status, as the Kubernetes API has it. Pure.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::time::Duration;

/// The delay before the restart of a container that has died twice in a row. Each further death doubles the delay. A
/// kubelet has the same delays.
const FIRST_RESTART_DELAY: Duration = Duration::from_secs(10);

/// The longest delay before the restart of a container. A kubelet has the same.
const MAX_RESTART_DELAY: Duration = Duration::from_secs(300);

/// The state of a container.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ContainerState {
    /// The container waits for its start or restart.
    Waiting {
        /// The reason as one word, such as `CrashLoopBackOff`.
        reason: &'static str,
        /// The reason as a sentence.
        message: String,
    },
    /// The container runs.
    Running {
        /// The time at which the container started.
        start: Timestamp,
    },
    /// The container has ended.
    Terminated {
        /// The exit code, or 128 plus the number of the signal that ended the container.
        code: i32,
        /// The reason as one word, such as `OOMKilled`.
        reason: &'static str,
        /// The time at which the container started.
        start: Timestamp,
        /// The time at which the container ended.
        end: Timestamp,
    },
}

/// The state of a pod with one container.
#[derive(Debug, Clone)]
pub(super) struct PodState {
    /// The time at which the node first saw the pod.
    pub seen: Timestamp,
    /// The pod's address; `None` before the pod has one.
    pub address: Option<Ipv4Addr>,
    /// The state of the container.
    pub container: ContainerState,
    /// The end of the container's previous run; `None` during the first run.
    pub last: Option<ContainerState>,
    /// The number of restarts of the container.
    pub restarts: u32,
    /// Whether the startup probe has succeeded, or the container has none.
    pub is_started: bool,
    is_ready: bool,
    /// The time at which `is_ready` last changed.
    ready_changed: Timestamp,
}

impl PodState {
    /// The state of a pod that the node sees for the first time.
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            seen: now,
            address: None,
            container: ContainerState::Waiting { reason: "ContainerCreating", message: String::new() },
            last: None,
            restarts: 0,
            is_started: false,
            is_ready: false,
            ready_changed: now,
        }
    }

    /// Records whether the pod is ready, and, if that has changed, `now` as the time of the change.
    pub(super) fn set_ready(&mut self, is_ready: bool, now: Timestamp) {
        if self.is_ready != is_ready {
            self.is_ready = is_ready;
            self.ready_changed = now;
        }
    }

    /// A strategic merge patch of the pod's status. `container` and `image` are the names in the pod's specification,
    /// `node` is the node's address.
    pub(super) fn to_json(&self, container: &str, image: &str, node: Ipv4Addr) -> Value {
        let ready = if self.is_ready { "True" } else { "False" };
        let has_run = !matches!(self.container, ContainerState::Waiting { .. }) || self.last.is_some();
        let mut status = json!({
            "phase": if has_run { "Running" } else { "Pending" },
            "hostIP": node.to_string(),
            "startTime": rfc3339(self.seen),
            "conditions": [
                condition("Initialized", "True", self.seen),
                condition("Ready", ready, self.ready_changed),
                condition("ContainersReady", ready, self.ready_changed),
                condition("PodScheduled", "True", self.seen),
            ],
            "containerStatuses": [{
                "name": container,
                "image": image,
                "imageID": "",
                "restartCount": self.restarts,
                "ready": self.is_ready,
                "started": self.is_started,
                "state": self.container.to_json(),
                "lastState": self.last.as_ref().map_or_else(|| json!({}), ContainerState::to_json),
            }],
        });
        if let Some(address) = self.address {
            status["podIP"] = address.to_string().into();
            status["podIPs"] = json!([{"ip": address.to_string()}]);
        }
        json!({ "status": status })
    }
}

impl ContainerState {
    fn to_json(&self) -> Value {
        match self {
            Self::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
            Self::Running { start } => json!({"running": {"startedAt": rfc3339(*start)}}),
            Self::Terminated { code, reason, start, end } => json!({"terminated": {
                "exitCode": code, "reason": reason, "startedAt": rfc3339(*start), "finishedAt": rfc3339(*end),
            }}),
        }
    }
}

fn condition(kind: &str, status: &str, changed: Timestamp) -> Value {
    json!({"type": kind, "status": status, "lastTransitionTime": rfc3339(changed)})
}

/// The delay before the restart of a container that has died `deaths` times in a row: none after the first death.
pub(super) fn restart_delay(deaths: u32) -> Duration {
    match deaths {
        0 | 1 => Duration::ZERO,
        // Without the bound, the shift would overflow. At the bound, the delay has reached its maximum.
        more => FIRST_RESTART_DELAY.saturating_mul(1 << (more - 2).min(16)).min(MAX_RESTART_DELAY),
    }
}

/// A time as text in whole seconds, in the format of the Kubernetes API.
pub(super) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodStatus;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn status(state: &PodState) -> PodStatus {
        let mut patch = state.to_json("replica", "roundhouse.invalid/replica:0.1.0", [10, 0, 0, 1].into());
        serde_json::from_value(patch["status"].take()).expect("a status of the API's")
    }

    #[test]
    fn restart_delays_double_up_to_five_minutes() {
        let seconds: Vec<u64> = (0..10).map(|deaths| restart_delay(deaths).as_secs()).collect();
        assert_eq!(seconds, [0, 0, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(restart_delay(u32::MAX), MAX_RESTART_DELAY);
    }

    #[test]
    fn a_pod_is_pending_until_its_container_runs() {
        let mut state = PodState::new(at(1));
        assert_eq!(status(&state).phase.as_deref(), Some("Pending"));
        state.container = ContainerState::Running { start: at(2) };
        assert_eq!(status(&state).phase.as_deref(), Some("Running"));
        state.last = Some(ContainerState::Terminated { code: 1, reason: "Error", start: at(2), end: at(3) });
        state.container = ContainerState::Waiting { reason: "CrashLoopBackOff", message: String::new() };
        let status = status(&state);
        assert_eq!(status.phase.as_deref(), Some("Running"), "the container has run before");
        let container = &status.container_statuses.expect("a container")[0];
        let waiting = container.state.as_ref().and_then(|state| state.waiting.clone()).expect("it waits");
        assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    }

    #[test]
    fn the_ready_condition_has_the_time_of_its_last_change() {
        let mut state = PodState::new(at(1));
        let ready = |state: &PodState| {
            let conditions = status(state).conditions.expect("conditions");
            let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready").expect("Ready");
            (ready.status, ready.last_transition_time.expect("a time").0)
        };
        state.set_ready(false, at(5));
        assert_eq!(ready(&state), ("False".to_owned(), at(1)));
        state.set_ready(true, at(6));
        state.set_ready(true, at(7));
        assert_eq!(ready(&state), ("True".to_owned(), at(6)));
    }
}
