//! What the plant's dispatcher exports: the same buckets as the real one's, and finer ones for the report.

use law::histogram::Histogram;
use service::telemetry::LATENCY_BUCKETS as SECONDS;

/// Latencies beyond this are clipped, microseconds.
const LONGEST: u64 = 3_600_000_000;

/// All that is measured of answers.
#[derive(Debug)]
pub struct Meter {
    /// Dispatched → answered.
    pub service: Buckets,
    /// What a replica worked for an answer.
    pub work: Buckets,
    /// Arrived → answered.
    pub latency: Buckets,
    /// Arrived → answered, microseconds to three digits.
    pub latencies: hdrhistogram::Histogram<u64>,
}

/// Nothing was answered yet.
impl Default for Meter {
    fn default() -> Self {
        let latencies = hdrhistogram::Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds ascend");
        Self { service: Buckets::new(), work: Buckets::new(), latency: Buckets::new(), latencies }
    }
}

impl Meter {
    /// A request took `service` in a replica, which worked on it for `work`, and `latency` altogether; nanoseconds.
    pub fn answered(&mut self, service: u64, work: u64, latency: u64) {
        self.service.record(service);
        self.work.record(work);
        self.latency.record(latency);
        self.latencies.saturating_record(latency / 1000);
    }
}

/// Every bound is a multiple of this, nanoseconds.
const GRAIN: u64 = 500_000;

/// A Prometheus histogram of [`SECONDS`].
#[derive(Debug)]
pub struct Buckets {
    /// Of the bucket alone; the last is beyond all bounds.
    counts: [u64; SECONDS.len() + 1],
    nanoseconds: u64,
    /// Bucket of the times that end in each grain.
    bucket_of: Vec<u8>,
}

impl Buckets {
    fn new() -> Self {
        let grains: Vec<u64> = SECONDS.iter().map(|bound| (bound * 1e9 / GRAIN as f64).round() as u64).collect();
        let last = *grains.last().expect("there are buckets");
        // A time is in the first bucket whose bound is no less.
        let bucket_of = (0..=last + 1).map(|grain| grains.partition_point(|&bound| bound < grain) as u8).collect();
        Self { counts: [0; SECONDS.len() + 1], nanoseconds: 0, bucket_of }
    }

    fn record(&mut self, nanoseconds: u64) {
        let grain = (nanoseconds.div_ceil(GRAIN) as usize).min(self.bucket_of.len() - 1);
        self.counts[usize::from(self.bucket_of[grain])] += 1;
        self.nanoseconds += nanoseconds;
    }

    /// As it is exported.
    pub fn cumulative(&self) -> Histogram {
        let bounds = SECONDS.iter().copied().chain([f64::INFINITY]);
        let mut total = 0;
        let buckets = bounds.zip(&self.counts).map(|(bound, count)| {
            total += count;
            (bound, total as f64)
        });
        Histogram { buckets: buckets.collect(), sum: self.nanoseconds as f64 / 1e9 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_the_bucket_that_prometheus_would_choose() {
        for bound in SECONDS {
            assert!((bound * 1e9 / GRAIN as f64).fract() < 1e-9, "{bound} s is a multiple of the grain");
        }
        for nanoseconds in [0, 1, 999_999, 1_000_000, 1_000_001, 500_000_000, 500_000_001, 8_000_000_000, u64::MAX / 2]
        {
            let mut buckets = Buckets::new();
            buckets.record(nanoseconds);
            let first = buckets.cumulative().buckets.iter().position(|bucket| bucket.1 == 1.0);
            let expected = SECONDS.iter().position(|bound| nanoseconds as f64 <= (bound * 1e9).round());
            assert_eq!(first, Some(expected.unwrap_or(SECONDS.len())), "{nanoseconds} ns");
        }
    }
}
