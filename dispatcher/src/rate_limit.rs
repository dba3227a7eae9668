//! The limit of a tenant's rate of requests: a bucket of tokens, as the generic cell rate algorithm of ATM (ITU-T
//! I.371) computes it. Pure: time is an argument. Knows nothing of HTTP.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A full bucket holds the requests of this time, and one request at least.
const BURST: Duration = Duration::from_secs(1);

/// A rate limit. The checks of all requests share one number, so that no request waits for another.
#[derive(Debug)]
pub struct RateLimit {
    /// The time between two requests at the highest rate, in nanoseconds.
    interval: u64,
    start: Instant,
    /// The time at which the bucket would be full again, in nanoseconds since `start`.
    full_at: AtomicU64,
}

impl RateLimit {
    /// A limit of `per_second` requests, which must be positive. The bucket is full at `now`.
    pub fn new(per_second: f64, now: Instant) -> Self {
        let interval = (1e9 / per_second) as u64;
        Self { interval, start: now, full_at: AtomicU64::new(0) }
    }

    /// Counts a request at `now`.
    ///
    /// # Errors
    /// If the bucket is empty, the request does not count. The error is the time until there is room for it.
    pub fn check(&self, now: Instant) -> Result<(), Duration> {
        let now = u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX);
        let depth = (BURST.as_nanos() as u64).max(self.interval);
        let counted = |full_at: u64| {
            let full_at = full_at.max(now).saturating_add(self.interval);
            (full_at <= now.saturating_add(depth)).then_some(full_at)
        };
        match self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted) {
            Ok(_) => Ok(()),
            Err(full_at) => Err(Duration::from_nanos(full_at.saturating_add(self.interval) - now - depth)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_of_one_second_is_followed_by_the_rate() {
        let start = Instant::now();
        let limit = RateLimit::new(4.0, start);
        let check = |milliseconds| limit.check(start + Duration::from_millis(milliseconds));
        for _ in 0..4 {
            assert_eq!(check(0), Ok(()));
        }
        assert_eq!(check(0), Err(Duration::from_millis(250)));
        assert_eq!(check(200), Err(Duration::from_millis(50)), "a refused request does not count");
        assert_eq!(check(250), Ok(()));
        assert_eq!(check(250), Err(Duration::from_millis(250)));
        for _ in 0..4 {
            assert_eq!(check(60_000), Ok(()));
        }
        assert!(check(60_000).is_err(), "a long pause fills the bucket only once");
    }

    #[test]
    fn a_rate_below_one_per_second_lets_single_requests_pass() {
        let start = Instant::now();
        let limit = RateLimit::new(0.1, start);
        assert_eq!(limit.check(start), Ok(()));
        assert_eq!(limit.check(start + Duration::from_secs(4)), Err(Duration::from_secs(6)));
        assert_eq!(limit.check(start + Duration::from_secs(10)), Ok(()));
    }

    proptest! {
        #[test]
        fn no_interval_has_more_requests_than_the_burst_and_the_rate_allow(
            per_second in 0.2..500.0_f64,
            pauses in prop::collection::vec(0..200_u64, 1..300),
        ) {
            let start = Instant::now();
            let limit = RateLimit::new(per_second, start);
            let (mut now, mut accepted) = (start, Vec::new());
            for pause in pauses {
                now += Duration::from_millis(pause);
                match limit.check(now) {
                    Ok(()) => accepted.push(now),
                    Err(after) => prop_assert!(!after.is_zero() && after.as_secs_f64() <= 1.0 / per_second + 1e-6),
                }
            }
            let burst = per_second.max(1.0);
            for (first, began) in accepted.iter().enumerate() {
                for (count, at) in accepted[first..].iter().enumerate() {
                    let most = burst + (*at - *began).as_secs_f64() * per_second + 1e-3;
                    prop_assert!((count + 1) as f64 <= most, "{} requests where {most} are allowed", count + 1);
                }
            }
        }
    }
}
