//! Makes of the state of a pod its status, as the Kubernetes API has it. Pure.

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::net::IpAddr;
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

/// The status of a container.
#[derive(Debug, Clone)]
pub(super) struct ContainerStatus {
    /// The container's name.
    name: String,
    /// The image in the pod's specification.
    image: String,
    /// The state of the container.
    pub state: ContainerState,
    /// The end of the container's previous run; `None` during the first run.
    pub last: Option<ContainerState>,
    /// The number of restarts of the container.
    pub restarts: u32,
}

/// A container of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContainerSlot {
    /// The init container of this index.
    Init(usize),
    /// The container that runs after the init containers.
    Main,
}

/// The state of a pod with one container and perhaps init containers.
#[derive(Debug, Clone)]
pub(super) struct PodState {
    /// The time at which the node first saw the pod.
    pub seen: Timestamp,
    /// The pod's addresses, the primary one first; empty before the pod has its network.
    pub addresses: Vec<IpAddr>,
    /// The init containers, in the order in which they run.
    init: Vec<ContainerStatus>,
    /// The container that runs after the init containers.
    main: ContainerStatus,
    /// Whether the startup probe has succeeded, or the container has none.
    pub is_started: bool,
    is_ready: bool,
    /// The time at which `is_ready` last changed.
    ready_changed: Timestamp,
    /// The time at which the last init container succeeded; `None` before that.
    initialized: Option<Timestamp>,
}

impl PodState {
    /// The state of a pod that the node sees for the first time.
    pub(super) fn new(pod: &Pod, now: Timestamp) -> Self {
        let spec = pod.spec.as_ref();
        let init: Vec<&Container> = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten().collect();
        let reason = if init.is_empty() { "ContainerCreating" } else { "PodInitializing" };
        let initialized = init.is_empty().then_some(now);
        Self {
            seen: now,
            addresses: Vec::new(),
            init: init.into_iter().map(|container| ContainerStatus::new(Some(container), reason)).collect(),
            main: ContainerStatus::new(spec.and_then(|spec| spec.containers.first()), reason),
            is_started: false,
            is_ready: false,
            ready_changed: now,
            initialized,
        }
    }

    /// The status of a container.
    pub(super) fn container(&mut self, slot: ContainerSlot) -> &mut ContainerStatus {
        match slot {
            ContainerSlot::Init(index) => &mut self.init[index],
            ContainerSlot::Main => &mut self.main,
        }
    }

    /// The container that must end, or be started, before any later one.
    pub(super) fn first(&self) -> ContainerSlot {
        if self.init.is_empty() { ContainerSlot::Main } else { ContainerSlot::Init(0) }
    }

    /// Records that all init containers have succeeded, at the time `now`.
    pub(super) fn set_initialized(&mut self, now: Timestamp) {
        self.initialized.get_or_insert(now);
    }

    /// Records whether the pod is ready, and, if that has changed, `now` as the time of the change.
    pub(super) fn set_ready(&mut self, is_ready: bool, now: Timestamp) {
        if self.is_ready != is_ready {
            self.is_ready = is_ready;
            self.ready_changed = now;
        }
    }

    /// A strategic merge patch of the pod's status. `node` is the node's address.
    pub(super) fn to_json(&self, node: IpAddr) -> Value {
        let ready = if self.is_ready { "True" } else { "False" };
        let has_run = !matches!(self.main.state, ContainerState::Waiting { .. }) || self.main.last.is_some();
        let init = self.init.iter().map(|container| {
            let is_ready = matches!(container.state, ContainerState::Terminated { code: 0, .. });
            container.to_json(is_ready, matches!(container.state, ContainerState::Running { .. }))
        });
        let mut status = json!({
            "phase": if has_run { "Running" } else { "Pending" },
            "hostIP": node.to_string(),
            "startTime": rfc3339(self.seen),
            "conditions": [
                self.initialized_condition(),
                condition("Ready", ready, self.ready_changed),
                condition("ContainersReady", ready, self.ready_changed),
                condition("PodScheduled", "True", self.seen),
            ],
            "initContainerStatuses": init.collect::<Vec<Value>>(),
            "containerStatuses": [self.main.to_json(self.is_ready, self.is_started)],
        });
        if let Some(primary) = self.addresses.first() {
            status["podIP"] = primary.to_string().into();
            status["podIPs"] = self.addresses.iter().map(|address| json!({"ip": address.to_string()})).collect();
        }
        json!({ "status": status })
    }

    /// The condition `Initialized`. Until it is true, its message names the containers that have not succeeded, as that of
    /// a kubelet does.
    fn initialized_condition(&self) -> Value {
        if let Some(at) = self.initialized {
            // A null removes the field of an earlier patch.
            let mut condition = condition("Initialized", "True", at);
            condition["reason"] = Value::Null;
            condition["message"] = Value::Null;
            return condition;
        }
        let waits =
            |container: &&ContainerStatus| !matches!(container.state, ContainerState::Terminated { code: 0, .. });
        let names: Vec<&str> = self.init.iter().filter(waits).map(|container| container.name.as_str()).collect();
        let mut condition = condition("Initialized", "False", self.seen);
        condition["reason"] = "ContainersNotInitialized".into();
        condition["message"] = format!("containers with incomplete status: [{}]", names.join(" ")).into();
        condition
    }
}

impl ContainerStatus {
    /// The status of a container that waits for its first start. `None` stands for a pod without a container.
    fn new(container: Option<&Container>, reason: &'static str) -> Self {
        Self {
            name: container.map(|container| container.name.clone()).unwrap_or_default(),
            image: container.and_then(|container| container.image.clone()).unwrap_or_default(),
            state: ContainerState::Waiting { reason, message: String::new() },
            last: None,
            restarts: 0,
        }
    }

    fn to_json(&self, is_ready: bool, is_started: bool) -> Value {
        json!({
            "name": self.name,
            "image": self.image,
            "imageID": "",
            "restartCount": self.restarts,
            "ready": is_ready,
            "started": is_started,
            "state": self.state.to_json(),
            "lastState": self.last.as_ref().map_or_else(|| json!({}), ContainerState::to_json),
        })
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

    fn state(spec: Value) -> PodState {
        PodState::new(&serde_json::from_value(json!({ "spec": spec })).expect("a pod"), at(1))
    }

    fn one_container() -> PodState {
        state(json!({"containers": [{"name": "replica", "image": "roundhouse/replica"}]}))
    }

    fn status(state: &PodState) -> PodStatus {
        let mut patch = state.to_json([10, 0, 0, 1].into());
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
        let mut state = one_container();
        assert_eq!(status(&state).phase.as_deref(), Some("Pending"));
        state.main.state = ContainerState::Running { start: at(2) };
        assert_eq!(status(&state).phase.as_deref(), Some("Running"));
        state.main.last = Some(ContainerState::Terminated { code: 1, reason: "Error", start: at(2), end: at(3) });
        state.main.state = ContainerState::Waiting { reason: "CrashLoopBackOff", message: String::new() };
        let status = status(&state);
        assert_eq!(status.phase.as_deref(), Some("Running"), "the container has run before");
        let container = &status.container_statuses.expect("a container")[0];
        let waiting = container.state.as_ref().and_then(|state| state.waiting.clone()).expect("it waits");
        assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    }

    #[test]
    fn a_pod_is_initialized_when_all_init_containers_have_succeeded() {
        let init = json!([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]);
        let mut state = state(json!({"initContainers": init, "containers": [{"name": "c", "image": "z"}]}));
        let initialized = |state: &PodState| {
            let conditions = status(state).conditions.expect("conditions");
            let found = conditions.into_iter().find(|condition| condition.type_ == "Initialized").expect("Initialized");
            (found.status, found.message, found.last_transition_time.expect("a time").0)
        };
        let waits = |names: &str| Some(format!("containers with incomplete status: [{names}]"));
        assert_eq!(initialized(&state), ("False".into(), waits("a b"), at(1)));
        let end = |code| ContainerState::Terminated { code, reason: "Completed", start: at(2), end: at(3) };
        state.container(ContainerSlot::Init(0)).state = end(0);
        state.container(ContainerSlot::Init(1)).last = Some(end(1));
        assert_eq!(initialized(&state), ("False".into(), waits("b"), at(1)));
        let found = status(&state);
        assert_eq!(found.phase.as_deref(), Some("Pending"));
        let statuses = found.init_container_statuses.expect("init containers");
        let ready: Vec<(&str, bool)> = statuses.iter().map(|status| (status.name.as_str(), status.ready)).collect();
        assert_eq!(ready, [("a", true), ("b", false)]);
        let main = &found.container_statuses.expect("a container")[0];
        let waiting = main.state.as_ref().and_then(|state| state.waiting.clone()).expect("it waits");
        assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
        state.container(ContainerSlot::Init(1)).state = end(0);
        state.set_initialized(at(4));
        state.set_initialized(at(5));
        assert_eq!(initialized(&state), ("True".into(), None, at(4)));
    }

    #[test]
    fn the_ready_condition_has_the_time_of_its_last_change() {
        let mut state = one_container();
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
