//! Leader election: of several scalers, the one that holds a Lease acts. One task claims the Lease, renews it and gives
//! it back. A write names the version of the Lease that was read, so that only one of two claims is accepted.

pub mod election;

use election::{Election, ElectionStep, LEASE, RETRY};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use kubernetes::{ApiError, request};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The Lease, and the candidate that claims it.
#[derive(Debug, Clone)]
pub struct CandidateSpec {
    /// The namespace of the Lease.
    pub namespace: String,
    /// The name of the Lease. It is created if it does not exist.
    pub name: String,
    /// The name of this candidate, such as the name of its pod. Two candidates with the same name would both lead.
    pub identity: String,
}

/// A candidate. Dropping it makes the candidate resign, without a wait until the Lease is given back.
#[derive(Debug)]
pub struct Candidate {
    /// Whether this candidate leads. It becomes false before another candidate can lead.
    pub leading: watch::Receiver<bool>,
    /// The task, which gives the Lease back before it ends. If it is aborted, the Lease stays until it expires.
    pub done: JoinHandle<()>,
    resign: oneshot::Sender<()>,
}

impl Candidate {
    /// Gives the Lease back for another candidate to claim at once. The leader's actions must have ended before.
    pub async fn resign(self) {
        drop(self.resign);
        if let Err(error) = self.done.await {
            tracing::warn!("the Lease was not given back ({error}); another scaler can act once it expires");
        }
    }
}

/// Starts a candidate, which claims the Lease until it resigns.
pub fn run(spec: CandidateSpec, client: Client) -> Candidate {
    let (publish, leading) = watch::channel(false);
    let (resign, mut resigned) = oneshot::channel();
    let mut elector = Elector {
        leases: Api::namespaced(client, &spec.namespace),
        election: Election::new(spec.identity.clone()),
        spec,
        publish,
        started: Instant::now(),
        logged: None,
    };
    let done = tokio::spawn(async move {
        tokio::select! {
            () = elector.run() => {}
            _dropped = &mut resigned => {}
        }
        elector.release().await;
    });
    Candidate { leading, done, resign }
}

struct Elector {
    spec: CandidateSpec,
    leases: Api<Lease>,
    election: Election,
    publish: watch::Sender<bool>,
    started: Instant,
    /// The failure that was logged last, so that it is logged once while it lasts.
    logged: Option<ApiError>,
}

impl Elector {
    async fn run(&mut self) {
        let mut pause = Duration::ZERO;
        loop {
            let deadline = self.election.deadline().map(|deadline| self.started + deadline);
            tokio::select! {
                // Stepping down comes first: after a pause of the whole process, another candidate may lead.
                biased;
                () = tokio::time::sleep_until(deadline.unwrap_or(self.started)), if deadline.is_some() => {
                    self.election.step_down();
                }
                next = async { tokio::time::sleep(pause).await; self.attempt().await } => pause = next,
            }
            self.announce();
        }
    }

    /// Reads the Lease, and claims it if that is allowed. Returns the pause before the next attempt.
    async fn attempt(&mut self) -> Duration {
        match self.step().await {
            Ok(ElectionStep::Claim) => self.logged = None,
            Ok(ElectionStep::Wait(until)) => {
                self.logged = None;
                return until.saturating_sub(self.started.elapsed());
            }
            // Another candidate has claimed the Lease since it was read.
            Err(failure) if failure.is(409) => {}
            Err(failure) if self.logged.as_ref() == Some(&failure) => {}
            Err(failure) => {
                let CandidateSpec { namespace, name, .. } = &self.spec;
                tracing::warn!("cannot claim Lease {namespace}/{name}: {failure}; check the API server and the Role");
                self.logged = Some(failure);
            }
        }
        RETRY
    }

    async fn step(&mut self) -> Result<ElectionStep, ApiError> {
        let lease = self.read().await?;
        let held = lease.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        let step = self.election.step(self.started.elapsed(), held.as_ref());
        if step == ElectionStep::Claim {
            let sent = self.started.elapsed();
            self.claim(lease, held.unwrap_or_default()).await?;
            self.election.claimed(sent);
        }
        Ok(step)
    }

    async fn read(&self) -> Result<Option<Lease>, ApiError> {
        match request(self.leases.get(&self.spec.name)).await {
            Err(failure) if failure.is(404) => Ok(None),
            lease => lease.map(Some),
        }
    }

    async fn claim(&self, lease: Option<Lease>, held: LeaseSpec) -> Result<(), ApiError> {
        let mine = held.holder_identity.as_deref() == Some(&self.spec.identity);
        // Candidates notice only that the times change. The values are for users who read the Lease.
        let now = MicroTime(Timestamp::now());
        let spec = LeaseSpec {
            holder_identity: Some(self.spec.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
            acquire_time: held.acquire_time.filter(|_| mine).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(held.lease_transitions.unwrap_or_default() + i32::from(!mine && lease.is_some())),
            ..held
        };
        match lease {
            Some(lease) => self.replace(lease, spec).await,
            None => {
                let metadata = ObjectMeta { name: Some(self.spec.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(spec) };
                request(self.leases.create(&PostParams::default(), &lease)).await.map(drop)
            }
        }
    }

    async fn replace(&self, lease: Lease, spec: LeaseSpec) -> Result<(), ApiError> {
        let lease = Lease { spec: Some(spec), ..lease };
        request(self.leases.replace(&self.spec.name, &PostParams::default(), &lease)).await.map(drop)
    }

    fn announce(&self) {
        let leads = self.election.deadline().is_some();
        if self.publish.send_if_modified(|led| std::mem::replace(led, leads) != leads) {
            let CandidateSpec { namespace, name, identity } = &self.spec;
            tracing::info!("{identity} {} Lease {namespace}/{name}", if leads { "holds" } else { "has lost" });
        }
    }

    /// Steps down, and gives the Lease back if this candidate holds it.
    async fn release(mut self) {
        self.election.step_down();
        self.announce();
        if let Err(failure) = self.give_back().await {
            let CandidateSpec { namespace, name, .. } = &self.spec;
            tracing::warn!("cannot give back Lease {namespace}/{name}: {failure}; it expires within {LEASE:?}");
        }
    }

    async fn give_back(&self) -> Result<(), ApiError> {
        loop {
            let Some(lease) = self.read().await? else { return Ok(()) };
            let held = lease.spec.clone().unwrap_or_default();
            if held.holder_identity.as_deref() != Some(&self.spec.identity) {
                return Ok(());
            }
            let free = LeaseSpec { holder_identity: None, renew_time: Some(MicroTime(Timestamp::now())), ..held };
            match self.replace(lease, free).await {
                // Another candidate, or a late claim of this one, has changed the Lease since it was read.
                Err(failure) if failure.is(409) => {}
                outcome => return outcome,
            }
        }
    }
}
