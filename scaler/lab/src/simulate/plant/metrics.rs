//! The histograms of the plant's dispatcher. Three have the buckets of the real dispatcher and are for the laws. One is
//! finer and is for the report.

use law::histogram::Histogram;
use service::telemetry::LATENCY_BUCKETS;

/// The longest latency that the finer histogram records, in microseconds. Longer latencies count as this one.
const MAX_LATENCY: u64 = 3_600_000_000;

/// The histograms of all answers of the plant.
#[derive(Debug)]
pub struct DispatcherMetrics {
    /// Service times: from dispatch to answer.
    pub service: DurationHistogram,
    /// The work of each request; see [`law::observation::Observation::work`].
    pub work: DurationHistogram,
    /// Latencies: from arrival to answer.
    pub latency: DurationHistogram,
    /// Latencies: from arrival to answer, in microseconds, exact to three digits.
    pub latencies: hdrhistogram::Histogram<u64>,
}

/// Empty histograms.
impl Default for DispatcherMetrics {
    fn default() -> Self {
        let latencies = hdrhistogram::Histogram::new_with_bounds(1, MAX_LATENCY, 3)
            .expect("1 and MAX_LATENCY ascend, and 3 digits are allowed");
        let empty = DurationHistogram::new;
        Self { service: empty(), work: empty(), latency: empty(), latencies }
    }
}

impl DispatcherMetrics {
    /// Records the service time, the work and the latency of one answer, all in nanoseconds.
    pub fn record_answer(&mut self, service: u64, work: u64, latency: u64) {
        self.service.record(service);
        self.work.record(work);
        self.latency.record(latency);
        self.latencies.saturating_record(latency / 1000);
    }
}

/// A time in nanoseconds of which every bound in [`LATENCY_BUCKETS`] is a multiple.
const RESOLUTION: u64 = 500_000;

/// A histogram of times with the buckets of [`LATENCY_BUCKETS`]. A table gives the bucket of each time.
/// Searching the bounds would slow the simulation down: there are millions of requests, and three times for each.
#[derive(Debug)]
pub struct DurationHistogram {
    /// The number of samples in each bucket, not cumulative. The last bucket is unbounded.
    counts: [u64; LATENCY_BUCKETS.len() + 1],
    /// The sum of all samples, in nanoseconds.
    nanoseconds: u64,
    /// The index of the bucket for each multiple of [`RESOLUTION`], up to the first multiple beyond all bounds.
    bucket_of: Vec<u8>,
}

impl DurationHistogram {
    fn new() -> Self {
        let bounds: Vec<u64> =
            LATENCY_BUCKETS.iter().map(|bound| (bound * 1e9 / RESOLUTION as f64).round() as u64).collect();
        let last = *bounds.last().expect("LATENCY_BUCKETS is not empty");
        // As in Prometheus, a time that equals a bound belongs to the bucket below that bound.
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
    fn each_duration_is_counted_in_the_bucket_that_prometheus_would_choose() {
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
