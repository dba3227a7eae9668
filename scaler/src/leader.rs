//! Which one of several scalers acts: whoever holds a Lease. One task claims it, renews it and gives it back; every
//! write is for the lease as it was read, so of two claims one is accepted.

pub mod election;

use crate::cluster::{Failure, request};
use election::{Election, LEASE, RETRY, Step};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Who stands for election, and for what.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Where the Lease is.
    pub namespace: String,
    /// The Lease. It is created if it is not there.
    pub name: String,
    /// Different for each candidate, such as its pod's name: two of the same identity would both lead.
    pub identity: String,
}

/// One candidate. Dropping it resigns, without waiting for the lease to be given back.
#[derive(Debug)]
pub struct Candidate {
    /// Whether it leads. False before another can lead; whoever acts looks at it first.
    pub leading: watch::Receiver<bool>,
    /// Ends after the lease has been given back; aborting it keeps the lease until it expires.
    pub done: JoinHandle<()>,
    resign: oneshot::Sender<()>,
}

impl Candidate {
    /// Gives the lease back, for another to claim at once. Whatever the leader does must have ended by now.
    pub async fn resign(self) {
        drop(self.resign);
        if let Err(error) = self.done.await {
            tracing::warn!("the lease may not have been given back: {error}");
        }
    }
}

/// Stands for election until it resigns.
pub fn run(spec: Spec, client: Client) -> Candidate {
    let (publish, leading) = watch::channel(false);
    let (resign, mut resigned) = oneshot::channel();
    let mut office = Office {
        leases: Api::namespaced(client, &spec.namespace),
        election: Election::new(spec.identity.clone()),
        spec,
        publish,
        started: Instant::now(),
        told: None,
    };
    let done = tokio::spawn(async move {
        tokio::select! {
            () = office.run() => {}
            _resigned = &mut resigned => {}
        }
        office.release().await;
    });
    Candidate { leading, done, resign }
}

struct Office {
    spec: Spec,
    leases: Api<Lease>,
    election: Election,
    publish: watch::Sender<bool>,
    started: Instant,
    /// What went wrong, until something else does or all is well: said once.
    told: Option<Failure>,
}

impl Office {
    async fn run(&mut self) {
        let mut pause = Duration::ZERO;
        loop {
            let deadline = self.election.deadline().map(|deadline| self.started + deadline);
            tokio::select! {
                // After a pause of the whole process, stepping down comes before anything else.
                biased;
                () = tokio::time::sleep_until(deadline.unwrap_or(self.started)), if deadline.is_some() => {
                    self.election.step_down();
                }
                next = async { tokio::time::sleep(pause).await; self.attempt().await } => pause = next,
            }
            self.announce();
        }
    }

    /// Looks once and claims if it may. Returns the pause before the next look.
    async fn attempt(&mut self) -> Duration {
        match self.look().await {
            Ok(Step::Claim) => self.told = None,
            Ok(Step::Wait { until }) => {
                self.told = None;
                return until.saturating_sub(self.started.elapsed());
            }
            // Somebody else was faster.
            Err(failure) if failure.is(409) => {}
            Err(failure) if self.told.as_ref() == Some(&failure) => {}
            Err(failure) => {
                let Spec { namespace, name, .. } = &self.spec;
                tracing::warn!("cannot claim lease {namespace}/{name}: {failure}; check the API server and the Role");
                self.told = Some(failure);
            }
        }
        RETRY
    }

    async fn look(&mut self) -> Result<Step, Failure> {
        let lease = match request(self.leases.get(&self.spec.name)).await {
            Ok(lease) => Some(lease),
            Err(failure) if failure.is(404) => None,
            Err(failure) => return Err(failure),
        };
        let held = lease.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        let step = self.election.look(self.started.elapsed(), held.as_ref());
        if step == Step::Claim {
            let sent = self.started.elapsed();
            self.claim(lease, held.unwrap_or_default()).await?;
            self.election.claimed(sent);
        }
        Ok(step)
    }

    async fn claim(&self, lease: Option<Lease>, held: LeaseSpec) -> Result<(), Failure> {
        let mine = held.holder_identity.as_deref() == Some(&self.spec.identity);
        // For people who read the lease; no candidate does.
        let now = MicroTime(Timestamp::now());
        let spec = LeaseSpec {
            holder_identity: Some(self.spec.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
            acquire_time: held.acquire_time.filter(|_| mine).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(held.lease_transitions.unwrap_or_default() + i32::from(!mine && lease.is_some())),
            ..held
        };
        let params = PostParams::default();
        match lease {
            Some(lease) => {
                let lease = Lease { spec: Some(spec), ..lease };
                request(self.leases.replace(&self.spec.name, &params, &lease)).await?;
            }
            None => {
                let metadata = ObjectMeta { name: Some(self.spec.name.clone()), ..ObjectMeta::default() };
                request(self.leases.create(&params, &Lease { metadata, spec: Some(spec) })).await?;
            }
        }
        Ok(())
    }

    fn announce(&self) {
        let leads = self.election.deadline().is_some();
        if self.publish.send_if_modified(|led| std::mem::replace(led, leads) != leads) {
            let Spec { namespace, name, identity } = &self.spec;
            tracing::info!("{identity} {} lease {namespace}/{name}", if leads { "holds" } else { "has lost" });
        }
    }

    /// Gives the lease back if it is held.
    async fn release(mut self) {
        self.election.step_down();
        self.announce();
        if let Err(failure) = self.vacate().await {
            tracing::warn!("the lease was not given back: {failure}; it expires in {LEASE:?}");
        }
    }

    async fn vacate(&self) -> Result<(), Failure> {
        loop {
            let lease = match request(self.leases.get(&self.spec.name)).await {
                Err(failure) if failure.is(404) => return Ok(()),
                lease => lease?,
            };
            let held = lease.spec.clone().unwrap_or_default();
            if held.holder_identity.as_deref() != Some(&self.spec.identity) {
                return Ok(());
            }
            let spec = LeaseSpec { holder_identity: None, renew_time: Some(MicroTime(Timestamp::now())), ..held };
            let lease = Lease { spec: Some(spec), ..lease };
            match request(self.leases.replace(&self.spec.name, &PostParams::default(), &lease)).await {
                // Another holds it already, or a claim of one's own was still on its way.
                Err(failure) if failure.is(409) => {}
                answer => return answer.map(drop),
            }
        }
    }
}
