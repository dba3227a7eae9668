//! PURE: what became of a pod → what is told of it.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::time::Duration;

/// Before a container that has died twice is started again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(10);

/// Longest such pause (the kubelet's, like the first).
const LAST_PAUSE: Duration = Duration::from_secs(300);

/// What a container does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum State {
    /// It is not there, for this reason.
    Waiting {
        /// In one word.
        reason: &'static str,
        /// In more.
        message: String,
    },
    /// It runs.
    Running {
        /// From when.
        since: Timestamp,
    },
    /// It ended.
    Terminated {
        /// As a shell would tell.
        code: i32,
        /// In one word.
        reason: &'static str,
        /// From when it ran.
        since: Timestamp,
        /// Until when.
        until: Timestamp,
    },
}

/// One pod's.
#[derive(Debug, Clone)]
pub(super) struct Life {
    /// When the node first saw it.
    pub seen: Timestamp,
    /// Its address, once it has one.
    pub address: Option<Ipv4Addr>,
    /// Now.
    pub state: State,
    /// Before.
    pub last: Option<State>,
    /// How often its container was started again.
    pub restarts: u32,
    /// Whether the startup probe is content.
    pub is_started: bool,
    is_ready: bool,
    turned: Timestamp,
}

impl Life {
    /// Nothing has happened yet.
    pub(super) fn new(now: Timestamp) -> Self {
        let state = State::Waiting { reason: "ContainerCreating", message: String::new() };
        Self {
            seen: now,
            address: None,
            state,
            last: None,
            restarts: 0,
            is_started: false,
            is_ready: false,
            turned: now,
        }
    }

    /// It can take work, or no longer.
    pub(super) fn turn(&mut self, is_ready: bool, now: Timestamp) {
        if self.is_ready != is_ready {
            (self.is_ready, self.turned) = (is_ready, now);
        }
    }

    /// As the API has it, to be merged into what others have written.
    pub(super) fn status(&self, container: &str, image: &str, node: Ipv4Addr) -> Value {
        let ready = if self.is_ready { "True" } else { "False" };
        let condition = |kind: &str, status: &str, at: Timestamp| json!({"type": kind, "status": status, "lastTransitionTime": second(at)});
        let has_run = !matches!(self.state, State::Waiting { .. }) || self.last.is_some();
        let mut status = json!({
            "phase": if has_run { "Running" } else { "Pending" },
            "hostIP": node.to_string(),
            "startTime": second(self.seen),
            "conditions": [
                condition("Initialized", "True", self.seen),
                condition("Ready", ready, self.turned),
                condition("ContainersReady", ready, self.turned),
                condition("PodScheduled", "True", self.seen),
            ],
            "containerStatuses": [{
                "name": container,
                "image": image,
                "imageID": "",
                "restartCount": self.restarts,
                "ready": self.is_ready,
                "started": self.is_started,
                "state": self.state.told(),
                "lastState": self.last.as_ref().map_or_else(|| json!({}), State::told),
            }],
        });
        if let Some(address) = self.address {
            status["podIP"] = address.to_string().into();
            status["podIPs"] = json!([{"ip": address.to_string()}]);
        }
        json!({ "status": status })
    }
}

impl State {
    fn told(&self) -> Value {
        match self {
            Self::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
            Self::Running { since } => json!({"running": {"startedAt": second(*since)}}),
            Self::Terminated { code, reason, since, until } => json!({"terminated": {
                "exitCode": code, "reason": reason, "startedAt": second(*since), "finishedAt": second(*until),
            }}),
        }
    }
}

/// How long to wait before a container is started again that has died so many times: not at all after the first.
pub(super) fn pause(deaths: u32) -> Duration {
    match deaths {
        0 | 1 => Duration::ZERO,
        more => FIRST_PAUSE.saturating_mul(1 << (more - 2).min(16)).min(LAST_PAUSE),
    }
}

/// As the API writes times.
pub(super) fn second(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodStatus;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn told(life: &Life) -> PodStatus {
        let mut told = life.status("replica", "roundhouse/replica", [10, 0, 0, 1].into());
        serde_json::from_value(told["status"].take()).expect("a status of the API's")
    }

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let seconds: Vec<u64> = (0..10).map(|deaths| pause(deaths).as_secs()).collect();
        assert_eq!(seconds, [0, 0, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(pause(u32::MAX), LAST_PAUSE);
    }

    #[test]
    fn a_pod_is_pending_until_its_container_runs() {
        let mut life = Life::new(at(1));
        assert_eq!(told(&life).phase.as_deref(), Some("Pending"));
        life.state = State::Running { since: at(2) };
        assert_eq!(told(&life).phase.as_deref(), Some("Running"));
        life.last = Some(State::Terminated { code: 1, reason: "Error", since: at(2), until: at(3) });
        life.state = State::Waiting { reason: "CrashLoopBackOff", message: String::new() };
        let status = told(&life);
        assert_eq!(status.phase.as_deref(), Some("Running"), "it has run before");
        let container = &status.container_statuses.expect("one")[0];
        let waiting = container.state.as_ref().and_then(|state| state.waiting.clone()).expect("it waits");
        assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    }

    #[test]
    fn readiness_remembers_when_it_turned() {
        let mut life = Life::new(at(1));
        let ready = |life: &Life| {
            let conditions = told(life).conditions.expect("some");
            let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready").expect("it is there");
            (ready.status, ready.last_transition_time.expect("a time").0)
        };
        life.turn(false, at(5));
        assert_eq!(ready(&life), ("False".to_owned(), at(1)));
        life.turn(true, at(6));
        life.turn(true, at(7));
        assert_eq!(ready(&life), ("True".to_owned(), at(6)));
    }
}
