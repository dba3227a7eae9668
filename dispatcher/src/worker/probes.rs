//! How the worker probes replicas, checks whether they live, and ejects them. The rotation says when.

use super::{Worker, WorkerEvent};
use crate::meters::count_ejection;
use crate::rotation::{MAX_CAPACITY, ProbeAnswer, ProbeEffect, ReplicaId, ReplicaState};
use std::time::{Duration, Instant};

/// The shortest time for which a replica must owe an answer before it is checked for liveness. It does not depend on
/// the service time: a replica that computes answers the check.
const MIN_STALL_TIMEOUT: Duration = Duration::from_millis(100);

/// The time by which each replica that holds requests prolongs the stall timeout, if that is longer then. A check costs
/// about a tenth of this time of one core, so the checks of thousands of replicas use a tenth of a core at most.
const STALL_TIMEOUT_FOR_EACH: Duration = Duration::from_millis(1);

/// The longest time that a new or ejected replica may take to answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest time that a replica may take to answer a liveness check. The sum of this time and [`MIN_STALL_TIMEOUT`]
/// is less than a second, so a replica that hangs is ejected within a second. It is long, because a live replica on a
/// busy machine, or with a part of a core, may get no processor for some tenths of a second.
const LIVENESS_CHECK_TIMEOUT: Duration = Duration::from_millis(600);

impl Worker {
    /// The time for which a replica may owe an answer before it is checked for liveness.
    pub(super) fn stall_timeout(&self) -> Duration {
        let totals = self.rotation.totals();
        let holding = self.rotation.in_flight().min(totals.ready + totals.ejected + totals.draining);
        MIN_STALL_TIMEOUT.max(STALL_TIMEOUT_FOR_EACH * u32::try_from(holding).unwrap_or(u32::MAX))
    }

    pub(super) fn start_due_probes(&mut self, now: Instant) {
        for replica in self.rotation.due_probes(now) {
            self.start_probe(replica, PROBE_TIMEOUT);
        }
        for replica in self.rotation.due_liveness_checks(now, self.stall_timeout()) {
            self.start_probe(replica, LIVENESS_CHECK_TIMEOUT);
        }
        for replica in self.rotation.due_doubts(now) {
            self.plan_rescues(replica, now);
        }
        self.rescue_due(now);
    }

    fn start_probe(&self, replica: ReplicaId, timeout: Duration) {
        let Some(address) = self.rotation.replica(replica).map(|replica| replica.address.clone()) else { return };
        let (events, probe) = (self.events.clone(), (self.probe)(address, timeout));
        tokio::spawn(async move {
            let answer = probe.await;
            // If the worker has ended, it needs no result.
            let _ended = events.send(WorkerEvent::Probed(replica, answer));
        });
    }

    pub(super) fn record_probe(&mut self, replica: ReplicaId, answer: ProbeAnswer) {
        // The result of a probe of a replica that is gone says nothing about the one that has its address now.
        let Some(address) = self.rotation.replica(replica).map(|replica| replica.address.clone()) else { return };
        if let ProbeAnswer::Ready { capacity } = answer
            && capacity > MAX_CAPACITY
        {
            tracing::debug!(%address, capacity, "a replica advertises a capacity above {MAX_CAPACITY}, which is used");
        }
        let (now, was_ready) = (Instant::now(), self.is_ready(replica));
        let effect = self.rotation.record_probe(replica, answer, now, rand::random());
        self.note_ejection(replica, was_ready, answer.as_str(), now);
        match effect {
            ProbeEffect::Joined => {
                let capacity = self.rotation.replica(replica).map(|replica| replica.capacity);
                tracing::info!(%address, capacity, "a replica is ready and takes requests");
            }
            ProbeEffect::Stalled => {
                tracing::warn!(
                    %address,
                    "a replica answers neither requests nor liveness checks; its requests move to other replicas, \
                     as far as attempts and retry budget allow: see the log of that replica"
                );
                self.requeue_stalled(replica);
            }
            ProbeEffect::Unchanged => {}
        }
    }

    pub(super) fn is_ready(&self, replica: ReplicaId) -> bool {
        self.rotation.replica(replica).is_some_and(|replica| replica.state == ReplicaState::Ready)
    }

    /// Counts and logs that `replica` was ejected for `reason`, if it `was_ready` and is ejected now.
    pub(super) fn note_ejection(&mut self, replica: ReplicaId, was_ready: bool, reason: &'static str, now: Instant) {
        let Some(replica) = self.rotation.replica(replica) else { return };
        if !was_ready || !matches!(replica.state, ReplicaState::Ejected { .. }) {
            return;
        }
        count_ejection(reason);
        if let Some(omitted) = self.ejection_log.admit(now) {
            tracing::warn!(
                address = %replica.address,
                reason,
                omitted,
                "a replica is ejected: it takes no requests until it is ready again; `omitted` counts the ejections \
                 since the last such line that are not logged"
            );
        }
    }
}
