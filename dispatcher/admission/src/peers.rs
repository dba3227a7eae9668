//! The requests that wait at the other dispatchers of the same replicas, as far as admission depends on them. Pure.

use crate::claim::RENEWAL;
use crate::{Admission, Order, QueueState, TimeLeft};
use std::time::Duration;

/// The requests that wait at the other dispatchers, as they were told some time ago. The default is that of the only
/// dispatcher.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peers {
    /// Requests that can still meet the objective.
    pub punctual: usize,
    /// Requests that can no longer meet the objective.
    pub late: usize,
    /// The age of these numbers.
    pub age: Duration,
}

impl Peers {
    /// Decides about a request that arrives while the own queue is in the state `own`; see [`Admission::decide`].
    ///
    /// Free slots go to the oldest request of all dispatchers (see [`Claim::turn`](crate::claim::Claim::turn)). So a
    /// request waits for the requests before it at all dispatchers, and all slots serve them: the formulas for a single
    /// dispatcher hold for the sums. A slot counts as free only if no other dispatcher waits for one.
    ///
    /// While requests wait at other dispatchers, the predicted time gets a margin for what the prediction cannot know:
    ///
    /// - Since the numbers were told, the others may have admitted more requests than were served. With an offered load
    ///   of twice the capacity, the wait grows by as much as the numbers age. Without this margin, all dispatchers would
    ///   admit requests for the same room.
    /// - Replicas know the waits of requests only as of the last claim, which may be as old as [`RENEWAL`]. So a request
    ///   may wait that much longer than in one queue.
    ///
    /// `Retry-After` has no margin.
    pub fn decide(&self, order: Order, own: QueueState, time_left: TimeLeft) -> Admission {
        let margin = if self.are_idle() { Duration::ZERO } else { self.age + RENEWAL };
        let state = QueueState {
            punctual: own.punctual + self.punctual,
            late: own.late + self.late,
            slot_is_free: own.slot_is_free && self.are_idle(),
            ..own
        };
        let left = TimeLeft {
            objective: time_left.objective.saturating_sub(margin),
            deadline: time_left.deadline.saturating_sub(margin),
        };
        match Admission::decide(order, &state, left) {
            Admission::Refuse { retry_after } => {
                // The limit that the time counts from is earlier by the margin.
                let limit = time_left.objective.min(time_left.deadline);
                Admission::Refuse { retry_after: retry_after.saturating_sub(margin.min(limit)) }
            }
            admit @ Admission::Admit => admit,
        }
    }

    /// Whether no request waits at other dispatchers.
    fn are_idle(&self) -> bool {
        self.punctual + self.late == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Two replicas with one slot each and a service time of 100 ms, so 20 departures per second. One of their
    /// dispatchers has three waiting requests.
    const OWN: QueueState = QueueState {
        punctual: 3,
        late: 0,
        slot_is_free: false,
        slots: 2.0,
        service_time: Some(Duration::from_millis(100)),
        spare: 0.0,
    };

    #[test]
    fn requests_at_other_dispatchers_count_like_own_ones() {
        let alone = Peers::default();
        for (own, peers, expected) in [
            (OWN, alone, Admission::Admit),
            // 6 × 50 ms + 100 ms are 400 ms. Of the 450 ms that are left, 10 % are for errors of the prediction.
            (OWN, Peers { punctual: 2, ..alone }, Admission::Admit),
            (OWN, Peers { punctual: 3, ..alone }, Admission::Refuse { retry_after: MS(0) }),
            // 50 ms later, the others may have admitted another request.
            (OWN, Peers { punctual: 2, age: MS(50), ..alone }, Admission::Refuse { retry_after: MS(0) }),
            (OWN, Peers { punctual: 17, late: 20, ..alone }, Admission::Refuse { retry_after: MS(1650) }),
            // The slot that seems free will go to one of the others' requests.
            (
                QueueState { punctual: 0, slot_is_free: true, ..OWN },
                Peers { punctual: 9, ..alone },
                Admission::Refuse { retry_after: MS(100) },
            ),
            (OWN, Peers { age: MS(10_000), ..alone }, Admission::Admit),
        ] {
            let time_left = TimeLeft { objective: MS(500), deadline: MS(5000) };
            assert_eq!(peers.decide(Order::LateLast, own, time_left), expected, "{own:?} {peers:?}");
        }
    }
}
