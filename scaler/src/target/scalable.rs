//! Replicas as the pods of an object with the subresource `scale`: of a Deployment, a StatefulSet, or another type. One
//! task follows the object and its pods, and sets the number of replicas through that subresource. Desired replicas are
//! written at once, while this scaler leads, or never. While the API server does not answer, the last state stays, with a
//! refusal, and desired replicas that arrive are dropped.

pub mod deletion_cost;
pub mod object;
pub mod pod_events;
pub mod pod_times;
pub mod pods;
pub mod room;

use super::{Desired, Handle, Rejection, TargetState};
use crate::leader::Fence;
use deletion_cost::{ANNOTATION, Change};
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use kubernetes::backoff::Backoff;
use kubernetes::denials::Denials;
use kubernetes::mirror::Mirror;
use kubernetes::name::ScalableName;
use kubernetes::owner::Owners;
use kubernetes::{ApiError, request};
use object::Scalable;
use pod_events::PodEvents;
use pod_times::PodTimes;
use pods::PodState;
use service::repeated_failure::RepeatedFailure;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

/// This program's name in Events and in managed fields.
const CONTROLLER: &str = "roundhouse-scaler";

/// Time between two searches for another autoscaler and for the Events of pods without a node. They also show whether the
/// API server still answers.
const SEARCH_INTERVAL: Duration = Duration::from_secs(5);

/// The least time between two counts of the pods. All pods are looked at for a count, so a count for each change of a pod
/// would cost thousands of pods that start or stop a third of a core and more.
const COUNT_PAUSE: Duration = Duration::from_millis(100);

/// Pause after a change that the API server has rejected.
const REJECTION_PAUSE: Duration = Duration::from_secs(5);

/// The most attempts to write one change while other programs, such as the Deployment's controller, write its status.
const ATTEMPTS: usize = 4;

/// Longest note of an Event, in bytes (documentation of Event).
const NOTE_BYTES: usize = 1024;

/// The longest time for the deletion costs of pods. The change of the scale is not put off for longer.
const COSTS_TIME: Duration = Duration::from_secs(5);

/// Advice after a denial that may pass.
const STARTS_UP: &str = "an API server that has just started forbids every request for a moment";

/// An object as a target, and the scaler's name.
#[derive(Debug, Clone)]
pub struct ScalableSpec {
    /// The name of the object.
    pub name: ScalableName,
    /// The name of this scaler in Events, such as the name of its pod.
    pub identity: String,
    /// Whether pods get deletion costs before replicas are removed.
    pub has_deletion_costs: bool,
    /// Whether another autoscaler sets the number of replicas by the recommendations. That autoscaler is then not looked
    /// for, and is no reason to refuse.
    pub is_advised: bool,
}

/// Starts the task. It refuses changes until it has read the object. `fence` is that of the Lease whose holder may
/// write; `None` if this is the only scaler of the object.
pub fn run(spec: ScalableSpec, client: Client, fence: Option<Fence>) -> Handle {
    let (desired, mut receiver) = watch::channel(Desired::default());
    let refusal = Some(format!("{} has not been read yet; wait a few seconds", spec.name));
    let (publish, state) = watch::channel(TargetState { refusal, ..TargetState::default() });
    let namespace = &spec.name.namespace;
    let target = ScalableTarget {
        pods: Api::namespaced(client.clone(), namespace),
        events: PodEvents::new(&client, namespace),
        owners: Owners::new(&spec.name, &client),
        client,
        spec,
        fence,
        publish,
        times: PodTimes::default(),
        owner: None,
        rejection: None,
        backoff: Backoff::default(),
        read_denials: Denials::default(),
        write_denials: Denials::default(),
        event_denials: Denials::default(),
        cost_denials: Denials::default(),
        read_failure: RepeatedFailure::default(),
        event_failure: RepeatedFailure::default(),
        cost_failure: RepeatedFailure::default(),
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

struct ScalableTarget {
    spec: ScalableSpec,
    client: Client,
    pods: Api<Pod>,
    events: PodEvents,
    owners: Owners,
    fence: Option<Fence>,
    publish: watch::Sender<TargetState>,
    times: PodTimes,
    /// A message about another autoscaler that scales the object; `None` if there is none.
    owner: Option<String>,
    rejection: Option<Rejection>,
    backoff: Backoff,
    /// Forbidden requests that read, that write the scale, and that publish Events.
    read_denials: Denials,
    write_denials: Denials,
    event_denials: Denials,
    /// Forbidden requests that write deletion costs.
    cost_denials: Denials,
    /// The failures of these requests in the log.
    read_failure: RepeatedFailure,
    event_failure: RepeatedFailure,
    cost_failure: RepeatedFailure,
}

/// The followed object: its type, its interface, and the pods that its selector picks.
struct Followed {
    type_: ApiResource,
    objects: Api<DynamicObject>,
    /// The latest scale, and the version of the object with which it was read; `None` for a type that does not need it.
    scale: Option<(String, Scale)>,
    selected: Option<Selected>,
}

/// The selector of an object, and the pods that it picks.
struct Selected {
    selector: String,
    pods: Mirror<Pod>,
}

impl Followed {
    /// The pods of the object; `None` until they have been listed.
    fn pods(&self) -> Option<Vec<Arc<Pod>>> {
        self.selected.as_ref()?.pods.objects()
    }
}

/// The object and its pods at a decision.
struct Present<'a> {
    objects: &'a Api<DynamicObject>,
    /// The object in Events.
    reference: ObjectReference,
    desired: usize,
    obstacle: Option<String>,
    /// The changes of deletion costs before replicas are removed.
    costs: Vec<Change>,
}

impl ScalableTarget {
    async fn run(mut self, receiver: &mut watch::Receiver<Desired>) {
        loop {
            let Err(failure) = self.follow(receiver).await;
            let now = Instant::now();
            self.read_denials.note(Some(&failure), now);
            let advice = match &failure {
                _ if self.read_denials.last(now) => "check the scaler's Role",
                _ if self.read_denials.may_pass(now) => STARTS_UP,
                ApiError::Refused { code: 404, .. } => "check --target",
                _ => "check the API server",
            };
            let refusal = format!("cannot follow {}: {failure}; {advice}", self.spec.name);
            let pause = self.backoff.after_failure();
            if self.read_failure.is_news(&refusal, now.into_std()) {
                tracing::warn!("{refusal}; trying again in {pause:.1?}");
            }
            self.publish.send_if_modified(|state| state.refusal.replace(refusal.clone()) != Some(refusal));
            self.rejection = None;
            tokio::time::sleep(pause).await;
        }
    }

    /// Follows the object until a request to the API server fails.
    async fn follow(&mut self, receiver: &mut watch::Receiver<Desired>) -> Result<Infallible, ApiError> {
        let type_ = self.resource().await?;
        let objects = Api::namespaced_with(self.client.clone(), &self.spec.name.namespace, &type_);
        let only = watcher::Config::default().fields(&format!("metadata.name={}", self.spec.name.name));
        let mut mirror = Mirror::of_type(objects.clone(), only, type_.clone());
        let mut followed = Followed { type_, objects, scale: None, selected: None };
        let mut search = tokio::time::interval_at(Instant::now() + SEARCH_INTERVAL, SEARCH_INTERVAL);
        search.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.owner = self.find_owner(&followed.type_.kind).await?;
        receiver.mark_unchanged();
        // The end of the pause after the last count, and whether something has changed since that count.
        let (mut pause_end, mut is_stale) = (Instant::now(), false);
        loop {
            let next_pod = async {
                match &mut followed.selected {
                    Some(selected) => selected.pods.next().await,
                    None => std::future::pending().await,
                }
            };
            let mut desired = None;
            tokio::select! {
                event = mirror.next() => event?,
                event = next_pod => event?,
                _ = search.tick() => {
                    let pods = followed.pods().unwrap_or_default();
                    self.search(&followed.type_.kind, &pods).await?;
                }
                Ok(()) = receiver.changed() => desired = Some(receiver.borrow_and_update().clone()),
                () = tokio::time::sleep_until(pause_end), if is_stale => {}
            }
            // Until the object is listed, nothing is stale. Otherwise the pause, which is over, would end again and again.
            let Some(listed) = mirror.objects() else { continue };
            is_stale = true;
            // Desired replicas are acted upon at once.
            if desired.is_none() && Instant::now() < pause_end {
                continue;
            }
            self.update(listed.first(), &mut followed, desired).await?;
            (pause_end, is_stale) = (Instant::now() + COUNT_PAUSE, false);
        }
    }

    /// A message about another autoscaler that scales the object; `None` if there is none, or if it is advised.
    async fn find_owner(&mut self, kind: &str) -> Result<Option<String>, ApiError> {
        if self.spec.is_advised { Ok(None) } else { self.owners.find(kind).await }
    }

    /// The type of the object, whose kind the API server knows.
    async fn resource(&self) -> Result<ApiResource, ApiError> {
        let type_ = &self.spec.name.type_;
        if let Some(kind) = type_.kind() {
            return Ok(type_.resource(kind));
        }
        let (group, version, plural) = type_.path();
        let list = if group.is_empty() {
            request(self.client.list_core_api_resources(version)).await?
        } else {
            request(self.client.list_api_group_resources(&type_.api_version())).await?
        };
        let find = |name: &str| list.resources.iter().find(|resource| resource.name == name);
        let missing = |message: String| ApiError::Refused { code: 404, message };
        let found = find(plural).ok_or_else(|| missing(format!("{} has no {plural}", type_.api_version())))?;
        if find(&format!("{plural}/scale")).is_none() {
            return Err(missing(format!("{type_} have no subresource scale")));
        }
        Ok(type_.resource(&found.kind))
    }

    /// Looks for another autoscaler, and for the Events of those `pods` that have no node.
    async fn search(&mut self, kind: &str, pods: &[Arc<Pod>]) -> Result<(), ApiError> {
        self.owner = self.find_owner(kind).await?;
        let waiting = pods.iter().map(AsRef::as_ref).filter(|pod| pods::pod_state(pod) == PodState::Unplaced);
        self.events.refresh(waiting).await
    }

    /// Sets the desired replicas, if there are any, and reports the state. Does nothing until the pods are listed.
    async fn update(
        &mut self,
        object: Option<&Arc<DynamicObject>>,
        followed: &mut Followed,
        desired: Option<Desired>,
    ) -> Result<(), ApiError> {
        let Some(object) = object else {
            followed.selected = None;
            self.rejection = None;
            self.has_read();
            self.refuse(self.missing());
            return Ok(());
        };
        self.read_scale(object, followed).await?;
        let scale = followed.scale.as_ref().map(|(_, scale)| scale);
        let scalable = match Scalable::new(&self.spec.name.type_, object, scale) {
            Ok(scalable) => scalable,
            Err(reason) => {
                followed.selected = None;
                self.refuse(format!("cannot find the pods of {}: {reason}", self.spec.name));
                return Ok(());
            }
        };
        if followed.selected.as_ref().is_none_or(|selected| selected.selector != scalable.selector) {
            let only = watcher::Config::default().labels(&scalable.selector);
            let pods = Mirror::stripped(self.pods.clone(), only, pods::strip);
            followed.selected = Some(Selected { selector: scalable.selector.clone(), pods });
        }
        let Some(pods) = followed.pods() else { return Ok(()) };
        self.has_read();
        let states = self.times.note(&pods, &self.events.outlooks, Instant::now());
        let obstacle = pods::obstacle(&scalable, &pods, &states, &self.events.outlooks);
        if let Some(desired) = desired {
            let reference = object.object_ref(&followed.type_);
            let objects = &followed.objects;
            let removed = scalable.desired.saturating_sub(desired.replicas);
            let has_costs = self.spec.has_deletion_costs && removed > 0;
            let costs = if has_costs { deletion_cost::changes(&pods, &states, removed) } else { Vec::new() };
            let present = Present { objects, reference, desired: scalable.desired, obstacle: obstacle.clone(), costs };
            self.grant(&present, &followed.type_.kind, &desired).await?;
        }
        self.report(TargetState {
            replicas: pods::count(&scalable, &states),
            obstacle,
            awaited: pods::awaited(&pods, &states, &self.events.outlooks),
            refusal: self.owner.clone(),
            ..TargetState::default()
        });
        Ok(())
    }

    /// Reads the subresource `scale` if the object has changed and its type needs that.
    async fn read_scale(&self, object: &DynamicObject, followed: &mut Followed) -> Result<(), ApiError> {
        let version = object.metadata.resource_version.clone().unwrap_or_default();
        let is_read = followed.scale.as_ref().is_some_and(|(read, _)| *read == version);
        if !is_read && Scalable::needs_scale(&self.spec.name.type_) {
            let scale = request(followed.objects.get_scale(&self.spec.name.name)).await?;
            followed.scale = Some((version, scale));
        }
        Ok(())
    }

    /// Notes that the API server has answered.
    fn has_read(&mut self) {
        self.backoff.reset();
        self.read_denials.note(None, Instant::now());
    }

    /// Sets the number of replicas, or notes that the API server has rejected the change.
    async fn grant(&mut self, present: &Present<'_>, kind: &str, desired: &Desired) -> Result<(), ApiError> {
        // The present number is not left out: nothing is written then, and the rejection is over.
        let is_change = desired.replicas != present.desired;
        if is_change && self.rejection.as_ref().is_some_and(Rejection::pauses) {
            return Ok(());
        }
        self.rejection = None;
        // Another autoscaler may have been created since the last search.
        self.owner = self.find_owner(kind).await?;
        if self.owner.is_some() {
            return Ok(());
        }
        let outcome = self.scale(present, desired).await;
        self.write_denials.note(outcome.as_ref().err(), Instant::now());
        if let Err(failure) = outcome {
            let reason = self.advice(desired.replicas, &failure);
            self.rejection = Some(Rejection { reason, until: Instant::now() + REJECTION_PAUSE });
        }
        Ok(())
    }

    /// Sets the number of replicas. Leaves the change out if another program has set the number since the last update,
    /// or if this scaler no longer leads: the next decision takes that into account.
    async fn scale(&mut self, present: &Present<'_>, desired: &Desired) -> Result<(), ApiError> {
        let name = self.spec.name.name.clone();
        let before = present.desired;
        for _ in 0..ATTEMPTS {
            let scale = request(present.objects.get_scale(&name)).await?;
            let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or_default();
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
            self.write_costs(&present.costs).await;
            let change = Scale {
                metadata: ObjectMeta { resource_version: scale.metadata.resource_version, ..ObjectMeta::default() },
                spec: Some(ScaleSpec { replicas: Some(i32::try_from(desired.replicas).unwrap_or(i32::MAX)) }),
                status: None,
            };
            let params = PatchParams { field_manager: Some(CONTROLLER.into()), ..PatchParams::default() };
            match request(present.objects.patch_scale(&name, &params, &Patch::Merge(change))).await {
                Ok(_) => {
                    self.publish_event(present, desired).await;
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

    /// Writes deletion costs. They are advice to the ReplicaSet, so a failure does not keep the replicas from being removed.
    async fn write_costs(&mut self, costs: &[Change]) {
        let write = async {
            for Change { pod, cost } in costs {
                let cost = cost.map(|cost| cost.to_string());
                let patch = serde_json::json!({"metadata": {"annotations": {ANNOTATION: cost}}});
                match request(self.pods.patch_metadata(pod, &PatchParams::default(), &Patch::Merge(patch))).await {
                    Ok(_) => {}
                    // The pod has gone in the meantime.
                    Err(failure) if failure.is(404) => {}
                    Err(failure) => return Err(failure),
                }
            }
            Ok(())
        };
        let written = tokio::time::timeout(COSTS_TIME, write).await;
        let written = written.unwrap_or_else(|_| Err(ApiError::Unanswered(format!("no end within {COSTS_TIME:?}"))));
        self.cost_denials.note(written.as_ref().err(), Instant::now());
        if let Err(failure) = written {
            let advice = if self.cost_denials.last(Instant::now()) { "; let the scaler patch pods" } else { "" };
            let text = format!("cannot write the deletion costs of pods of {}: {failure}{advice}", self.spec.name);
            if self.cost_failure.is_news(&text, Instant::now().into_std()) {
                tracing::warn!("{text}");
            }
        }
    }

    /// Logs a change, and publishes it as an Event on the object.
    async fn publish_event(&mut self, present: &Present<'_>, desired: &Desired) {
        let before = present.desired;
        let mut note = format!("from {before} to {} replicas: {}", desired.replicas, desired.reason);
        let (type_, reason) = if desired.is_full && desired.replicas < before {
            note.extend(present.obstacle.as_ref().map(|obstacle| format!("; {obstacle}")));
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
        let outcome = request(recorder.publish(&event, &present.reference)).await;
        self.event_denials.note(outcome.as_ref().err(), Instant::now());
        if let Err(failure) = outcome {
            let advice = if self.event_denials.last(Instant::now()) { "; check the scaler's Role" } else { "" };
            let text = format!("cannot publish an Event on {}: {failure}{advice}", self.spec.name);
            if self.event_failure.is_news(&text, Instant::now().into_std()) {
                tracing::warn!("{text}");
            }
        }
    }

    fn refuse(&self, refusal: String) {
        self.report(TargetState { refusal: Some(refusal), ..TargetState::default() });
    }

    /// Publishes `state` with the measured times and the last rejection.
    fn report(&self, state: TargetState) {
        let (startup, placement, node_time) = (self.times.startup(), self.times.placement(), self.times.node_time());
        let state = TargetState { startup, placement, node_time, rejection: self.rejection.clone(), ..state };
        self.publish.send_if_modified(|present| std::mem::replace(present, state.clone()) != state);
    }

    fn missing(&self) -> String {
        format!("{} does not exist; create it, or name another", self.spec.name)
    }

    /// What was rejected and why, with advice.
    fn advice(&self, replicas: usize, failure: &ApiError) -> String {
        let advice = match failure {
            ApiError::Refused { code: 404, .. } => return self.missing(),
            _ if self.write_denials.last(Instant::now()) => {
                let plural = self.spec.name.type_.path().2;
                &format!(
                    "let the scaler get and patch {plural}/scale and get its Lease, or remove the rule that forbids it"
                )
            }
            _ if self.write_denials.may_pass(Instant::now()) => STARTS_UP,
            ApiError::Refused { code: 400 | 422, .. } => "change --min or --max, or remove the rule that forbids it",
            ApiError::Refused { .. } | ApiError::Unreadable(_) | ApiError::Unanswered(_) => {
                "the scaler tries again by itself"
            }
        };
        format!("cannot scale {} to {replicas}: {failure}; {advice}", self.spec.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::client::Body;

    #[tokio::test]
    async fn a_target_waits_for_the_list_without_processor_time() {
        let silent = tower::service_fn(|_request: hyper::Request<Body>| {
            std::future::pending::<Result<hyper::Response<Body>, Infallible>>()
        });
        let spec = ScalableSpec {
            name: "deployment:shop/replica".parse().expect("a name"),
            identity: "scaler-0".into(),
            has_deletion_costs: false,
            is_advised: true,
        };
        let _target = run(spec, Client::new(silent, "default"), None);
        let waited = Duration::from_millis(400);
        tokio::time::sleep(waited).await;
        let busy = tokio::runtime::Handle::current().metrics().worker_total_busy_duration(0);
        assert!(busy < waited / 2, "{busy:?} of {waited:?}");
    }
}
