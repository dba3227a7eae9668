//! The rotation, with replicas named by their addresses and whole sets published, as tests write them.

use super::super::{self as rotation, *};
use super::SERVICE_TIME;
use std::collections::BTreeSet;

/// A [`rotation::Rotation`] whose replicas are named by their addresses.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    inner: rotation::Rotation,
    endpoints: Endpoints,
}

impl Rotation {
    pub(super) fn new(balance: Balance) -> Self {
        Self { inner: rotation::Rotation::new(balance), endpoints: Endpoints::new() }
    }

    pub(super) fn publish(&mut self, addresses: &BTreeSet<Address>, now: Instant) {
        self.publish_pods(addresses.iter().map(|address| (address.clone(), None)).collect(), now);
    }

    pub(super) fn publish_pods(&mut self, endpoints: Endpoints, now: Instant) {
        self.inner.publish(&EndpointChanges::between(&self.endpoints, &endpoints), now);
        self.endpoints = endpoints;
    }

    pub(super) fn pick(&mut self, constraints: Constraints<'_>, now: Instant) -> Option<Address> {
        let replica = self.inner.pick(constraints, now)?;
        Some(self.address(replica))
    }

    pub(super) fn has_free_slot(&mut self, now: Instant) -> bool {
        self.inner.has_free_slot(now)
    }

    pub(super) fn release(
        &mut self,
        address: &str,
        was_suspect: bool,
        signal: HealthSignal,
        now: Instant,
        jitter: f64,
    ) -> Option<Duration> {
        self.release_told(address, was_suspect, signal, SlotNews::default(), now, jitter)
    }

    /// Frees a slot after an answer that told `news`.
    pub(super) fn release_told(
        &mut self,
        address: &str,
        was_suspect: bool,
        signal: HealthSignal,
        news: SlotNews,
        now: Instant,
        jitter: f64,
    ) -> Option<Duration> {
        let ended = EndedAttempt { was_suspect, signal, news, service_time: SERVICE_TIME };
        self.inner.release(self.id(address)?, ended, now, jitter)
    }

    pub(super) fn own_slots_share(&self) -> f64 {
        self.inner.own_slots_share()
    }

    pub(super) fn due_probes(&mut self, now: Instant) -> Vec<Address> {
        let due = self.inner.due_probes(now);
        due.into_iter().map(|replica| self.address(replica)).collect()
    }

    pub(super) fn due_liveness_checks(&mut self, now: Instant, stall_timeout: Duration) -> Vec<Address> {
        let due = self.inner.due_liveness_checks(now, stall_timeout);
        due.into_iter().map(|replica| self.address(replica)).collect()
    }

    pub(super) fn due_doubts(&mut self, now: Instant) -> Vec<Address> {
        let due = self.inner.due_doubts(now);
        due.into_iter().map(|replica| self.address(replica)).collect()
    }

    /// Records the answer of a ready replica with a capacity, or that no answer came.
    pub(super) fn record_probe(
        &mut self,
        address: &str,
        capacity: Option<usize>,
        now: Instant,
        jitter: f64,
    ) -> ProbeEffect {
        let answer = capacity.map_or(ProbeAnswer::Silent, |capacity| ProbeAnswer::Ready { capacity });
        self.record_answer(address, answer, now, jitter)
    }

    pub(super) fn record_answer(
        &mut self,
        address: &str,
        answer: ProbeAnswer,
        now: Instant,
        jitter: f64,
    ) -> ProbeEffect {
        match self.id(address) {
            Some(replica) => self.inner.record_probe(replica, answer, now, jitter),
            None => ProbeEffect::Unchanged,
        }
    }

    pub(super) fn next_wake_up(&mut self, now: Instant, stall_timeout: Duration) -> Option<Instant> {
        self.inner.next_wake_up(now, stall_timeout)
    }

    pub(super) fn replicas(&self) -> Vec<&Replica> {
        let mut replicas: Vec<&Replica> = self.inner.replicas().collect();
        replicas.sort_by_key(|replica| replica.id);
        replicas
    }

    pub(super) fn totals(&self) -> ReplicaTotals {
        self.inner.totals()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    /// The number of alarms that are set.
    pub(super) fn alarms(&self) -> usize {
        let Self { inner: rotation::Rotation { probes, pauses, others, doubts, checks, .. }, .. } = self;
        [probes, pauses, others, doubts, checks].iter().map(|alarms| alarms.len()).sum()
    }

    fn id(&self, address: &str) -> Option<ReplicaId> {
        self.inner.by_address.get(address).copied()
    }

    fn address(&self, replica: ReplicaId) -> Address {
        self.inner.replica(replica).expect("the replica is in the rotation").address.clone()
    }
}
