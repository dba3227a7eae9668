//! Runs one pod: starts its container, sends its probes, restarts it when it dies, and stops it when the pod is
//! deleted.

use super::NodeState;
use super::container::{ApiAccess, Container, ContainerPlacement, Credentials, Termination};
use super::container_config::ContainerConfig;
use super::probe::{ProbeKind, Prober};
use super::status::{ContainerState, PodState, restart_delay};
use crate::network::Sandbox;
use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
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
    let mut worker = PodWorker { state: PodState::new(Timestamp::now()), pod, status, shared };
    match worker.prepare() {
        Ok((config, sandbox)) => {
            worker.shared.filter.add_pod(&worker.pod, sandbox.address).await;
            worker.run_until_deleted(&config, &sandbox, &mut updates).await;
            worker.shared.filter.remove_pod(sandbox.address);
        }
        Err(error) => {
            worker.set_waiting("CreateContainerConfigError", format!("{error:#}"));
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

impl PodWorker {
    /// Checks the pod's specification and makes the pod's network.
    fn prepare(&mut self) -> Result<(ContainerConfig, Sandbox)> {
        let config = ContainerConfig::new(&self.pod)?;
        // An unknown container image must be an error of the pod's configuration, not one of each start.
        self.shared.images.root(&config.program)?;
        let sandbox = self.shared.network.sandbox()?;
        self.state.address = Some(sandbox.address);
        Ok((config, sandbox))
    }

    /// Starts the container, and restarts it when it ends, until the pod is deleted.
    async fn run_until_deleted(&mut self, config: &ContainerConfig, sandbox: &Sandbox, updates: &mut PodUpdates) {
        let mut deaths = 0;
        loop {
            let start = Timestamp::now();
            let termination = self.run_container(config, sandbox, updates).await;
            if is_deleted(updates) {
                return;
            }
            deaths = match termination {
                Some(termination) => self.record_termination(termination, start, deaths),
                None => deaths.max(1) + 1,
            };
            self.state.restarts += 1;
            tokio::select! {
                () = tokio::time::sleep(restart_delay(deaths)) => {}
                () = until_deleted(updates) => return,
            }
        }
    }

    /// Starts the container and supervises it until it ends. Returns how it ended, or `None` if it could not be started
    /// or waited for.
    async fn run_container(
        &mut self,
        config: &ContainerConfig,
        sandbox: &Sandbox,
        updates: &mut PodUpdates,
    ) -> Option<Termination> {
        let mut container = match self.start(config, sandbox).await {
            Ok(container) => container,
            Err(error) => {
                self.set_waiting("CreateContainerError", format!("{error:#}"));
                return None;
            }
        };
        let name = self.pod.name_any();
        self.shared.processes().insert(name.clone(), container.id());
        let termination = self.supervise(config, &mut container, updates).await;
        self.shared.processes().remove(&name);
        termination
    }

    /// Publishes how the container ended. `start` is the time of its start, and `deaths` is the number of deaths in a
    /// row before this one. Returns the number with this one.
    fn record_termination(&mut self, termination: Termination, start: Timestamp, deaths: u32) -> u32 {
        let Termination { code, reason } = termination;
        let end = Timestamp::now();
        self.state.last = Some(ContainerState::Terminated { code, reason, start, end });
        let lifetime = end.duration_since(start).unsigned_abs();
        let message = format!("the container ended with exit code {code} after {:.1} s", lifetime.as_secs_f64());
        self.set_waiting("CrashLoopBackOff", message);
        if lifetime >= BACKOFF_RESET { 1 } else { deaths + 1 }
    }

    async fn start(&self, config: &ContainerConfig, sandbox: &Sandbox) -> Result<Container> {
        let credentials = match &config.service_account {
            Some(account) => {
                let certificate = self.shared.certificate.clone();
                Some(Credentials { token: self.request_token(account).await?, certificate })
            }
            None => None,
        };
        // Without this lock, the search for a controller could remove the control group of another container that is
        // just being started: it removes control groups without processes.
        let _lock = self.shared.start_lock.lock().await;
        let placement = ContainerPlacement {
            sandbox,
            image: self.shared.images.root(&config.program)?,
            access: ApiAccess { server: self.shared.api_server, credentials },
            group: self.shared.control_group(config.limits)?,
            log: self.shared.log_path(&self.pod),
        };
        Container::start(config, &self.pod, placement)
    }

    async fn request_token(&self, account: &str) -> Result<String> {
        let namespace = self.pod.namespace().unwrap_or_default();
        let accounts = Api::<ServiceAccount>::namespaced(self.shared.client.clone(), &namespace);
        let token = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
        let answer = request(accounts.create_token_request(account, &PostParams::default(), &token)).await;
        let answer = answer.with_context(|| format!("request a token for the ServiceAccount {account}"))?;
        Ok(answer.status.context("the API server's answer to a request for a token has no status")?.token)
    }

    /// Sends probes to the container until it ends. Stops it if a probe fails or the pod is deleted. Returns how it
    /// ended, or `None` if the system does not report that.
    async fn supervise(
        &mut self,
        config: &ContainerConfig,
        container: &mut Container,
        updates: &mut PodUpdates,
    ) -> Option<Termination> {
        let has_readiness_probe = config.probes.readiness.is_some();
        let mut prober = Prober::new(&config.probes, self.state.address?);
        self.state.container = ContainerState::Running { start: Timestamp::now() };
        self.state.is_started = prober.has_started();
        self.state.set_ready(!has_readiness_probe && prober.has_started(), Timestamp::now());
        self.publish();
        let status = loop {
            tokio::select! {
                status = container.wait() => break status,
                () = until_deleted(updates) => break stop(config, container, updates).await,
                (kind, is_success) = prober.next() => {
                    match (kind, is_success) {
                        (ProbeKind::Readiness, _) => self.state.set_ready(is_success, Timestamp::now()),
                        (ProbeKind::Startup, true) if !has_readiness_probe => {
                            self.state.set_ready(true, Timestamp::now());
                        }
                        (ProbeKind::Startup | ProbeKind::Liveness, true) => {}
                        (ProbeKind::Startup | ProbeKind::Liveness, false) => {
                            break stop(config, container, updates).await;
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

    /// Publishes that the container waits, with the reason.
    fn set_waiting(&mut self, reason: &'static str, message: String) {
        self.state.container = ContainerState::Waiting { reason, message };
        self.publish();
    }

    /// Sends the status to the publisher.
    fn publish(&self) {
        let container = self.pod.spec.as_ref().and_then(|spec| spec.containers.first());
        let name = container.map(|container| container.name.clone()).unwrap_or_default();
        let image = container.and_then(|container| container.image.clone()).unwrap_or_default();
        let status = self.state.to_json(&name, &image, self.shared.network.family.node_address());
        self.status.send_replace(status);
    }
}

/// Sends SIGTERM to the container. If it still runs when the grace is over or the pod's object was deleted, sends
/// SIGKILL. Returns its exit status.
async fn stop(config: &ContainerConfig, container: &mut Container, updates: &mut PodUpdates) -> Result<ExitStatus> {
    container.signal(Signal::TERM);
    tokio::select! {
        status = container.wait() => return status,
        () = tokio::time::sleep(grace(config, updates)) => {}
        () = until_gone(updates) => {}
    }
    container.signal(Signal::KILL);
    container.wait().await
}

/// The grace of the deletion, or that of the specification if the deletion gives none.
fn grace(config: &ContainerConfig, updates: &PodUpdates) -> Duration {
    let given = updates.borrow().as_ref().and_then(|pod| pod.metadata.deletion_grace_period_seconds);
    given.and_then(|seconds| u64::try_from(seconds).ok()).map_or(config.grace, Duration::from_secs)
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
