//! The latencies of a run as an HDR histogram, and percentiles of them. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Significant digits of the histogram. With four, every percentile is within 0.01 % of the exact percentile. With
/// three, it would only just be within 0.1 %.
const DIGITS: u8 = 4;

/// Longest latency: a week, as the longest `--timeout`. A longer latency is recorded as this value.
const MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Percentiles of a time, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Percentiles {
    /// The arithmetic mean, in milliseconds.
    pub mean: f64,
    /// The median, in milliseconds.
    pub p50: f64,
    /// The 90th percentile, in milliseconds.
    pub p90: f64,
    /// The 95th percentile, in milliseconds.
    pub p95: f64,
    /// The 99th percentile, in milliseconds.
    pub p99: f64,
    /// The 99.9th percentile, in milliseconds.
    pub p999: f64,
    /// The largest value, in milliseconds.
    pub max: f64,
}

/// Percentiles of the latency of all offered requests, in milliseconds. A request that has failed counts as infinitely
/// slow. A percentile is absent if it lies among the failed requests: that share of the requests was never answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OfferedPercentiles {
    /// The median, in milliseconds.
    pub p50: Option<f64>,
    /// The 90th percentile, in milliseconds.
    pub p90: Option<f64>,
    /// The 95th percentile, in milliseconds.
    pub p95: Option<f64>,
    /// The 99th percentile, in milliseconds.
    pub p99: Option<f64>,
    /// The 99.9th percentile, in milliseconds.
    pub p999: Option<f64>,
    /// The largest value, in milliseconds.
    pub max: Option<f64>,
}

/// `value`, in milliseconds, as text with its unit: two decimals below 10 ms, none above. A dash for `None`.
pub fn format_ms(value: Option<f64>) -> String {
    let Some(value) = value else { return "–".into() };
    let decimals = if value < 10.0 { 2 } else { 0 };
    format!("{value:.decimals$} ms")
}

/// A percentile of all offered requests, in milliseconds, as text with its unit. `never` for `None`, since that share of
/// the requests was not answered.
pub fn format_or_never(percentile: Option<f64>) -> String {
    if percentile.is_none() { "never".into() } else { format_ms(percentile) }
}

/// A histogram of latencies, in microseconds.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        // The smallest value is one microsecond. The histogram grows with the largest recorded value.
        Self(Histogram::new(DIGITS).expect("four digits are valid"))
    }
}

impl FromIterator<Duration> for Latencies {
    fn from_iter<T: IntoIterator<Item = Duration>>(latencies: T) -> Self {
        let mut all = Self::default();
        for latency in latencies {
            all.record(latency);
        }
        all
    }
}

impl Latencies {
    /// Adds a latency.
    pub fn record(&mut self, latency: Duration) {
        let micros = latency.min(MAX).as_micros() as u64;
        self.0.record(micros).expect("the histogram grows to hold any value");
    }

    /// Number of latencies.
    fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency at `quantile` (0 to 1), in milliseconds: the smallest latency that at least this share of all
    /// latencies does not exceed. `None` without latencies, or if `quantile` is above 1.
    pub fn at_quantile(&self, quantile: f64) -> Option<f64> {
        let exists = !self.0.is_empty() && quantile <= 1.0;
        exists.then(|| self.0.value_at_quantile(quantile).min(self.0.max()) as f64 / 1e3)
    }

    /// The latency at `quantile` of `offered` requests, in milliseconds. The requests whose latency is not in the
    /// histogram count as infinitely slow, so the result is `None` if the quantile lies among them.
    pub fn at_quantile_of_offered(&self, quantile: f64, offered: usize) -> Option<f64> {
        // A billionth is subtracted, so that a rounding error does not raise the rank by one.
        let rank = (quantile * offered as f64 - 1e-9).ceil().max(1.0);
        let count = self.count() as f64;
        if rank > count { None } else { self.at_quantile((rank - 0.5) / count) }
    }

    /// The usual percentiles of `offered` requests, of which those that are not in the histogram have failed.
    pub fn percentiles_of_offered(&self, offered: usize) -> OfferedPercentiles {
        let at = |quantile| self.at_quantile_of_offered(quantile, offered);
        OfferedPercentiles { p50: at(0.5), p90: at(0.9), p95: at(0.95), p99: at(0.99), p999: at(0.999), max: at(1.0) }
    }

    /// The usual percentiles; `None` without latencies.
    pub fn percentiles(&self) -> Option<Percentiles> {
        Some(Percentiles {
            mean: self.0.mean() / 1e3,
            p50: self.at_quantile(0.5)?,
            p90: self.at_quantile(0.9)?,
            p95: self.at_quantile(0.95)?,
            p99: self.at_quantile(0.99)?,
            p999: self.at_quantile(0.999)?,
            max: self.at_quantile(1.0)?,
        })
    }

    /// Pairs of a quantile and its latency in milliseconds, for a percentile plot. The quantiles approach 1 as closely
    /// as the number of latencies permits. The last quantile is 1.
    pub fn distribution(&self) -> Vec<(f64, f64)> {
        // There are ten steps from each quantile of nines to the next (0.9, 0.99, …).
        let nines = (self.count().max(1) as f64).log10();
        let steps = (10.0 * nines).floor() as u32;
        let quantiles = (0..=steps).map(|step| 1.0 - 10_f64.powf(-f64::from(step) / 10.0)).chain([1.0]);
        quantiles.filter_map(|quantile| Some((quantile, self.at_quantile(quantile)?))).collect()
    }

    /// The histogram in the format of HdrHistogram's tools: V2, compressed, base64. Values are microseconds.
    pub fn encoded(&self) -> String {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&self.0, &mut bytes).expect("a Vec can always be written to");
        STANDARD.encode(bytes)
    }

    /// Reads what [`Self::encoded`] wrote; `None` if the text is no such histogram.
    pub fn decoded(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text).ok()?;
        Deserializer::new().deserialize(&mut &bytes[..]).ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn failed_requests_count_as_infinitely_slow() {
        let ten: Latencies = (1..=10).map(Duration::from_millis).collect();
        let close =
            |found: Option<f64>, expected: f64| found.is_some_and(|found| (found / expected - 1.0).abs() < 1e-3);
        assert!(close(ten.at_quantile_of_offered(0.5, 10), 5.0) && close(ten.at_quantile_of_offered(1.0, 10), 10.0));
        assert!(close(ten.at_quantile_of_offered(0.5, 20), 10.0));
        assert_eq!(ten.at_quantile_of_offered(0.55, 20), None);
        assert_eq!(Latencies::default().at_quantile_of_offered(0.5, 4), None);
        let many: Latencies = (1..=29).map(Duration::from_millis).collect();
        assert!(close(many.at_quantile_of_offered(0.5, 29), 15.0) && close(many.at_quantile_of_offered(0.5, 30), 15.0));
    }

    #[test]
    fn the_encoded_histogram_can_be_read() {
        let latencies: Latencies = (1..=999).map(Duration::from_millis).collect();
        let bytes = STANDARD.decode(latencies.encoded()).expect("base64");
        let read: Histogram<u64> =
            hdrhistogram::serialization::Deserializer::new().deserialize(&mut &bytes[..]).expect("a histogram");
        assert_eq!((read.len(), read.max()), (999, latencies.0.max()));
        let decoded = Latencies::decoded(&latencies.encoded()).expect("a histogram");
        assert_eq!(decoded.percentiles_of_offered(1000), latencies.percentiles_of_offered(1000));
        assert!(Latencies::decoded("AAAA").is_none() && Latencies::decoded("no base64").is_none());
        let distribution = latencies.distribution();
        assert_eq!((distribution[0].0, distribution.last().map(|last| last.0)), (0.0, Some(1.0)));
        assert!(distribution.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
    }

    proptest! {
        #[test]
        fn percentiles_are_within_a_thousandth_of_the_exact_ones(
            micros in prop::collection::vec(1..100_000_000_u64, 1..2000),
        ) {
            let latencies: Latencies = micros.iter().copied().map(Duration::from_micros).collect();
            let mut sorted = micros;
            sorted.sort_unstable();
            for quantile in [0.5, 0.9, 0.95, 0.99, 0.999, 1.0] {
                let rank = ((quantile * sorted.len() as f64 - 1e-9).ceil() as usize).max(1);
                let exact = sorted[rank - 1] as f64 / 1e3;
                let found = latencies.at_quantile(quantile).expect("there are latencies");
                prop_assert!((found / exact - 1.0).abs() <= 1e-3, "{quantile}: {found} is not {exact}");
            }
        }
    }
}
