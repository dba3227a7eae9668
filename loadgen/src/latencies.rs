//! The latencies of a run as an HDR histogram, and percentiles of them. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::Read;
use std::time::Duration;

/// Significant digits of the histogram. With four, every percentile is within 0.01 % of the exact percentile. With
/// three, it would only just be within 0.1 %.
const DIGITS: u8 = 4;

/// Longest latency: a week, as the longest `--timeout`. A longer latency is recorded as this value.
const MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Length of the head of a histogram in the format V2, in bytes.
const V2_HEAD_BYTES: usize = 40;

/// Longest histogram in the format V2 before compression, in bytes: a count of 9 bytes for each of its 0.5 million
/// values.
const MAX_V2_BYTES: u64 = 8 << 20;

/// Highest value that a histogram may be able to hold, in microseconds. It is above twice [`MAX`], since they grow
/// by powers of two.
const MAX_V2_HIGHEST: u64 = 1 << 41;

/// A text that is no histogram of latencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the histogram is malformed, or has another precision or range than that of latencies")]
pub struct Malformed;

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

    /// Adds all latencies of `other`. The result is the same as if each of them had been recorded here.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("the histogram grows to hold any value");
    }

    /// Number of latencies.
    pub fn count(&self) -> u64 {
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

    /// Each latency with its number, ascending. A latency is rounded to the precision of the histogram.
    pub fn counts(&self) -> impl Iterator<Item = (Duration, u64)> {
        self.0.iter_recorded().map(|value| (Duration::from_micros(value.value_iterated_to()), value.count_at_value()))
    }

    /// The histogram in the format of HdrHistogram's tools: V2, compressed, base64. Values are microseconds.
    pub fn encoded(&self) -> String {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&self.0, &mut bytes).expect("a Vec can always be written to");
        STANDARD.encode(bytes)
    }

    /// Reads a histogram that [`Self::encoded`] wrote. Takes 20 MB of memory at most, whatever the text says.
    ///
    /// # Errors
    /// If the text is no such histogram.
    pub fn decoded(text: &str) -> Result<Self, Malformed> {
        let compressed = STANDARD.decode(text).map_err(|_| Malformed)?;
        // A cookie and a length precede the compressed data.
        let compressed = compressed.get(8..).ok_or(Malformed)?;
        let mut plain = Vec::new();
        ZlibDecoder::new(compressed).take(MAX_V2_BYTES).read_to_end(&mut plain).map_err(|_| Malformed)?;
        let head: &[u8; V2_HEAD_BYTES] = plain.first_chunk().ok_or(Malformed)?;
        let number = |from: usize, length: usize| {
            head[from..from + length].iter().fold(0_u64, |number, &byte| number << 8 | u64::from(byte))
        };
        // The library allocates what the head says before it reads the counts.
        let (counts, digits, lowest, highest) = (number(4, 4), number(12, 4), number(16, 8), number(24, 8));
        let fits = counts == (plain.len() - V2_HEAD_BYTES) as u64
            && digits == u64::from(DIGITS)
            && lowest == 1
            && highest <= MAX_V2_HIGHEST;
        if !fits {
            return Err(Malformed);
        }
        let read: Histogram<u64> = Deserializer::new().deserialize(&mut &plain[..]).map_err(|_| Malformed)?;
        // The histogram that was read cannot grow, but a new one can.
        let mut latencies = Self::default();
        latencies.add(&Self(read));
        Ok(latencies)
    }
}

impl Serialize for Latencies {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.encoded())
    }
}

impl<'de> Deserialize<'de> for Latencies {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::decoded(&text).map_err(serde::de::Error::custom)
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
        let distribution = latencies.distribution();
        assert_eq!((distribution[0].0, distribution.last().map(|last| last.0)), (0.0, Some(1.0)));
        assert!(distribution.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
    }

    #[test]
    fn malformed_histograms_are_refused() {
        let encode = |change: &dyn Fn(&mut Vec<u8>)| {
            let latencies: Latencies = (1..=99).map(Duration::from_millis).collect();
            let compressed = STANDARD.decode(latencies.encoded()).expect("base64");
            let mut plain = Vec::new();
            ZlibDecoder::new(&compressed[8..]).read_to_end(&mut plain).expect("compressed");
            change(&mut plain);
            let mut packed = flate2::read::ZlibEncoder::new(&plain[..], flate2::Compression::fast());
            let mut bytes = compressed[..8].to_vec();
            packed.read_to_end(&mut bytes).expect("memory");
            STANDARD.encode(bytes)
        };
        assert!(Latencies::decoded(&encode(&|_plain| {})).is_ok_and(|latencies| latencies.count() == 99));
        for text in ["", "AAAA", "no base64", "AAAAAAAAAAAAAAAA"] {
            assert_eq!(Latencies::decoded(text).err(), Some(Malformed), "{text}");
        }
        let bad: [fn(&mut Vec<u8>); 6] = [
            |plain| plain.truncate(30),
            |plain| plain.truncate(50),
            // The lengths of the counts, the digits, and the range.
            |plain| plain[4] = 0xff,
            |plain| plain[15] = 5,
            |plain| plain[24] = 0x7f,
            |plain| plain.resize(20 << 20, 0),
        ];
        for (index, change) in bad.into_iter().enumerate() {
            assert_eq!(Latencies::decoded(&encode(&change)).err(), Some(Malformed), "{index}");
        }
    }

    proptest! {
        #[test]
        fn parts_add_up_to_the_whole(
            parts in prop::collection::vec(prop::collection::vec(0..1_000_000_000_000_u64, 0..300), 1..6),
        ) {
            let whole: Latencies = parts.iter().flatten().copied().map(Duration::from_micros).collect();
            let mut sum = Latencies::default();
            for part in &parts {
                let part: Latencies = part.iter().copied().map(Duration::from_micros).collect();
                sum.add(&Latencies::decoded(&part.encoded()).expect("a histogram"));
            }
            prop_assert_eq!(sum.count(), whole.count());
            prop_assert_eq!(sum.percentiles(), whole.percentiles());
            prop_assert_eq!(sum.distribution(), whole.distribution());
            prop_assert!(sum.counts().eq(whole.counts()));
        }

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
