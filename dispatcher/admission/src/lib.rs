//! Admission control: the decision whether a request that arrives now would be answered in time. Pure: facts in,
//! decision out.
//!
//! The dispatcher uses this crate for its decisions, and the scaler's lab uses it to simulate a dispatcher. The crate
//! reads no clock and knows nothing of HTTP or of the contents of a request.

pub mod claim;
pub mod grants;
pub mod optimism;
pub mod own_slots;
pub mod peers;
pub mod retry_after;
pub mod service_time;

use std::time::Duration;

/// The relative error that a predicted answer time may have. A request counts as in time only if its predicted answer
/// time is below its limit by at least this share of the limit.
const PREDICTION_ERROR: f64 = 0.1;

/// The order in which waiting requests are dispatched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// First the requests that can still meet the objective, then the late ones until their deadlines
    LateLast,
    /// First in, first out
    Fifo,
}

/// The state of the queue and the replicas when a request arrives.
#[derive(Debug, Clone, Copy)]
pub struct QueueState {
    /// Waiting requests that can still meet the objective; under [`Order::Fifo`], all waiting requests.
    pub punctual: usize,
    /// Waiting requests that can no longer meet the objective.
    pub late: usize,
    /// Whether a replica can take the arriving request at once.
    pub slot_is_free: bool,
    /// Slots that the dispatcher's requests get: those of all replicas in rotation, unless other dispatchers take some of
    /// them; see [`OwnSlots`](own_slots::OwnSlots).
    pub slots: f64,
    /// Mean time from the dispatch of a request to its answer; `None` before the first answer.
    pub service_time: Option<Duration>,
    /// Share of the capacity that punctual requests leave for late ones, 0 to 1; see [`SpareCapacity`].
    pub spare: f64,
}

/// The time that an arriving request has left before it misses its limits.
#[derive(Debug, Clone, Copy)]
pub struct TimeLeft {
    /// Time until the request misses the objective.
    pub objective: Duration,
    /// Time until the deadline of the request passes.
    pub deadline: Duration,
}

/// The decision whether an arriving request enters the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The request enters the queue.
    Admit,
    /// The request is refused, because it would not be answered in time.
    Refuse {
        /// The time after which the client should send the request again; see [`retry_after::overloaded`].
        retry_after: Duration,
    },
}

impl Admission {
    /// Decides about a request that arrives while the queue is in `state`.
    ///
    /// A request is admitted without a prediction if a slot is free, if there is no replica, or if no request was
    /// answered yet. Otherwise the time of its answer is predicted:
    ///
    /// - Under [`Order::Fifo`], all waiting requests are ahead of the new one. It is admitted if it would be answered
    ///   before its deadline.
    /// - Under [`Order::LateLast`], it is admitted as a punctual request if it would meet its objective and its
    ///   deadline with only the punctual requests ahead of it. It is admitted as a late request if it would meet its
    ///   deadline with all waiting requests ahead of it and only the [`QueueState::spare`] share of the capacity.
    pub fn decide(order: Order, state: &QueueState, time_left: TimeLeft) -> Self {
        // Nothing can be predicted without a replica or before the first answer. The length of the queue then bounds
        // the number of admitted requests.
        let known = state.service_time.filter(|_| state.slots > 0.0 && !state.slot_is_free);
        let Some(service_time) = known else { return Self::Admit };
        let answered_after = |ahead, share| answer_seconds(ahead, state.slots, service_time, share);
        let waiting = state.punctual + state.late;
        let deadline = time_left.deadline.as_secs_f64() * (1.0 - PREDICTION_ERROR);
        let is_in_time = match order {
            Order::Fifo => answered_after(waiting, 1.0) <= deadline,
            Order::LateLast => {
                let objective = time_left.objective.as_secs_f64() * (1.0 - PREDICTION_ERROR);
                answered_after(state.punctual, 1.0) <= objective.min(deadline)
                    || answered_after(waiting, state.spare) <= deadline
            }
        };
        if is_in_time {
            return Self::Admit;
        }
        let limit = time_left.objective.min(time_left.deadline);
        Self::Refuse { retry_after: retry_after::overloaded(waiting, state.slots, service_time, limit) }
    }
}

/// The predicted time in seconds to the answer of a request that has `ahead` requests before it in the queue. The
/// request at place `n` leaves the queue after `n` departures. Requests that get `slots` slots together make `slots /
/// service_time` departures per second (Little's law), of which these requests get the share `share`.
fn answer_seconds(ahead: usize, slots: f64, service_time: Duration, share: f64) -> f64 {
    let service_time = service_time.as_secs_f64();
    let departure = service_time / slots;
    (ahead + 1) as f64 * departure / share + service_time
}

/// The share of the capacity that punctual requests have left over in the last seconds: an exponentially weighted mean
/// over the dispatches.
#[derive(Debug, Clone, Copy)]
pub struct SpareCapacity {
    share: f64,
    time_constant: Duration,
}

impl SpareCapacity {
    /// All capacity counts as spare until the first dispatch, so that a first burst is admitted. After `time_constant`,
    /// a dispatch has 1/e (37 %) of its weight.
    pub fn new(time_constant: Duration) -> Self {
        Self { share: 1.0, time_constant }
    }

    /// Records that a request was dispatched, `since_last` after the previous one. `to_waiting_punctual` tells whether
    /// the slot went to a punctual request that had waited for it.
    pub fn record(&mut self, to_waiting_punctual: bool, since_last: Duration) {
        let spare = if to_waiting_punctual { 0.0 } else { 1.0 };
        if self.share == spare {
            return;
        }
        let weight = 1.0 - (-since_last.as_secs_f64() / self.time_constant.as_secs_f64()).exp();
        self.share += weight * (spare - self.share);
    }

    /// The spare share, 0 to 1.
    pub fn share(&self) -> f64 {
        self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Two replicas with one slot each and a service time of 100 ms, so 20 departures per second.
    const BUSY: QueueState = QueueState {
        punctual: 0,
        late: 0,
        slot_is_free: false,
        slots: 2.0,
        service_time: Some(Duration::from_millis(100)),
        spare: 1.0,
    };

    /// [`Admission::Refuse`] with a time to wait in milliseconds, or [`Admission::Admit`] for `None`.
    fn admission(retry_after_ms: Option<u64>) -> Admission {
        retry_after_ms.map_or(Admission::Admit, |ms| Admission::Refuse { retry_after: MS(ms) })
    }

    #[test]
    fn a_request_is_admitted_if_the_backlog_leaves_it_enough_time() {
        let time_left = TimeLeft { objective: MS(500), deadline: MS(5000) };
        let rows = [
            // (order, state, milliseconds to wait if the request is refused)
            (Order::Fifo, QueueState { punctual: 86, ..BUSY }, None), // 87 × 50 ms + 100 ms are below 4.5 s.
            (Order::Fifo, QueueState { punctual: 88, ..BUSY }, Some(4050)), // 89 × 50 ms + 100 ms are above 4.5 s.
            (Order::Fifo, QueueState { punctual: 98, slot_is_free: true, ..BUSY }, None),
            (Order::Fifo, QueueState { punctual: 98, service_time: None, ..BUSY }, None),
            (Order::Fifo, QueueState { punctual: 98, slots: 0.0, ..BUSY }, None),
            // In an overload no capacity is left for late requests, so only punctual requests are admitted: a request
            // behind 5 punctual ones is answered after 6 × 50 ms + 100 ms, within the objective.
            (Order::LateLast, QueueState { punctual: 5, late: 900, spare: 0.0, ..BUSY }, None),
            (Order::LateLast, QueueState { punctual: 7, late: 0, spare: 0.0, ..BUSY }, Some(0)),
            // In a burst half of the capacity is left for late requests. They are admitted while that half answers them
            // in time: a request behind 42 others is answered after 43 × 100 ms + 100 ms, before 4.5 s.
            (Order::LateLast, QueueState { punctual: 8, late: 34, spare: 0.5, ..BUSY }, None),
            (Order::LateLast, QueueState { punctual: 8, late: 36, spare: 0.5, ..BUSY }, Some(1850)),
        ];
        for (order, state, expected) in rows {
            assert_eq!(Admission::decide(order, &state, time_left), admission(expected), "{order:?} {state:?}");
        }
    }

    #[test]
    fn a_request_with_a_shorter_deadline_is_refused_sooner() {
        let state = QueueState { punctual: 10, ..BUSY };
        let time_left = |deadline| TimeLeft { objective: MS(500), deadline: MS(deadline) };
        assert_eq!(Admission::decide(Order::Fifo, &state, time_left(750)), Admission::Admit);
        assert_eq!(Admission::decide(Order::Fifo, &state, time_left(600)), admission(Some(150)));
        let state = QueueState { punctual: 4, ..BUSY };
        let refused = Admission::decide(Order::LateLast, &state, time_left(300));
        assert_eq!(refused, admission(Some(50)), "the answer would meet the objective, but not the deadline");
    }

    #[test]
    fn old_dispatches_lose_their_weight_with_the_time_constant() {
        let mut spare = SpareCapacity::new(MS(2500));
        for _ in 0..50 {
            spare.record(true, MS(50));
        }
        // 50 dispatches at intervals of 50 ms take 2.5 s, which is one time constant.
        assert!((spare.share() - (-1.0_f64).exp()).abs() < 1e-9, "{spare:?}");
        spare.record(false, MS(60_000));
        assert!(spare.share() > 0.999);
    }
}
