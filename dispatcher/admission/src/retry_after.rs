//! The time after which the client of a refused request should send it again: the value of `Retry-After`. Pure: it
//! computes durations and knows nothing of HTTP.

use crate::answer_seconds;
use std::time::Duration;

/// The service time that [`queue_full`] assumes before the first answer.
const ASSUMED_SERVICE_TIME: Duration = Duration::from_millis(100);

/// The time to wait after [`Admission::Refuse`](crate::Admission::Refuse). After this time, a request like the refused
/// one would be answered within `limit`, if no other request came in the meantime. `waiting` is the length of the
/// queue, and `slots` the number of slots that its requests get.
pub fn overloaded(waiting: usize, slots: f64, service_time: Duration, limit: Duration) -> Duration {
    let excess = answer_seconds(waiting, slots, service_time, 1.0) - limit.as_secs_f64();
    Duration::from_secs_f64(excess.max(0.0))
}

/// The time to wait after the queue was full: the time until the `waiting` requests have left it. They leave it at
/// `slots / service_time` requests per second. Less than one of the `slots` counts as one. `service_time` is `None` before
/// the first answer.
pub fn queue_full(waiting: usize, slots: f64, service_time: Option<Duration>) -> Duration {
    let service_time = service_time.unwrap_or(ASSUMED_SERVICE_TIME).as_secs_f64();
    Duration::from_secs_f64(waiting as f64 * service_time / slots.max(1.0))
}

/// `after`, prolonged by up to a quarter. `random` is uniform in 0 to 1. Clients that were refused together would
/// otherwise come back at one moment, and most of them would be refused again.
pub fn spread(after: Duration, random: f64) -> Duration {
    after.mul_f64(1.0 + random / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn an_overload_is_over_once_the_backlog_fits_into_the_limit() {
        for (waiting, slots, limit, expected) in [
            (88, 2.0, MS(500), MS(4050)), // 89 × 50 ms + 100 ms − 500 ms
            (10, 2.0, MS(500), MS(150)),
            (10, 4.0, MS(100), MS(275)),
            (3, 2.0, MS(500), MS(0)), // 4 × 50 ms + 100 ms are less than 500 ms.
        ] {
            let found = overloaded(waiting, slots, MS(100), limit);
            assert_eq!(found, expected, "{waiting} requests before {slots} slots, limit {limit:?}");
        }
    }

    #[test]
    fn clients_that_were_refused_together_come_back_within_a_quarter_of_the_time() {
        for (random, expected) in [(0.0, MS(4000)), (0.5, MS(4500)), (1.0, MS(5000))] {
            assert_eq!(spread(MS(4000), random), expected);
        }
    }

    #[test]
    fn a_full_queue_drains_at_slots_over_service_time() {
        for (waiting, slots, service_time, expected) in [
            (10, 4.0, Some(MS(40)), MS(100)),
            (0, 4.0, Some(MS(40)), MS(0)),
            (10, 2.0, None, 5 * ASSUMED_SERVICE_TIME),
            (10, 0.0, None, 10 * ASSUMED_SERVICE_TIME),
        ] {
            let found = queue_full(waiting, slots, service_time);
            assert_eq!(found, expected, "{waiting} requests before {slots} slots, service time {service_time:?}");
        }
    }
}
