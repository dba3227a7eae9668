//! Replicas as the pods of a Deployment. One task follows the Deployment and its pods, and sets the number of replicas
//! through the scale subresource. Desired replicas are written at once, while this scaler leads, or never. While the API
//! server does not answer, the last state stays, with a refusal, and desired replicas that arrive are dropped.

pub mod pod_times;
pub mod pods;

use super::{Desired, Handle, Rejection, TargetState};
use crate::leader::Fence;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::core::Selector;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use kubernetes::mirror::Mirror;
use kubernetes::name::DeploymentName;
use kubernetes::owner::Owners;
use kubernetes::{ApiError, request};
use law::observation::Replicas;
use pod_times::PodTimes;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

/// This program's name in Events and in managed fields.
const CONTROLLER: &str = "roundhouse-scaler";

/// Time between two searches for another autoscaler. They also show whether the API server still answers.
const OWNER_INTERVAL: Duration = Duration::from_secs(5);

/// Pause after the first failed request to the API server. Each further failure doubles the pause.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// The longest pause after a failed request to the API server.
const LAST_BACKOFF: Duration = Duration::from_secs(10);

/// Pause after a change that the API server has rejected.
const REJECTION_PAUSE: Duration = Duration::from_secs(5);

/// The most attempts to write one change while other programs, such as the Deployment's controller, write its status.
const ATTEMPTS: usize = 4;

/// Longest note of an Event, in bytes (documentation of Event).
const NOTE_BYTES: usize = 1024;

/// A Deployment as a target, and the scaler's name.
#[derive(Debug, Clone)]
pub struct ScaledDeployment {
    /// The name of the Deployment.
    pub name: DeploymentName,
    /// The name of this scaler in Events, such as the name of its pod.
    pub identity: String,
}

/// Starts the task. It refuses changes until it has read the Deployment. `fence` is that of the Lease whose holder may
/// write; `None` if this is the only scaler of the Deployment.
pub fn run(spec: ScaledDeployment, client: Client, fence: Option<Fence>) -> Handle {
    let (desired, mut receiver) = watch::channel(Desired::default());
    let refusal = Some(format!("{} has not been read yet; wait a few seconds", spec.name));
    let (publish, state) = watch::channel(TargetState { refusal, ..TargetState::default() });
    let target = DeploymentTarget {
        deployments: Api::namespaced(client.clone(), &spec.name.namespace),
        pods: Api::namespaced(client.clone(), &spec.name.namespace),
        owners: Owners::new(&spec.name, &client),
        client,
        spec,
        fence,
        publish,
        times: PodTimes::default(),
        owner: None,
        rejection: None,
        backoff: FIRST_BACKOFF,
    };
    let mut closing = receiver.clone();
    let done = tokio::spawn(async move {
        tokio::select! {
            () = target.run(&mut receiver) => {}
            () = async { while closing.changed().await.is_ok() {} } => {}
        }
    });
    Handle { desired, state, done }
}

struct DeploymentTarget {
    spec: ScaledDeployment,
    client: Client,
    deployments: Api<Deployment>,
    pods: Api<Pod>,
    owners: Owners,
    fence: Option<Fence>,
    publish: watch::Sender<TargetState>,
    times: PodTimes,
    /// A message about another autoscaler that scales the Deployment; `None` if there is none.
    owner: Option<String>,
    rejection: Option<Rejection>,
    /// The pause after the next failed request.
    backoff: Duration,
}

/// The selector of a Deployment, and the pods that it picks.
struct Selected {
    selector: LabelSelector,
    pods: Mirror<Pod>,
}

impl DeploymentTarget {
    async fn run(mut self, receiver: &mut watch::Receiver<Desired>) {
        loop {
            let Err(failure) = self.follow(receiver).await;
            let refusal =
                format!("cannot follow {}: {failure}; check the API server and the scaler's Role", self.spec.name);
            tracing::warn!("{refusal}; trying again in {:?}", self.backoff);
            self.publish.send_if_modified(|state| state.refusal.replace(refusal.clone()) != Some(refusal));
            self.rejection = None;
            tokio::time::sleep(self.backoff).await;
            self.backoff = (self.backoff * 2).min(LAST_BACKOFF);
        }
    }

    /// Follows the Deployment until a request to the API server fails.
    async fn follow(&mut self, receiver: &mut watch::Receiver<Desired>) -> Result<Infallible, ApiError> {
        let only = watcher::Config::default().fields(&format!("metadata.name={}", self.spec.name.name));
        let mut deployments = Mirror::new(self.deployments.clone(), only);
        let mut selected: Option<Selected> = None;
        let mut search = tokio::time::interval_at(Instant::now() + OWNER_INTERVAL, OWNER_INTERVAL);
        search.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.owner = self.owners.find().await?;
        receiver.mark_unchanged();
        loop {
            let next_pod = async {
                match &mut selected {
                    Some(selected) => selected.pods.next().await,
                    None => std::future::pending().await,
                }
            };
            let mut desired = None;
            tokio::select! {
                event = deployments.next() => event?,
                event = next_pod => event?,
                _ = search.tick() => self.owner = self.owners.find().await?,
                Ok(()) = receiver.changed() => desired = Some(receiver.borrow_and_update().clone()),
            }
            let Some(listed) = deployments.objects() else { continue };
            self.update(listed.first(), &mut selected, desired).await?;
        }
    }

    /// Sets the desired replicas, if there are any, and reports the state. Does nothing until the pods are listed.
    async fn update(
        &mut self,
        deployment: Option<&Arc<Deployment>>,
        selected: &mut Option<Selected>,
        desired: Option<Desired>,
    ) -> Result<(), ApiError> {
        let Some(deployment) = deployment else {
            *selected = None;
            self.rejection = None;
            self.backoff = FIRST_BACKOFF;
            self.report(Replicas::default(), None, Some(self.missing()));
            return Ok(());
        };
        let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
        if selector != selected.as_ref().map(|selected| &selected.selector) {
            *selected = match selector.map(|selector| self.select(selector)).transpose() {
                Ok(selected) => selected,
                Err(refusal) => {
                    *selected = None;
                    self.report(Replicas::default(), None, Some(refusal));
                    return Ok(());
                }
            }
        }
        let Some(pods) = selected.as_ref().and_then(|selected| selected.pods.objects()) else { return Ok(()) };
        self.backoff = FIRST_BACKOFF;
        let states = self.times.note(&pods, Instant::now());
        if let Some(desired) = desired {
            self.grant(deployment, &pods, &desired).await?;
        }
        self.report(pods::count(deployment, &states), pods::obstacle(&pods), self.owner.clone());
        Ok(())
    }

    /// The pods that `selector` picks; a refusal if it is invalid.
    fn select(&self, selector: &LabelSelector) -> Result<Selected, String> {
        let parsed: Result<Selector, _> = selector.clone().try_into();
        let parsed =
            parsed.map_err(|error| format!("the selector of {} is invalid ({error}); correct it", self.spec.name))?;
        let only = watcher::Config::default().labels_from(&parsed);
        Ok(Selected { selector: selector.clone(), pods: Mirror::new(self.pods.clone(), only) })
    }

    /// Sets the number of replicas, or notes that the API server has rejected the change.
    async fn grant(
        &mut self,
        deployment: &Arc<Deployment>,
        pods: &[Arc<Pod>],
        desired: &Desired,
    ) -> Result<(), ApiError> {
        // The present number is not left out: nothing is written then, and the rejection is over.
        let is_change = desired.replicas != pods::desired(deployment);
        if is_change && self.rejection.as_ref().is_some_and(Rejection::pauses) {
            return Ok(());
        }
        self.rejection = None;
        // Another autoscaler may have been created since the last search.
        self.owner = self.owners.find().await?;
        if self.owner.is_some() {
            return Ok(());
        }
        if let Err(failure) = self.scale(deployment, pods, desired).await {
            let reason = self.advice(desired.replicas, &failure);
            self.rejection = Some(Rejection { reason, until: Instant::now() + REJECTION_PAUSE });
        }
        Ok(())
    }

    /// Sets the number of replicas. Leaves the change out if another program has set the number since the last update,
    /// or if this scaler no longer leads: the next decision takes that into account.
    async fn scale(&self, deployment: &Deployment, pods: &[Arc<Pod>], desired: &Desired) -> Result<(), ApiError> {
        let name = &self.spec.name.name;
        let before = pods::desired(deployment);
        for _ in 0..ATTEMPTS {
            let present = request(self.deployments.get_scale(name)).await?;
            let replicas = present.spec.and_then(|spec| spec.replicas).unwrap_or_default();
            let replicas = usize::try_from(replicas).unwrap_or_default();
            if replicas == desired.replicas {
                return Ok(());
            }
            if replicas != before {
                tracing::info!("another program set {} to {replicas}; leaving this change out", self.spec.name);
                return Ok(());
            }
            // The Lease is read after the scale. If another leader writes in between, the write below names an old
            // version.
            if let Some(fence) = &self.fence
                && !fence.admits(desired.term).await?
            {
                tracing::info!("this scaler no longer leads; leaving a change of {} out", self.spec.name);
                return Ok(());
            }
            let change = Scale {
                metadata: ObjectMeta { resource_version: present.metadata.resource_version, ..ObjectMeta::default() },
                spec: Some(ScaleSpec { replicas: Some(i32::try_from(desired.replicas).unwrap_or(i32::MAX)) }),
                status: None,
            };
            let params = PatchParams { field_manager: Some(CONTROLLER.into()), ..PatchParams::default() };
            match request(self.deployments.patch_scale(name, &params, &Patch::Merge(change))).await {
                Ok(_) => {
                    self.publish_event(deployment, pods, before, desired).await;
                    return Ok(());
                }
                // The status has changed, or the number. The next attempt reads both the scale and the Lease again.
                Err(failure) if failure.is(409) => {}
                Err(failure) => return Err(failure),
            }
        }
        tracing::info!("other programs keep changing {}; leaving this change out", self.spec.name);
        Ok(())
    }

    /// Logs a change, and publishes it as an Event on the Deployment.
    async fn publish_event(&self, deployment: &Deployment, pods: &[Arc<Pod>], before: usize, desired: &Desired) {
        let mut note = format!("from {before} to {} replicas: {}", desired.replicas, desired.reason);
        let (type_, reason) = if desired.is_full && desired.replicas < before {
            note.extend(pods::obstacle(pods).map(|obstacle| format!("; {obstacle}")));
            (EventType::Warning, "CeilingReached")
        } else {
            (EventType::Normal, "Scaled")
        };
        note.truncate(note.floor_char_boundary(NOTE_BYTES));
        tracing::info!("scaled {} {note}", self.spec.name);
        let event = Event { type_, reason: reason.into(), note: Some(note), action: "Scale".into(), secondary: None };
        // A recorder merges Events of one kind and keeps the note of the first, so each Event gets its own recorder.
        let reporter = Reporter { controller: CONTROLLER.into(), instance: Some(self.spec.identity.clone()) };
        let recorder = Recorder::new(self.client.clone(), reporter);
        if let Err(failure) = request(recorder.publish(&event, &deployment.object_ref(&()))).await {
            tracing::warn!("cannot publish an Event on {}: {failure}; check the scaler's Role", self.spec.name);
        }
    }

    fn report(&self, replicas: Replicas, obstacle: Option<String>, refusal: Option<String>) {
        let (startup, placement) = (self.times.startup(), self.times.placement());
        let state = TargetState { replicas, startup, placement, obstacle, refusal, rejection: self.rejection.clone() };
        self.publish.send_if_modified(|present| std::mem::replace(present, state.clone()) != state);
    }

    fn missing(&self) -> String {
        format!("{} does not exist; create it, or name another", self.spec.name)
    }

    /// What was rejected and why, with advice.
    fn advice(&self, replicas: usize, failure: &ApiError) -> String {
        let advice = match failure {
            ApiError::Refused { code: 404, .. } => return self.missing(),
            ApiError::Refused { code: 401 | 403, .. } => {
                "let the scaler get and patch deployments/scale and get its Lease, or remove the rule that forbids it"
            }
            ApiError::Refused { code: 400 | 422, .. } => "change --min or --max, or remove the rule that forbids it",
            ApiError::Refused { .. } | ApiError::Unreadable(_) | ApiError::Unanswered(_) => {
                "the scaler tries again by itself"
            }
        };
        format!("cannot scale {} to {replicas}: {failure}; {advice}", self.spec.name)
    }
}
