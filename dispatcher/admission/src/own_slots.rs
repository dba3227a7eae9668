//! The slots that the requests of one of several dispatchers get. Pure: time is an argument.

use std::time::Duration;

/// The shortest time over which the mean goes.
const MEMORY: Duration = Duration::from_millis(500);

/// The number of service times over which the mean goes at least. Fewer would follow every single slot that passes from
/// one dispatcher to another. With more, a dispatcher would admit too much for too long once others begin to take slots.
const SERVICE_TIMES: f64 = 5.0;

/// A running mean of the share of all slots that a dispatcher gets while requests wait. By Little's law, the number of
/// these slots ÷ the service time is the rate of its departures (L = λ W, Little 1961). While no request waits, the
/// dispatcher leaves slots to others that it would get if it needed them, so these times do not count. The mean is that
/// of a share, so it holds for the new number of slots at once when replicas come or go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OwnSlots {
    share: f64,
}

/// A dispatcher that has its replicas for itself.
impl Default for OwnSlots {
    fn default() -> Self {
        Self { share: 1.0 }
    }
}

impl OwnSlots {
    /// Records that the dispatcher got the `share` of all slots, 0 to 1, for the time `held` while requests waited.
    pub fn record(&mut self, share: f64, held: Duration, service_time: Option<Duration>) {
        // The exponential costs more than all else that is done for a request. Alone, a dispatcher never needs it.
        if share != self.share {
            let memory = MEMORY.as_secs_f64().max(SERVICE_TIMES * service_time.unwrap_or_default().as_secs_f64());
            self.share += (share - self.share) * (1.0 - (-held.as_secs_f64() / memory).exp());
        }
    }

    /// The slots that the dispatcher's requests get of `capacity` slots. It is one at least if there is one, because a
    /// dispatcher that refuses all requests would never get a slot again.
    pub fn slots(&self, capacity: usize) -> f64 {
        let capacity = capacity as f64;
        (self.share * capacity).clamp(capacity.min(1.0), capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_dispatcher_alone_gets_all_slots_however_many_there_are() {
        let mut own = OwnSlots::default();
        for capacity in [0, 1, 6, 1000] {
            own.record(1.0, MS(10_000), Some(MS(50)));
            assert_eq!(own.slots(capacity), capacity as f64);
        }
    }

    #[test]
    fn the_mean_follows_the_share_within_its_memory() {
        for (service_time, memory) in [(None, MEMORY), (Some(MS(1)), MEMORY), (Some(MS(1000)), MS(5000))] {
            let mut own = OwnSlots::default();
            for _ in 0..100 {
                own.record(0.5, memory / 100, service_time);
            }
            let expected = 6.0 * (0.5 + 0.5 * (-1.0_f64).exp());
            assert!((own.slots(6) - expected).abs() < 1e-9, "{own:?} with a service time of {service_time:?}");
            // After a scale-up, the dispatcher expects the same share of the new slots.
            assert!((own.slots(12) - 2.0 * expected).abs() < 1e-9, "{own:?}");
        }
    }

    #[test]
    fn a_dispatcher_that_gets_nothing_still_expects_one_slot() {
        let mut own = OwnSlots::default();
        own.record(0.0, MS(1_000_000), None);
        assert_eq!([0, 1, 6].map(|capacity| own.slots(capacity)), [0.0, 1.0, 1.0]);
    }
}
