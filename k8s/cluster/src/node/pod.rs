//! Runs one pod: makes its volumes, runs its init containers, starts its container, sends its probes, restarts it when it
//! dies, and stops it when the pod is deleted.

use super::NodeState;
use super::container::{Container, ContainerPlacement, Termination};
use super::container_config::ContainerConfig;
use super::field::PodFields;
use super::object;
use super::pod_config::PodConfig;
use super::probe::{ProbeKind, Prober};
use super::status::{ContainerSlot, ContainerState, PodState, restart_delay};
use super::volume_folder::{PodVolumes, VolumePaths};
use crate::network::Sandbox;
use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use kubernetes::{ApiError, request};
use rustix::process::Signal;
use serde_json::Value;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The pause before a failed request to the API server is sent again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The pause before the objects that a pod needs are looked for again.
const MISSING_INTERVAL: Duration = Duration::from_secs(2);

/// The lifetime after which the death of a container counts as the first one, so that it is restarted without delay. A
/// kubelet does the same.
const BACKOFF_RESET: Duration = Duration::from_secs(600);

/// A channel with the newest object of a pod; `None` once the object was deleted.
pub(super) type PodUpdates = watch::Receiver<Option<Arc<Pod>>>;

/// Runs a pod until it is deleted. Then lets the API server remove the pod's object.
pub(super) async fn run(shared: Arc<NodeState>, mut updates: PodUpdates) {
    let Some(pod) = updates.borrow().clone() else { return };
    let (status, statuses) = watch::channel(Value::Null);
    let publisher = tokio::spawn(publish_statuses(shared.clone(), pod.clone(), statuses));
    let state = PodState::new(&pod, Timestamp::now());
    let mut worker = PodWorker { state, pod, status, shared };
    match worker.prepare() {
        Ok((config, sandbox, volumes)) => {
            worker.shared.filter.add_pod(&worker.pod, sandbox.addresses()).await;
            worker.run_until_deleted(&config, &sandbox, volumes, &mut updates).await;
            worker.shared.filter.remove_pod(sandbox.addresses());
        }
        Err(error) => {
            worker.set_waiting(worker.state.first(), "CreateContainerConfigError", format!("{error:#}"));
            until_deleted(&mut updates).await;
        }
    }
    let PodWorker { shared, pod, status, .. } = worker;
    let has_object = updates.borrow().is_some();
    // Without this, the channel would stay open, and the publisher would not end.
    drop(status);
    if has_object {
        // An error means that the publisher panicked. The object is removed in any case.
        let _ = publisher.await;
        confirm_deletion(&shared, &pod).await;
    } else {
        publisher.abort();
    }
}

struct PodWorker {
    shared: Arc<NodeState>,
    pod: Arc<Pod>,
    state: PodState,
    /// The channel to the publisher of the pod's status.
    status: watch::Sender<Value>,
}

/// A container of a pod, with all that its start needs.
#[derive(Clone, Copy)]
struct ContainerRun<'a> {
    slot: ContainerSlot,
    config: &'a ContainerConfig,
    sandbox: &'a Sandbox,
    volumes: &'a VolumePaths,
    /// The time between SIGTERM and SIGKILL.
    grace: Duration,
}

/// How a run of a container ended.
enum RunEnd {
    /// The container has ended.
    Terminated(Termination),
    /// The container could not be started or waited for.
    Failed,
    /// An object or a container image that the container needs is missing, so that no start was attempted.
    Missing,
}

/// The reason why a container was not started.
enum StartError {
    /// An object or a container image that the container needs is missing.
    Missing(anyhow::Error),
    /// The start has failed.
    Failed(anyhow::Error),
}

impl PodWorker {
    /// Checks the pod's specification and makes the pod's network.
    fn prepare(&mut self) -> Result<(PodConfig, Sandbox, PodVolumes)> {
        let config = PodConfig::new(&self.pod)?;
        let sandbox = self.shared.network.sandbox()?;
        self.state.addresses = sandbox.addresses().to_vec();
        let volumes = PodVolumes::new(self.shared.clone(), self.pod.clone(), sandbox.address())?;
        Ok((config, sandbox, volumes))
    }

    /// Makes the volumes and runs the containers until the pod is deleted. Meanwhile, keeps the files of the volumes up to
    /// date.
    async fn run_until_deleted(
        &mut self,
        config: &PodConfig,
        sandbox: &Sandbox,
        mut volumes: PodVolumes,
        updates: &mut PodUpdates,
    ) {
        let paths = tokio::select! {
            paths = self.prepare_volumes(config, &mut volumes) => paths,
            () = until_deleted(updates) => return,
        };
        tokio::select! {
            () = self.run_containers(config, sandbox, &paths, updates) => {}
            () = volumes.keep_current(config) => {}
        }
    }

    /// Makes the volumes. Waits for the objects that they need.
    async fn prepare_volumes(&mut self, config: &PodConfig, volumes: &mut PodVolumes) -> VolumePaths {
        loop {
            match volumes.prepare(config).await {
                Ok(paths) => return paths,
                Err(error) => self.set_waiting(self.state.first(), "ContainerCreating", format!("{error:#}")),
            }
            tokio::time::sleep(MISSING_INTERVAL).await;
        }
    }

    /// Runs the init containers one after another, and then the container, until the pod is deleted.
    async fn run_containers(
        &mut self,
        config: &PodConfig,
        sandbox: &Sandbox,
        volumes: &VolumePaths,
        updates: &mut PodUpdates,
    ) {
        let init = config.init.iter().enumerate().map(|(index, init)| (ContainerSlot::Init(index), init));
        for (slot, container) in init.chain([(ContainerSlot::Main, &config.main)]) {
            if slot == ContainerSlot::Main {
                self.state.set_initialized(Timestamp::now());
            }
            let run = ContainerRun { slot, config: container, sandbox, volumes, grace: config.grace };
            self.run_repeatedly(run, updates).await;
            if is_deleted(updates) {
                return;
            }
        }
    }

    /// Starts a container, and restarts it when it ends, until the pod is deleted, or until an init container has
    /// succeeded.
    async fn run_repeatedly(&mut self, run: ContainerRun<'_>, updates: &mut PodUpdates) {
        let mut deaths = 0;
        loop {
            let start = Timestamp::now();
            let end = self.run_container(run, updates).await;
            if is_deleted(updates) {
                return;
            }
            let delay = match end {
                RunEnd::Missing => MISSING_INTERVAL,
                RunEnd::Terminated(termination) if termination.code == 0 && run.slot != ContainerSlot::Main => {
                    self.state.container(run.slot).state = terminated(termination, start);
                    self.publish();
                    return;
                }
                RunEnd::Terminated(termination) => {
                    deaths = self.record_termination(run.slot, termination, start, deaths);
                    restart_delay(deaths)
                }
                RunEnd::Failed => {
                    deaths = deaths.max(1) + 1;
                    restart_delay(deaths)
                }
            };
            if !matches!(end, RunEnd::Missing) {
                self.state.container(run.slot).restarts += 1;
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = until_deleted(updates) => return,
            }
        }
    }

    /// Starts the container and supervises it until it ends. Returns how it ended.
    async fn run_container(&mut self, run: ContainerRun<'_>, updates: &mut PodUpdates) -> RunEnd {
        let mut container = match self.start(run).await {
            Ok(container) => container,
            Err(StartError::Missing(error)) => {
                self.set_waiting(run.slot, "CreateContainerConfigError", format!("{error:#}"));
                return RunEnd::Missing;
            }
            Err(StartError::Failed(error)) => {
                self.set_waiting(run.slot, "CreateContainerError", format!("{error:#}"));
                return RunEnd::Failed;
            }
        };
        let name = self.pod.name_any();
        self.shared.processes().insert(name.clone(), container.id());
        let termination = self.supervise(run, &mut container, updates).await;
        self.shared.processes().remove(&name);
        termination.map_or(RunEnd::Failed, RunEnd::Terminated)
    }

    /// Publishes how the container ended. `start` is the time of its start, and `deaths` is the number of deaths in a
    /// row before this one. Returns the number with this one.
    fn record_termination(
        &mut self,
        slot: ContainerSlot,
        termination: Termination,
        start: Timestamp,
        deaths: u32,
    ) -> u32 {
        let lifetime = Timestamp::now().duration_since(start).unsigned_abs();
        self.state.container(slot).last = Some(terminated(termination, start));
        let Termination { code, .. } = termination;
        let message = format!("the container ended with exit code {code} after {:.1} s", lifetime.as_secs_f64());
        self.set_waiting(slot, "CrashLoopBackOff", message);
        if lifetime >= BACKOFF_RESET { 1 } else { deaths + 1 }
    }

    async fn start(&self, run: ContainerRun<'_>) -> Result<Container, StartError> {
        let (image, input) = async {
            let image = self.shared.images.get(&run.config.image)?;
            let namespace = self.pod.namespace().unwrap_or_default();
            let names = run.config.environment.objects().collect();
            let objects = object::fetch(&self.shared.client, &namespace, names).await?;
            let (pod, address) = (&self.pod, run.sandbox.address());
            let fields = PodFields { pod, address, node: self.shared.network.families.primary.node_address() };
            anyhow::Ok((image, run.config.resolve(fields, &objects)?))
        }
        .await
        .map_err(StartError::Missing)?;
        // Without this lock, the search for a controller could remove the control group of another container that is
        // just being started: it removes control groups without processes.
        let _lock = self.shared.start_lock.lock().await;
        let placement = ContainerPlacement {
            pod: &self.pod.name_any(),
            namespace: &self.pod.namespace().unwrap_or_default(),
            sandbox: run.sandbox,
            image,
            volumes: run.volumes,
            api_server: self.shared.api_server,
            group: self.shared.control_group(run.config.limits).map_err(StartError::Failed)?,
            log: self.shared.log_path(&self.pod),
        };
        Container::start(run.config, &input, placement).map_err(StartError::Failed)
    }

    /// Sends probes to the container until it ends. Stops it if a probe fails or the pod is deleted. Returns how it
    /// ended, or `None` if the system does not report that.
    async fn supervise(
        &mut self,
        run: ContainerRun<'_>,
        container: &mut Container,
        updates: &mut PodUpdates,
    ) -> Option<Termination> {
        let ContainerRun { slot, config, grace, .. } = run;
        let is_main = slot == ContainerSlot::Main;
        let has_readiness_probe = config.probes.readiness.is_some();
        let mut prober = Prober::new(&config.probes, run.sandbox.address());
        self.state.container(slot).state = ContainerState::Running { start: Timestamp::now() };
        self.state.is_started = is_main && prober.has_started();
        self.state.set_ready(is_main && !has_readiness_probe && prober.has_started(), Timestamp::now());
        self.publish();
        let status = loop {
            tokio::select! {
                status = container.wait() => break status,
                () = until_deleted(updates) => break stop(grace, container, updates).await,
                (kind, is_success) = prober.next() => {
                    match (kind, is_success) {
                        (ProbeKind::Readiness, _) => self.state.set_ready(is_success, Timestamp::now()),
                        (ProbeKind::Startup, true) if !has_readiness_probe => {
                            self.state.set_ready(true, Timestamp::now());
                        }
                        (ProbeKind::Startup | ProbeKind::Liveness, true) => {}
                        (ProbeKind::Startup | ProbeKind::Liveness, false) => {
                            break stop(grace, container, updates).await;
                        }
                    }
                    self.state.is_started = prober.has_started();
                    self.publish();
                }
            }
        };
        self.state.is_started = false;
        self.state.set_ready(false, Timestamp::now());
        status.ok().map(|status| container.termination(status))
    }

    /// Publishes that a container waits, with the reason.
    fn set_waiting(&mut self, slot: ContainerSlot, reason: &'static str, message: String) {
        self.state.container(slot).state = ContainerState::Waiting { reason, message };
        self.publish();
    }

    /// Sends the status to the publisher.
    fn publish(&self) {
        self.status.send_replace(self.state.to_json(self.shared.network.families.primary.node_address()));
    }
}

/// The state of a container that has ended now.
fn terminated(termination: Termination, start: Timestamp) -> ContainerState {
    let Termination { code, reason } = termination;
    ContainerState::Terminated { code, reason, start, end: Timestamp::now() }
}

/// Sends SIGTERM to the container. If it still runs when the grace is over or the pod's object was deleted, sends
/// SIGKILL. `grace` is that of the specification. Returns the exit status.
async fn stop(grace: Duration, container: &mut Container, updates: &mut PodUpdates) -> Result<ExitStatus> {
    container.signal(Signal::TERM);
    tokio::select! {
        status = container.wait() => return status,
        () = tokio::time::sleep(deletion_grace(grace, updates)) => {}
        () = until_gone(updates) => {}
    }
    container.signal(Signal::KILL);
    container.wait().await
}

/// The grace of the deletion, or `grace` if the deletion gives none.
fn deletion_grace(grace: Duration, updates: &PodUpdates) -> Duration {
    let given = updates.borrow().as_ref().and_then(|pod| pod.metadata.deletion_grace_period_seconds);
    given.and_then(|seconds| u64::try_from(seconds).ok()).map_or(grace, Duration::from_secs)
}

/// Whether the pod is being deleted, or its object was deleted already.
fn is_deleted(updates: &PodUpdates) -> bool {
    updates.borrow().as_ref().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
}

/// Waits until the pod is being deleted, or its object was deleted already.
async fn until_deleted(updates: &mut PodUpdates) {
    let is_deleted = |pod: &Option<Arc<Pod>>| pod.as_ref().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
    // An error means that the channel is closed, which happens only after `None` was sent.
    let _ = updates.wait_for(is_deleted).await;
}

/// Waits until the pod's object was deleted.
async fn until_gone(updates: &mut PodUpdates) {
    // An error means that the channel is closed, which happens only after `None` was sent.
    let _ = updates.wait_for(Option::is_none).await;
}

/// Sends each status to the API server until the channel is closed. After an outage of the API server, sends only the
/// newest status.
async fn publish_statuses(shared: Arc<NodeState>, pod: Arc<Pod>, mut statuses: watch::Receiver<Value>) {
    let pods = Api::<Pod>::namespaced(shared.client.clone(), &pod.namespace().unwrap_or_default());
    let (name, params) = (pod.name_any(), PatchParams::default());
    while statuses.changed().await.is_ok() {
        loop {
            let status = Patch::Strategic(statuses.borrow_and_update().clone());
            match request(pods.patch_status(&name, &params, &status)).await {
                Ok(_) => break,
                Err(failure) if failure.is(404) => return,
                Err(_) => tokio::time::sleep(RETRY_INTERVAL).await,
            }
        }
    }
}

/// Lets the API server remove the pod's object, after the container has ended.
async fn confirm_deletion(shared: &NodeState, pod: &Pod) {
    let pods = Api::<Pod>::namespaced(shared.client.clone(), &pod.namespace().unwrap_or_default());
    let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
    let params =
        DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..DeleteParams::default() };
    loop {
        match request(pods.delete(&pod.name_any(), &params)).await {
            Err(ApiError::Unreadable(_) | ApiError::Unanswered(_)) => tokio::time::sleep(RETRY_INTERVAL).await,
            // A refusal means that the object was deleted already, or that another pod has its name now.
            Ok(_) | Err(ApiError::Refused { .. }) => return,
        }
    }
}
