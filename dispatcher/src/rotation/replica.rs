//! One replica, and all that the rotation knows about it: its state, its slots, and the signs of life that it has given.
//! Pure: time and randomness are arguments.

use super::claims::Claims;
use super::endpoint::{Address, Pod};
use super::others::{Others, SlotNews};
use super::turns::Turn;
use super::{Balance, HealthSignal};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// The number of failures in a row after which a replica is ejected.
const FAILURES_TO_EJECT: u32 = 3;

/// The pause between the first ejection of a replica and its next probe. Every failed probe and every further ejection
/// doubles the pause.
pub(super) const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// The longest pause before a probe. With its jitter it is shorter than a second, so a replica that has recovered is
/// probed within a second.
const LAST_BACKOFF: Duration = Duration::from_millis(800);

/// The time for which a replica that has answered `busy` is passed over if it does not tell when to come back. Another
/// dispatcher has taken its slots, and the next answer of the replica frees one.
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// The bounds of the pause that a busy replica may ask for. A shorter one would send bodies in vain without end, and a
/// longer one would leave its slots idle.
const BUSY_PAUSES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(1);

/// The time after which a replica that has not answered a liveness check gets no further request until it answers.
/// Only after [`crate::worker`]'s longer timeout is it ejected, because the check of a busy machine may be late.
pub(super) const DOUBT_AFTER: Duration = Duration::from_millis(100);

/// The largest capacity of a replica. A greater one that it advertises is an error, and a replica that was sent so many
/// requests at once would answer none of them in time.
pub const MAX_CAPACITY: usize = 1024;

/// The number of slots that are used at first after a replica has joined. Each answer adds one, which doubles the number
/// with each service time (the slow start of TCP, RFC 5681). Without this, all waiting requests of a burst would go to
/// a newcomer of great capacity that has answered none yet.
pub(super) const SLOW_START_SLOTS: usize = 4;

/// The time after which all slots of a replica that has joined are used, even if it has answered few requests. A replica
/// with many slots and a long service time would otherwise stay half empty for seconds.
pub(super) const SLOW_START_TIME: Duration = Duration::from_millis(500);

/// The place of a replica after the pick number 0, above all numbers of publications.
const FIRST_PICK: u64 = 1 << 63;

/// The amount by which a pick raises the pass of a replica with one usable slot. For a replica with `n` slots the
/// amount is `STRIDE / n`.
pub(super) const STRIDE: u64 = 1 << 20;

/// The key of a replica in the rotation. A key is never used again, so the key of a replica that is gone finds none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId {
    /// The number of the replica in the order of publication.
    pub(super) serial: u64,
    /// The replica's place in memory, which another replica may have after it is gone.
    pub(super) slot: u32,
}

impl ReplicaId {
    /// A small number that no other replica of the rotation has at the same time.
    pub fn slot(self) -> usize {
        self.slot as usize
    }
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

/// A liveness check in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Check {
    /// The instant at which the check began.
    pub(super) started: Instant,
    /// Whether the check has lasted for [`DOUBT_AFTER`], so that the replica gets no further request.
    pub(super) is_late: bool,
    /// Whether the replica has answered a request since the check began. It is alive then, whatever the check finds.
    pub(super) is_moot: bool,
}

impl Check {
    /// Whether the replica has given no sign of life for so long that it gets no further request.
    pub(super) fn is_in_doubt(self) -> bool {
        self.is_late && !self.is_moot
    }
}

/// The answer to a probe or a liveness check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeAnswer {
    /// The replica is ready.
    Ready {
        /// The number of its slots.
        capacity: usize,
    },
    /// The replica answered that it is not ready, or answered something else. It is alive.
    NotReady,
    /// No answer came in time.
    Silent,
    /// The replica could not be asked, by a fault of this process, such as too many open files.
    Unknown,
}

impl ProbeAnswer {
    /// The answer's value of the label `reason` of `dispatcher_ejections_total`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready { .. } => "ready",
            Self::NotReady => "not_ready",
            Self::Silent => "silent",
            Self::Unknown => "unknown",
        }
    }
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

/// A replica, and all that the rotation knows about it.
#[derive(Debug, Clone)]
pub struct Replica {
    /// The key of the replica in the rotation.
    pub id: ReplicaId,
    /// The address that the replica listens on.
    pub address: Address,
    /// The pod behind the address; `None` if discovery does not tell it.
    pub(super) pod: Option<Pod>,
    /// The number of slots: the number of requests that the replica takes at once. It is 1 until the replica advertises
    /// another number.
    pub capacity: usize,
    /// The number of slots in use: requests that were sent to the replica and are not yet answered.
    pub in_flight: usize,
    /// The slots that other dispatchers take.
    pub(super) others: Others,
    /// The instant of the alarm after which [`Replica::others`] are looked at; `None` without an alarm.
    pub(super) others_alarm: Option<Instant>,
    /// What this dispatcher and others claim at the replica.
    pub(super) claims: Claims,
    /// Whether the replica takes requests.
    pub state: ReplicaState,
    /// Whether the replica has been ready at any time.
    pub(super) was_ready: bool,
    /// Whether the replica may get one request although it is ejected: its last probe found it alive but not ready.
    may_be_tried: bool,
    /// Whether the request that the replica holds was given to it although it is ejected.
    is_on_trial: bool,
    /// The number of failures in a row, since the last answer.
    failures: u32,
    /// The number of ejections and failed probes since the last answered request. An answered probe does not reset it.
    backoffs: u32,
    /// The number of slots that the slow start permits so far.
    opened: usize,
    /// The end of the slow start; `None` if it is over.
    pub(super) opens_at: Option<Instant>,
    /// The end of the pause after the answer `busy`; `None` if there is no pause.
    pub(super) busy_until: Option<Instant>,
    /// The number of slots that suspects use: at most one.
    pub(super) suspects: usize,
    /// The instant since which the replica owes a sign of life: the first request since the last sign, or the last sign
    /// if it holds requests. Only an answer is a sign of life, to a request or to a liveness check. An attempt that
    /// ends without an answer is none: with deadlines that are shorter than the stall timeout, a replica that answers
    /// nothing would otherwise never be checked. `None` if the replica owes none.
    pub(super) silent_since: Option<Instant>,
    /// The instant since which the replica has worked for its next answer: the end of the last attempt, or the first
    /// request after an idle time, whichever is later.
    working_since: Instant,
    /// The liveness check in progress.
    pub(super) check: Option<Check>,
    /// Whether the rotation has an alarm for the next liveness check.
    pub(super) has_check_alarm: bool,
    /// The virtual time of the next pick (stride scheduling, Waldspurger and Weihl 1995).
    pub(super) pass: u64,
    /// The place among replicas with the same pass: the smallest is next. Replicas that were never picked come first, in
    /// the order of publication, and then those that were picked longest ago, so that they take turns.
    place: u64,
}

impl Replica {
    /// A new replica, whose probe is due at once.
    pub(super) fn new(id: ReplicaId, address: Address, pod: Option<Pod>, pass: u64, now: Instant) -> Self {
        Self {
            id,
            address,
            pod,
            capacity: 1,
            in_flight: 0,
            others: Others::default(),
            others_alarm: None,
            claims: Claims::default(),
            state: ReplicaState::Ejected { probe_at: now, is_being_probed: false },
            was_ready: false,
            may_be_tried: false,
            is_on_trial: false,
            failures: 0,
            backoffs: 0,
            opened: SLOW_START_SLOTS,
            opens_at: None,
            busy_until: None,
            suspects: 0,
            silent_since: None,
            working_since: now,
            check: None,
            has_check_alarm: false,
            pass,
            place: id.serial,
        }
    }

    /// The place in the order of picks; `None` if no slot seems free, or no more than `spare` if the replica can be asked.
    pub(super) fn next_turn(&self, balance: Balance, spare: usize) -> Option<Turn> {
        let spare = if self.claims.is_refused { 0 } else { spare };
        let rank = match self.state {
            ReplicaState::Ready if self.takes_requests() && self.seems_free() > spare => match balance {
                Balance::RoundRobin => 0,
                Balance::LeastLoaded => self.load(),
            },
            ReplicaState::Ejected { .. } if self.may_be_tried && self.in_flight == 0 => Turn::TRIAL,
            _ => return None,
        };
        Some(Turn { rank, pass: self.pass, place: self.place, slot: self.id.slot })
    }

    /// The place in the order in which replicas are asked for a slot; `None` if the replica should not be asked. Those that
    /// seem to have a free slot come first. A replica that the dispatcher has for itself is not asked.
    pub(super) fn ask_turn(&self) -> Option<Turn> {
        let has_free = self.has_free_slot();
        let is_asked = self.takes_requests() && self.claims.may_ask() && (has_free || self.is_shared());
        is_asked.then(|| Turn { rank: u32::from(!has_free), pass: self.pass, place: self.place, slot: self.id.slot })
    }

    /// Whether the replica takes a request if it has a slot for it: it is ready, may use a further slot, and is not in
    /// doubt.
    pub(super) fn takes_requests(&self) -> bool {
        self.state == ReplicaState::Ready
            && self.in_flight < self.usable_slots()
            && !self.check.is_some_and(Check::is_in_doubt)
    }

    /// The number of slots that seem free.
    fn seems_free(&self) -> usize {
        if self.busy_until.is_some() { 0 } else { self.capacity.saturating_sub(self.taken()) }
    }

    /// Whether a slot seems free.
    pub(super) fn has_free_slot(&self) -> bool {
        self.takes_requests() && self.seems_free() > 0
    }

    /// Gives the replica the last place among those of its pass. `pick` is the number of the pick.
    pub(super) fn set_asked(&mut self, pick: u64) {
        self.place = FIRST_PICK + pick;
    }

    /// Whether a channel for claims to the replica may be opened.
    pub(super) fn can_have_channel(&self) -> bool {
        self.state == ReplicaState::Ready && !self.claims.is_refused
    }

    /// Whether other dispatchers use the replica, or want to.
    pub(super) fn is_shared(&self) -> bool {
        self.others.slots() > 0 || self.claims.others_claim
    }

    /// The number of slots that requests of all dispatchers take, as far as this one knows.
    fn taken(&self) -> usize {
        self.in_flight + self.others.slots()
    }

    /// The number of slots that other dispatchers take and the own requests could use.
    pub(super) fn lost(&self) -> usize {
        self.others.slots().min(self.capacity.saturating_sub(self.in_flight))
    }

    /// The number of slots that may be used: 1 while the replica is on probation, and otherwise the capacity as far as
    /// the slow start permits.
    fn usable_slots(&self) -> usize {
        if self.is_on_probation() { 1 } else { self.capacity.min(self.opened) }
    }

    /// The share of the usable slots that is in use, in units of 1 / [`STRIDE`].
    fn load(&self) -> u32 {
        // Others may use slots that are not yet open here. `STRIDE` and more would be the rank of a replica on trial.
        (STRIDE * self.taken() as u64 / self.usable_slots() as u64).min(STRIDE - 1) as u32
    }

    /// Whether the replica was ejected and has answered no request since. Such a replica gets one request at a time.
    fn is_on_probation(&self) -> bool {
        self.backoffs > 0
    }

    /// Takes a slot. `pass` is that of the rotation, and `pick` the number of the pick.
    pub(super) fn take(&mut self, is_suspect: bool, pass: u64, pick: u64, now: Instant) {
        let weight = if self.is_on_probation() { 1 } else { self.capacity };
        self.pass = pass + STRIDE / weight as u64;
        self.place = FIRST_PICK + pick;
        if self.in_flight == 0 {
            self.working_since = now;
        }
        self.silent_since.get_or_insert(now);
        self.in_flight += 1;
        self.suspects += usize::from(is_suspect);
        if matches!(self.state, ReplicaState::Ejected { .. }) {
            self.may_be_tried = false;
            self.is_on_trial = true;
        }
    }

    /// Frees a slot after an attempt that ended with `signal`. The answer told `news` about the slots. `service_time` is
    /// the mean time from dispatch to answer. Returns the time that the replica worked for this request alone.
    pub(super) fn release(
        &mut self,
        was_suspect: bool,
        signal: HealthSignal,
        news: SlotNews,
        service_time: Duration,
        now: Instant,
        jitter: f64,
    ) -> Duration {
        let worked = now.saturating_duration_since(self.working_since);
        self.in_flight = self.in_flight.saturating_sub(1);
        self.suspects = self.suspects.saturating_sub(usize::from(was_suspect));
        // A replica that is busy has not worked for the request, and goes on with the others.
        if signal != HealthSignal::Busy {
            self.working_since = now;
        }
        if signal.is_sign_of_life() {
            self.silent_since = (self.in_flight > 0).then_some(now);
            if let Some(check) = &mut self.check {
                check.is_moot = true;
            }
        }
        let was_on_trial = std::mem::take(&mut self.is_on_trial);
        // The replica may not have received all own requests yet, or have answered some whose answers are on their way.
        let others = news.others.or(news.taken.map(|taken| taken.saturating_sub(self.in_flight)));
        if news.others.is_some() {
            self.claims.others_claim = news.is_claimed;
        }
        match signal {
            HealthSignal::Answered { capacity } => {
                self.failures = 0;
                self.backoffs = 0;
                self.capacity = capacity.unwrap_or(self.capacity).clamp(1, MAX_CAPACITY);
                self.opened = self.opened.saturating_add(1).min(MAX_CAPACITY);
                if let Some(others) = others {
                    // By Little's law, a replica whose slots are full answers a request in this time.
                    let step = service_time / self.capacity as u32;
                    if news.others.is_some() {
                        self.others.record_told(others, now, Some(step));
                    } else {
                        self.others.record(others, now, step);
                    }
                    if self.taken() < self.capacity {
                        // The answer is newer than the one that said `busy`, and has freed a slot.
                        self.busy_until = None;
                    }
                }
                if was_on_trial && matches!(self.state, ReplicaState::Ejected { .. }) {
                    self.state = ReplicaState::Ready;
                }
            }
            HealthSignal::Busy => {
                let pause = busy_pause(news.retry, jitter);
                if let Some(others) = others {
                    self.others.record_busy(others, now, pause);
                }
                self.busy_until = Some(now + pause);
            }
            HealthSignal::Inconclusive => {}
            HealthSignal::Failed | HealthSignal::Overdue => self.failures = self.failures.saturating_add(1),
            HealthSignal::Unreachable => {
                self.failures = FAILURES_TO_EJECT;
                self.may_be_tried = false;
            }
        }
        if self.failures >= FAILURES_TO_EJECT && self.state == ReplicaState::Ready {
            self.eject(now, jitter);
        }
        worked
    }

    /// Records the answer to a probe or a liveness check. `pass` is that of the rotation.
    pub(super) fn record_probe(&mut self, answer: ProbeAnswer, pass: u64, now: Instant, jitter: f64) -> ProbeEffect {
        let check = self.check.take();
        let is_alive = answer != ProbeAnswer::Silent || check.is_some_and(|check| check.is_moot);
        if check.is_some_and(|check| !check.is_moot) {
            self.silent_since = (self.in_flight > 0).then_some(now);
        }
        match (self.state, answer) {
            (ReplicaState::Ejected { .. }, ProbeAnswer::Ready { capacity }) => {
                self.join(capacity, pass, now);
                return ProbeEffect::Joined;
            }
            (ReplicaState::Ejected { .. }, _) => {
                self.eject(now, jitter);
                self.may_be_tried = self.was_ready && answer == ProbeAnswer::NotReady;
            }
            (ReplicaState::Ready, ProbeAnswer::NotReady) if check.is_some() => self.eject(now, jitter),
            (ReplicaState::Ready, ProbeAnswer::Silent) if check.is_some() && !is_alive => self.eject(now, jitter),
            _ => {}
        }
        if check.is_some() && !is_alive { ProbeEffect::Stalled } else { ProbeEffect::Unchanged }
    }

    /// Ends the pause and the slow start that end by `now`.
    pub(super) fn end_pauses(&mut self, now: Instant) {
        self.busy_until = self.busy_until.filter(|&until| until > now);
        self.claims.end_rest(now);
        if self.opens_at.is_some_and(|at| at <= now) {
            self.opens_at = None;
            self.opened = MAX_CAPACITY;
        }
    }

    /// Handles the alarm after which a slot of others may count as free.
    pub(super) fn forget_others(&mut self, now: Instant) {
        self.others_alarm = None;
        self.others.forget(now);
    }

    /// Whether a liveness check is due once the stall timeout after [`Replica::silent_since`] is over. An ejected replica
    /// without requests is probed instead. Replicas of all states are checked while they hold requests, because a
    /// stalled replica holds its requests after its ejection, too.
    pub(super) fn needs_check(&self) -> bool {
        self.silent_since.is_some() && self.check.is_none() && (self.in_flight > 0 || self.state == ReplicaState::Ready)
    }

    /// Begins a liveness check.
    pub(super) fn begin_check(&mut self, now: Instant) {
        self.check = Some(Check { started: now, is_late: false, is_moot: false });
    }

    /// Lets the replica take no further requests.
    pub(super) fn unpublish(&mut self) {
        self.state = ReplicaState::Draining;
        self.claims.close();
    }

    /// Lets a replica that was unpublished take requests again once a probe, which is due at once, finds it ready. The
    /// process behind the address may have ended in the meantime.
    pub(super) fn publish_again(&mut self, now: Instant) {
        if self.state == ReplicaState::Draining {
            self.state = ReplicaState::Ejected { probe_at: now, is_being_probed: false };
        }
    }

    /// Whether the replica can be forgotten: it is not published and holds no request.
    pub(super) fn is_drained(&self) -> bool {
        self.state == ReplicaState::Draining && self.in_flight == 0
    }

    fn eject(&mut self, now: Instant, jitter: f64) {
        // A claim at a replica that is gone would keep the dispatcher from claiming elsewhere.
        (self.claims.slots, self.claims.asked) = (0, None);
        self.state = ReplicaState::Ejected { probe_at: now + backoff(self.backoffs, jitter), is_being_probed: false };
        self.backoffs = self.backoffs.saturating_add(1);
        self.may_be_tried = false;
    }

    fn join(&mut self, capacity: usize, pass: u64, now: Instant) {
        self.state = ReplicaState::Ready;
        self.was_ready = true;
        self.may_be_tried = false;
        self.is_on_trial = false;
        self.capacity = capacity.clamp(1, MAX_CAPACITY);
        self.opened = SLOW_START_SLOTS;
        self.opens_at = (self.capacity > SLOW_START_SLOTS).then_some(now + SLOW_START_TIME);
        self.silent_since = (self.in_flight > 0).then_some(now);
        // The process may be another one than before.
        self.others = Others::default();
        self.others.set_claimable(self.claims.is_open, now);
        (self.claims.is_refused, self.claims.rests_until) = (false, None);
        // A replica on probation is ejected again after one more failure.
        self.failures = if self.is_on_probation() { FAILURES_TO_EJECT - 1 } else { 0 };
        // With its old, lower pass the replica would receive all requests until it had caught up with the others.
        self.pass = pass;
    }
}

/// The pause after the answer `busy`, which told to come back after `retry`. It is a fifth shorter with a `jitter` of 0, and a
/// fifth longer with 1, so that dispatchers do not come at one moment.
fn busy_pause(retry: Option<Duration>, jitter: f64) -> Duration {
    let pause = retry.map_or(BUSY_PAUSE, |retry| retry.clamp(*BUSY_PAUSES.start(), *BUSY_PAUSES.end()));
    pause.mul_f64(0.8 + 0.4 * jitter)
}

/// The pause before the next probe after `earlier` pauses: [`FIRST_BACKOFF`], doubled for each earlier pause up to
/// [`LAST_BACKOFF`]. It is a fifth shorter with a `jitter` of 0, and a fifth longer with 1.
pub(super) fn backoff(earlier: u32, jitter: f64) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(earlier.min(16)));
    doubled.min(LAST_BACKOFF).mul_f64(0.8 + 0.4 * jitter)
}
