//! PURE: the samples of one dispatcher → what it says at one instant, or why that cannot be true.

use law::histogram::Histogram;
use service::wire::metric;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// More requests than that do not wait, and are not served, anywhere.
const MOST_REQUESTS: f64 = 1e7;

/// Above it counting by one does not change a double any more: 2⁵³.
pub const MOST_COUNTED: f64 = 9_007_199_254_740_992.0;

/// A request is answered once and attempted four times at most.
const ANSWERS_PER_ARRIVAL: f64 = 4.0;

/// Requests that may be between two counters.
const BETWEEN: f64 = 1000.0;

/// Rounding of sums, relative.
const ROUNDING: f64 = 1e-6;

/// Characters of a label's value that a message quotes.
const SHOWN: usize = 80;

/// One number of one series.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The metric, suffixes included.
    pub name: String,
    /// Without the name.
    pub labels: BTreeMap<String, String>,
    /// Anything that a double can be.
    pub value: f64,
}

/// What one dispatcher says; counters since its own start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Requests waiting.
    pub queue_length: f64,
    /// Requests sent to replicas, unanswered.
    pub in_flight: f64,
    /// Requests that all replicas in rotation take at once.
    pub capacity: f64,
    /// Requests ever admitted.
    pub enqueued: f64,
    /// Requests ever refused for want of capacity; of the offered ones, which capacity is planned for.
    pub shed: f64,
    /// Since its start, seconds, if it says: different each time that it is asked.
    pub uptime: Option<f64>,
    /// Dispatched → answered, seconds.
    pub service: Histogram,
    /// What a replica worked for an answer, seconds.
    pub work: Histogram,
    /// Accepted → answered, seconds.
    pub latency: Histogram,
}

/// Why figures are not believed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Not there.
    #[error("{0} is missing; is that a dispatcher, and of this version?")]
    Missing(String),
    /// No line of the text format.
    #[error("the line {0:?} is no metric; does something rewrite /metrics?")]
    Line(String),
    /// More than a dispatcher says.
    #[error("/metrics has {lines} lines of dispatcher metrics, more than {most}; is that one dispatcher?")]
    Lines {
        /// How many there are.
        lines: usize,
        /// How many are read.
        most: usize,
    },
    /// The body is not UTF-8.
    #[error("/metrics is not text; does something compress or rewrite it?")]
    Text,
    /// Negative, infinite, not a number, or beyond reason.
    #[error("{series} is {value:?}, expected 0 to {most:.0e}; restart that dispatcher if it stays so")]
    Number {
        /// With labels.
        series: String,
        /// As it was given.
        value: f64,
        /// What is believed.
        most: f64,
    },
    /// The same series twice, or two where there can only be one.
    #[error("{0} is there more than once; do several dispatchers share one address or one set of labels?")]
    Duplicate(String),
    /// A histogram that no histogram can be.
    #[error("histogram {metric}: {what}; is something dropping or rewriting its series?")]
    Histogram {
        /// Its name.
        metric: &'static str,
        /// What is wrong.
        what: String,
    },
    /// More was answered than ever arrived.
    #[error("{metric} counts {answers} answers to {arrivals} arrivals; are these the metrics of one dispatcher?")]
    Surplus {
        /// The histogram.
        metric: &'static str,
        /// Its count.
        answers: f64,
        /// Admitted and refused.
        arrivals: f64,
    },
    /// More is there than ever came.
    #[error(
        "{held} requests wait or are in flight, but only {enqueued} were ever admitted; does something rewrite /metrics?"
    )]
    Unadmitted {
        /// Waiting and in flight.
        held: f64,
        /// Ever admitted.
        enqueued: f64,
    },
    /// A counter ran faster than anything can.
    #[error("{metric} grew by {by:.0} within {seconds:.1} s; that step is left out")]
    Leap {
        /// The counter.
        metric: &'static str,
        /// How far.
        by: f64,
        /// In what time.
        seconds: f64,
    },
    /// A counter went back while the others went on.
    #[error("{0} went back although the dispatcher did not start again; that step is left out")]
    Backwards(&'static str),
    /// Counters start again over and over.
    #[error(
        "its counters started again {times} times within {seconds:.0} s; several dispatchers behind one address? give \
         dns:NAME:PORT of a headless Service, or each address by itself"
    )]
    Restless {
        /// How often.
        times: usize,
        /// In what time.
        seconds: f64,
    },
    /// Time passes or requests are there, and nothing happens.
    #[error(
        "nothing at all has changed for {seconds:.0} s; is that dispatcher stuck, or does something in between keep old \
         answers?"
    )]
    Frozen {
        /// For how long.
        seconds: f64,
    },
}

impl Snapshot {
    /// Makes a snapshot of all samples of one dispatcher, in any order; those of other metrics are ignored.
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
            // Series by label appear with what they count first, and so do histograms.
            shed: sum(samples, metric::SHED, MOST_COUNTED)?,
            uptime: single(samples, metric::UPTIME, MOST_COUNTED)?,
            service: histogram(samples, metric::UPSTREAM_DURATION)?,
            work: histogram(samples, metric::REPLICA_WORK)?,
            latency: histogram(samples, metric::REQUEST_DURATION)?,
        };
        let held = snapshot.queue_length + snapshot.in_flight;
        if held > snapshot.enqueued + BETWEEN {
            return Err(Fault::Unadmitted { held, enqueued: snapshot.enqueued });
        }
        let arrivals = snapshot.arrivals();
        for (metric, histogram) in [
            (metric::UPSTREAM_DURATION, &snapshot.service),
            (metric::REPLICA_WORK, &snapshot.work),
            (metric::REQUEST_DURATION, &snapshot.latency),
        ] {
            let answers = histogram.count();
            if answers > ANSWERS_PER_ARRIVAL * arrivals + BETWEEN {
                return Err(Fault::Surplus { metric, answers, arrivals });
            }
        }
        Ok(snapshot)
    }

    /// Admitted and refused.
    pub fn arrivals(&self) -> f64 {
        self.enqueued + self.shed
    }
}

/// Every metric that a snapshot is made of, as its series are called.
pub fn series_names() -> Vec<String> {
    let plain =
        [metric::QUEUE_LENGTH, metric::IN_FLIGHT, metric::CAPACITY, metric::ENQUEUED, metric::SHED, metric::UPTIME];
    let histograms = [metric::UPSTREAM_DURATION, metric::REPLICA_WORK, metric::REQUEST_DURATION];
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

/// A value between 0 and `most`.
///
/// # Errors
/// When it is not.
pub fn sane(sample: &Sample, most: f64) -> Result<f64, Fault> {
    let value = sample.value;
    if (0.0..=most).contains(&value) {
        Ok(value)
    } else {
        Err(Fault::Number { series: sample.to_string(), value, most })
    }
}

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

/// Over all labels; zero where nothing has happened yet.
fn sum(samples: &[Sample], name: &str, most: f64) -> Result<f64, Fault> {
    let sum = named(samples, name).map(|sample| sane(sample, most)).sum::<Result<f64, Fault>>()?;
    // Empty sums are -0.
    if sum <= most { Ok(sum + 0.0) } else { Err(Fault::Number { series: name.into(), value: sum, most }) }
}

/// The histogram of one name; empty where nothing has happened yet.
///
/// # Errors
/// When its parts contradict each other.
pub fn histogram(samples: &[Sample], name: &'static str) -> Result<Histogram, Fault> {
    let wrong = |what: String| Err(Fault::Histogram { metric: name, what });
    let mut buckets = Vec::new();
    for sample in named(samples, &format!("{name}_bucket")) {
        let bound = sample.labels.get("le").and_then(|bound| bound.parse::<f64>().ok());
        match bound {
            Some(bound) if !bound.is_nan() => buckets.push((bound, sane(sample, MOST_COUNTED)?)),
            _ => return wrong(format!("{sample} has no upper bound")),
        }
    }
    let sum = single(samples, &format!("{name}_sum"), MOST_COUNTED)?;
    let count = single(samples, &format!("{name}_count"), MOST_COUNTED)?;
    let (total, sum) = match (buckets.is_empty(), sum) {
        (true, None) if count.is_none() => return Ok(Histogram::default()),
        (true, _) => return wrong("its buckets are missing".into()),
        (false, None) => return wrong("its sum is missing".into()),
        (false, Some(sum)) => {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            (buckets[buckets.len() - 1], sum)
        }
    };
    if total.0 != f64::INFINITY {
        return wrong("its bucket +Inf is missing".into());
    }
    if let Some(pair) = buckets.windows(2).find(|pair| pair[0].0 == pair[1].0 || pair[0].1 > pair[1].1) {
        return wrong(format!("bucket {} counts {}, bucket {} counts {}", pair[0].0, pair[0].1, pair[1].0, pair[1].1));
    }
    if let Some(count) = count.filter(|&count| count != total.1) {
        return wrong(format!("its count is {count}, its bucket +Inf {}", total.1));
    }
    let found = Histogram { buckets, sum };
    let (least, most) = sums(&found);
    if sum < least * (1.0 - ROUNDING) || sum > most * (1.0 + ROUNDING) {
        return wrong(format!("its sum is {sum}, but by its buckets it lies between {least} and {most}"));
    }
    Ok(found)
}

/// What the sum of these samples can be: all at the lower ends of their buckets, or all at the upper ones.
fn sums(histogram: &Histogram) -> (f64, f64) {
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

    #[test]
    fn the_exposition_becomes_a_snapshot() {
        let service = Histogram { buckets: vec![(0.1, 4.0), (0.5, 9.0), (f64::INFINITY, 10.0)], sum: 2.5 };
        let expected = Snapshot {
            queue_length: 7.0,
            in_flight: 3.0,
            capacity: 4.0,
            enqueued: 12.0,
            shed: 2.0,
            uptime: None,
            service,
            work: Histogram::default(),
            latency: Histogram::default(),
        };
        assert_eq!(snapshot(WELL), Ok(expected));
        assert_eq!(snapshot(WELL).expect("well formed").arrivals(), 14.0);
    }

    #[test]
    fn order_does_not_matter() {
        let reversed: Vec<&str> = WELL.lines().rev().collect();
        assert_eq!(snapshot(&reversed.join("\n")), snapshot(WELL));
    }

    /// `WELL` with the only occurrence of `from` replaced.
    fn with(from: &str, to: &str) -> Result<Snapshot, Fault> {
        assert_eq!(WELL.matches(from).count(), 1, "{from:?}");
        snapshot(&WELL.replace(from, to))
    }

    #[test]
    fn absurd_numbers_are_refused_by_name() {
        let name = |fault: Fault| match fault {
            Fault::Number { series, .. } => series,
            other => panic!("{other:?}"),
        };
        for bad in ["NaN", "-1", "+Inf", "-Inf", "1e18"] {
            let fault = with("queue_length 7", &format!("queue_length {bad}")).expect_err(bad);
            assert_eq!(name(fault), "dispatcher_queue_length");
            let fault = with("total 12", &format!("total {bad}")).expect_err(bad);
            assert_eq!(name(fault), "dispatcher_enqueued_requests_total");
            let fault = with("{replica=\"b:1\"} 1", &format!("{{replica=\"b:1\"}} {bad}")).expect_err(bad);
            assert_eq!(name(fault), "dispatcher_in_flight{replica=\"b:1\"}");
            let fault = with("sum 2.5", &format!("sum {bad}")).expect_err(bad);
            assert_eq!(name(fault), "dispatcher_upstream_duration_seconds_sum");
        }
    }

    #[test]
    fn a_series_is_quoted_without_all_that_its_labels_hold() {
        let series = with("{replica=\"b:1\"} 1", &format!("{{replica=\"{}\"}} NaN", "b".repeat(1000)));
        let shown = series.expect_err("no number").to_string();
        assert!(shown.contains(&format!("{}\"…}} is NaN, expected", "b".repeat(80))) && shown.len() < 300, "{shown}");
    }

    #[test]
    fn what_is_missing_is_named() {
        for name in ["dispatcher_queue_length", "dispatcher_enqueued_requests_total"] {
            assert_eq!(snapshot(&WELL.replace(name, "other")), Err(Fault::Missing(name.into())));
        }
        assert_eq!(snapshot(""), Err(Fault::Missing("dispatcher_queue_length".into())));
        assert!(snapshot("<html>").is_err());
    }

    #[test]
    fn a_line_that_is_no_metric_is_quoted() {
        for bad in ["dispatcher_queue_length", "dispatcher_queue_length seven", "dispatcher_shed_total{reason= 1"] {
            assert_eq!(snapshot(&format!("{WELL}{bad}\n")), Err(Fault::Line(bad.into())));
        }
    }

    #[test]
    fn a_series_that_is_there_twice_is_refused() {
        for twice in [
            "dispatcher_queue_length 7",
            "dispatcher_queue_length{pod=\"b\"} 7",
            "dispatcher_in_flight{replica=\"a:1\"} 2",
            "dispatcher_upstream_duration_seconds_sum 2.5",
        ] {
            assert!(matches!(snapshot(&format!("{WELL}{twice}\n")), Err(Fault::Duplicate(_))), "{twice}");
        }
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
        let fault = snapshot(&bounded.replace("sum 2.5", "sum 3")).expect_err("too large");
        assert!(fault.to_string().contains("between 0.5 and 2.9"), "{fault}");
        let headless = WELL.replace("_bucket", "_cup");
        assert!(snapshot(&headless).expect_err("no buckets").to_string().contains("buckets are missing"));
    }

    #[test]
    fn more_answers_than_arrivals_are_refused() {
        let many = WELL
            .replace("le=\"+Inf\"} 10", "le=\"+Inf\"} 5000")
            .replace("count 10", "count 5000")
            .replace("sum 2.5", "sum 9000");
        let metric = metric::UPSTREAM_DURATION;
        assert_eq!(snapshot(&many), Err(Fault::Surplus { metric, answers: 5000.0, arrivals: 14.0 }));
    }

    #[test]
    fn more_requests_than_were_ever_admitted_are_refused() {
        assert!(with("queue_length 7", "queue_length 1000").is_ok(), "gauges and counters are not of one instant");
        assert_eq!(
            with("queue_length 7", "queue_length 1100"),
            Err(Fault::Unadmitted { held: 1103.0, enqueued: 12.0 })
        );
    }

    #[test]
    fn an_exposition_of_too_many_lines_is_refused() {
        let lines = "dispatcher_expired_total 1\n".repeat(50_000);
        assert_eq!(snapshot(&(lines + WELL)), Err(Fault::Lines { lines: 50_011, most: 50_000 }));
    }

    #[test]
    fn names_of_series_cover_what_is_read() {
        let text = series_names().iter().enumerate().fold(String::new(), |text, (index, name)| match index {
            0..6 => text + &format!("{name} 1\n"),
            _ if name.ends_with("_bucket") => text + &format!("{name}{{le=\"+Inf\"}} 1\n"),
            _ => text + &format!("{name} 1\n"),
        });
        let one = Histogram { buckets: vec![(f64::INFINITY, 1.0)], sum: 1.0 };
        let expected = Snapshot {
            queue_length: 1.0,
            in_flight: 1.0,
            capacity: 1.0,
            enqueued: 1.0,
            shed: 1.0,
            uptime: Some(1.0),
            service: one.clone(),
            work: one.clone(),
            latency: one,
        };
        assert_eq!(snapshot(&text), Ok(expected));
    }

    mod properties {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
                if let Ok(samples) = exposition::parse(&bytes) {
                    let _outcome = Snapshot::of(&samples);
                }
            }

            /// Whatever is cut out, written over or repeated: what is accepted keeps every promise that readers rely
            /// on.
            #[test]
            fn a_mutated_exposition_is_refused_or_sane(
                at in 0..WELL.len(), length in 0..40_usize,
                with in prop_oneof![
                    Just(String::new()), "[ -~\n]{0,12}", "[0-9eE.+-]{1,8}",
                    (0..WELL.len(), 0..90_usize)
                        .prop_map(|(at, length)| WELL[at..(at + length).min(WELL.len())].into()),
                ],
            ) {
                let mut text = WELL.to_owned();
                text.replace_range(at..(at + length).min(WELL.len()), &with);
                if let Ok(snapshot) = snapshot(&text) {
                    let Snapshot { queue_length, in_flight, capacity, enqueued, shed, uptime, service, work, latency } = snapshot;
                    let uptime = uptime.unwrap_or_default();
                    for value in [queue_length, in_flight, capacity, enqueued, shed, uptime, service.sum, work.sum, latency.sum] {
                        prop_assert!((0.0..=MOST_COUNTED).contains(&value), "{value}");
                    }
                    for Histogram { buckets, .. } in [service, work, latency] {
                        prop_assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
                        prop_assert!(buckets.last().is_none_or(|last| last.0 == f64::INFINITY));
                    }
                }
            }
        }
    }
}
