//! One pod's life on the node: started, asked how it is, started again when it dies, stopped in order.

use super::Shared;
use super::container::{Access, Container, Place};
use super::plan::Plan;
use super::probe::{Asking, Kind};
use super::status::{Life, State, pause};
use crate::network::{self, Sandbox};
use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use rustix::process::Signal;
use scaler::cluster::{Failure, request};
use serde_json::Value;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Before the API server is asked again for what it did not do.
const RETRY: Duration = Duration::from_millis(500);

/// A container that ran for this long has a clean record again (the kubelet's).
const FORGIVEN: Duration = Duration::from_secs(600);

/// What is known of a pod; nothing once it is no longer there.
pub(super) type Told = watch::Receiver<Option<Arc<Pod>>>;

/// From first to last.
pub(super) async fn live(shared: Arc<Shared>, mut told: Told) {
    let Some(pod) = told.borrow().clone() else { return };
    let (status, latest) = watch::channel(Value::Null);
    let telling = tokio::spawn(tell(shared.clone(), pod.clone(), latest));
    let mut keeper = Keeper { life: Life::new(Timestamp::now()), pod, status, shared };
    match keeper.prepare() {
        Ok((plan, sandbox)) => keeper.keep(&plan, &sandbox, &mut told).await,
        Err(error) => {
            keeper.wait("CreateContainerConfigError", format!("{error:#}"));
            until_leaving(&mut told).await;
        }
    }
    let Keeper { shared, pod, status, .. } = keeper;
    let is_there = told.borrow().is_some();
    drop(status);
    if is_there {
        let _told = telling.await;
        remove(&shared, &pod).await;
    } else {
        telling.abort();
    }
}

struct Keeper {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    life: Life,
    status: watch::Sender<Value>,
}

impl Keeper {
    fn prepare(&mut self) -> Result<(Plan, Sandbox)> {
        let plan = Plan::of(&self.pod)?;
        self.shared.images.root(&plan.program)?;
        let sandbox = self.shared.network.sandbox()?;
        self.life.address = Some(sandbox.address);
        Ok((plan, sandbox))
    }

    /// Until it is to leave.
    async fn keep(&mut self, plan: &Plan, sandbox: &Sandbox, told: &mut Told) {
        let mut deaths = 0;
        loop {
            let began = Timestamp::now();
            let ended = match self.start(plan, sandbox).await {
                Ok(mut container) => {
                    let name = self.pod.name_any();
                    self.shared.processes().insert(name.clone(), container.id());
                    let ended = self.tend(plan, &mut container, told).await;
                    self.shared.processes().remove(&name);
                    ended
                }
                Err(error) => {
                    self.wait("CreateContainerError", format!("{error:#}"));
                    deaths = deaths.max(1);
                    None
                }
            };
            if is_leaving(told) {
                return;
            }
            if let Some((code, reason)) = ended {
                let until = Timestamp::now();
                self.life.last = Some(State::Terminated { code, reason, since: began, until });
                let lived = until.duration_since(began).unsigned_abs();
                deaths = if lived >= FORGIVEN { 1 } else { deaths + 1 };
                let message = format!("it ended with {code} after {:.1} s", lived.as_secs_f64());
                self.wait("CrashLoopBackOff", message);
            } else {
                deaths += 1;
            }
            self.life.restarts += 1;
            tokio::select! {
                () = tokio::time::sleep(pause(deaths)) => {}
                () = until_leaving(told) => return,
            }
        }
    }

    async fn start(&self, plan: &Plan, sandbox: &Sandbox) -> Result<Container> {
        let secrets = match &plan.account {
            Some(account) => Some((self.token(account).await?, self.shared.authority.clone())),
            None => None,
        };
        // One at a time: whoever looks for control groups removes empty ones.
        let _turn = self.shared.starting.lock().await;
        let place = Place {
            sandbox,
            image: self.shared.images.root(&plan.program)?,
            access: Access { secrets, server: self.shared.api },
            group: self.shared.group(plan.limits)?,
            log: self.shared.log(&self.pod),
        };
        Container::start(plan, &self.pod, place)
    }

    async fn token(&self, account: &str) -> Result<String> {
        let accounts = Api::<ServiceAccount>::namespaced(self.shared.client.clone(), &self.namespace());
        let asked = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
        let answer = request(accounts.create_token_request(account, &PostParams::default(), &asked)).await;
        let answer = answer.with_context(|| format!("get a token for ServiceAccount {account}"))?;
        Ok(answer.status.context("the API server gave no token")?.token)
    }

    /// Until the container ends by itself, or has ended since the pod is to leave; how it ended.
    async fn tend(&mut self, plan: &Plan, container: &mut Container, told: &mut Told) -> Option<(i32, &'static str)> {
        let mut asking = Asking::new(&plan.probes, self.life.address?);
        self.life.state = State::Running { since: Timestamp::now() };
        self.life.is_started = asking.has_started();
        self.life.turn(plan.probes.readiness.is_none() && asking.has_started(), Timestamp::now());
        self.report();
        let status = loop {
            tokio::select! {
                status = container.wait() => break status,
                () = until_leaving(told) => break self.stop(plan, container, told).await,
                (kind, success) = asking.next() => {
                    match (kind, success) {
                        (Kind::Readiness, _) => self.life.turn(success, Timestamp::now()),
                        (Kind::Startup, true) if plan.probes.readiness.is_none() => self.life.turn(true, Timestamp::now()),
                        (Kind::Startup | Kind::Liveness, true) => {}
                        (Kind::Startup | Kind::Liveness, false) => break self.stop(plan, container, told).await,
                    }
                    self.life.is_started = asking.has_started();
                    self.report();
                }
            }
        };
        self.life.is_started = false;
        self.life.turn(false, Timestamp::now());
        status.ok().map(|status| container.end(status))
    }

    /// SIGTERM, and SIGKILL when the grace is over or the pod is no longer wanted at all.
    async fn stop(&mut self, plan: &Plan, container: &mut Container, told: &mut Told) -> Result<ExitStatus> {
        container.signal(Signal::TERM);
        tokio::select! {
            status = container.wait() => return status,
            () = tokio::time::sleep(grace(plan, told)) => {}
            () = until_gone(told) => {}
        }
        container.signal(Signal::KILL);
        container.wait().await
    }

    fn wait(&mut self, reason: &'static str, message: String) {
        self.life.state = State::Waiting { reason, message };
        self.report();
    }

    fn report(&self) {
        let container = self.pod.spec.as_ref().and_then(|spec| spec.containers.first());
        let name = container.map(|container| container.name.clone()).unwrap_or_default();
        let image = container.and_then(|container| container.image.clone()).unwrap_or_default();
        let status = self.life.status(&name, &image, network::NODE);
        self.status.send_replace(status);
    }

    fn namespace(&self) -> String {
        self.pod.namespace().unwrap_or_default()
    }
}

/// What the deletion gives, or else the specification.
fn grace(plan: &Plan, told: &Told) -> Duration {
    let given = told.borrow().as_ref().and_then(|pod| pod.metadata.deletion_grace_period_seconds);
    given.and_then(|seconds| u64::try_from(seconds).ok()).map_or(plan.grace, Duration::from_secs)
}

fn is_leaving(told: &Told) -> bool {
    told.borrow().as_ref().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
}

async fn until_leaving(told: &mut Told) {
    // The sender is kept until the pod is gone.
    let _closed = told.wait_for(|pod| pod.as_ref().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())).await;
}

async fn until_gone(told: &mut Told) {
    let _closed = told.wait_for(Option::is_none).await;
}

/// Writes every status, or the newest after a time in which that could not be done. Ends when there will be no more.
async fn tell(shared: Arc<Shared>, pod: Arc<Pod>, mut latest: watch::Receiver<Value>) {
    let pods = Api::<Pod>::namespaced(shared.client.clone(), &pod.namespace().unwrap_or_default());
    let (name, params) = (pod.name_any(), PatchParams::default());
    while latest.changed().await.is_ok() {
        loop {
            let status = Patch::Strategic(latest.borrow_and_update().clone());
            match request(pods.patch_status(&name, &params, &status)).await {
                Ok(_) => break,
                Err(failure) if failure.is(404) => return,
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }
}

/// Its containers have ended: now it may go.
async fn remove(shared: &Shared, pod: &Pod) {
    let pods = Api::<Pod>::namespaced(shared.client.clone(), &pod.namespace().unwrap_or_default());
    let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
    let params =
        DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..DeleteParams::default() };
    loop {
        match request(pods.delete(&pod.name_any(), &params)).await {
            Err(Failure::Unanswered(_)) => tokio::time::sleep(RETRY).await,
            // Gone already, or another one has its name by now.
            Ok(_) | Err(Failure::Refused { .. }) => return,
        }
    }
}
