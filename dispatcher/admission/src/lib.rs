//! Admission control: whether a request that arrives now would be answered in time. Pure: facts in, decision out.
//!
//! The dispatcher decides with it, and the scaler's lab models a dispatcher with it. It reads no clock and knows
//! nothing of HTTP or of the queue's entries.

pub mod service_time;

use std::time::Duration;

/// The relative error that a predicted answer time may have. A request whose predicted answer time lies within this
/// share of its limit counts as too late.
const PREDICTION_ERROR: f64 = 0.1;

/// The order in which waiting requests are dispatched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// Requests that can still meet the objective; then the late ones, until their deadlines
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
    /// Whether a replica could take the request at once.
    pub slot_is_free: bool,
    /// Slots of all replicas in rotation.
    pub capacity: usize,
    /// Mean time that a replica takes for a request; `None` before the first answer.
    pub service_time: Option<Duration>,
    /// Share of the capacity that is left for late requests, 0 to 1; see [`SpareCapacity`].
    pub spare: f64,
}

/// The time that a request has left when it arrives.
#[derive(Debug, Clone, Copy)]
pub struct TimeLeft {
    /// Time until the request misses the objective.
    pub objective: Duration,
    /// Time until the request expires.
    pub deadline: Duration,
}

/// The decision about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The request enters the queue.
    Admit,
    /// The request would not be answered in time.
    Refuse {
        /// The time after which a request like this one would meet the objective if no other request came.
        retry_after: Duration,
    },
}

impl Admission {
    /// Decides about a request that arrives while the queue is in `state`.
    ///
    /// The request at place `n` leaves the queue after `n` departures. Replicas with `c` slots together make `c /
    /// service_time` departures per second (Little's law). A late request gets only the [`QueueState::spare`] share of
    /// that rate. A request is admitted if it would be answered before its deadline, or, under [`Order::LateLast`], if
    /// it would meet the objective.
    pub fn decide(order: Order, state: &QueueState, time_left: TimeLeft) -> Self {
        // Without a replica the request waits for one; before the first answer no rate is known. The queue bounds both.
        let known = state.service_time.filter(|_| state.capacity > 0 && !state.slot_is_free);
        let Some(service_time) = known else { return Self::Admit };
        let service_time = service_time.as_secs_f64();
        let departure = service_time / state.capacity as f64;
        let answered_by = |ahead: usize, share: f64| (ahead + 1) as f64 * departure / share + service_time;
        let waiting = state.punctual + state.late;
        let deadline = time_left.deadline.as_secs_f64() * (1.0 - PREDICTION_ERROR);
        let is_in_time = match order {
            Order::Fifo => answered_by(waiting, 1.0) <= deadline,
            Order::LateLast => {
                let objective = time_left.objective.as_secs_f64() * (1.0 - PREDICTION_ERROR);
                answered_by(state.punctual, 1.0) <= objective.min(deadline)
                    || answered_by(waiting, state.spare) <= deadline
            }
        };
        if is_in_time {
            return Self::Admit;
        }
        let limit = time_left.objective.min(time_left.deadline).as_secs_f64();
        Self::Refuse { retry_after: Duration::from_secs_f64((answered_by(waiting, 1.0) - limit).max(0.0)) }
    }
}

/// The share of the capacity that punctual requests have lately left over: an exponentially weighted mean over the
/// slots that were given away.
#[derive(Debug, Clone, Copy)]
pub struct SpareCapacity {
    share: f64,
    time_constant: Duration,
}

impl SpareCapacity {
    /// All capacity counts as spare until a slot was given away, so that a first burst is admitted. After
    /// `time_constant`, an old observation has 1/e of its weight.
    pub fn new(time_constant: Duration) -> Self {
        Self { share: 1.0, time_constant }
    }

    /// Records that a slot was given away, `since_last` after the previous one. `to_waiting_punctual` tells whether it
    /// went to a punctual request that had waited for it.
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

    /// Two replicas that take 100 ms: 20 requests a second.
    const BUSY: QueueState = QueueState {
        punctual: 0,
        late: 0,
        slot_is_free: false,
        capacity: 2,
        service_time: Some(Duration::from_millis(100)),
        spare: 1.0,
    };

    /// Refused with this many milliseconds to wait, or admitted.
    fn admission(retry_after_ms: Option<u64>) -> Admission {
        retry_after_ms.map_or(Admission::Admit, |ms| Admission::Refuse { retry_after: MS(ms) })
    }

    #[test]
    fn backlog_over_service_rate_decides() {
        let time_left = TimeLeft { objective: MS(500), deadline: MS(5000) };
        let rows = [
            // (order, state, milliseconds to wait, if refused)
            (Order::Fifo, QueueState { punctual: 86, ..BUSY }, None), // 87 × 50 ms + 100 ms, of 4.5 s
            (Order::Fifo, QueueState { punctual: 88, ..BUSY }, Some(4050)), // 89 × 50 ms + 100 ms, less 500 ms
            (Order::Fifo, QueueState { punctual: 98, slot_is_free: true, ..BUSY }, None),
            (Order::Fifo, QueueState { punctual: 98, service_time: None, ..BUSY }, None),
            (Order::Fifo, QueueState { punctual: 98, capacity: 0, ..BUSY }, None),
            // Overload: nothing is left for late ones, so only those that will be punctual come in.
            (Order::LateLast, QueueState { punctual: 5, late: 900, spare: 0.0, ..BUSY }, None), // 6 × 50 ms + 100 ms
            (Order::LateLast, QueueState { punctual: 7, late: 0, spare: 0.0, ..BUSY }, Some(0)),
            // A burst: half of the capacity is left, so they come in as long as that serves them in time.
            (Order::LateLast, QueueState { punctual: 8, late: 34, spare: 0.5, ..BUSY }, None), // 43 × 100 ms + 100 ms
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
        assert_eq!(refused, admission(Some(50)), "punctual, but after its deadline");
    }

    #[test]
    fn spare_capacity_fades_with_its_time_constant() {
        let mut spare = SpareCapacity::new(MS(2500));
        for _ in 0..50 {
            spare.record(true, MS(50));
        }
        // exp(-2.5 s / 2.5 s)
        assert!((spare.share() - (-1.0_f64).exp()).abs() < 1e-9, "{spare:?}");
        spare.record(false, MS(60_000));
        assert!(spare.share() > 0.999);
    }
}
