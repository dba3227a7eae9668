//! The measures of a simulation of dispatchers that share replicas.

/// The measures of one simulation, or the sums of several.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outcome {
    /// Requests that arrived.
    pub(super) offered: u64,
    /// Requests that were answered within the objective.
    pub(super) in_time: u64,
    /// Requests that were refused at admission.
    pub(super) refused: u64,
    /// Admitted requests whose deadline passed before their answer.
    pub(super) expired: u64,
    /// Requests that died with their dispatcher.
    pub(super) lost: u64,
    /// Requests with bodies that were sent to replicas.
    pub(super) attempts: u64,
    /// Attempts that were answered busy.
    pub(super) busy: u64,
    /// Messages without a body, in both directions, without answers.
    pub(super) small_messages: u64,
    /// The sums over all refused requests of the time in `Retry-After`, and of the true time, in seconds.
    pub(super) retry_after: f64,
    pub(super) true_retry_after: f64,
    /// Slot-seconds that were idle while as many requests waited somewhere.
    pub(super) idle_slot_seconds: f64,
    /// The same without one idle slot for each message on its way.
    pub(super) stuck_slot_seconds: f64,
    /// All slot-seconds.
    pub(super) slot_seconds: f64,
    /// Requests that replicas answered.
    pub(super) answered: u64,
}

impl Outcome {
    /// Adds the measures of another simulation.
    pub(super) fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.offered, other.offered),
            (&mut self.in_time, other.in_time),
            (&mut self.refused, other.refused),
            (&mut self.expired, other.expired),
            (&mut self.lost, other.lost),
            (&mut self.attempts, other.attempts),
            (&mut self.busy, other.busy),
            (&mut self.small_messages, other.small_messages),
            (&mut self.answered, other.answered),
        ] {
            *sum += more;
        }
        for (sum, more) in [
            (&mut self.retry_after, other.retry_after),
            (&mut self.true_retry_after, other.true_retry_after),
            (&mut self.idle_slot_seconds, other.idle_slot_seconds),
            (&mut self.stuck_slot_seconds, other.stuck_slot_seconds),
            (&mut self.slot_seconds, other.slot_seconds),
        ] {
            *sum += more;
        }
    }

    /// The share of the offered requests that were answered within the objective.
    pub(super) fn attainment(&self) -> f64 {
        share(self.in_time, self.offered)
    }

    /// The share of the attempts that were answered busy.
    pub(super) fn busy_share(&self) -> f64 {
        share(self.busy, self.attempts)
    }

    /// The share of the admitted requests whose deadline passed before their answer.
    pub(super) fn expired_share(&self) -> f64 {
        share(self.expired, self.offered - self.refused)
    }

    /// Messages without a body for each attempt.
    pub(super) fn messages_per_attempt(&self) -> f64 {
        share(self.small_messages, self.attempts)
    }

    /// The share of the slots that is idle while requests wait.
    pub(super) fn idle_share(&self) -> f64 {
        self.idle_slot_seconds / self.slot_seconds
    }

    /// The share of the slots that is idle while requests wait, without one slot for each message on its way.
    pub(super) fn stuck_share(&self) -> f64 {
        self.stuck_slot_seconds / self.slot_seconds
    }

    /// The mean of `Retry-After` ÷ the mean of the true time; `None` if the true time is below 100 ms on average.
    pub(super) fn retry_after_ratio(&self) -> Option<f64> {
        let is_known = self.true_retry_after > 0.1 * self.refused as f64 && self.refused > 0;
        is_known.then(|| self.retry_after / self.true_retry_after)
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
