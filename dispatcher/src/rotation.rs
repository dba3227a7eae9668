//! The set of replicas, their states, and the choice of a replica among those with a free slot. Pure: time and
//! randomness are arguments, and no socket is opened here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The published address of a replica, `host:port`.
pub type Address = Arc<str>;

/// The number of failures in a row after which a replica is ejected.
const FAILURES_TO_EJECT: u32 = 3;

/// The pause between the first ejection of a replica and its next probe. Every failed probe and every further ejection
/// doubles the pause.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// The longest pause before a probe. With its jitter it is shorter than a second, so a replica that has recovered is
/// probed within a second.
const LAST_BACKOFF: Duration = Duration::from_millis(800);

/// The time for which a replica that has answered `busy` is passed over. Another dispatcher has taken its slots, and
/// the next answer of the replica frees one.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// The amount by which a pick raises the [`Replica::pass`] of a replica with one usable slot. For a replica with `n`
/// usable slots the amount is `STRIDE / n`.
const STRIDE: u64 = 1 << 20;

/// The rule by which a replica is chosen among those with a free slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Balance {
    /// Replicas in turn; one with twice the capacity is chosen twice as often
    #[default]
    RoundRobin,
    /// The replica with the smallest share of its slots in use; replicas with equal shares in turn
    LeastLoaded,
}

/// The constraints of one request on the choice of its replica.
#[derive(Debug, Clone, Copy, Default)]
pub struct Constraints<'a> {
    /// Replicas at which the request has failed. They are passed over while any other replica is ready.
    pub tried: &'a [Address],
    /// Whether the request is a suspect: a replica died while it held the request. Two suspects never share a replica,
    /// so a further death has only one suspect.
    pub is_suspect: bool,
}

/// The result of an attempt, as far as it concerns the health of the replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthSignal {
    /// The replica answered.
    Answered {
        /// The capacity that the replica advertised with the answer; `None` if it advertised none.
        capacity: Option<usize>,
    },
    /// All slots of the replica are taken. This is no failure.
    Busy,
    /// The attempt tells nothing about the replica.
    Inconclusive,
    /// The replica answered with an error of its own, or too late.
    Failed,
    /// The replica refused the connection or dropped it.
    Unreachable,
}

/// The consequence of a probe or a liveness check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeEffect {
    /// The replica takes requests from now on.
    Joined,
    /// The replica did not answer a liveness check. The requests that it holds should move to other replicas.
    Stalled,
    /// No request is affected.
    Unchanged,
}

/// The number of replicas in each state, and the capacity of the ready ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplicaTotals {
    /// Replicas that take requests.
    pub ready: usize,
    /// Replicas that take no requests until a probe succeeds, new ones included.
    pub ejected: usize,
    /// Replicas that are no longer published and still hold requests.
    pub draining: usize,
    /// Slots of all ready replicas.
    pub capacity: usize,
}

/// A replica, and all that the rotation knows about it.
#[derive(Debug, Clone)]
pub struct Replica {
    /// The address that the replica listens on.
    pub address: Address,
    /// The number of slots: the number of requests that the replica takes at once. It is 1 until the replica advertises
    /// another number.
    pub capacity: usize,
    /// The number of slots in use: requests that were sent to the replica and are not yet answered.
    pub in_flight: usize,
    /// Whether the replica takes requests.
    pub state: ReplicaState,
    /// The number of failures in a row, since the last answer.
    failures: u32,
    /// The number of ejections and failed probes since the last answered request. An answered probe does not reset it.
    backoffs: u32,
    busy_until: Option<Instant>,
    /// The number of slots that suspects use: at most one.
    suspects: usize,
    /// The instant since which the replica has answered nothing: the end of the last attempt, the end of the last
    /// liveness check, or the first request after an idle time, whichever is latest.
    silent_since: Instant,
    /// The instant since which the replica has worked for its next answer: the end of the last attempt, or the first
    /// request after an idle time, whichever is later.
    working_since: Instant,
    /// Whether a liveness check is in progress.
    is_being_checked: bool,
    /// The virtual time of the next pick (stride scheduling, Waldspurger and Weihl 1995).
    pass: u64,
    /// The number of the last pick of this replica. Among replicas with the same pass, the smallest number is next, so
    /// that they take turns.
    last_pick: u64,
}

/// The state of a replica, which tells whether it takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaState {
    /// The replica takes requests.
    Ready,
    /// The replica takes no requests until a probe succeeds.
    Ejected {
        /// The instant at which the next probe is due.
        probe_at: Instant,
        /// Whether a probe is in progress.
        is_being_probed: bool,
    },
    /// The replica is no longer published, and finishes the requests that it holds.
    Draining,
}

/// The set of replicas, and the order in which they are chosen.
#[derive(Debug, Default)]
pub struct Rotation {
    balance: Balance,
    replicas: Vec<Replica>,
    /// Number of picks so far.
    picks: u64,
    /// The highest pass at which a replica was picked. A replica that had no free slot for a while is picked at this
    /// pass. With its own, lower pass it would receive all requests until it had caught up with the others.
    pass: u64,
}

impl Rotation {
    /// A rotation without replicas.
    pub fn new(balance: Balance) -> Self {
        Self { balance, ..Self::default() }
    }

    /// Replaces the published set. A new replica takes requests once a probe, which is due at once, finds it ready. A
    /// replica that is no longer published finishes the requests that it holds. If it is published again before they
    /// are finished, it takes requests at once.
    pub fn publish(&mut self, addresses: &BTreeSet<Address>, now: Instant) {
        for replica in &mut self.replicas {
            let is_published = addresses.contains(&replica.address);
            match replica.state {
                ReplicaState::Draining if is_published => replica.state = ReplicaState::Ready,
                _ if !is_published => replica.state = ReplicaState::Draining,
                _ => {}
            }
        }
        for address in addresses {
            if !self.contains(address) {
                self.replicas.push(Replica::new(address.clone(), self.pass, now));
            }
        }
        self.remove_drained();
    }

    /// Takes a slot of the next replica that `constraints` allow; `None` if there is no such slot.
    pub fn pick(&mut self, constraints: Constraints<'_>, now: Instant) -> Option<Address> {
        let is_tried = |replica: &Replica| constraints.tried.contains(&replica.address);
        let untried_exists = !constraints.tried.is_empty()
            && self.replicas.iter().any(|replica| replica.state == ReplicaState::Ready && !is_tried(replica));
        let eligible = self.replicas.iter_mut().filter(|replica| {
            replica.has_free_slot(now)
                && !(untried_exists && is_tried(replica))
                && !(constraints.is_suspect && replica.suspects > 0)
        });
        let chosen = match self.balance {
            Balance::RoundRobin => eligible.min_by_key(|replica| replica.order()),
            Balance::LeastLoaded => eligible.min_by_key(|replica| (replica.load(), replica.order())),
        }?;
        self.picks += 1;
        self.pass = self.pass.max(chosen.pass);
        chosen.pass = self.pass + STRIDE / chosen.usable_slots() as u64;
        chosen.last_pick = self.picks;
        if chosen.in_flight == 0 {
            chosen.silent_since = now;
            chosen.working_since = now;
        }
        chosen.in_flight += 1;
        chosen.suspects += usize::from(constraints.is_suspect);
        Some(chosen.address.clone())
    }

    /// Whether there is a slot for a request without constraints.
    pub fn has_free_slot(&self, now: Instant) -> bool {
        self.replicas.iter().any(|replica| replica.has_free_slot(now))
    }

    /// Frees the slot of a request after its attempt has ended with `signal`. `was_suspect` tells whether the request
    /// was a suspect. `jitter`, 0 to 1, spreads the probes of replicas that failed together. Returns the time that the
    /// replica worked for this request alone: since it received the request, or since its previous answer if that was
    /// later. Returns `None` if the replica is not in the set.
    pub fn release(
        &mut self,
        address: &str,
        was_suspect: bool,
        signal: HealthSignal,
        now: Instant,
        jitter: f64,
    ) -> Option<Duration> {
        let replica = self.find(address)?;
        let worked = now.saturating_duration_since(replica.working_since);
        replica.working_since = now;
        replica.silent_since = now;
        replica.in_flight = replica.in_flight.saturating_sub(1);
        replica.suspects = replica.suspects.saturating_sub(usize::from(was_suspect));
        match signal {
            HealthSignal::Answered { capacity } => {
                replica.failures = 0;
                replica.backoffs = 0;
                replica.capacity = capacity.unwrap_or(replica.capacity).max(1);
            }
            HealthSignal::Busy => replica.busy_until = Some(now + BUSY_PAUSE),
            HealthSignal::Inconclusive => {}
            HealthSignal::Failed => replica.failures += 1,
            HealthSignal::Unreachable => replica.failures = FAILURES_TO_EJECT,
        }
        if replica.failures >= FAILURES_TO_EJECT && replica.state == ReplicaState::Ready {
            replica.eject(now, jitter);
        }
        self.remove_drained();
        Some(worked)
    }

    /// Returns the ejected replicas whose probe is due. A replica is not returned again before
    /// [`Rotation::record_probe`] was called for it.
    pub fn due_probes(&mut self, now: Instant) -> Vec<Address> {
        let mut due = Vec::new();
        for replica in &mut self.replicas {
            if let ReplicaState::Ejected { probe_at, is_being_probed } = &mut replica.state
                && !*is_being_probed
                && *probe_at <= now
            {
                *is_being_probed = true;
                due.push(replica.address.clone());
            }
        }
        due
    }

    /// Returns the replicas that have held requests for `stall_timeout` without answering any, so that a liveness check
    /// is due. A replica is not returned again before [`Rotation::record_probe`] was called for it.
    pub fn due_liveness_checks(&mut self, now: Instant, stall_timeout: Duration) -> Vec<Address> {
        let mut due = Vec::new();
        for replica in &mut self.replicas {
            if replica.liveness_check_at(stall_timeout).is_some_and(|at| at <= now) {
                replica.is_being_checked = true;
                due.push(replica.address.clone());
            }
        }
        due
    }

    /// Records the result of a probe or a liveness check: the capacity of a ready replica, or `None`. `jitter`, 0 to 1,
    /// spreads the probes of replicas that failed together.
    pub fn record_probe(&mut self, address: &str, capacity: Option<usize>, now: Instant, jitter: f64) -> ProbeEffect {
        let pass = self.pass;
        let Some(replica) = self.find(address) else { return ProbeEffect::Unchanged };
        let was_being_checked = replica.is_being_checked;
        replica.is_being_checked = false;
        if was_being_checked {
            replica.silent_since = now;
        }
        match (replica.state, capacity) {
            (ReplicaState::Ejected { .. }, Some(capacity)) => {
                replica.join(capacity, pass);
                return ProbeEffect::Joined;
            }
            (ReplicaState::Ejected { .. }, None) => replica.eject(now, jitter),
            (ReplicaState::Ready, None) if was_being_checked => replica.eject(now, jitter),
            _ => {}
        }
        if was_being_checked && capacity.is_none() { ProbeEffect::Stalled } else { ProbeEffect::Unchanged }
    }

    /// The next instant at which the caller has to act without any report: a probe or a liveness check is due, or the
    /// pause of a busy replica ends. Pauses that ended before `now` are left out.
    pub fn next_wake_up(&self, now: Instant, stall_timeout: Duration) -> Option<Instant> {
        let wake_ups = self.replicas.iter().flat_map(|replica| {
            let change = match replica.state {
                ReplicaState::Ejected { probe_at, is_being_probed: false } => Some(probe_at),
                ReplicaState::Ready => replica.busy_until.filter(|&until| until > now),
                ReplicaState::Ejected { .. } | ReplicaState::Draining => None,
            };
            [change, replica.liveness_check_at(stall_timeout)]
        });
        wake_ups.flatten().min()
    }

    /// Whether the set has a replica with this address, in any state.
    pub fn contains(&self, address: &str) -> bool {
        self.replicas.iter().any(|replica| *replica.address == *address)
    }

    /// All replicas, in the order in which they were first published.
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// The number of replicas in each state, and the capacity of the ready ones.
    pub fn totals(&self) -> ReplicaTotals {
        let mut totals = ReplicaTotals::default();
        for replica in &self.replicas {
            match replica.state {
                ReplicaState::Ready => {
                    totals.ready += 1;
                    totals.capacity += replica.capacity;
                }
                ReplicaState::Ejected { .. } => totals.ejected += 1,
                ReplicaState::Draining => totals.draining += 1,
            }
        }
        totals
    }

    fn find(&mut self, address: &str) -> Option<&mut Replica> {
        self.replicas.iter_mut().find(|replica| *replica.address == *address)
    }

    fn remove_drained(&mut self) {
        self.replicas.retain(|replica| replica.state != ReplicaState::Draining || replica.in_flight > 0);
    }
}

impl Replica {
    /// A new replica, whose probe is due at once.
    fn new(address: Address, pass: u64, now: Instant) -> Self {
        Self {
            address,
            capacity: 1,
            in_flight: 0,
            state: ReplicaState::Ejected { probe_at: now, is_being_probed: false },
            failures: 0,
            backoffs: 0,
            busy_until: None,
            suspects: 0,
            silent_since: now,
            working_since: now,
            is_being_checked: false,
            pass,
            last_pick: 0,
        }
    }

    fn has_free_slot(&self, now: Instant) -> bool {
        self.state == ReplicaState::Ready
            && self.in_flight < self.usable_slots()
            && self.busy_until.is_none_or(|until| until <= now)
    }

    /// The number of slots that may be used: the capacity, or 1 while the replica is on probation.
    fn usable_slots(&self) -> usize {
        if self.is_on_probation() { 1 } else { self.capacity }
    }

    /// The share of the usable slots that is in use, in units of 1 / [`STRIDE`].
    fn load(&self) -> u64 {
        STRIDE * self.in_flight as u64 / self.usable_slots() as u64
    }

    /// The key by which replicas are picked, smallest first: the pass, then the number of the last pick.
    fn order(&self) -> (u64, u64) {
        (self.pass, self.last_pick)
    }

    /// Whether the replica was ejected and has answered no request since. Such a replica gets one request at a time.
    fn is_on_probation(&self) -> bool {
        self.backoffs > 0
    }

    /// The instant at which a liveness check is due; `None` if the replica holds no request or is being checked.
    /// Replicas of all states are checked, because a stalled replica holds its requests after its ejection, too.
    fn liveness_check_at(&self, stall_timeout: Duration) -> Option<Instant> {
        (self.in_flight > 0 && !self.is_being_checked).then(|| self.silent_since + stall_timeout)
    }

    fn eject(&mut self, now: Instant, jitter: f64) {
        self.state = ReplicaState::Ejected { probe_at: now + backoff(self.backoffs, jitter), is_being_probed: false };
        self.backoffs = self.backoffs.saturating_add(1);
    }

    fn join(&mut self, capacity: usize, pass: u64) {
        self.state = ReplicaState::Ready;
        self.capacity = capacity.max(1);
        // A replica on probation is ejected again after one more failure.
        self.failures = if self.is_on_probation() { FAILURES_TO_EJECT - 1 } else { 0 };
        // With its old, lower pass the replica would receive all requests until it had caught up with the others.
        self.pass = pass;
    }
}

/// The pause before the next probe after `earlier` pauses: [`FIRST_BACKOFF`], doubled for each earlier pause up to
/// [`LAST_BACKOFF`]. It is a fifth shorter with a `jitter` of 0, and a fifth longer with 1.
fn backoff(earlier: u32, jitter: f64) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(earlier.min(16)));
    doubled.min(LAST_BACKOFF).mul_f64(0.8 + 0.4 * jitter)
}

#[cfg(test)]
mod tests;
