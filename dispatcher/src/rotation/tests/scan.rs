//! The oracle of the rotation: a list of replicas that every operation reads from the beginning to the end. It has no
//! totals, orders or alarms that could be out of date. It is the rotation as it was first written, with the states of
//! one replica as they are now.

use super::super::replica::DOUBT_AFTER;
use super::super::*;
use super::SERVICE_TIME;
use std::collections::BTreeSet;

/// The longest pause that a busy replica can ask for, with its jitter.
const LONGEST_BUSY_PAUSE: Duration = Duration::from_millis(1200);

#[derive(Debug, Default)]
pub(super) struct ScanRotation {
    balance: Balance,
    replicas: Vec<Replica>,
    published: u64,
    picks: u64,
    pass: u64,
}

impl ScanRotation {
    pub(super) fn new(balance: Balance) -> Self {
        Self { balance, ..Self::default() }
    }

    pub(super) fn publish(&mut self, addresses: &BTreeSet<Address>, now: Instant) {
        for replica in &mut self.replicas {
            if addresses.contains(&replica.address) { replica.publish_again(now) } else { replica.unpublish() }
        }
        for address in addresses {
            if !self.replicas.iter().any(|replica| replica.address == *address) {
                let id = ReplicaId { serial: self.published, slot: 0 };
                self.published += 1;
                self.replicas.push(Replica::new(id, address.clone(), None, self.pass, now));
            }
        }
        self.replicas.retain(|replica| !replica.is_drained());
    }

    pub(super) fn pick(&mut self, constraints: Constraints<'_>, now: Instant) -> Option<Address> {
        self.end_pauses(now);
        let is_tried = |replica: &Replica| constraints.tried.contains(&replica.address);
        let is_ready = |replica: &Replica| replica.state == ReplicaState::Ready;
        let untried_exists = !constraints.tried.is_empty()
            && self.replicas.iter().any(|replica| is_ready(replica) && !is_tried(replica));
        let lost = self.replicas.iter().filter(|replica| is_ejected(replica) && replica.was_ready).count();
        let is_panic = lost > self.replicas.iter().filter(|replica| is_ready(replica)).count();
        let balance = self.balance;
        let eligible = self.replicas.iter_mut().filter_map(|replica| {
            let turn = replica.next_turn(balance, 0)?;
            let avoids_tried = untried_exists || is_ejected(replica);
            let is_allowed = (is_ready(replica) || is_panic)
                && !(avoids_tried && is_tried(replica))
                && !(constraints.is_suspect && replica.suspects > 0);
            is_allowed.then_some((turn, replica))
        });
        let (turn, chosen) = eligible.min_by_key(|(turn, _)| *turn)?;
        self.picks += 1;
        self.pass = self.pass.max(turn.pass);
        chosen.take(constraints.is_suspect, self.pass, self.picks, now);
        Some(chosen.address.clone())
    }

    pub(super) fn has_free_slot(&mut self, now: Instant) -> bool {
        // A pick of a copy changes nothing.
        let mut copy = Self { replicas: self.replicas.clone(), ..*self };
        copy.pick(Constraints::default(), now).is_some()
    }

    pub(super) fn release(
        &mut self,
        address: &str,
        was_suspect: bool,
        signal: HealthSignal,
        news: SlotNews,
        now: Instant,
        jitter: f64,
    ) -> Option<Duration> {
        let worked = self.find(address)?.release(was_suspect, signal, news, SERVICE_TIME, now, jitter);
        self.replicas.retain(|replica| !replica.is_drained());
        Some(worked)
    }

    pub(super) fn due_probes(&mut self, now: Instant) -> Vec<Address> {
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

    pub(super) fn due_liveness_checks(&mut self, now: Instant, stall_timeout: Duration) -> Vec<Address> {
        let mut due = Vec::new();
        for replica in &mut self.replicas {
            if replica.needs_check() && replica.silent_since.is_some_and(|since| since + stall_timeout <= now) {
                replica.begin_check(now);
                due.push(replica.address.clone());
            }
        }
        due
    }

    pub(super) fn due_doubts(&mut self, now: Instant) -> Vec<Address> {
        let mut due = Vec::new();
        for replica in &mut self.replicas {
            if let Some(check) = &mut replica.check
                && !check.is_late
                && check.started + DOUBT_AFTER <= now
            {
                check.is_late = true;
                if !check.is_moot {
                    due.push(replica.address.clone());
                }
            }
        }
        due
    }

    pub(super) fn record_answer(
        &mut self,
        address: &str,
        answer: ProbeAnswer,
        now: Instant,
        jitter: f64,
    ) -> ProbeEffect {
        let pass = self.pass;
        let replica = self.find(address);
        replica.map_or(ProbeEffect::Unchanged, |replica| replica.record_probe(answer, pass, now, jitter))
    }

    /// The exact instant at which the caller has to act.
    pub(super) fn next_wake_up(&mut self, now: Instant, stall_timeout: Duration) -> Option<Instant> {
        self.end_pauses(now);
        let wake_ups = self.replicas.iter().flat_map(|replica| {
            let probe = match replica.state {
                ReplicaState::Ejected { probe_at, is_being_probed: false } => Some(probe_at),
                _ => None,
            };
            let doubt = replica.check.filter(|check| !check.is_late).map(|check| check.started + DOUBT_AFTER);
            let check = replica.silent_since.filter(|_| replica.needs_check()).map(|since| since + stall_timeout);
            [probe, doubt, check, replica.busy_until, replica.others.frees_at(), replica.opens_at]
        });
        wake_ups.flatten().min()
    }

    pub(super) fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    pub(super) fn own_slots_share(&self) -> f64 {
        let ready: Vec<&Replica> =
            self.replicas.iter().filter(|replica| replica.state == ReplicaState::Ready).collect();
        let capacity: usize = ready.iter().map(|replica| replica.capacity).sum();
        let lost: usize = ready.iter().map(|replica| replica.lost()).sum();
        1.0 - lost as f64 / capacity.max(1) as f64
    }

    pub(super) fn totals(&self) -> ReplicaTotals {
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

    fn end_pauses(&mut self, now: Instant) {
        for replica in &mut self.replicas {
            replica.end_pauses(now);
            replica.forget_others(now);
            assert!(replica.busy_until.is_none_or(|until| until <= now + LONGEST_BUSY_PAUSE));
        }
    }

    fn find(&mut self, address: &str) -> Option<&mut Replica> {
        self.replicas.iter_mut().find(|replica| *replica.address == *address)
    }
}

fn is_ejected(replica: &Replica) -> bool {
    matches!(replica.state, ReplicaState::Ejected { .. })
}
