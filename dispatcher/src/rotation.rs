//! The set of replicas, their states, and the choice of the next one among those with a free slot. Pure: time and
//! randomness are arguments, and it opens no socket.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A replica's published `host:port`.
pub type Address = Arc<str>;

/// A replica that answers is ejected after this many failures in a row.
const FAILURES_TO_EJECT: u32 = 3;

/// First back-off of an ejected replica. Every failed probe doubles it.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// Longest back-off: with its jitter under a second, so that a replica that has recovered is used within a second.
const LAST_BACKOFF: Duration = Duration::from_millis(800);

/// How long a busy replica is passed over. Another dispatcher has filled it, and its next answer frees a slot.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// By how much a pick of a replica with one slot raises its [`Replica::pass`]. A replica with `n` slots pays `1 / n` of
/// it.
const STRIDE: u64 = 1 << 20;

/// How a replica is chosen among those with a free slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Balance {
    /// In turn; a replica with twice the capacity is chosen twice as often
    #[default]
    RoundRobin,
    /// The replica with the smallest share of its slots in use; in turn among equals
    LeastLoaded,
}

/// What the choice of a replica has to respect for one request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Constraints<'a> {
    /// Replicas at which the request has failed. They are passed over as long as any other replica is ready.
    pub tried: &'a [Address],
    /// Whether a replica died while it held the request. Two suspects never share a replica, so that after another
    /// death there is only one suspect.
    pub is_suspect: bool,
}

/// What an attempt tells about the health of its replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthSignal {
    /// The replica answered.
    Answered {
        /// The capacity that it advertised with the answer.
        capacity: Option<usize>,
    },
    /// All slots of the replica are taken, which is no failure.
    Busy,
    /// The attempt tells nothing about the replica.
    Inconclusive,
    /// The replica answered with an error of its own, or too late.
    Failed,
    /// The replica refused the connection or dropped it.
    Unreachable,
}

/// What follows from a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeEffect {
    /// The replica has joined those that take requests.
    Joined,
    /// The replica holds requests and did not answer a liveness check: its requests should move to other replicas.
    Stalled,
    /// Nothing changes for requests.
    Unchanged,
}

/// Numbers over all replicas, for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Replicas that take requests.
    pub ready: usize,
    /// Replicas that take no requests until a probe succeeds, new ones included.
    pub ejected: usize,
    /// Replicas that are no longer published and still hold requests.
    pub draining: usize,
    /// Slots of all ready replicas.
    pub capacity: usize,
}

/// One replica.
#[derive(Debug, Clone)]
pub struct Replica {
    /// Where the replica listens.
    pub address: Address,
    /// Number of slots: requests that the replica takes at once. 1 until the replica advertises another number.
    pub capacity: usize,
    /// Slots in use: requests sent and not yet answered.
    pub in_flight: usize,
    /// Whether the replica takes requests.
    pub state: State,
    /// Failures since the last answer.
    failures: u32,
    /// Ejections and failed probes since the last answered request. Answered probes do not reset it.
    backoffs: u32,
    busy_until: Option<Instant>,
    /// Slots in use by suspects: at most one.
    suspects: usize,
    /// The start of the present silence: the last answer, the last liveness check, or the first request after an idle
    /// time.
    silent_since: Instant,
    /// The start of the present work: the last answer, or the first request after an idle time.
    working_since: Instant,
    /// Whether a liveness check is on its way.
    is_being_checked: bool,
    /// Virtual time of the next pick (stride scheduling, Waldspurger and Weihl 1995).
    pass: u64,
    /// The number of the last pick of this replica. It breaks ties, which makes equals take turns.
    last_pick: u64,
}

/// Whether a replica takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It takes requests.
    Ready,
    /// It takes no requests until a probe at `probe_at` or later succeeds.
    Ejected {
        /// When the next probe is due.
        probe_at: Instant,
        /// Whether a probe is on its way.
        is_being_probed: bool,
    },
    /// It is no longer published, and finishes the requests that it holds.
    Draining,
}

/// The set of replicas, and the order in which they are chosen.
#[derive(Debug, Default)]
pub struct Rotation {
    balance: Balance,
    replicas: Vec<Replica>,
    /// Number of picks so far.
    picks: u64,
    /// The pass of the last pick. A replica that had no free slot for a while starts again here, so that it does not
    /// receive all requests at once to catch up.
    pass: u64,
}

impl Rotation {
    /// A rotation without replicas.
    pub fn new(balance: Balance) -> Self {
        Self { balance, ..Self::default() }
    }

    /// Replaces the published set. A new replica takes requests once a probe, which is due at once, finds it ready. A
    /// replica that is no longer published finishes the requests that it holds.
    pub fn publish(&mut self, addresses: &BTreeSet<Address>, now: Instant) {
        for replica in &mut self.replicas {
            let is_published = addresses.contains(&replica.address);
            match replica.state {
                State::Draining if is_published => replica.state = State::Ready,
                _ if !is_published => replica.state = State::Draining,
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

    /// Takes a slot of the next replica that fits `constraints`; `None` if there is no such slot.
    pub fn pick(&mut self, constraints: Constraints<'_>, now: Instant) -> Option<Address> {
        let is_tried = |replica: &Replica| constraints.tried.contains(&replica.address);
        let untried_exists = !constraints.tried.is_empty()
            && self.replicas.iter().any(|replica| replica.state == State::Ready && !is_tried(replica));
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

    /// Whether a request without constraints would find a slot.
    pub fn has_free_slot(&self, now: Instant) -> bool {
        self.replicas.iter().any(|replica| replica.has_free_slot(now))
    }

    /// Frees the slot of a request, which may have been a suspect. `jitter`, 0 to 1, spreads the probes of replicas
    /// that failed together. Returns the time that the replica worked for this request alone: since it received the
    /// request, or since its previous answer if that was later.
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
        if replica.failures >= FAILURES_TO_EJECT && replica.state == State::Ready {
            replica.eject(now, jitter);
        }
        self.remove_drained();
        Some(worked)
    }

    /// Ejected replicas whose probe is due. A replica is not returned again before [`Rotation::record_probe`].
    pub fn due_probes(&mut self, now: Instant) -> Vec<Address> {
        let mut due = Vec::new();
        for replica in &mut self.replicas {
            if let State::Ejected { probe_at, is_being_probed } = &mut replica.state
                && !*is_being_probed
                && *probe_at <= now
            {
                *is_being_probed = true;
                due.push(replica.address.clone());
            }
        }
        due
    }

    /// Replicas that have held requests for `stall_timeout` without answering any, and should be probed to see whether
    /// they still live. A replica is not returned again before [`Rotation::record_probe`].
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

    /// Records the result of a probe or a liveness check: the advertised capacity of a ready replica, or `None`.
    /// `jitter` is as in [`Rotation::release`].
    pub fn record_probe(&mut self, address: &str, capacity: Option<usize>, now: Instant, jitter: f64) -> ProbeEffect {
        let pass = self.pass;
        let Some(replica) = self.find(address) else { return ProbeEffect::Unchanged };
        let was_being_checked = replica.is_being_checked;
        replica.is_being_checked = false;
        if was_being_checked {
            replica.silent_since = now;
        }
        match (replica.state, capacity) {
            (State::Ejected { .. }, Some(capacity)) => {
                replica.join(capacity, pass);
                return ProbeEffect::Joined;
            }
            (State::Ejected { .. }, None) => replica.eject(now, jitter),
            (State::Ready, None) if was_being_checked => replica.eject(now, jitter),
            _ => {}
        }
        if was_being_checked && capacity.is_none() { ProbeEffect::Stalled } else { ProbeEffect::Unchanged }
    }

    /// The next instant at which something changes without an event: a probe or a liveness check falls due, or the
    /// pause of a busy replica ends. Pauses that ended before `now` are left out.
    pub fn next_wake_up(&self, now: Instant, stall_timeout: Duration) -> Option<Instant> {
        let wake_ups = self.replicas.iter().flat_map(|replica| {
            let change = match replica.state {
                State::Ejected { probe_at, is_being_probed: false } => Some(probe_at),
                State::Ready => replica.busy_until.filter(|&until| until > now),
                State::Ejected { .. } | State::Draining => None,
            };
            [change, replica.liveness_check_at(stall_timeout)]
        });
        wake_ups.flatten().min()
    }

    /// Whether `address` is in the set, in whichever state.
    pub fn contains(&self, address: &str) -> bool {
        self.replicas.iter().any(|replica| *replica.address == *address)
    }

    /// All replicas, in the order in which they were first published.
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// Numbers over all replicas.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for replica in &self.replicas {
            match replica.state {
                State::Ready => {
                    totals.ready += 1;
                    totals.capacity += replica.capacity;
                }
                State::Ejected { .. } => totals.ejected += 1,
                State::Draining => totals.draining += 1,
            }
        }
        totals
    }

    fn find(&mut self, address: &str) -> Option<&mut Replica> {
        self.replicas.iter_mut().find(|replica| *replica.address == *address)
    }

    fn remove_drained(&mut self) {
        self.replicas.retain(|replica| replica.state != State::Draining || replica.in_flight > 0);
    }
}

impl Replica {
    /// A new replica, whose probe is due at once.
    fn new(address: Address, pass: u64, now: Instant) -> Self {
        Self {
            address,
            capacity: 1,
            in_flight: 0,
            state: State::Ejected { probe_at: now, is_being_probed: false },
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
        self.state == State::Ready
            && self.in_flight < self.usable_slots()
            && self.busy_until.is_none_or(|until| until <= now)
    }

    /// The capacity, or 1 on probation.
    fn usable_slots(&self) -> usize {
        if self.is_on_probation() { 1 } else { self.capacity }
    }

    /// Share of the usable slots that are in use, in units of 1 / [`STRIDE`].
    fn load(&self) -> u64 {
        STRIDE * self.in_flight as u64 / self.usable_slots() as u64
    }

    /// The replica with the smallest order is next. Of two with the same pass, the one that was picked longer ago is
    /// next.
    fn order(&self) -> (u64, u64) {
        (self.pass, self.last_pick)
    }

    /// Whether the replica was ejected and has not answered a request since. It then gets one request at a time.
    fn is_on_probation(&self) -> bool {
        self.backoffs > 0
    }

    /// When a liveness check is due: in every state, if the replica holds requests.
    fn liveness_check_at(&self, stall_timeout: Duration) -> Option<Instant> {
        (self.in_flight > 0 && !self.is_being_checked).then(|| self.silent_since + stall_timeout)
    }

    fn eject(&mut self, now: Instant, jitter: f64) {
        self.state = State::Ejected { probe_at: now + backoff(self.backoffs, jitter), is_being_probed: false };
        self.backoffs = self.backoffs.saturating_add(1);
    }

    fn join(&mut self, capacity: usize, pass: u64) {
        self.state = State::Ready;
        self.capacity = capacity.max(1);
        // On probation, one more failure ejects the replica again.
        self.failures = if self.is_on_probation() { FAILURES_TO_EJECT - 1 } else { 0 };
        // With its old pass the replica would receive all requests until it had caught up with the others.
        self.pass = pass;
    }
}

/// 100 ms, doubled by every earlier back-off up to 800 ms, plus or minus a fifth.
fn backoff(earlier: u32, jitter: f64) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(earlier.min(16)));
    doubled.min(LAST_BACKOFF).mul_f64(0.8 + 0.4 * jitter)
}

#[cfg(test)]
mod tests;
