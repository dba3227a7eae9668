//! Makes a snapshot of the samples of one dispatcher, or says why these cannot be true.

use law::histogram::Histogram;
use service::wire::metric;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The largest number of requests that a dispatcher is believed to hold.
const MAX_REQUESTS: f64 = 1e7;

/// The largest count: above 2⁵³, counting by one no longer changes a double.
pub const MOST_COUNTED: f64 = 9_007_199_254_740_992.0;

/// The largest number of answers to one request from replicas: a request is attempted four times at most.
const ANSWERS_PER_ARRIVAL: f64 = 4.0;

/// Number of requests that may arrive while a dispatcher reads its gauges and counters one after the other.
const ARRIVALS_BETWEEN: f64 = 1000.0;

/// The largest relative rounding error of a sum.
const ROUNDING: f64 = 1e-6;

/// The largest number of characters of a label's value that a message quotes.
const QUOTED_CHARS: usize = 80;

/// A sample of one series.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricSample {
    /// The name of the series, with a suffix such as `_bucket`.
    pub name: String,
    /// The labels, without the name.
    pub labels: BTreeMap<String, String>,
    /// The value, which may be any double.
    pub value: f64,
}

/// The figures of one dispatcher at one time. Counters and histograms count from the start of its process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// The number of requests that wait.
    pub queue_length: f64,
    /// The number of requests that were sent to replicas and are not answered yet.
    pub in_flight: f64,
    /// Slots of all replicas in rotation: the number of requests that they can hold at once.
    pub capacity: f64,
    /// The number of requests that were admitted.
    pub enqueued: f64,
    /// The number of requests that were refused for want of capacity. They count as arrivals, for which laws plan.
    pub shed: f64,
    /// Seconds since the process started, another value at each scrape; `None` if the dispatcher does not export it.
    pub uptime: Option<f64>,
    /// Service times: from dispatch to answer, in seconds.
    pub service: Histogram,
    /// Work of the answered requests, in seconds: the time that each cost its replica.
    pub work: Histogram,
    /// The mean time that a request costs a replica whose batches are full, in seconds; 0 if replicas do not say it.
    pub full_work: f64,
    /// Latencies: from acceptance to answer, in seconds.
    pub latency: Histogram,
}

/// The reason why the figures of a dispatcher are not believed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FigureFault {
    /// The metric that is missing.
    #[error("{0} is missing; check that a dispatcher of this version runs there")]
    Missing(String),
    /// The line that is not in the text format.
    #[error("the line {0:?} is no metric; check for a proxy that rewrites /metrics")]
    Line(String),
    /// The number of lines, and the largest number that is read.
    #[error("/metrics has {0} lines of dispatcher metrics, more than {1}; check that one dispatcher serves it")]
    Lines(usize, usize),
    /// The body is not UTF-8.
    #[error("/metrics is not text; check for a proxy that compresses or rewrites it")]
    Text,
    /// The series, its value, and the largest value that is believed.
    #[error("{0} is {1:?}, expected 0 to {2:.0e}; restart the dispatcher if this lasts")]
    Number(String, f64, f64),
    /// The series that appears twice, or a metric with two series that can have only one.
    #[error("{0} appears more than once; check that each dispatcher has an address and labels of its own")]
    Duplicate(String),
    /// The histogram, and the contradiction in it.
    #[error("histogram {0}: {1}; check for a proxy or a relabelling rule that drops or changes its series")]
    Histogram(&'static str, String),
    /// The histogram, its number of answers, and the number of arrivals, which is too low for these answers.
    #[error("{0} counts {1} answers to {2} arrivals; check that these are the metrics of one dispatcher")]
    Surplus(&'static str, f64, f64),
    /// The number of requests that wait or are in flight, and the number of admitted requests, which is lower.
    #[error("{0} requests wait or are in flight, but only {1} were admitted; check for a proxy that rewrites /metrics")]
    Unadmitted(f64, f64),
    /// The counter, its growth, and the seconds in which it grew.
    #[error("{0} grew by {1:.0} within {2:.1} s, which is impossible; this step is left out")]
    Leap(&'static str, f64, f64),
    /// The counter that went back while others did not.
    #[error("{0} went back although the dispatcher did not start again; this step is left out")]
    Backwards(&'static str),
    /// The number of restarts of the counters, and the seconds in which they happened.
    #[error(
        "its counters started again {0} times within {1:.0} s; if several dispatchers share that address, give \
         dns:NAME:PORT of a headless Service, or the address of each dispatcher"
    )]
    CrashLooping(usize, f64),
    /// The seconds in which no figure changed, although the dispatcher exports its uptime or holds requests.
    #[error(
        "no figure has changed for {0:.0} s; is that dispatcher stuck, or does a proxy before it cache /metrics? \
         restart the dispatcher, or give its own address"
    )]
    Frozen(f64),
}

impl Snapshot {
    /// The snapshot made of all samples of one dispatcher, in any order. Samples of other metrics are ignored.
    ///
    /// # Errors
    /// If a metric is missing, a value is out of range, or the samples contradict each other.
    pub fn of(samples: &[MetricSample]) -> Result<Self, FigureFault> {
        let mut series = BTreeSet::new();
        if let Some(twice) = samples.iter().find(|sample| !series.insert((&sample.name, &sample.labels))) {
            return Err(FigureFault::Duplicate(twice.to_string()));
        }
        let snapshot = Self {
            queue_length: required(samples, metric::QUEUE_LENGTH, MAX_REQUESTS)?,
            in_flight: sum(samples, metric::IN_FLIGHT, MAX_REQUESTS)?,
            capacity: single(samples, metric::CAPACITY, MAX_REQUESTS)?.unwrap_or_default(),
            enqueued: required(samples, metric::ENQUEUED, MOST_COUNTED)?,
            // The series from here on appear with the first event that they count, so they may be missing.
            shed: sum(samples, metric::SHED, MOST_COUNTED)?,
            uptime: single(samples, metric::UPTIME, MOST_COUNTED)?,
            service: histogram(samples, metric::UPSTREAM_DURATION)?,
            work: histogram(samples, metric::REPLICA_WORK)?,
            full_work: single(samples, metric::FULL_WORK, MOST_COUNTED)?.unwrap_or_default(),
            latency: histogram(samples, metric::REQUEST_DURATION)?,
        };
        let held = snapshot.queue_length + snapshot.in_flight;
        if held > snapshot.enqueued + ARRIVALS_BETWEEN {
            return Err(FigureFault::Unadmitted(held, snapshot.enqueued));
        }
        let arrivals = snapshot.arrivals();
        let possible = ANSWERS_PER_ARRIVAL * arrivals + ARRIVALS_BETWEEN;
        for (metric, histogram) in snapshot.histograms() {
            if histogram.count() > possible {
                return Err(FigureFault::Surplus(metric, histogram.count(), arrivals));
            }
        }
        Ok(snapshot)
    }

    /// The number of requests that were offered: admitted or refused.
    pub fn arrivals(&self) -> f64 {
        self.enqueued + self.shed
    }

    fn histograms(&self) -> [(&'static str, &Histogram); 3] {
        [
            (metric::UPSTREAM_DURATION, &self.service),
            (metric::REPLICA_WORK, &self.work),
            (metric::REQUEST_DURATION, &self.latency),
        ]
    }
}

/// The names of all series that a snapshot is made of.
pub fn series_names() -> Vec<String> {
    let plain = [
        metric::QUEUE_LENGTH,
        metric::IN_FLIGHT,
        metric::CAPACITY,
        metric::ENQUEUED,
        metric::SHED,
        metric::UPTIME,
        metric::FULL_WORK,
    ];
    let histograms = Snapshot::default().histograms().map(|(name, _)| name);
    let parts = histograms.iter().flat_map(|name| ["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
    plain.iter().map(ToString::to_string).chain(parts).collect()
}

impl fmt::Display for MetricSample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.labels.is_empty() {
            return Ok(());
        }
        let labels = self.labels.iter().map(|(name, value)| {
            let quoted: String = value.chars().take(QUOTED_CHARS).collect();
            format!("{name}={quoted:?}{}", if quoted.len() < value.len() { "…" } else { "" })
        });
        write!(f, "{{{}}}", labels.collect::<Vec<_>>().join(","))
    }
}

/// The samples of the series named `name`.
pub fn named<'a>(samples: &'a [MetricSample], name: &str) -> impl Iterator<Item = &'a MetricSample> {
    samples.iter().filter(move |sample| sample.name == name)
}

/// The value of a sample, which must lie between 0 and `most`.
///
/// # Errors
/// If the value is NaN or outside that range.
pub fn sane(sample: &MetricSample, most: f64) -> Result<f64, FigureFault> {
    let value = sample.value;
    if (0.0..=most).contains(&value) { Ok(value) } else { Err(FigureFault::Number(sample.to_string(), value, most)) }
}

/// The value of the only series named `name`; `None` if there is none.
fn single(samples: &[MetricSample], name: &str, most: f64) -> Result<Option<f64>, FigureFault> {
    let mut found = named(samples, name);
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some(sample), None) => sane(sample, most).map(Some),
        (Some(_), Some(_)) => Err(FigureFault::Duplicate(name.into())),
    }
}

fn required(samples: &[MetricSample], name: &str, most: f64) -> Result<f64, FigureFault> {
    single(samples, name, most)?.ok_or_else(|| FigureFault::Missing(name.into()))
}

/// The sum of all series named `name`; zero if there are none.
fn sum(samples: &[MetricSample], name: &str, most: f64) -> Result<f64, FigureFault> {
    let sum = named(samples, name).map(|sample| sane(sample, most)).sum::<Result<f64, FigureFault>>()?;
    // An empty sum is -0, which would be shown as such.
    if sum <= most { Ok(sum + 0.0) } else { Err(FigureFault::Number(name.into(), sum, most)) }
}

/// The histogram named `name`; empty if it has no series yet.
///
/// # Errors
/// If a part is missing, or the parts contradict each other.
pub fn histogram(samples: &[MetricSample], name: &'static str) -> Result<Histogram, FigureFault> {
    let wrong = |what: String| FigureFault::Histogram(name, what);
    let mut buckets = Vec::new();
    for sample in named(samples, &format!("{name}_bucket")) {
        let bound = sample.labels.get("le").and_then(|bound| bound.parse::<f64>().ok());
        let bound =
            bound.filter(|bound| !bound.is_nan()).ok_or_else(|| wrong(format!("{sample} has no upper bound")))?;
        buckets.push((bound, sane(sample, MOST_COUNTED)?));
    }
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let sum = single(samples, &format!("{name}_sum"), MOST_COUNTED)?;
    let count = single(samples, &format!("{name}_count"), MOST_COUNTED)?;
    let (total, sum) = match (buckets.last(), sum) {
        (None, None) if count.is_none() => return Ok(Histogram::default()),
        (None, _) => return Err(wrong("its buckets are missing".into())),
        (Some(_), None) => return Err(wrong("its sum is missing".into())),
        (Some(&last), Some(sum)) => (last, sum),
    };
    if total.0 != f64::INFINITY {
        return Err(wrong("its bucket +Inf is missing".into()));
    }
    if let Some([a, b]) = buckets.array_windows().find(|[a, b]| a.0 == b.0 || a.1 > b.1) {
        return Err(wrong(format!("bucket {} counts {}, bucket {} counts {}", a.0, a.1, b.0, b.1)));
    }
    if let Some(count) = count.filter(|&count| count != total.1) {
        return Err(wrong(format!("its count is {count}, its bucket +Inf {}", total.1)));
    }
    let found = Histogram { buckets, sum };
    let (least, most) = possible_sums(&found);
    if sum < least * (1.0 - ROUNDING) || sum > most * (1.0 + ROUNDING) {
        return Err(wrong(format!("its sum is {sum}, but by its buckets it lies between {least} and {most}")));
    }
    Ok(found)
}

/// The least and the largest possible sum: with all samples at the lower or at the upper bounds of their buckets.
fn possible_sums(histogram: &Histogram) -> (f64, f64) {
    let mut lower = (0.0, 0.0);
    let (mut least, mut most) = (0.0, 0.0);
    for &(bound, cumulative) in &histogram.buckets {
        let count = cumulative - lower.1;
        if count > 0.0 {
            least += count * f64::max(lower.0, 0.0);
            most += count * f64::max(bound, 0.0);
        }
        lower = (bound, cumulative);
    }
    (least, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition;
    use proptest::prelude::*;

    /// A dispatcher that admitted 12 requests, refused 2, and answered 4 within 0.1 s, 5 more within 0.5 s and 1 later.
    const WELL: &str = "\
        # TYPE dispatcher_queue_length gauge\n\
        dispatcher_queue_length 7\n\
        dispatcher_capacity 4\n\
        dispatcher_replica_full_work_seconds 0.012\n\
        dispatcher_in_flight{replica=\"a:1\"} 2\n\
        dispatcher_in_flight{replica=\"b:1\"} 1\n\
        dispatcher_enqueued_requests_total 12\n\
        dispatcher_shed_total{reason=\"full\"} 2\n\
        dispatcher_upstream_duration_seconds_bucket{le=\"0.1\"} 4\n\
        dispatcher_upstream_duration_seconds_bucket{le=\"0.5\"} 9\n\
        dispatcher_upstream_duration_seconds_bucket{le=\"+Inf\"} 10\n\
        dispatcher_upstream_duration_seconds_sum 2.5\n\
        dispatcher_upstream_duration_seconds_count 10\n";

    fn snapshot(text: &str) -> Result<Snapshot, FigureFault> {
        Snapshot::of(&exposition::parse(text.as_bytes())?)
    }

    /// The snapshot of `WELL` with the only occurrence of `from` replaced by `to`.
    fn with(from: &str, to: &str) -> Result<Snapshot, FigureFault> {
        assert_eq!(WELL.matches(from).count(), 1, "{from:?}");
        snapshot(&WELL.replace(from, to))
    }

    #[test]
    fn metrics_in_any_order_become_a_snapshot() {
        let expected = Snapshot {
            queue_length: 7.0,
            in_flight: 3.0,
            capacity: 4.0,
            enqueued: 12.0,
            shed: 2.0,
            service: Histogram { buckets: vec![(0.1, 4.0), (0.5, 9.0), (f64::INFINITY, 10.0)], sum: 2.5 },
            full_work: 0.012,
            ..Snapshot::default()
        };
        assert_eq!(expected.arrivals(), 14.0);
        let reversed: Vec<&str> = WELL.lines().rev().collect();
        assert_eq!(snapshot(&reversed.join("\n")), Ok(expected.clone()));
        assert_eq!(snapshot(WELL), Ok(expected));
    }

    #[test]
    fn an_error_names_the_series_of_an_impossible_number() {
        for (from, series) in [
            ("queue_length 7", "dispatcher_queue_length"),
            ("total 12", "dispatcher_enqueued_requests_total"),
            ("{replica=\"b:1\"} 1", "dispatcher_in_flight{replica=\"b:1\"}"),
            ("sum 2.5", "dispatcher_upstream_duration_seconds_sum"),
        ] {
            let (name, _) = from.rsplit_once(' ').expect("name and value");
            for bad in ["NaN", "-1", "+Inf", "-Inf", "1e18"] {
                let fault = with(from, &format!("{name} {bad}")).expect_err(bad);
                assert!(matches!(&fault, FigureFault::Number(found, ..) if found == series), "{fault:?}");
            }
        }
        let long = with("{replica=\"b:1\"} 1", &format!("{{replica=\"{}\"}} NaN", "b".repeat(1000)));
        let message = long.expect_err("no number").to_string();
        let quoted = format!("{}\"…}} is NaN, expected", "b".repeat(QUOTED_CHARS));
        assert!(message.contains(&quoted) && message.len() < 300, "{message}");
    }

    #[test]
    fn an_error_names_missing_metrics_invalid_lines_and_duplicate_series() {
        for name in ["dispatcher_queue_length", "dispatcher_enqueued_requests_total"] {
            assert_eq!(snapshot(&WELL.replace(name, "other")), Err(FigureFault::Missing(name.into())));
        }
        assert_eq!(snapshot(""), Err(FigureFault::Missing("dispatcher_queue_length".into())));
        assert!(snapshot("<html>").is_err());
        for bad in ["dispatcher_queue_length", "dispatcher_queue_length seven", "dispatcher_shed_total{reason= 1"] {
            assert_eq!(snapshot(&format!("{WELL}{bad}\n")), Err(FigureFault::Line(bad.into())));
        }
        for twice in [
            "dispatcher_queue_length 7",
            "dispatcher_queue_length{pod=\"b\"} 7",
            "dispatcher_in_flight{replica=\"a:1\"} 2",
            "dispatcher_upstream_duration_seconds_sum 2.5",
        ] {
            assert!(matches!(snapshot(&format!("{WELL}{twice}\n")), Err(FigureFault::Duplicate(_))), "{twice}");
        }
        let lines = "dispatcher_expired_total 1\n".repeat(50_000);
        assert_eq!(snapshot(&(lines + WELL)), Err(FigureFault::Lines(50_012, 50_000)));
    }

    #[test]
    fn partial_and_contradictory_histograms_are_refused() {
        let name = "dispatcher_upstream_duration_seconds";
        for (from, to, word) in [
            (format!("{name}_bucket{{le=\"+Inf\"}} 10\n"), String::new(), "+Inf is missing"),
            (format!("{name}_sum 2.5\n"), String::new(), "sum is missing"),
            ("le=\"0.5\"} 9".into(), "le=\"0.5\"} 3".into(), "bucket 0.1 counts 4, bucket 0.5 counts 3"),
            ("le=\"0.5\"} 9".into(), "le=\"0.5\"} 11".into(), "bucket 0.5 counts 11"),
            ("le=\"0.5\"} 9".into(), "le=\"1e-1\"} 4".into(), "bucket 0.1 counts 4, bucket 0.1 counts 4"),
            ("le=\"0.5\"".into(), "le=\"NaN\"".into(), "no upper bound"),
            ("le=\"0.5\"".into(), "than=\"0.5\"".into(), "no upper bound"),
            ("count 10".into(), "count 11".into(), "count is 11"),
            // Five answers took at least 0.1 s each, and one took at least 0.5 s, so the sum is at least 1 s.
            ("sum 2.5".into(), "sum 0.9".into(), "between 1 and inf"),
        ] {
            let fault = with(&from, &to).expect_err(word).to_string();
            assert!(fault.contains(word) && fault.contains(name), "{word}: {fault}");
        }
        let bounded = WELL.replace("le=\"+Inf\"} 10", "le=\"+Inf\"} 9").replace("count 10", "count 9");
        assert!(snapshot(&bounded.replace("sum 2.5", "sum 2.9")).is_ok());
        for (text, word) in [
            (bounded.replace("sum 2.5", "sum 3"), "between 0.5 and 2.9"),
            (WELL.replace("_bucket", "_cup"), "buckets are missing"),
        ] {
            let fault = snapshot(&text).expect_err(word).to_string();
            assert!(fault.contains(word), "{fault}");
        }
    }

    #[test]
    fn more_answers_than_arrivals_and_more_requests_than_were_admitted_are_refused() {
        let many = WELL.replace("le=\"+Inf\"} 10", "le=\"+Inf\"} 5000").replace("count 10", "count 5000");
        let surplus = FigureFault::Surplus(metric::UPSTREAM_DURATION, 5000.0, 14.0);
        assert_eq!(snapshot(&many.replace("sum 2.5", "sum 9000")), Err(surplus));
        assert!(with("queue_length 7", "queue_length 1000").is_ok(), "gauges and counters are not of one instant");
        assert_eq!(with("queue_length 7", "queue_length 1100"), Err(FigureFault::Unadmitted(1103.0, 12.0)));
    }

    #[test]
    fn series_names_cover_all_series_that_are_read() {
        let line = |name: &String| match name.ends_with("_bucket") {
            true => format!("{name}{{le=\"+Inf\"}} 1\n"),
            false => format!("{name} 1\n"),
        };
        let found = snapshot(&series_names().iter().map(line).collect::<String>()).expect("good");
        let Snapshot { queue_length, in_flight, capacity, enqueued, shed, uptime, .. } = found;
        assert_eq!([queue_length, in_flight, capacity, enqueued, shed, uptime.unwrap_or_default()], [1.0; 6]);
        assert_eq!(found.histograms().map(|(_, histogram)| histogram.count()), [1.0; 3]);
    }

    proptest! {
        #[test]
        fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(samples) = exposition::parse(&bytes) {
                let _outcome = Snapshot::of(&samples);
            }
        }

        /// Parts of the metrics are cut out, overwritten or repeated. An accepted snapshot has plausible figures.
        #[test]
        fn a_mutated_exposition_is_refused_or_sane(
            at in 0..WELL.len(), length in 0..40_usize,
            with in prop_oneof![
                Just(String::new()), "[ -~\n]{0,12}", "[0-9eE.+-]{1,8}",
                (0..WELL.len(), 0..90_usize).prop_map(|(at, length)| WELL[at..(at + length).min(WELL.len())].into()),
            ],
        ) {
            let mut text = WELL.to_owned();
            text.replace_range(at..(at + length).min(WELL.len()), &with);
            if let Ok(snapshot) = snapshot(&text) {
                let Snapshot { queue_length, in_flight, capacity, enqueued, shed, uptime, .. } = snapshot;
                let sums = snapshot.histograms().map(|(_, histogram)| histogram.sum);
                for value in [queue_length, in_flight, capacity, enqueued, shed, uptime.unwrap_or_default()].iter().chain(&sums) {
                    prop_assert!((0.0..=MOST_COUNTED).contains(value), "{value}");
                }
                for (_, Histogram { buckets, .. }) in snapshot.histograms() {
                    prop_assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
                    prop_assert!(buckets.last().is_none_or(|last| last.0 == f64::INFINITY));
                }
            }
        }
    }
}
