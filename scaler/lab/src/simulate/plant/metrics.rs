//! The histograms that the plant's dispatcher exports, with the buckets of the real dispatcher, and a finer one for the
//! report.

use law::histogram::Histogram;
use service::telemetry::LATENCY_BUCKETS;

/// Longer latencies count as this one, microseconds.
const MAX_LATENCY: u64 = 3_600_000_000;

/// Histograms of all answers.
#[derive(Debug)]
pub struct DispatcherMetrics {
    /// Times from dispatched to answered.
    pub service: DurationHistogram,
    /// Times that a replica worked for an answer; see [`law::observation::Observation::work`].
    pub work: DurationHistogram,
    /// Times from arrived to answered.
    pub latency: DurationHistogram,
    /// Times from arrived to answered, microseconds, exact to three digits.
    pub latencies: hdrhistogram::Histogram<u64>,
}

/// Histograms without answers.
impl Default for DispatcherMetrics {
    fn default() -> Self {
        let latencies = hdrhistogram::Histogram::new_with_bounds(1, MAX_LATENCY, 3).expect("bounds ascend");
        let empty = DurationHistogram::new;
        Self { service: empty(), work: empty(), latency: empty(), latencies }
    }
}

impl DispatcherMetrics {
    /// Records one answer. All three times are nanoseconds.
    pub fn record_answer(&mut self, service: u64, work: u64, latency: u64) {
        self.service.record(service);
        self.work.record(work);
        self.latency.record(latency);
        self.latencies.saturating_record(latency / 1000);
    }
}

/// Every bound of [`LATENCY_BUCKETS`] is a multiple of this many nanoseconds.
const RESOLUTION: u64 = 500_000;

/// A Prometheus histogram with the buckets of [`LATENCY_BUCKETS`]. Finds the bucket of a time by one look-up, since the plant
/// records three times for each of up to 72 million requests.
#[derive(Debug)]
pub struct DurationHistogram {
    /// Samples of each bucket, not cumulative; the last bucket is unbounded.
    counts: [u64; LATENCY_BUCKETS.len() + 1],
    /// Sum of all samples.
    nanoseconds: u64,
    /// Index of the bucket for each multiple of [`RESOLUTION`], up to the first one beyond all bounds.
    bucket_of: Vec<u8>,
}

impl DurationHistogram {
    fn new() -> Self {
        let bounds: Vec<u64> =
            LATENCY_BUCKETS.iter().map(|bound| (bound * 1e9 / RESOLUTION as f64).round() as u64).collect();
        let last = *bounds.last().expect("there are buckets");
        // As in Prometheus, a bound belongs to the bucket below it.
        let bucket = |multiple: u64| bounds.partition_point(|&bound| bound < multiple) as u8;
        Self { counts: [0; LATENCY_BUCKETS.len() + 1], nanoseconds: 0, bucket_of: (0..=last + 1).map(bucket).collect() }
    }

    fn record(&mut self, nanoseconds: u64) {
        let multiple = (nanoseconds.div_ceil(RESOLUTION) as usize).min(self.bucket_of.len() - 1);
        self.counts[usize::from(self.bucket_of[multiple])] += 1;
        self.nanoseconds += nanoseconds;
    }

    /// The histogram as the dispatcher exports it, in seconds.
    pub fn cumulative(&self) -> Histogram {
        let bounds = LATENCY_BUCKETS.iter().copied().chain([f64::INFINITY]);
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
    fn durations_fall_into_the_bucket_that_prometheus_would_choose() {
        for bound in LATENCY_BUCKETS {
            assert!((bound * 1e9 / RESOLUTION as f64).fract() < 1e-9, "{bound} s is a multiple of the resolution");
        }
        for nanoseconds in [0, 1, 999_999, 1_000_000, 1_000_001, 500_000_000, 500_000_001, 8_000_000_000, u64::MAX / 2]
        {
            let mut histogram = DurationHistogram::new();
            histogram.record(nanoseconds);
            let first = histogram.cumulative().buckets.iter().position(|bucket| bucket.1 == 1.0);
            let expected = LATENCY_BUCKETS.iter().position(|bound| nanoseconds as f64 <= (bound * 1e9).round());
            assert_eq!(first, Some(expected.unwrap_or(LATENCY_BUCKETS.len())), "{nanoseconds} ns");
        }
    }
}
