//! Reads the dispatchers' figures from a Prometheus that scrapes them.
//!
//! The queries ask for the series of each dispatcher as they are: a sum over all would hide which dispatcher has restarted.
//! A dispatcher that Prometheus cannot scrape vanishes from the answer at once; `up` tells it from one that has left. If it
//! is one of several, the reading is partial. If none can be scraped, the last figures stand until they are too old.

use super::counters::Counters;
use super::snapshot::{Sample, Snapshot, series_names};
use super::{Error, Failure, Reading, log_restart};
pub use prometheus_api as client;
use prometheus_api::{Client, Element};
use service::wire::metric;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The label that holds a metric's name.
pub const NAME: &str = "__name__";

/// Labels that the dispatcher itself gives; all other labels tell dispatchers apart.
const OWN: [&str; 6] = [NAME, "le", "reason", "replica", "code", "state"];

/// Labels that Prometheus gives each target, in `up` as well.
const TARGET: [&str; 2] = ["instance", "job"];

/// A label that tells the parts of one answer apart, and its values.
const PART: &str = "roundhouse_part";
const AGES: &str = "ages";
const DOWN: &str = "down";

/// The queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queries {
    /// All series of all dispatchers, under the names that dispatchers give them.
    pub figures: String,
    /// For each dispatcher the time of its newest sample, seconds since 1970.
    pub ages: String,
    /// One element for each dispatcher that should be scraped and cannot be, with its target's labels.
    pub down: String,
}

impl Queries {
    /// The queries for the dispatchers that `selector` picks: matchers such as `namespace="shop",job="dispatcher"`, or
    /// nothing for all.
    pub fn of(selector: &str) -> Self {
        let names = series_names().join("|");
        let one = metric::QUEUE_LENGTH;
        Self {
            figures: format!("{{{NAME}=~\"{names}\",{selector}}}"),
            // `timestamp` of a series is the sample's own time, of any other expression that of the evaluation.
            ages: format!("timestamp({one}{{{selector}}})"),
            // `up` knows all targets. Dispatchers are those whose figures were scraped lately.
            down: format!(
                "up{{{selector}}} == 0 and on ({}) last_over_time({one}{{{selector}}}[1h])",
                TARGET.join(",")
            ),
        }
    }

    /// All three in one, so that they are evaluated at one instant: between two queries a dispatcher may come or leave.
    fn whole(&self) -> String {
        let part = |query, part| format!("label_replace({query}, \"{PART}\", \"{part}\", \"\", \"\")");
        format!("({}) or {} or {}", self.figures, part(&self.ages, AGES), part(&self.down, DOWN))
    }
}

/// The answer to [`Queries::whole`], part by part.
#[derive(Debug, Default)]
struct Answers {
    figures: Vec<Element>,
    ages: Vec<Element>,
    down: Vec<Element>,
}

impl Answers {
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
    /// Asks with `queries`; figures older than `limit` are not acted upon.
    pub fn new(client: Client, queries: Queries, limit: Duration) -> Self {
        Self { client, queries, readings: Readings::new(limit) }
    }

    /// Asks once, `at` after the scaler's start.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read(&mut self, at: Duration) -> Result<Reading, Error> {
        let answers = Answers::of(self.client.query(&self.queries.whole()).await?);
        if self.readings.newest.is_empty() && answers.figures.is_empty() && answers.down.is_empty() {
            return Err(Error::NoDispatcher(self.queries.figures.clone()));
        }
        self.readings.read(at, &answers)
    }
}

/// Makes a reading of an answer and of the answers before it. Pure.
#[derive(Debug)]
struct Readings {
    /// Oldest age of figures that are acted upon.
    limit: Duration,
    counters: Counters,
    newest: BTreeMap<String, Newest>,
}

/// The newest sample of a dispatcher.
#[derive(Debug)]
struct Newest {
    target: Target,
    /// When it was taken by Prometheus's clock, seconds since 1970.
    taken: f64,
    /// Its age when it was first seen, and the time at which that was.
    age: Duration,
    seen: Duration,
}

/// The values of [`TARGET`].
type Target = [Option<String>; 2];

impl Newest {
    /// The age by this machine's clock since the sample was first seen, so that an answer out of a cache grows old too.
    fn age(&self, at: Duration) -> Duration {
        self.age + at.saturating_sub(self.seen)
    }
}

impl Readings {
    fn new(limit: Duration) -> Self {
        Self { limit, counters: Counters::default(), newest: BTreeMap::new() }
    }

    fn read(&mut self, at: Duration, answers: &Answers) -> Result<Reading, Error> {
        let mut samples: BTreeMap<String, (Target, Vec<Sample>)> = BTreeMap::new();
        for element in &answers.figures {
            let of_this = samples.entry(endpoint(&element.metric)).or_insert_with(|| (target(element), Vec::new()));
            of_this.1.push(sample(&element.metric, element.value()));
        }
        let mut failures = self.enter(at, &samples, &answers.ages)?;
        let down: BTreeSet<Target> = answers.down.iter().map(target).collect();
        self.newest.retain(|endpoint, newest| {
            let stays = samples.contains_key(endpoint) || down.contains(&newest.target);
            if !stays {
                tracing::info!(endpoint, "the dispatcher has left");
                self.counters.close(endpoint);
            }
            stays
        });
        // Some counters that go on while others stand still would look like a fall of the load.
        let is_last_known = |target| samples.is_empty() && self.newest.values().any(|newest| newest.target == target);
        let missing = answers.down.iter().filter(|element| !is_last_known(target(element)));
        failures.extend(missing.map(|element| Failure::Down(endpoint(&element.metric))));
        if !failures.is_empty() {
            return Err(Error::Partial(self.newest.len().max(failures.len()), failures));
        }
        match self.newest.iter().map(|(endpoint, newest)| (newest.age(at), endpoint)).max() {
            Some((age, endpoint)) if age > self.limit => Err(Error::Stale(endpoint.clone(), age, self.limit)),
            Some((age, _)) => Ok(self.counters.sum(age)),
            None => Err(Error::NoDispatcher("any dispatcher".into())),
        }
    }

    /// Enters the samples of each dispatcher, and returns the failures.
    fn enter(
        &mut self,
        at: Duration,
        samples: &BTreeMap<String, (Target, Vec<Sample>)>,
        ages: &[Element],
    ) -> Result<Vec<Failure>, Error> {
        let stamps: BTreeMap<String, &Element> = ages.iter().map(|stamp| (endpoint(&stamp.metric), stamp)).collect();
        let mut failures = Vec::new();
        for (endpoint, (target, samples)) in samples {
            let stamp = stamps.get(endpoint).filter(|stamp| stamp.value().is_finite());
            let stamp = stamp.ok_or_else(|| Error::NoAge(endpoint.clone()))?;
            let taken = stamp.value();
            match Snapshot::of(samples).and_then(|snapshot| self.counters.enter(endpoint, taken, snapshot)) {
                Ok(entry) => log_restart(endpoint, entry),
                Err(fault) => failures.push(Failure::Figures(endpoint.clone(), fault)),
            }
            if self.newest.get(endpoint).is_none_or(|newest| newest.taken < taken) {
                // Prometheus's clock may be behind the dispatcher's: no sample is younger than new.
                let age = Duration::try_from_secs_f64(stamp.evaluated() - taken).unwrap_or_default();
                let newest = Newest { target: target.clone(), taken, age, seen: at };
                self.newest.insert(endpoint.clone(), newest);
            }
        }
        Ok(failures)
    }
}

/// The dispatcher that has these labels: all labels but its own.
pub fn endpoint(labels: &BTreeMap<String, String>) -> String {
    let labels = labels.iter().filter(|(name, _)| !OWN.contains(&name.as_str()));
    let labels: Vec<String> = labels.map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", labels.join(","))
}

fn target(element: &Element) -> Target {
    TARGET.map(|label| element.metric.get(label).cloned())
}

/// A sample with the dispatcher's own labels only.
pub fn sample(labels: &BTreeMap<String, String>, value: f64) -> Sample {
    let mut labels = labels.clone();
    labels.retain(|name, _| OWN.contains(&name.as_str()));
    let name = labels.remove(NAME).unwrap_or_default();
    Sample { name, labels, value }
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

    /// Answers at `now` about dispatchers: (instance, taken, admitted), and about those that are down.
    fn answers(now: f64, dispatchers: &[(&str, f64, f64)], down: &[&str]) -> Answers {
        let mut answers = Answers::default();
        for &(instance, taken, enqueued) in dispatchers {
            let target = [("instance", instance), ("job", "dispatcher")];
            let named = |name, value| element(&[target[0], target[1], (NAME, name)], now, value);
            answers.figures.push(named(metric::QUEUE_LENGTH, 0.0));
            answers.figures.push(named(metric::ENQUEUED, enqueued));
            answers.ages.push(element(&target, now, taken));
        }
        let is_down = |it: &&str| element(&[(NAME, "up"), ("instance", it), ("job", "dispatcher")], now, 0.0);
        answers.down = down.iter().map(is_down).collect();
        answers
    }

    /// Reads at second `at`, which is second 1000 + `at` of Prometheus's clock.
    fn read(
        readings: &mut Readings,
        at: u64,
        dispatchers: &[(&str, f64, f64)],
        down: &[&str],
    ) -> Result<Reading, Error> {
        readings.read(S(at), &answers(1000.0 + at as f64, dispatchers, down))
    }

    /// The arrivals and the age of a reading.
    fn figures(outcome: Result<Reading, Error>) -> (f64, Duration) {
        let reading = outcome.expect("whole");
        (reading.figures.arrivals, reading.age)
    }

    #[test]
    fn instances_are_told_apart_and_added_up() {
        let mut it = readings();
        assert_eq!(figures(read(&mut it, 0, &[("a", 990.0, 5.0), ("b", 997.0, 7.0)], &[])), (12.0, S(10)));
        let restarted = read(&mut it, 5, &[("a", 1003.0, 1.0), ("b", 1004.0, 9.0)], &[]);
        assert_eq!(figures(restarted), (15.0, S(2)));
    }

    #[test]
    fn one_of_several_that_is_down_makes_the_reading_partial_until_it_has_left() {
        let mut it = readings();
        assert_eq!(figures(read(&mut it, 0, &[("a", 1000.0, 5.0), ("b", 1000.0, 7.0)], &[])), (12.0, S(0)));
        let error = read(&mut it, 20, &[("a", 1020.0, 6.0)], &["b"]).expect_err("partial").to_string();
        assert!(error.contains("1 of 2") && error.contains("instance=\"b\"") && !error.contains("\"a\""), "{error}");
        let back = read(&mut it, 40, &[("a", 1040.0, 6.0), ("b", 1040.0, 9.0)], &[]);
        assert_eq!(figures(back), (15.0, S(0)), "whole again");
        assert_eq!(figures(read(&mut it, 60, &[("a", 1060.0, 8.0)], &[])), (17.0, S(0)), "it has left");
        // One that was never seen makes the reading partial, too.
        let error = read(&mut readings(), 0, &[("a", 1000.0, 5.0)], &["b"]).expect_err("partial");
        assert!(matches!(&error, Error::Partial(_, failures) if matches!(failures[..], [Failure::Down(_)])));
        assert!(error.to_string().contains("instance=\"b\""), "{error}");
    }

    #[test]
    fn if_none_can_be_scraped_the_last_figures_stand_until_they_are_too_old() {
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
    fn figures_without_their_age_and_absurd_figures_are_refused() {
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
    fn clocks_that_disagree_or_jump_make_no_figure_young_and_no_burst() {
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
        fn no_answer_makes_it_panic(
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
