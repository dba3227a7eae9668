//! The figures of one dispatcher at one instant, made of its samples, or the reason why they cannot be true.

use law::histogram::Histogram;
use service::wire::metric;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// No dispatcher holds more requests than this.
const MOST_REQUESTS: f64 = 1e7;

/// The largest count: above 2⁵³, counting by one no longer changes a double.
pub const MOST_COUNTED: f64 = 9_007_199_254_740_992.0;

/// A request is attempted four times at most.
const ANSWERS_PER_ARRIVAL: f64 = 4.0;

/// Gauges and counters are not read at one instant: so many requests may come in between.
const BETWEEN: f64 = 1000.0;

/// Relative rounding error of sums.
const ROUNDING: f64 = 1e-6;

/// Characters of a label's value that a message quotes.
const SHOWN: usize = 80;

/// One number of one series.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The metric, suffixes included.
    pub name: String,
    /// Labels without the name.
    pub labels: BTreeMap<String, String>,
    /// The value; any double.
    pub value: f64,
}

/// The figures of one dispatcher. Counters and histograms begin with its process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Requests that wait.
    pub queue_length: f64,
    /// Requests that were sent to replicas and are not answered yet.
    pub in_flight: f64,
    /// Requests that all replicas in rotation hold at once.
    pub capacity: f64,
    /// Requests that were admitted.
    pub enqueued: f64,
    /// Requests that were refused for want of capacity. They were offered, and capacity is planned for offered requests.
    pub shed: f64,
    /// Seconds since the process started, if it says: another value at each scrape.
    pub uptime: Option<f64>,
    /// Times from dispatched to answered, seconds.
    pub service: Histogram,
    /// Times that a replica worked for an answer, seconds.
    pub work: Histogram,
    /// Times from accepted to answered, seconds.
    pub latency: Histogram,
}

/// The reason why figures are not believed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Fault {
    /// A metric is missing.
    #[error("{0} is missing; is that a dispatcher, and of this version?")]
    Missing(String),
    /// A line is not of the text format.
    #[error("the line {0:?} is no metric; does something rewrite /metrics?")]
    Line(String),
    /// The number of lines, and the most that are read.
    #[error("/metrics has {0} lines of dispatcher metrics, more than {1}; is that one dispatcher?")]
    Lines(usize, usize),
    /// The body is not UTF-8.
    #[error("/metrics is not text; does something compress or rewrite it?")]
    Text,
    /// A series, its value, and the largest value that is believed.
    #[error("{0} is {1:?}, expected 0 to {2:.0e}; restart that dispatcher if it stays so")]
    Number(String, f64, f64),
    /// A series that is there twice, or two series where there can only be one.
    #[error("{0} is there more than once; do several dispatchers share one address or one set of labels?")]
    Duplicate(String),
    /// A histogram, and what contradicts itself in it.
    #[error("histogram {0}: {1}; is something dropping or rewriting its series?")]
    Histogram(&'static str, String),
    /// A histogram, its count of answers, and the arrivals, of which there are too few.
    #[error("{0} counts {1} answers to {2} arrivals; are these the metrics of one dispatcher?")]
    Surplus(&'static str, f64, f64),
    /// Requests that wait or are in flight, and the admitted ones, of which there are too few.
    #[error("{0} requests wait or are in flight, but only {1} were ever admitted; does something rewrite /metrics?")]
    Unadmitted(f64, f64),
    /// A counter, and its growth within so many seconds.
    #[error("{0} grew by {1:.0} within {2:.1} s; that step is left out")]
    Leap(&'static str, f64, f64),
    /// A counter that went back while the others went on.
    #[error("{0} went back although the dispatcher did not start again; that step is left out")]
    Backwards(&'static str),
    /// How often the counters started again, within so many seconds.
    #[error(
        "its counters started again {0} times within {1:.0} s; several dispatchers behind one address? give \
         dns:NAME:PORT of a headless Service, or each address by itself"
    )]
    CrashLooping(usize, f64),
    /// Seconds in which nothing changed although time passed or requests were there.
    #[error(
        "nothing at all has changed for {0:.0} s; is that dispatcher stuck, or does something in between keep old \
         answers?"
    )]
    Frozen(f64),
}

impl Snapshot {
    /// The snapshot of all samples of one dispatcher, in any order. Samples of other metrics are ignored.
    ///
    /// # Errors
    /// When the samples contradict each other or reason.
    pub fn of(samples: &[Sample]) -> Result<Self, Fault> {
        let mut series = BTreeSet::new();
        if let Some(twice) = samples.iter().find(|sample| !series.insert((&sample.name, &sample.labels))) {
            return Err(Fault::Duplicate(twice.to_string()));
        }
        let snapshot = Self {
            queue_length: required(samples, metric::QUEUE_LENGTH, MOST_REQUESTS)?,
            in_flight: sum(samples, metric::IN_FLIGHT, MOST_REQUESTS)?,
            capacity: single(samples, metric::CAPACITY, MOST_REQUESTS)?.unwrap_or_default(),
            enqueued: required(samples, metric::ENQUEUED, MOST_COUNTED)?,
            // Series with labels, and histograms, appear with the first event that they count.
            shed: sum(samples, metric::SHED, MOST_COUNTED)?,
            uptime: single(samples, metric::UPTIME, MOST_COUNTED)?,
            service: histogram(samples, metric::UPSTREAM_DURATION)?,
            work: histogram(samples, metric::REPLICA_WORK)?,
            latency: histogram(samples, metric::REQUEST_DURATION)?,
        };
        let held = snapshot.queue_length + snapshot.in_flight;
        if held > snapshot.enqueued + BETWEEN {
            return Err(Fault::Unadmitted(held, snapshot.enqueued));
        }
        let arrivals = snapshot.arrivals();
        let possible = ANSWERS_PER_ARRIVAL * arrivals + BETWEEN;
        for (metric, histogram) in snapshot.histograms() {
            if histogram.count() > possible {
                return Err(Fault::Surplus(metric, histogram.count(), arrivals));
            }
        }
        Ok(snapshot)
    }

    /// Requests that were offered: admitted or refused.
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
    let plain =
        [metric::QUEUE_LENGTH, metric::IN_FLIGHT, metric::CAPACITY, metric::ENQUEUED, metric::SHED, metric::UPTIME];
    let histograms = Snapshot::default().histograms().map(|(name, _)| name);
    let parts = histograms.iter().flat_map(|name| ["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
    plain.iter().map(ToString::to_string).chain(parts).collect()
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.labels.is_empty() {
            return Ok(());
        }
        let labels = self.labels.iter().map(|(name, value)| {
            let shown: String = value.chars().take(SHOWN).collect();
            format!("{name}={shown:?}{}", if shown.len() < value.len() { "…" } else { "" })
        });
        write!(f, "{{{}}}", labels.collect::<Vec<_>>().join(","))
    }
}

/// The samples of one name.
pub fn named<'a>(samples: &'a [Sample], name: &str) -> impl Iterator<Item = &'a Sample> {
    samples.iter().filter(move |sample| sample.name == name)
}

/// A sample's value, between 0 and `most`.
///
/// # Errors
/// When it is another number.
pub fn sane(sample: &Sample, most: f64) -> Result<f64, Fault> {
    let value = sample.value;
    if (0.0..=most).contains(&value) { Ok(value) } else { Err(Fault::Number(sample.to_string(), value, most)) }
}

/// The value of the only series of one name, if it is there.
fn single(samples: &[Sample], name: &str, most: f64) -> Result<Option<f64>, Fault> {
    let mut found = named(samples, name);
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some(sample), None) => sane(sample, most).map(Some),
        (Some(_), Some(_)) => Err(Fault::Duplicate(name.into())),
    }
}

fn required(samples: &[Sample], name: &str, most: f64) -> Result<f64, Fault> {
    single(samples, name, most)?.ok_or_else(|| Fault::Missing(name.into()))
}

/// The sum of all series of one name; zero without any.
fn sum(samples: &[Sample], name: &str, most: f64) -> Result<f64, Fault> {
    let sum = named(samples, name).map(|sample| sane(sample, most)).sum::<Result<f64, Fault>>()?;
    // The sum of no numbers is -0.
    if sum <= most { Ok(sum + 0.0) } else { Err(Fault::Number(name.into(), sum, most)) }
}

/// The histogram of one name; empty if nothing has been recorded yet.
///
/// # Errors
/// When its parts contradict each other.
pub fn histogram(samples: &[Sample], name: &'static str) -> Result<Histogram, Fault> {
    let wrong = |what: String| Fault::Histogram(name, what);
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

/// The least and the largest sum of the samples: all at the lower ends of their buckets, or all at the upper ones.
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
    use crate::observe::exposition;
    use proptest::prelude::*;

    /// 12 arrivals, 2 refused, 10 answered: 4 within 0.1 s, 5 within 0.5 s, one later.
    const WELL: &str = "\
        # TYPE dispatcher_queue_length gauge\n\
        dispatcher_queue_length 7\n\
        dispatcher_capacity 4\n\
        dispatcher_in_flight{replica=\"a:1\"} 2\n\
        dispatcher_in_flight{replica=\"b:1\"} 1\n\
        dispatcher_enqueued_requests_total 12\n\
        dispatcher_shed_total{reason=\"full\"} 2\n\
        dispatcher_upstream_duration_seconds_bucket{le=\"0.1\"} 4\n\
        dispatcher_upstream_duration_seconds_bucket{le=\"0.5\"} 9\n\
        dispatcher_upstream_duration_seconds_bucket{le=\"+Inf\"} 10\n\
        dispatcher_upstream_duration_seconds_sum 2.5\n\
        dispatcher_upstream_duration_seconds_count 10\n";

    fn snapshot(text: &str) -> Result<Snapshot, Fault> {
        Snapshot::of(&exposition::parse(text.as_bytes())?)
    }

    /// The snapshot of `WELL` with the only occurrence of `from` replaced.
    fn with(from: &str, to: &str) -> Result<Snapshot, Fault> {
        assert_eq!(WELL.matches(from).count(), 1, "{from:?}");
        snapshot(&WELL.replace(from, to))
    }

    #[test]
    fn the_exposition_becomes_a_snapshot_in_any_order() {
        let expected = Snapshot {
            queue_length: 7.0,
            in_flight: 3.0,
            capacity: 4.0,
            enqueued: 12.0,
            shed: 2.0,
            service: Histogram { buckets: vec![(0.1, 4.0), (0.5, 9.0), (f64::INFINITY, 10.0)], sum: 2.5 },
            ..Snapshot::default()
        };
        assert_eq!(expected.arrivals(), 14.0);
        let reversed: Vec<&str> = WELL.lines().rev().collect();
        assert_eq!(snapshot(&reversed.join("\n")), Ok(expected.clone()));
        assert_eq!(snapshot(WELL), Ok(expected));
    }

    #[test]
    fn absurd_numbers_are_refused_by_name() {
        for (from, series) in [
            ("queue_length 7", "dispatcher_queue_length"),
            ("total 12", "dispatcher_enqueued_requests_total"),
            ("{replica=\"b:1\"} 1", "dispatcher_in_flight{replica=\"b:1\"}"),
            ("sum 2.5", "dispatcher_upstream_duration_seconds_sum"),
        ] {
            let (name, _) = from.rsplit_once(' ').expect("name and value");
            for bad in ["NaN", "-1", "+Inf", "-Inf", "1e18"] {
                let fault = with(from, &format!("{name} {bad}")).expect_err(bad);
                assert!(matches!(&fault, Fault::Number(found, ..) if found == series), "{fault:?}");
            }
        }
        let long = with("{replica=\"b:1\"} 1", &format!("{{replica=\"{}\"}} NaN", "b".repeat(1000)));
        let shown = long.expect_err("no number").to_string();
        assert!(shown.contains(&format!("{}\"…}} is NaN, expected", "b".repeat(80))) && shown.len() < 300, "{shown}");
    }

    #[test]
    fn missing_metrics_odd_lines_and_doubled_series_are_named() {
        for name in ["dispatcher_queue_length", "dispatcher_enqueued_requests_total"] {
            assert_eq!(snapshot(&WELL.replace(name, "other")), Err(Fault::Missing(name.into())));
        }
        assert_eq!(snapshot(""), Err(Fault::Missing("dispatcher_queue_length".into())));
        assert!(snapshot("<html>").is_err());
        for bad in ["dispatcher_queue_length", "dispatcher_queue_length seven", "dispatcher_shed_total{reason= 1"] {
            assert_eq!(snapshot(&format!("{WELL}{bad}\n")), Err(Fault::Line(bad.into())));
        }
        for twice in [
            "dispatcher_queue_length 7",
            "dispatcher_queue_length{pod=\"b\"} 7",
            "dispatcher_in_flight{replica=\"a:1\"} 2",
            "dispatcher_upstream_duration_seconds_sum 2.5",
        ] {
            assert!(matches!(snapshot(&format!("{WELL}{twice}\n")), Err(Fault::Duplicate(_))), "{twice}");
        }
        let lines = "dispatcher_expired_total 1\n".repeat(50_000);
        assert_eq!(snapshot(&(lines + WELL)), Err(Fault::Lines(50_011, 50_000)));
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
            // Nine lie under 0.5 s, five of these over 0.1 s, and one over 0.5 s: at least 1 s together.
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
        let surplus = Fault::Surplus(metric::UPSTREAM_DURATION, 5000.0, 14.0);
        assert_eq!(snapshot(&many.replace("sum 2.5", "sum 9000")), Err(surplus));
        assert!(with("queue_length 7", "queue_length 1000").is_ok(), "gauges and counters are not of one instant");
        assert_eq!(with("queue_length 7", "queue_length 1100"), Err(Fault::Unadmitted(1103.0, 12.0)));
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

        /// Parts are cut out, written over or repeated. A snapshot that is accepted keeps every promise that readers rely
        /// on.
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
