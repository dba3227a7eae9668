//! Replicas as the pods of a Deployment. One task follows it and its pods, and grants wishes through the scale
//! subresource. It changes nothing unasked and nothing on old facts: without the API server the last state stays, with
//! a refusal, and wishes made meanwhile are forgotten.

pub mod mirror;
pub mod name;
pub mod owner;
pub mod pods;
pub mod startup;

pub use name::{Error, Name};

use super::{Handle, State, Wish};
use crate::cluster::{Failure, request};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::core::Selector;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use law::observation::Replicas;
use mirror::Mirror;
use owner::Owners;
use startup::Startup;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

/// Its name in Events and in managed fields.
const CONTROLLER: &str = "roundhouse-scaler";

/// Between two looks for another owner, which also show that the API server still answers.
const LOOK: Duration = Duration::from_secs(5);

/// Before the API server is tried again for the first time; doubled by each failure.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);

/// Longest such pause.
const LAST_BACKOFF: Duration = Duration::from_secs(10);

/// Before a rejected wish is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// A wish this old no longer counts: the load has moved on.
const STALE: Duration = Duration::from_secs(30);

/// Attempts at a write that others' writes overtake.
const ATTEMPTS: usize = 5;

/// Longest note of an Event, in bytes (Event's own documentation).
const NOTE_BYTES: usize = 1024;

/// What is scaled, and by whom.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The Deployment.
    pub name: Name,
    /// Whose Events these are, such as the scaler's pod.
    pub identity: String,
}

/// Starts the task. It refuses until it has read the Deployment, and changes nothing before the first wish.
pub fn run(spec: Spec, client: Client) -> Handle {
    let (desired, mut wanted) = watch::channel(Wish::default());
    let unread = State { refusal: Some(format!("{} has not been read yet; wait", spec.name)), ..State::default() };
    let (publish, state) = watch::channel(unread);
    let target = Target {
        deployments: Api::namespaced(client.clone(), &spec.name.namespace),
        pods: Api::namespaced(client.clone(), &spec.name.namespace),
        owners: Owners::new(&spec.name, &client),
        client,
        spec,
        publish,
        startup: Startup::default(),
        owner: None,
        rejected: None,
    };
    let mut closing = wanted.clone();
    let done = tokio::spawn(async move {
        tokio::select! {
            () = target.run(&mut wanted) => {}
            () = async { while closing.changed().await.is_ok() {} } => {}
        }
    });
    Handle { desired, state, done }
}

struct Target {
    spec: Spec,
    client: Client,
    deployments: Api<Deployment>,
    pods: Api<Pod>,
    owners: Owners,
    publish: watch::Sender<State>,
    startup: Startup,
    /// Who else scales it.
    owner: Option<String>,
    rejected: Option<Rejected>,
}

/// The pods that a selector means.
struct Selected {
    selector: LabelSelector,
    pods: Mirror<Pod>,
}

/// A wish that the API server did not grant.
struct Rejected {
    wish: Wish,
    wished: Instant,
    refusal: String,
    retry: Instant,
}

impl Target {
    async fn run(mut self, wanted: &mut watch::Receiver<Wish>) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let Err(failure) = self.follow(wanted, &mut backoff).await;
            let refusal =
                format!("cannot follow {}: {failure}; check the API server and the scaler's Role", self.spec.name);
            tracing::warn!("{refusal}; trying again in {backoff:?}");
            self.publish.send_if_modified(|state| state.refusal.replace(refusal.clone()) != Some(refusal));
            self.rejected = None;
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
    }

    /// Until the API server fails.
    async fn follow(
        &mut self,
        wanted: &mut watch::Receiver<Wish>,
        backoff: &mut Duration,
    ) -> Result<Infallible, Failure> {
        let only = watcher::Config::default().fields(&format!("metadata.name={}", self.spec.name.name));
        let mut deployments = Mirror::new(self.deployments.clone(), only);
        let mut pods: Option<Selected> = None;
        let mut look = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.owner = self.owners.find().await?;
        wanted.mark_unchanged();
        loop {
            let next_pod = async {
                match &mut pods {
                    Some(selected) => selected.pods.next().await,
                    None => std::future::pending().await,
                }
            };
            let retry = self.rejected.as_ref().map(|rejected| rejected.retry);
            let mut wish = None;
            tokio::select! {
                told = deployments.next() => told?,
                told = next_pod => told?,
                _ = look.tick() => self.owner = self.owners.find().await?,
                Ok(()) = wanted.changed() => wish = Some((wanted.borrow_and_update().clone(), Instant::now())),
                () = tokio::time::sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {
                    wish = self.again();
                }
            }
            let Some(listed) = deployments.objects() else { continue };
            let Some(deployment) = listed.first() else {
                pods = None;
                self.rejected = None;
                *backoff = FIRST_BACKOFF;
                self.report(Replicas::default(), Some(self.missing()));
                continue;
            };
            let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
            if selector != pods.as_ref().map(|pods| &pods.selector) {
                pods = selector.map(|selector| self.selected(selector)).transpose()?;
            }
            let Some(seen) = pods.as_ref().and_then(|selected| selected.pods.objects()) else { continue };
            *backoff = FIRST_BACKOFF;
            self.startup.note(&seen);
            if let Some((wish, wished)) = wish {
                self.grant(deployment, &seen, wish, wished).await?;
            }
            let rejected = self.rejected.as_ref().map(|rejected| rejected.refusal.clone());
            let refusal = self.owner.clone().or(rejected);
            self.report(pods::count(deployment, &seen), refusal);
        }
    }

    fn selected(&self, selector: &LabelSelector) -> Result<Selected, Failure> {
        let parsed: Result<Selector, _> = selector.clone().try_into();
        let parsed = parsed.map_err(|error| Failure::Unanswered(format!("its selector is no selector ({error})")))?;
        let only = watcher::Config::default().labels_from(&parsed);
        Ok(Selected { selector: selector.clone(), pods: Mirror::new(self.pods.clone(), only) })
    }

    /// The rejected wish, unless it is too old by now; then the way is free for another.
    fn again(&mut self) -> Option<(Wish, Instant)> {
        let rejected = self.rejected.take()?;
        (rejected.wished.elapsed() < STALE).then_some((rejected.wish, rejected.wished))
    }

    /// Grants a wish, or notes why not.
    async fn grant(
        &mut self,
        deployment: &Arc<Deployment>,
        seen: &[Arc<Pod>],
        wish: Wish,
        wished: Instant,
    ) -> Result<(), Failure> {
        if let Some(rejected) = &mut self.rejected
            && rejected.wish.replicas == wish.replicas
        {
            (rejected.wish, rejected.wished) = (wish, wished);
            return Ok(());
        }
        self.rejected = None;
        // It may have come since the last look.
        self.owner = self.owners.find().await?;
        if self.owner.is_some() {
            return Ok(());
        }
        if let Err(failure) = self.scale(deployment, seen, &wish).await {
            let refusal = self.refusal(wish.replicas, &failure);
            tracing::warn!("{refusal}");
            self.rejected = Some(Rejected { wish, wished, refusal, retry: Instant::now() + RETRY });
        }
        Ok(())
    }

    /// Sets the number of replicas, unless somebody else has changed it since the wish was made: then the next wish
    /// takes that into account.
    async fn scale(&self, deployment: &Deployment, seen: &[Arc<Pod>], wish: &Wish) -> Result<(), Failure> {
        let name = &self.spec.name.name;
        let before = pods::desired(deployment);
        let params = PatchParams { field_manager: Some(CONTROLLER.into()), ..PatchParams::default() };
        let mut attempt = 1;
        loop {
            let present = request(self.deployments.get_scale(name)).await?;
            let replicas = present.spec.and_then(|spec| spec.replicas).unwrap_or_default();
            let replicas = usize::try_from(replicas).unwrap_or_default();
            if replicas == wish.replicas {
                return Ok(());
            }
            if replicas != before {
                tracing::info!("somebody else set {} to {replicas}; not changing that now", self.spec.name);
                return Ok(());
            }
            let change = Scale {
                metadata: ObjectMeta { resource_version: present.metadata.resource_version, ..ObjectMeta::default() },
                spec: Some(ScaleSpec { replicas: Some(i32::try_from(wish.replicas).unwrap_or(i32::MAX)) }),
                status: None,
            };
            match request(self.deployments.patch_scale(name, &params, &Patch::Merge(change))).await {
                Ok(_) => break,
                Err(failure) if failure.is(409) && attempt < ATTEMPTS => attempt += 1,
                Err(failure) => return Err(failure),
            }
        }
        self.tell(deployment, seen, before, wish).await;
        Ok(())
    }

    /// As an Event on the Deployment.
    async fn tell(&self, deployment: &Deployment, seen: &[Arc<Pod>], before: usize, wish: &Wish) {
        let mut note = format!("from {before} to {} replicas: {}", wish.replicas, wish.reason);
        let (type_, reason) = if wish.is_full && wish.replicas < before {
            note.extend(pods::obstacle(seen).map(|obstacle| format!("; {obstacle}")));
            (EventType::Warning, "CeilingReached")
        } else {
            (EventType::Normal, "Scaled")
        };
        note.truncate(note.floor_char_boundary(NOTE_BYTES));
        tracing::info!("scaled {} {note}", self.spec.name);
        let event = Event { type_, reason: reason.into(), note: Some(note), action: "Scale".into(), secondary: None };
        // One for each, as a recorder counts Events of the same kind as one, with the first one's note.
        let reporter = Reporter { controller: CONTROLLER.into(), instance: Some(self.spec.identity.clone()) };
        let recorder = Recorder::new(self.client.clone(), reporter);
        if let Err(failure) = request(recorder.publish(&event, &deployment.object_ref(&()))).await {
            tracing::warn!("cannot publish an Event on {}: {failure}", self.spec.name);
        }
    }

    fn report(&self, replicas: Replicas, refusal: Option<String>) {
        let state = State { replicas, startup: self.startup.mean(), refusal };
        self.publish.send_if_modified(|present| {
            let changed = *present != state;
            *present = state;
            changed
        });
    }

    fn missing(&self) -> String {
        format!("{} does not exist; create it, or name another", self.spec.name)
    }

    fn refusal(&self, replicas: usize, failure: &Failure) -> String {
        let what = match failure {
            Failure::Refused { code: 404, .. } => return self.missing(),
            Failure::Refused { code: 401 | 403, .. } => {
                "let the scaler get and patch deployments/scale, or lift what forbids it"
            }
            Failure::Refused { code: 400 | 422, .. } => "change the bounds, or lift what forbids it",
            Failure::Refused { .. } | Failure::Unanswered(_) => "wait, it is tried again",
        };
        format!("cannot scale {} to {replicas}: {failure}; {what}", self.spec.name)
    }
}
