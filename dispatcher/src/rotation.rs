//! The set of replicas, their states, and the choice of a replica among those with a free slot. Pure: time and
//! randomness are arguments, and no socket is opened here. No event costs more than the logarithm of the number of
//! replicas: totals are kept, and orders are updated where a replica changes.

mod alarms;
mod claims;
mod endpoint;
mod others;
mod replica;
mod totals;
mod turns;

use alarms::Alarms;
use replica::{Check, DOUBT_AFTER};
use slab::Slab;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};
use totals::{RunningTotals, TotalsPart};
use turns::{Turn, Turns};

pub use endpoint::{Address, EndpointChanges, Endpoints, Pod};
pub use others::SlotNews;
pub use replica::{MAX_CAPACITY, ProbeAnswer, ProbeEffect, Replica, ReplicaId, ReplicaState};
pub use totals::ReplicaTotals;

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
    /// The replica answered with an error of its own.
    Failed,
    /// The replica had much time and did not answer.
    Overdue,
    /// The replica refused the connection or dropped it.
    Unreachable,
}

/// An attempt that has ended, as far as it concerns its replica.
#[derive(Debug, Clone, Copy)]
pub struct EndedAttempt {
    /// Whether the request was a suspect.
    pub was_suspect: bool,
    /// The result.
    pub signal: HealthSignal,
    /// What the answer told about the slots of the replica.
    pub news: SlotNews,
    /// The mean time from the dispatch of a request to its answer.
    pub service_time: Duration,
}

impl HealthSignal {
    /// Whether the replica has sent an answer of any kind, so that its process is alive.
    fn is_sign_of_life(self) -> bool {
        match self {
            Self::Answered { .. } | Self::Busy | Self::Failed => true,
            Self::Inconclusive | Self::Overdue | Self::Unreachable => false,
        }
    }
}

/// The set of replicas, and the order in which they are chosen.
#[derive(Debug, Default)]
pub struct Rotation {
    balance: Balance,
    replicas: Slab<Replica>,
    /// The replica that is or was published last at each address. A replica whose address has passed to another pod is
    /// in `replicas` only.
    by_address: HashMap<Address, ReplicaId>,
    /// Number of replicas that were ever published.
    published: u64,
    /// The replicas to which requests are sent without a question.
    turns: Turns,
    /// The replicas that are asked for a slot first.
    to_ask: Turns,
    /// The number of slots beyond one that must seem free for a request that is sent without a question.
    spare: usize,
    /// The replicas that have a claim of this dispatcher.
    claimed: BTreeSet<ReplicaId>,
    /// The number of replicas that have not yet answered whether they grant a slot.
    asking: usize,
    /// The ready replicas that can have a channel, by their addresses.
    boards: BTreeMap<Address, ReplicaId>,
    totals: RunningTotals,
    /// Probes of ejected replicas, at their due times.
    probes: Alarms,
    /// Ends of the pauses of busy replicas, and of slow starts.
    pauses: Alarms,
    /// The instants at which slots of other dispatchers count as free. An alarm may be earlier, and is set again when it
    /// rings, so that an answer need not move it.
    others: Alarms,
    /// The instants at which replicas that have not answered a liveness check get no further request.
    doubts: Alarms,
    /// The instants since which replicas owe a sign of life. An alarm may be older than the last sign. It is set again
    /// when it rings, so an answer need not move it.
    checks: Alarms,
    /// Number of picks so far.
    picks: u64,
    /// The highest pass at which a replica was picked. A replica that had no free slot for a while is picked at this
    /// pass. With its own, lower pass it would receive all requests until it had caught up with the others.
    pass: u64,
}

impl Rotation {
    /// A rotation without replicas.
    pub fn new(balance: Balance) -> Self {
        Self { balance, turns: Turns::new(balance), ..Self::default() }
    }

    /// Changes the published set. A new replica takes requests once a probe, which is due at once, finds it ready. An
    /// address with another pod than before is a new replica. A replica that is no longer published finishes the
    /// requests that it holds. If it is published again before they are finished, it is probed like a new one. Returns
    /// the replicas that get no further request.
    pub fn publish(&mut self, changes: &EndpointChanges, now: Instant) -> Vec<ReplicaId> {
        let mut withdrawn = Vec::new();
        for address in &changes.removed {
            if let Some(&id) = self.by_address.get(address) {
                withdrawn.push(id);
                self.update(id, Replica::unpublish);
            }
        }
        for (address, pod) in &changes.added {
            match self.by_address.get(address) {
                Some(&id) if self.replica(id).is_some_and(|replica| replica.pod == *pod) => {
                    self.update(id, |replica| replica.publish_again(now));
                }
                Some(&id) => {
                    withdrawn.push(id);
                    self.update(id, Replica::unpublish);
                    self.add(address, pod.as_ref(), now);
                }
                None => self.add(address, pod.as_ref(), now),
            }
        }
        withdrawn
    }

    fn add(&mut self, address: &Address, pod: Option<&Pod>, now: Instant) {
        let entry = self.replicas.vacant_entry();
        let slot = u32::try_from(entry.key()).expect("memory holds fewer than 2^32 replicas");
        let id = ReplicaId { serial: self.published, slot };
        self.published += 1;
        let replica = entry.insert(Replica::new(id, address.clone(), pod.cloned(), self.pass, now));
        self.totals.add(TotalsPart::of(replica));
        self.probes.set(now, id);
        self.by_address.insert(address.clone(), id);
    }

    /// Takes a slot of the next replica that `constraints` allow; `None` if there is no such slot. If no ready replica
    /// has a free slot and more than half of the replicas that were ready are ejected, an ejected one whose last probe
    /// found it alive gets one request. If it answers, it is ready; if not, its next probe decides. A request that has
    /// failed at such a replica is not sent there again.
    pub fn pick(&mut self, constraints: Constraints<'_>, now: Instant) -> Option<ReplicaId> {
        self.end_pauses(now);
        let turn = self.find_turn(constraints)?;
        self.picks += 1;
        self.pass = self.pass.max(turn.pass);
        let (pass, pick) = (self.pass, self.picks);
        let id = self.replicas[turn.slot as usize].id;
        self.update(id, |replica| replica.take(constraints.is_suspect, pass, pick, now));
        Some(id)
    }

    /// The first turn that `constraints` allow. Passes over the replicas in `tried` and those that hold suspects, of
    /// which there are few.
    fn find_turn(&self, constraints: Constraints<'_>) -> Option<Turn> {
        let Constraints { tried, is_suspect } = constraints;
        let is_allowed = |turn: &Turn| turn.rank != Turn::TRIAL || self.totals.is_panic();
        if tried.is_empty() && !is_suspect {
            return self.turns.first().copied().filter(is_allowed);
        }
        let untried_exists = self.has_untried(tried);
        self.turns.iter().take_while(|turn| is_allowed(turn)).copied().find(|turn| {
            let replica = &self.replicas[turn.slot as usize];
            let avoids_tried = untried_exists || turn.rank == Turn::TRIAL;
            let is_avoided = avoids_tried && tried.contains(&replica.address) || is_suspect && replica.suspects > 0;
            !is_avoided
        })
    }

    /// Whether a replica is ready that is not one of those that a request has `tried`, if it has tried any.
    fn has_untried(&self, tried: &[Address]) -> bool {
        let is_ready = |address: &&Address| {
            let replica = self.by_address.get(*address).and_then(|&id| self.replica(id));
            replica.is_some_and(|replica| replica.state == ReplicaState::Ready)
        };
        !tried.is_empty() && self.totals.totals.ready > tried.iter().filter(is_ready).count()
    }

    /// Takes a slot that the replica `id` has granted, if the request with these `constraints` may be sent there.
    pub fn pick_granted(&mut self, id: ReplicaId, constraints: Constraints<'_>, now: Instant) -> bool {
        let Some(replica) = self.replica(id) else { return false };
        let Constraints { tried, is_suspect } = constraints;
        let is_avoided =
            self.has_untried(tried) && tried.contains(&replica.address) || is_suspect && replica.suspects > 0;
        if is_avoided || !replica.takes_requests() {
            return false;
        }
        let pass = self.pass.max(replica.pass);
        self.picks += 1;
        self.pass = pass;
        let pick = self.picks;
        self.update(id, |replica| replica.take(is_suspect, pass, pick, now));
        true
    }

    /// Whether a slot seems free for a request without constraints, also one of a replica that is asked first.
    pub fn seems_free(&mut self, now: Instant) -> bool {
        self.has_free_slot(now) || self.to_ask.first().is_some_and(|turn| turn.rank == 0)
    }

    /// The replica that should be asked next for a slot; `None` if there is none.
    pub fn next_to_ask(&mut self, now: Instant) -> Option<ReplicaId> {
        self.end_pauses(now);
        self.to_ask.first().map(|turn| self.replicas[turn.slot as usize].id)
    }

    /// Records that a replica is asked for a slot, for which `waiting` requests wait. Returns the number of slots to claim
    /// there: one if a slot seems free, because with all of them each of several replicas would keep slots for all
    /// requests. The replica comes last among those of its pass.
    pub fn ask(&mut self, id: ReplicaId, waiting: usize) -> usize {
        self.picks += 1;
        let pick = self.picks;
        let claimed = self.update(id, |replica| {
            let has_free = replica.has_free_slot();
            replica.claims.asked = Some(has_free);
            replica.claims.slots = if has_free { waiting.min(1) } else { waiting };
            replica.set_asked(pick);
            replica.claims.slots
        });
        claimed.unwrap_or_default()
    }

    /// Records that a replica has answered whether it grants a slot. Returns whether a slot had seemed free when it was
    /// asked; `None` if it was not asked.
    pub fn end_ask(&mut self, id: ReplicaId) -> Option<bool> {
        self.update(id, |replica| replica.claims.asked.take()).flatten()
    }

    /// Sets the number of slots that this dispatcher claims at a replica.
    pub fn set_claim(&mut self, id: ReplicaId, slots: usize) {
        self.update(id, |replica| replica.claims.slots = slots);
    }

    /// Records that a replica has granted one of the claimed slots.
    pub fn use_claim(&mut self, id: ReplicaId) {
        self.update(id, |replica| replica.claims.slots = replica.claims.slots.saturating_sub(1));
    }

    /// Lets a replica not be asked until `until`. If it `is_refused`, it has no channel for questions, and requests are
    /// sent to it without one for that time.
    pub fn rest(&mut self, id: ReplicaId, until: Instant, is_refused: bool) {
        self.update(id, |replica| {
            (replica.claims.rests_until, replica.claims.is_refused) = (Some(until), is_refused);
        });
    }

    /// Whether the replica is asked for a slot and has not answered yet.
    pub fn is_asked(&self, id: ReplicaId) -> bool {
        self.replica(id).is_some_and(|replica| replica.claims.asked.is_some())
    }

    /// Whether a channel for claims to the replica may be opened.
    pub fn can_have_channel(&self, id: ReplicaId) -> bool {
        self.replica(id).is_some_and(Replica::can_have_channel)
    }

    /// Whether other dispatchers use the replica, or want to.
    pub fn is_shared(&self, id: ReplicaId) -> bool {
        self.replica(id).is_some_and(Replica::is_shared)
    }

    /// Records that the channel for claims to a replica is open, or has ended.
    pub fn set_channel(&mut self, id: ReplicaId, is_open: bool, now: Instant) {
        self.update(id, |replica| {
            if is_open {
                replica.claims.is_open = true;
            } else {
                replica.claims.close();
            }
            replica.others.set_claimable(is_open, now);
        });
    }

    /// Records what a replica has told over its channel: the number of slots that other dispatchers take, and whether they
    /// claim any.
    pub fn record_others(&mut self, id: ReplicaId, slots: usize, others_claim: bool, now: Instant) {
        self.update(id, |replica| {
            replica.others.record_told(slots, now, None);
            replica.claims.others_claim = others_claim;
        });
    }

    /// Sets the number of slots that must seem free for a request that is sent without a question. Reads all replicas,
    /// and so costs more than other events. It changes after a wrong guess and after many right ones.
    pub fn set_margin(&mut self, margin: usize) {
        let spare = margin.saturating_sub(1);
        if spare == self.spare {
            return;
        }
        for (_, replica) in &self.replicas {
            let (turn, ask) = turns_of(replica, self.balance, self.spare);
            let (next_turn, next_ask) = turns_of(replica, self.balance, spare);
            self.turns.replace(turn, next_turn);
            self.to_ask.replace(ask, next_ask);
        }
        self.spare = spare;
    }

    /// The replicas at which this dispatcher claims slots.
    pub fn claimed(&self) -> impl Iterator<Item = ReplicaId> {
        self.claimed.iter().copied()
    }

    /// The number of replicas at which this dispatcher claims slots, and of those that have not yet answered whether they
    /// grant one.
    pub fn claim_counts(&self) -> (usize, usize) {
        (self.claimed.len(), self.asking)
    }

    /// The replica by which all dispatchers exchange their backlogs: the ready one with the smallest address.
    pub fn board(&self) -> Option<ReplicaId> {
        self.boards.first_key_value().map(|(_, &id)| id)
    }

    /// Whether there is a slot for a request without constraints.
    pub fn has_free_slot(&mut self, now: Instant) -> bool {
        self.end_pauses(now);
        self.find_turn(Constraints::default()).is_some()
    }

    /// Frees the slot of a request whose attempt has ended. `jitter`, 0 to 1, spreads the probes of replicas that failed
    /// together, and the next attempts at busy ones. Returns the time that the replica worked for this request alone:
    /// since it received the request, or since its previous answer if that was later. Returns `None` if the replica is
    /// not in the set.
    pub fn release(&mut self, replica: ReplicaId, ended: EndedAttempt, now: Instant, jitter: f64) -> Option<Duration> {
        let EndedAttempt { was_suspect, signal, news, service_time } = ended;
        self.update(replica, |replica| replica.release(was_suspect, signal, news, service_time, now, jitter))
    }

    /// Returns the ejected replicas whose probe is due. A replica is not returned again before
    /// [`Rotation::record_probe`] was called for it.
    pub fn due_probes(&mut self, now: Instant) -> Vec<ReplicaId> {
        let mut due = Vec::new();
        while let Some((at, id)) = self.probes.pop_due(now, Duration::ZERO) {
            // A probe that was replaced by a later one has an alarm, too.
            if let Some(replica) = self.find(id)
                && let ReplicaState::Ejected { probe_at, is_being_probed } = &mut replica.state
                && *probe_at == at
                && !*is_being_probed
            {
                *is_being_probed = true;
                due.push(id);
            }
        }
        due
    }

    /// Returns the replicas that have owed a sign of life for `stall_timeout`, so that a liveness check is due. A replica
    /// is not returned again before [`Rotation::record_probe`] was called for it.
    pub fn due_liveness_checks(&mut self, now: Instant, stall_timeout: Duration) -> Vec<ReplicaId> {
        let mut due = Vec::new();
        while let Some((_, id)) = self.checks.pop_due(now, stall_timeout) {
            let Some(replica) = self.find(id) else { continue };
            replica.has_check_alarm = false;
            let Some(since) = replica.silent_since.filter(|_| replica.needs_check()) else { continue };
            if since + stall_timeout <= now {
                replica.begin_check(now);
                self.doubts.set(now + DOUBT_AFTER, id);
                due.push(id);
            } else {
                // The replica has given a sign of life since the alarm was set.
                replica.has_check_alarm = true;
                self.checks.set(since, id);
            }
        }
        due
    }

    /// Returns the replicas that have not answered their liveness check for a while. They get no further request until
    /// they give a sign of life, and the requests that they hold should move while other replicas can still answer them
    /// in time. A replica is returned once for each check.
    pub fn due_doubts(&mut self, now: Instant) -> Vec<ReplicaId> {
        let mut due = Vec::new();
        while let Some((at, id)) = self.doubts.pop_due(now, Duration::ZERO) {
            let is_late = self.update(id, |replica| match &mut replica.check {
                // An alarm of an earlier check has another time.
                Some(check) if check.started + DOUBT_AFTER == at => {
                    check.is_late = true;
                    !check.is_moot
                }
                _ => false,
            });
            if is_late == Some(true) {
                due.push(id);
            }
        }
        due
    }

    /// Whether the replica has not answered its liveness check for a while.
    pub fn is_in_doubt(&self, id: ReplicaId) -> bool {
        self.replica(id).is_some_and(|replica| replica.check.is_some_and(Check::is_in_doubt))
    }

    /// Records the answer to a probe or a liveness check. `jitter`, 0 to 1, spreads the probes of replicas that failed
    /// together.
    pub fn record_probe(&mut self, id: ReplicaId, answer: ProbeAnswer, now: Instant, jitter: f64) -> ProbeEffect {
        let pass = self.pass;
        let effect = self.update(id, |replica| replica.record_probe(answer, pass, now, jitter));
        effect.unwrap_or(ProbeEffect::Unchanged)
    }

    /// The next instant at which the caller has to act without any report: a probe or a liveness check is due, a check
    /// is late, or the pause of a busy replica ends. It may be too early, after which nothing is due, but is never too
    /// late.
    pub fn next_wake_up(&mut self, now: Instant, stall_timeout: Duration) -> Option<Instant> {
        self.end_pauses(now);
        let check = self.checks.next().map(|since| since + stall_timeout);
        [self.probes.next(), self.pauses.next(), self.others.next(), self.doubts.next(), check]
            .into_iter()
            .flatten()
            .min()
    }

    /// The replica `id`; `None` if it is gone.
    pub fn replica(&self, id: ReplicaId) -> Option<&Replica> {
        self.replicas.get(id.slot()).filter(|replica| replica.id == id)
    }

    /// All replicas, in no particular order.
    pub fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().map(|(_, replica)| replica)
    }

    /// The number of replicas in each state, and the capacity of the ready ones.
    pub fn totals(&self) -> ReplicaTotals {
        self.totals.totals
    }

    /// The share, 0 to 1, of the slots of all ready replicas that this dispatcher's requests take or could take: all but
    /// those that other dispatchers take, as far as is known. It is 1 without a ready replica.
    pub fn own_slots_share(&self) -> f64 {
        1.0 - self.totals.lost_to_others as f64 / self.totals.totals.capacity.max(1) as f64
    }

    /// The number of requests that all replicas together hold.
    pub fn in_flight(&self) -> usize {
        self.totals.in_flight
    }

    fn find(&mut self, id: ReplicaId) -> Option<&mut Replica> {
        self.replicas.get_mut(id.slot()).filter(|replica| replica.id == id)
    }

    fn end_pauses(&mut self, now: Instant) {
        while let Some((at, id)) = self.pauses.pop_due(now, Duration::ZERO) {
            self.update(id, |replica| replica.end_pauses(at));
        }
        while let Some((at, id)) = self.others.pop_due(now, Duration::ZERO) {
            self.update(id, |replica| replica.forget_others(at));
        }
    }

    /// Changes a replica, and with it the totals, the order of picks and the alarms. Forgets a replica that is drained.
    /// A change of a state, a slot or a pause must be made here, or the order of picks would keep the old turn.
    /// Returns `None` if the replica is gone.
    fn update<R>(&mut self, id: ReplicaId, change: impl FnOnce(&mut Replica) -> R) -> Option<R> {
        let replica = self.replicas.get_mut(id.slot()).filter(|replica| replica.id == id)?;
        let (state, busy_until, opens_at) = (replica.state, replica.busy_until, replica.opens_at);
        let (part, claims, is_board) = (TotalsPart::of(replica), replica.claims, replica.can_have_channel());
        let (turn, ask) = turns_of(replica, self.balance, self.spare);
        let result = change(replica);
        self.totals.replace(part, TotalsPart::of(replica));
        let (next_turn, next_ask) = turns_of(replica, self.balance, self.spare);
        self.turns.replace(turn, next_turn);
        self.to_ask.replace(ask, next_ask);
        if (claims.slots > 0) != (replica.claims.slots > 0) {
            if claims.slots > 0 {
                self.claimed.remove(&id)
            } else {
                self.claimed.insert(id)
            };
        }
        self.asking = self.asking + usize::from(replica.claims.asked.is_some()) - usize::from(claims.asked.is_some());
        if is_board != replica.can_have_channel() {
            if is_board {
                // Another replica may have the same address by now.
                if self.boards.get(&replica.address) == Some(&id) {
                    self.boards.remove(&replica.address);
                }
            } else {
                self.boards.insert(replica.address.clone(), id);
            }
        }
        if let Some(until) = replica.claims.rests_until
            && replica.claims.rests_until != claims.rests_until
        {
            self.pauses.set(until, id);
        }
        if let ReplicaState::Ejected { probe_at, .. } = replica.state
            && replica.state != state
        {
            self.probes.set(probe_at, id);
        }
        if let Some(until) = replica.busy_until
            && replica.busy_until != busy_until
        {
            self.pauses.set(until, id);
        }
        if let Some(at) = replica.opens_at
            && replica.opens_at != opens_at
        {
            self.pauses.set(at, id);
        }
        if let Some(frees_at) = replica.others.frees_at()
            && replica.others_alarm.is_none_or(|at| frees_at < at)
        {
            replica.others_alarm = Some(frees_at);
            self.others.set(frees_at, id);
        }
        if let Some(since) = replica.silent_since
            && replica.needs_check()
            && !replica.has_check_alarm
        {
            replica.has_check_alarm = true;
            self.checks.set(since, id);
        }
        if replica.is_drained() {
            self.totals.remove(TotalsPart::of(replica));
            let replica = self.replicas.remove(id.slot());
            self.claimed.remove(&id);
            self.asking -= usize::from(replica.claims.asked.is_some());
            if self.by_address.get(&replica.address) == Some(&id) {
                self.by_address.remove(&replica.address);
            }
        }
        Some(result)
    }
}

/// The turn of a replica among those to which requests are sent without a question, or else among those that are asked.
fn turns_of(replica: &Replica, balance: Balance, spare: usize) -> (Option<Turn>, Option<Turn>) {
    match replica.next_turn(balance, spare) {
        Some(turn) => (Some(turn), None),
        None => (None, replica.ask_turn()),
    }
}

#[cfg(test)]
mod tests;
