//! Leader election: of several scalers, the one that holds a Lease acts. One task claims the Lease, renews it and gives
//! it back. A write names the version of the Lease that was read, so that only one of two claims is accepted. A `Fence`
//! keeps a scaler that no longer leads from writing to its target.

pub mod election;

use election::{Election, ElectionStep, LEASE, RETRY};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use kubernetes::denials::Denials;
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

/// The time in which one candidate leads, from its claim of the Lease until another candidate has claimed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// The field `leaseTransitions` of the Lease, which grows with each change of the holder.
    pub transitions: i32,
    /// The candidate stops leading at this time unless it renews the Lease before.
    pub until: Instant,
}

impl Term {
    /// Whether the candidate still leads by this process's clock. After a pause of the whole process, this is known
    /// before the candidate's task has run.
    pub fn lasts(&self) -> bool {
        Instant::now() < self.until
    }
}

/// The check that a term lasts, for the moment before a write.
#[derive(Debug, Clone)]
pub struct Fence {
    leases: Api<Lease>,
    spec: CandidateSpec,
    leading: watch::Receiver<Option<Term>>,
}

impl Fence {
    /// Reads the Lease. Returns whether `term` lasts: the Lease still has its holder and its number of transitions, and
    /// the time to renew it has not passed.
    ///
    /// A write that follows must name a version of the written object that was read before this call. Otherwise it
    /// could overwrite what another leader has written since the Lease was read.
    ///
    /// # Errors
    /// If the API server does not give the Lease.
    pub async fn admits(&self, term: Option<Term>) -> Result<bool, ApiError> {
        let lease = request(self.leases.get_opt(&self.spec.name)).await?;
        let held = lease.and_then(|lease| lease.spec).unwrap_or_default();
        let is_holder = held.holder_identity.as_deref() == Some(&self.spec.identity);
        let transitions = held.lease_transitions.unwrap_or_default();
        let is_of_term = |term: Option<Term>| term.is_some_and(|term| term.transitions == transitions);
        let present = self.leading.borrow().filter(Term::lasts);
        Ok(is_holder && is_of_term(term) && is_of_term(present))
    }
}

/// A candidate. Dropping it makes the candidate resign, without a wait until the Lease is given back.
#[derive(Debug)]
pub struct Candidate {
    /// The term while this candidate leads, otherwise `None`. It is over before another candidate can lead. When the
    /// candidate's task ends, for whatever reason, the value becomes `None` and the channel is closed.
    pub leading: watch::Receiver<Option<Term>>,
    /// The check for writes of this candidate.
    pub fence: Fence,
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
    let (publish, leading) = watch::channel(None);
    let (resign, mut resigned) = oneshot::channel();
    let leases = Api::namespaced(client, &spec.namespace);
    let fence = Fence { leases: leases.clone(), spec: spec.clone(), leading: leading.clone() };
    let mut elector = Elector {
        leases,
        election: Election::new(spec.identity.clone()),
        spec,
        publish,
        transitions: 0,
        started: Instant::now(),
        failures: FailureLog::default(),
    };
    let done = tokio::spawn(async move {
        tokio::select! {
            () = elector.run() => {}
            _dropped = &mut resigned => {}
        }
        elector.release().await;
    });
    Candidate { leading, fence, done, resign }
}

struct Elector {
    spec: CandidateSpec,
    leases: Api<Lease>,
    election: Election,
    publish: watch::Sender<Option<Term>>,
    /// The transitions that the last accepted claim has written.
    transitions: i32,
    started: Instant,
    failures: FailureLog,
}

/// Chooses the failures for the log.
#[derive(Debug, Default)]
struct FailureLog {
    /// The failure that was logged last, so that it is logged once while it lasts.
    logged: Option<ApiError>,
    denials: Denials,
}

impl FailureLog {
    /// The failure of the attempt at `now`, if it is to be logged. An API server that has just started may forbid every
    /// request until it has read the Roles, so a request counts as forbidden only once that lasts.
    fn news<'a>(&mut self, now: Instant, failure: Option<&'a ApiError>) -> Option<&'a ApiError> {
        self.denials.note(failure, now);
        if self.denials.may_pass(now) {
            return None;
        }
        let is_new = self.logged.as_ref() != failure;
        self.logged = failure.cloned();
        failure.filter(|_| is_new)
    }
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
        let step = self.step().await;
        let at = self.started.elapsed();
        // After a conflict, another candidate has claimed the Lease since it was read.
        let failure = step.as_ref().err().filter(|failure| !failure.is(409));
        if let Some(failure) = self.failures.news(Instant::now(), failure) {
            let CandidateSpec { namespace, name, .. } = &self.spec;
            let cause = if failure.is(403) { "the scaler's Role" } else { "the API server" };
            tracing::warn!("cannot claim Lease {namespace}/{name}: {failure}; check {cause}");
        }
        match step {
            Ok(ElectionStep::Wait(until)) => until.saturating_sub(at),
            Ok(ElectionStep::Claim) | Err(_) => RETRY,
        }
    }

    async fn step(&mut self) -> Result<ElectionStep, ApiError> {
        let lease = self.read().await?;
        let held = lease.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        let step = self.election.step(self.started.elapsed(), held.as_ref());
        if step == ElectionStep::Claim {
            let sent = self.started.elapsed();
            self.transitions = self.claim(lease, held.unwrap_or_default()).await?;
            self.election.claimed(sent);
        }
        Ok(step)
    }

    async fn read(&self) -> Result<Option<Lease>, ApiError> {
        request(self.leases.get_opt(&self.spec.name)).await
    }

    /// Writes a claim. Returns its number of transitions.
    async fn claim(&self, lease: Option<Lease>, held: LeaseSpec) -> Result<i32, ApiError> {
        let mine = held.holder_identity.as_deref() == Some(&self.spec.identity);
        let transitions = transitions(&held, !mine && lease.is_some());
        // Candidates notice only that the times change. The values are for users who read the Lease.
        let now = MicroTime(Timestamp::now());
        let spec = LeaseSpec {
            holder_identity: Some(self.spec.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
            acquire_time: held.acquire_time.filter(|_| mine).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..held
        };
        match lease {
            Some(lease) => self.replace(lease, spec).await?,
            None => {
                let metadata = ObjectMeta { name: Some(self.spec.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(spec) };
                request(self.leases.create(&PostParams::default(), &lease)).await?;
            }
        }
        Ok(transitions)
    }

    async fn replace(&self, lease: Lease, spec: LeaseSpec) -> Result<(), ApiError> {
        let lease = Lease { spec: Some(spec), ..lease };
        request(self.leases.replace(&self.spec.name, &PostParams::default(), &lease)).await.map(drop)
    }

    fn announce(&self) {
        let until = self.election.deadline().map(|deadline| self.started + deadline);
        let term = until.map(|until| Term { transitions: self.transitions, until });
        if self.publish.send_replace(term).is_some() != term.is_some() {
            let CandidateSpec { namespace, name, identity } = &self.spec;
            tracing::info!("{identity} {} Lease {namespace}/{name}", if term.is_some() { "holds" } else { "has lost" });
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

/// The number of transitions that a claim writes. After the largest number, it begins again: a user may have edited the
/// Lease.
fn transitions(held: &LeaseSpec, is_other: bool) -> i32 {
    held.lease_transitions.unwrap_or_default().checked_add(i32::from(is_other)).unwrap_or_default()
}

impl Drop for Elector {
    /// A task that has panicked, or was aborted, no longer renews the Lease, so another candidate may lead soon.
    fn drop(&mut self) {
        self.publish.send_replace(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::client::Body;
    use serde_json::json;

    /// A client of an API server that has no Lease, and creates one.
    fn client() -> Client {
        let service = tower::service_fn(|request: hyper::Request<Body>| {
            let (code, answer) = match *request.method() {
                hyper::Method::POST => {
                    (201, json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {}}))
                }
                _ => (404, json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404})),
            };
            let answer = hyper::Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()));
            std::future::ready(answer)
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn a_candidate_whose_task_has_ended_leads_no_longer() {
        let spec = CandidateSpec { namespace: "shop".into(), name: "lease".into(), identity: "me".into() };
        let mut candidate = run(spec, client());
        let leads = tokio::time::timeout(Duration::from_secs(5), candidate.leading.wait_for(Option::is_some)).await;
        leads.expect("the candidate leads in time").expect("the task runs");
        // Like a panic, this drops the task's future.
        candidate.done.abort();
        (&mut candidate.done).await.expect_err("the task was aborted");
        assert_eq!(*candidate.leading.borrow(), None);
    }

    #[test]
    fn a_transition_is_counted_and_the_largest_number_is_followed_by_zero() {
        for (held, is_other, expected) in
            [(None, false, 0), (Some(3), false, 3), (Some(3), true, 4), (Some(i32::MAX), true, 0)]
        {
            let held = LeaseSpec { lease_transitions: held, ..LeaseSpec::default() };
            assert_eq!(transitions(&held, is_other), expected, "{held:?}");
        }
    }

    #[test]
    fn forbidden_requests_are_logged_once_they_last() {
        let refused = |code| ApiError::Refused { code, message: String::new() };
        let (mut log, start) = (FailureLog::default(), Instant::now());
        for (second, code, is_logged) in [
            (0, Some(500), true),
            (2, Some(500), false),
            // The API server has just started.
            (4, Some(403), false),
            (6, None, false),
            (8, Some(403), false),
            (16, Some(403), false),
            (18, Some(403), true),
            (20, Some(403), false),
            (22, None, false),
            (24, Some(500), true),
        ] {
            let failure = code.map(refused);
            let news = log.news(start + Duration::from_secs(second), failure.as_ref());
            assert_eq!(news.is_some(), is_logged, "at {second} s");
        }
    }
}
