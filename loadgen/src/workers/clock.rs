//! Compares the clock of a worker with that of the coordinator. Pure.
//!
//! As in NTP, the worker's reading is taken to belong to the middle of the exchange. The error is half the round trip
//! at most, so the exchange with the shortest round trip counts (Mills, RFC 5905, section 10).

use std::time::Duration;

/// One reading of a worker's clocks, as the coordinator saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockExchange {
    /// The time on the coordinator's monotonic clock at which the request was sent.
    pub sent: Duration,
    /// The time on the coordinator's monotonic clock at which the answer had arrived.
    pub received: Duration,
    /// The coordinator's system clock at `received`, as a time since the Unix epoch.
    pub received_at: Duration,
    /// The worker's monotonic clock.
    pub monotonic: Duration,
    /// The worker's system clock, as a time since the Unix epoch.
    pub system: Duration,
}

/// The relation of a worker's clocks to those of the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockOffset {
    /// The worker's monotonic clock minus that of the coordinator, in microseconds. The clocks have different origins.
    pub monotonic_us: i128,
    /// The worker's system clock minus that of the coordinator, in microseconds.
    pub system_us: i128,
    /// The largest error of both offsets: half the round trip.
    pub uncertainty: Duration,
}

/// The offset that the exchange with the shortest round trip gives; `None` without an exchange.
pub fn compare(exchanges: &[ClockExchange]) -> Option<ClockOffset> {
    let best = exchanges.iter().min_by_key(|exchange| exchange.uncertainty())?;
    let micros = |time: Duration| time.as_micros() as i128;
    let half = micros(best.uncertainty());
    Some(ClockOffset {
        monotonic_us: micros(best.monotonic) - micros(best.sent) - half,
        system_us: micros(best.system) - (micros(best.received_at) - half),
        uncertainty: best.uncertainty(),
    })
}

impl ClockExchange {
    /// Half the round trip.
    fn uncertainty(&self) -> Duration {
        self.received.saturating_sub(self.sent) / 2
    }
}

impl ClockOffset {
    /// The reading of the worker's monotonic clock, in microseconds, when that of the coordinator reads `time`. `None`
    /// if that is before the worker's clock began, or too far in the future.
    pub fn at_worker(&self, time: Duration) -> Option<u64> {
        u64::try_from(time.as_micros() as i128 + self.monotonic_us).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn exchange(sent: u64, received: u64, monotonic: u64) -> ClockExchange {
        ClockExchange {
            sent: Duration::from_micros(sent),
            received: Duration::from_micros(received),
            received_at: Duration::from_secs(1_000),
            monotonic: Duration::from_micros(monotonic),
            system: Duration::from_secs(1_007),
        }
    }

    #[test]
    fn the_exchange_with_the_shortest_round_trip_counts() {
        // The clock of the worker is 5000 µs ahead. The answer of the first exchange was delayed, and the request of
        // the third.
        let exchanges = [exchange(100, 1100, 5120), exchange(2000, 2040, 7020), exchange(3000, 3900, 8880)];
        let offset = compare(&exchanges).expect("there are exchanges");
        assert_eq!((offset.monotonic_us, offset.uncertainty), (5000, Duration::from_micros(20)));
        assert_eq!(offset.system_us, 7_000_020);
        assert_eq!(offset.at_worker(Duration::from_micros(10_000)), Some(15_000));
        assert_eq!(compare(&[]), None);
    }

    #[test]
    fn a_worker_that_started_later_has_an_earlier_clock() {
        let offset = compare(&[exchange(9_000, 9_000, 1_000)]).expect("there is an exchange");
        assert_eq!(offset.at_worker(Duration::from_micros(9_500)), Some(1_500));
        assert_eq!(offset.at_worker(Duration::from_micros(7_000)), None);
    }

    #[test]
    fn the_true_offset_lies_within_the_uncertainty() {
        // The worker reads its clock at any time of the exchange.
        for delay in [0, 10, 250, 490, 500] {
            let offset = compare(&[exchange(1_000, 1_500, 1_000 + delay + 77)]).expect("there is an exchange");
            let error = Duration::from_micros((offset.monotonic_us - 77).unsigned_abs() as u64);
            assert!(error <= offset.uncertainty, "{delay}: {error:?}");
        }
    }
}
