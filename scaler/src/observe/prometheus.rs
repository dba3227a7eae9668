//! Reads the dispatchers' figures from a Prometheus that scrapes them.
//!
//! The queries ask for the series of each dispatcher, since a sum would hide which dispatcher has restarted. A
//! dispatcher that Prometheus cannot scrape vanishes from the answer at once. The series `up` tells it from a
//! dispatcher that has left. If Prometheus scrapes others, the reading is partial. If it scrapes none, the last figures
//! stand until they are too old.

use super::counters::Counters;
use super::snapshot::{MetricSample, Snapshot, series_names};
use super::{Error, Reading, SnapshotError, log_restart};
pub use prometheus_api as client;
use prometheus_api::{Client, Element};
use service::wire::metric;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The label that holds a metric's name.
pub const NAME: &str = "__name__";

/// The labels that a dispatcher itself gives its series. All other labels together identify the dispatcher.
const OWN_LABELS: [&str; 6] = [NAME, "le", "reason", "replica", "code", "state"];

/// The labels that Prometheus gives all series of a target, and the series `up`.
const TARGET_LABELS: [&str; 2] = ["instance", "job"];

/// The label that names the part of an answer to which an element belongs.
const PART: &str = "roundhouse_part";
/// The value of [`PART`] for the times of the newest samples.
const AGES: &str = "ages";
/// The value of [`PART`] for the dispatchers that cannot be scraped.
const DOWN: &str = "down";

/// The queries to Prometheus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queries {
    /// All series of all dispatchers, under the names that dispatchers give them.
    pub figures: String,
    /// The time of each dispatcher's newest sample, in seconds since 1970.
    pub ages: String,
    /// An element with the target's labels for each dispatcher that Prometheus fails to scrape.
    pub down: String,
}

impl Queries {
    /// The default queries for the dispatchers that `selector` picks. It has label matchers, such as
    /// `namespace="shop",job="dispatcher"`, or is empty for all dispatchers.
    pub fn of(selector: &str) -> Self {
        let names = series_names().join("|");
        let one = metric::QUEUE_LENGTH;
        Self {
            figures: format!("{{{NAME}=~\"{names}\",{selector}}}"),
            // `timestamp` returns the time of the sample only if it is applied to a series without any other function.
            ages: format!("timestamp({one}{{{selector}}})"),
            // `up` has all targets of Prometheus, so those without a dispatcher's series in the last hour are left out.
            down: format!(
                "up{{{selector}}} == 0 and on ({}) last_over_time({one}{{{selector}}}[1h])",
                TARGET_LABELS.join(",")
            ),
        }
    }

    /// One query with all three, so that they are evaluated at one instant. Between two queries, a dispatcher could
    /// come or leave.
    fn whole(&self) -> String {
        let part = |query, part| format!("label_replace({query}, \"{PART}\", \"{part}\", \"\", \"\")");
        format!("({}) or {} or {}", self.figures, part(&self.ages, AGES), part(&self.down, DOWN))
    }
}

/// The answer to [`Queries::whole`], part by part.
#[derive(Debug, Default)]
struct QueryAnswer {
    figures: Vec<Element>,
    ages: Vec<Element>,
    down: Vec<Element>,
}

impl QueryAnswer {
    fn of(elements: Vec<Element>) -> Self {
        let mut answers = Self::default();
        for mut element in elements {
            let part = element.metric.remove(PART);
            match part.as_deref() {
                Some(AGES) => answers.ages.push(element),
                Some(DOWN) => answers.down.push(element),
                _ => answers.figures.push(element),
            }
        }
        answers
    }
}

/// A Prometheus as a source of readings.
#[derive(Debug)]
pub struct Prometheus {
    client: Client,
    queries: Queries,
    readings: Readings,
}

impl Prometheus {
    /// A source that asks with `queries`. Figures older than `limit` give no reading.
    pub fn new(client: Client, queries: Queries, limit: Duration) -> Self {
        Self { client, queries, readings: Readings::new(limit) }
    }

    /// Asks Prometheus once. `at` is the time since the scaler's start.
    pub async fn read(&mut self, at: Duration) -> Result<Reading, Error> {
        let answers = QueryAnswer::of(self.client.query(&self.queries.whole()).await?);
        if self.readings.newest.is_empty() && answers.figures.is_empty() && answers.down.is_empty() {
            return Err(Error::NoDispatcher(self.queries.figures.clone()));
        }
        self.readings.read(at, &answers)
    }
}

/// Makes readings of Prometheus's answers. Pure.
#[derive(Debug)]
struct Readings {
    /// The age above which figures give no reading.
    limit: Duration,
    counters: Counters,
    newest: BTreeMap<String, NewestSample>,
}

/// The newest sample of a dispatcher.
#[derive(Debug)]
struct NewestSample {
    target: TargetLabels,
    /// The time of the sample by Prometheus's clock, in seconds since 1970.
    taken: f64,
    /// The age of the sample when it was first seen.
    age: Duration,
    /// The time at which the sample was first seen.
    seen: Duration,
}

/// The values of [`TARGET_LABELS`].
type TargetLabels = [Option<String>; 2];

/// The target and the samples of each dispatcher.
type Samples = BTreeMap<String, (TargetLabels, Vec<MetricSample>)>;

impl NewestSample {
    /// The age of the sample at `at`. This machine's clock counts from the first sight on, so that an answer from a
    /// cache grows old, too.
    fn age(&self, at: Duration) -> Duration {
        self.age + at.saturating_sub(self.seen)
    }
}

impl Readings {
    fn new(limit: Duration) -> Self {
        Self { limit, counters: Counters::default(), newest: BTreeMap::new() }
    }

    fn read(&mut self, at: Duration, answers: &QueryAnswer) -> Result<Reading, Error> {
        let mut samples = Samples::new();
        for element in &answers.figures {
            let dispatcher = samples.entry(endpoint(&element.metric));
            dispatcher
                .or_insert_with(|| (target_labels(element), Vec::new()))
                .1
                .push(sample(&element.metric, element.value()));
        }
        let mut errors = self.enter(at, &samples, &answers.ages)?;
        let down: BTreeSet<TargetLabels> = answers.down.iter().map(target_labels).collect();
        self.newest.retain(|endpoint, newest| {
            let stays = samples.contains_key(endpoint) || down.contains(&newest.target);
            if !stays {
                tracing::info!(endpoint, "the dispatcher has left");
                self.counters.close(endpoint);
            }
            stays
        });
        // If some counters went on while others stood still, the load would seem to fall.
        let is_last_known = |target| samples.is_empty() && self.newest.values().any(|newest| newest.target == target);
        let missing = answers.down.iter().filter(|element| !is_last_known(target_labels(element)));
        errors.extend(missing.map(|element| SnapshotError::Down(endpoint(&element.metric))));
        if !errors.is_empty() {
            return Err(Error::Partial(self.newest.len().max(errors.len()), errors));
        }
        match self.newest.iter().map(|(endpoint, newest)| (newest.age(at), endpoint)).max() {
            Some((age, endpoint)) if age > self.limit => Err(Error::Stale(endpoint.clone(), age, self.limit)),
            Some((age, _)) => Ok(self.counters.sum(age)),
            None => Err(Error::NoDispatcher("any dispatcher".into())),
        }
    }

    /// Enters the samples of each dispatcher. Returns the errors of dispatchers whose figures are not believed.
    fn enter(&mut self, at: Duration, samples: &Samples, ages: &[Element]) -> Result<Vec<SnapshotError>, Error> {
        let stamps: BTreeMap<String, &Element> = ages.iter().map(|stamp| (endpoint(&stamp.metric), stamp)).collect();
        let mut errors = Vec::new();
        for (endpoint, (target, samples)) in samples {
            let stamp = stamps.get(endpoint).filter(|stamp| stamp.value().is_finite());
            let stamp = stamp.ok_or_else(|| Error::NoAge(endpoint.clone()))?;
            let taken = stamp.value();
            match Snapshot::of(samples).and_then(|snapshot| self.counters.enter(endpoint, taken, snapshot)) {
                Ok(continuity) => log_restart(endpoint, continuity),
                Err(fault) => errors.push(SnapshotError::Figures(endpoint.clone(), fault)),
            }
            if self.newest.get(endpoint).is_none_or(|newest| newest.taken < taken) {
                // If clocks differ, the sample may be newer than Prometheus's time of evaluation. Its age is then zero.
                let age = Duration::try_from_secs_f64(stamp.evaluated() - taken).unwrap_or_default();
                let newest = NewestSample { target: target.clone(), taken, age, seen: at };
                self.newest.insert(endpoint.clone(), newest);
            }
        }
        Ok(errors)
    }
}

/// The dispatcher with these labels, as a text: all labels but those that the dispatcher itself gives.
pub fn endpoint(labels: &BTreeMap<String, String>) -> String {
    let labels = labels.iter().filter(|(name, _)| !OWN_LABELS.contains(&name.as_str()));
    let labels: Vec<String> = labels.map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", labels.join(","))
}

fn target_labels(element: &Element) -> TargetLabels {
    TARGET_LABELS.map(|label| element.metric.get(label).cloned())
}

/// A sample with those of the `labels` that the dispatcher itself gives.
pub fn sample(labels: &BTreeMap<String, String>, value: f64) -> MetricSample {
    let mut labels = labels.clone();
    labels.retain(|name, _| OWN_LABELS.contains(&name.as_str()));
    let name = labels.remove(NAME).unwrap_or_default();
    MetricSample { name, labels, value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn readings() -> Readings {
        Readings::new(S(45))
    }

    fn element(labels: &[(&str, &str)], evaluated: f64, value: f64) -> Element {
        let labels = labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Element::new(labels.collect(), evaluated, value)
    }

    /// A dispatcher's instance, the time of its newest sample, and its admitted requests.
    type Scraped<'a> = (&'a str, f64, f64);

    /// The answer at `now` of a Prometheus that has scraped `dispatchers` and cannot scrape the instances `down`.
    fn answers(now: f64, dispatchers: &[Scraped<'_>], down: &[&str]) -> QueryAnswer {
        let mut answers = QueryAnswer::default();
        for &(instance, taken, enqueued) in dispatchers {
            let target = [("instance", instance), ("job", "dispatcher")];
            let named = |name, value| element(&[target[0], target[1], (NAME, name)], now, value);
            answers.figures.push(named(metric::QUEUE_LENGTH, 0.0));
            answers.figures.push(named(metric::ENQUEUED, enqueued));
            answers.ages.push(element(&target, now, taken));
        }
        let is_down = |name: &&str| element(&[(NAME, "up"), ("instance", name), ("job", "dispatcher")], now, 0.0);
        answers.down = down.iter().map(is_down).collect();
        answers
    }

    /// Reads at second `at`, which is second 1000 + `at` of Prometheus's clock.
    fn read(readings: &mut Readings, at: u64, dispatchers: &[Scraped<'_>], down: &[&str]) -> Result<Reading, Error> {
        readings.read(S(at), &answers(1000.0 + at as f64, dispatchers, down))
    }

    /// The arrivals and the age of a reading.
    fn figures(outcome: Result<Reading, Error>) -> (f64, Duration) {
        let reading = outcome.expect("whole");
        (reading.figures.arrivals, reading.age)
    }

    #[test]
    fn each_instance_has_its_own_counters_and_they_are_added_up() {
        let mut it = readings();
        assert_eq!(figures(read(&mut it, 0, &[("a", 990.0, 5.0), ("b", 997.0, 7.0)], &[])), (12.0, S(10)));
        let restarted = read(&mut it, 5, &[("a", 1003.0, 1.0), ("b", 1004.0, 9.0)], &[]);
        assert_eq!(figures(restarted), (15.0, S(2)));
    }

    #[test]
    fn one_of_several_dispatchers_that_is_down_makes_the_reading_partial_until_it_has_left() {
        let mut it = readings();
        assert_eq!(figures(read(&mut it, 0, &[("a", 1000.0, 5.0), ("b", 1000.0, 7.0)], &[])), (12.0, S(0)));
        let error = read(&mut it, 20, &[("a", 1020.0, 6.0)], &["b"]).expect_err("partial").to_string();
        assert!(error.contains("1 of 2") && error.contains("instance=\"b\"") && !error.contains("\"a\""), "{error}");
        let back = read(&mut it, 40, &[("a", 1040.0, 6.0), ("b", 1040.0, 9.0)], &[]);
        assert_eq!(figures(back), (15.0, S(0)), "whole again");
        assert_eq!(figures(read(&mut it, 60, &[("a", 1060.0, 8.0)], &[])), (17.0, S(0)), "it has left");
        // A dispatcher that was never scraped makes the reading partial, too.
        let error = read(&mut readings(), 0, &[("a", 1000.0, 5.0)], &["b"]).expect_err("partial");
        assert!(matches!(&error, Error::Partial(_, errors) if matches!(errors[..], [SnapshotError::Down(_)])));
        assert!(error.to_string().contains("instance=\"b\""), "{error}");
    }

    #[test]
    fn the_last_figures_stand_until_they_are_too_old_if_no_dispatcher_can_be_scraped() {
        let mut it = readings();
        let young = read(&mut it, 0, &[("a", 1000.0, 5.0), ("b", 998.0, 7.0)], &[]).expect("whole");
        let old = read(&mut it, 40, &[], &["a", "b"]).expect("not too old yet");
        assert_eq!(old, Reading { age: S(42), ..young });
        let error = read(&mut it, 44, &[], &["a", "b"]).expect_err("too old");
        assert!(matches!(&error, Error::Stale(_, age, _) if *age == S(46)), "{error}");
        assert!(error.to_string().contains("instance=\"b\"") && error.to_string().contains("45 s"), "{error}");
        assert!(matches!(read(&mut it, 50, &[], &[]), Err(Error::NoDispatcher(_))), "all have left");
    }

    #[test]
    fn an_answer_that_never_changes_grows_old() {
        let mut readings = readings();
        let cached = answers(1000.0, &[("a", 999.0, 5.0)], &[]);
        assert_eq!(figures(readings.read(S(0), &cached)).1, S(1));
        assert_eq!(figures(readings.read(S(44), &cached)).1, S(45));
        assert!(matches!(readings.read(S(45), &cached), Err(Error::Stale(..))));
    }

    #[test]
    fn figures_without_their_age_and_impossible_figures_are_refused() {
        let mut without = answers(1000.0, &[("a", 1000.0, 5.0)], &[]);
        without.ages[0] = element(&[("instance", "a"), ("job", "dispatcher")], 1000.0, f64::NAN);
        assert!(matches!(readings().read(S(0), &without), Err(Error::NoAge(_))));
        without.ages.clear();
        assert!(matches!(readings().read(S(0), &without), Err(Error::NoAge(_))));

        let mut twice = answers(1000.0, &[("a", 1000.0, 5.0)], &[]);
        twice.figures.extend(twice.figures.clone());
        let absurd = answers(1000.0, &[("a", 1000.0, f64::NAN)], &[]);
        for (answers, words) in
            [(absurd, ["instance=\"a\"", metric::ENQUEUED, "NaN"]), (twice, ["instance=\"a\"", "", "more than once"])]
        {
            let error = readings().read(S(0), &answers).expect_err("absurd").to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }

    #[test]
    fn clocks_that_differ_or_jump_make_no_figure_newer_and_no_burst() {
        let ahead = answers(1000.0, &[("a", 1007.0, 5.0)], &[]);
        assert_eq!(figures(readings().read(S(0), &ahead)).1, S(0));
        let mut readings = readings();
        let mut read = |at: u64, now: f64, enqueued| readings.read(S(at), &answers(now, &[("a", now, enqueued)], &[]));
        assert_eq!(figures(read(0, 1000.0, 5.0)), (5.0, S(0)));
        assert_eq!(figures(read(1, 4601.0, 6.0)), (6.0, S(0)), "forth");
        assert_eq!(figures(read(2, 1002.0, 7.0)), (6.0, S(1)), "back: the figures of before, ever older");
        assert!(matches!(read(47, 1047.0, 99.0), Err(Error::Stale(..))));
    }

    proptest! {
        #[test]
        fn no_answer_makes_a_reading_panic(
            rounds in proptest::collection::vec((
                proptest::collection::vec((0..13_usize, 0..3_usize, any::<f64>(), any::<f64>()), 0..12), 0..4_usize,
            ), 1..6),
        ) {
            let mut readings = readings();
            let names = series_names();
            for (round, (elements, down)) in rounds.into_iter().enumerate() {
                let now = [0.0, f64::NAN, f64::INFINITY, -1e300][down];
                let mut answers = answers(now, &[], &["0", "1", "2"][..down.min(3)]);
                for (name, instance, value, evaluated) in elements {
                    let instance = instance.to_string();
                    let target = ("instance", instance.as_str());
                    match names.get(name) {
                        Some(name) => {
                            let labels = [target, (NAME, name), ("le", "+Inf")];
                            answers.figures.push(element(&labels, evaluated, value));
                        }
                        None => answers.ages.push(element(&[target], evaluated, value)),
                    }
                }
                let _outcome = readings.read(S(round as u64), &answers);
            }
        }
    }
}
