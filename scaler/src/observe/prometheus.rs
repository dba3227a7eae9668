//! Reads the dispatchers' figures from a Prometheus that scrapes them.
//!
//! What is asked for are the series as they are, for each dispatcher: a sum over all would hide which of them started
//! again. A dispatcher that Prometheus cannot scrape vanishes from the answer at once; `up` tells it from one that has
//! left. If it is one of several, the reading is partial. If none can be scraped, their last figures stand, ever older,
//! until they are too old.

pub mod client;

use super::ledger::Ledger;
use super::snapshot::{Sample, Snapshot, series_names};
use super::{Error, Failure, Reading, tell};
use client::{Client, Element};
use service::wire::metric;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Labels that the dispatcher itself gives; all others say which dispatcher it is.
const OWN: [&str; 6] = [NAME, "le", "reason", "replica", "code", "state"];

/// The label that holds a metric's name.
pub const NAME: &str = "__name__";

/// A label by which the parts of one answer are told apart, and its values.
const PART: &str = "roundhouse_part";
const AGES: &str = "ages";
const DOWN: &str = "down";

/// Labels that Prometheus gives each target, `up` included.
const TARGET: [&str; 2] = ["instance", "job"];

/// What Prometheus is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queries {
    /// All series of all dispatchers, under the contract's names.
    pub figures: String,
    /// For each dispatcher the time of its newest sample, seconds since 1970.
    pub ages: String,
    /// One element for each dispatcher that should be scraped and cannot be, with its target's labels.
    pub down: String,
}

impl Queries {
    /// The contract's metrics of the targets that `selector` picks: matchers such as
    /// `namespace="shop",job="dispatcher"`, or nothing for all.
    pub fn of(selector: &str) -> Self {
        let names = series_names().join("|");
        let one = metric::QUEUE_LENGTH;
        Self {
            figures: format!("{{{NAME}=~\"{names}\",{selector}}}"),
            // Of a series itself `timestamp` tells the sample's own time, and of anything else that of the evaluation.
            ages: format!("timestamp({one}{{{selector}}})"),
            // `up` knows all targets; dispatchers are those that had their figures scraped lately.
            down: format!(
                "up{{{selector}}} == 0 and on ({}) last_over_time({one}{{{selector}}}[1h])",
                TARGET.join(",")
            ),
        }
    }

    /// All three in one, and so evaluated at one instant: between two queries a dispatcher may come, go or be scraped.
    fn whole(&self) -> String {
        let part = |query, part| format!("label_replace({query}, \"{PART}\", \"{part}\", \"\", \"\")");
        format!("({}) or {} or {}", self.figures, part(&self.ages, AGES), part(&self.down, DOWN))
    }
}

/// What Prometheus answered, part by part.
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

/// Asks one Prometheus, again and again.
#[derive(Debug)]
pub struct Prometheus {
    client: Client,
    queries: Queries,
    board: Board,
}

impl Prometheus {
    /// Asks with `queries`; figures older than `limit` are none.
    pub fn new(client: Client, queries: Queries, limit: Duration) -> Self {
        let board = Board { limit, ledger: Ledger::default(), newest: BTreeMap::new() };
        Self { client, queries, board }
    }

    /// Asks once, `at` after the scaler's start.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read(&mut self, at: Duration) -> Result<Reading, Error> {
        let answers = Answers::of(self.client.query(&self.queries.whole()).await?);
        if self.board.is_blank() && answers.figures.is_empty() && answers.down.is_empty() {
            return Err(Error::Nobody { query: self.queries.figures.clone() });
        }
        self.board.read(at, &answers)
    }
}

/// PURE: what was known before and is answered now → a reading.
#[derive(Debug)]
struct Board {
    limit: Duration,
    ledger: Ledger,
    newest: BTreeMap<String, Newest>,
}

/// A dispatcher's newest sample.
#[derive(Debug)]
struct Newest {
    target: Target,
    /// By Prometheus's clock, seconds since 1970.
    taken: f64,
    /// Its age when it was first seen, and when that was.
    age: Duration,
    seen: Duration,
}

/// The values of [`TARGET`].
type Target = [Option<String>; 2];

impl Newest {
    /// By this machine's clock from its first sight on, so that an answer out of some cache grows old too.
    fn age(&self, at: Duration) -> Duration {
        self.age + at.saturating_sub(self.seen)
    }
}

impl Board {
    fn is_blank(&self) -> bool {
        self.newest.is_empty()
    }

    fn read(&mut self, at: Duration, answers: &Answers) -> Result<Reading, Error> {
        let mut samples: BTreeMap<String, (Target, Vec<Sample>)> = BTreeMap::new();
        for element in &answers.figures {
            let of_this = samples.entry(endpoint(&element.metric)).or_insert_with(|| (target(element), Vec::new()));
            of_this.1.push(sample(&element.metric, element.value()));
        }
        let stamps: BTreeMap<String, &Element> =
            answers.ages.iter().map(|element| (endpoint(&element.metric), element)).collect();
        let mut failures = Vec::new();
        for (endpoint, (target, samples)) in &samples {
            let stamp = stamps.get(endpoint).filter(|stamp| stamp.value().is_finite());
            let stamp = stamp.ok_or_else(|| Error::NoAge { endpoint: endpoint.clone() })?;
            let taken = stamp.value();
            let entered = Snapshot::of(samples).and_then(|snapshot| self.ledger.enter(endpoint, taken, snapshot));
            match entered {
                Ok(entry) => tell(endpoint, entry),
                Err(fault) => failures.push(Failure::Figures { endpoint: endpoint.clone(), fault }),
            }
            let is_newer = self.newest.get(endpoint).is_none_or(|newest| newest.taken < taken);
            if is_newer {
                // A clock that is ahead makes no sample come from the future.
                let age = Duration::try_from_secs_f64(stamp.evaluated() - taken).unwrap_or_default();
                let newest = Newest { target: target.clone(), taken, age, seen: at };
                self.newest.insert(endpoint.clone(), newest);
            }
        }

        let down: BTreeSet<Target> = answers.down.iter().map(target).collect();
        self.newest.retain(|endpoint, newest| {
            let stays = samples.contains_key(endpoint) || down.contains(&newest.target);
            if !stays {
                tracing::info!(endpoint, "the dispatcher has left");
                self.ledger.close(endpoint);
            }
            stays
        });
        // Counters of which some go on and others stand still look like a fall of the load.
        for element in &answers.down {
            let is_last_known =
                samples.is_empty() && self.newest.values().any(|newest| newest.target == target(element));
            if !is_last_known {
                failures.push(Failure::Down { endpoint: endpoint(&element.metric) });
            }
        }
        if !failures.is_empty() {
            return Err(Error::Partial { of: self.newest.len().max(failures.len()), failures });
        }
        let oldest = self.newest.iter().map(|(endpoint, newest)| (newest.age(at), endpoint)).max();
        match oldest {
            Some((age, endpoint)) if age > self.limit => {
                Err(Error::Stale { endpoint: endpoint.clone(), age, limit: self.limit })
            }
            Some((age, _)) => Ok(self.ledger.sum(age)),
            None => Err(Error::Nobody { query: "any dispatcher".into() }),
        }
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

    const LIMIT: Duration = Duration::from_secs(45);

    fn board() -> Board {
        Board { limit: LIMIT, ledger: Ledger::default(), newest: BTreeMap::new() }
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
        answers.down =
            down.iter().map(|it| element(&[(NAME, "up"), ("instance", it), ("job", "dispatcher")], now, 0.0)).collect();
        answers
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn instances_are_told_apart_and_added_up() {
        let mut board = board();
        let reading = board.read(seconds(0), &answers(1000.0, &[("a", 990.0, 5.0), ("b", 997.0, 7.0)], &[]));
        let reading = reading.expect("whole");
        assert_eq!((reading.arrivals, reading.age), (12.0, seconds(10)));
        let reading = board.read(seconds(5), &answers(1005.0, &[("a", 1003.0, 1.0), ("b", 1004.0, 9.0)], &[]));
        assert_eq!(reading.expect("whole").arrivals, 15.0, "one of them started again");
    }

    #[test]
    fn one_of_several_that_is_down_makes_the_reading_partial_until_it_has_left() {
        let mut board = board();
        let mut read = |at: u64, dispatchers: &[(&str, f64, f64)], down: &[&str]| {
            board.read(seconds(at), &answers(1000.0 + at as f64, dispatchers, down))
        };
        assert_eq!(read(0, &[("a", 1000.0, 5.0), ("b", 1000.0, 7.0)], &[]).expect("whole").arrivals, 12.0);
        let error = read(20, &[("a", 1020.0, 6.0)], &["b"]).expect_err("partial").to_string();
        assert!(error.contains("1 of 2") && error.contains("instance=\"b\"") && !error.contains("\"a\""), "{error}");
        let back = read(40, &[("a", 1040.0, 6.0), ("b", 1040.0, 9.0)], &[]).expect("whole again");
        assert_eq!(back.arrivals, 15.0);
        let left = read(60, &[("a", 1060.0, 8.0)], &[]).expect("it left");
        assert_eq!((left.arrivals, left.age), (17.0, seconds(0)));
    }

    #[test]
    fn if_none_can_be_scraped_the_last_figures_stand_until_they_are_too_old() {
        let mut board = board();
        let mut read = |at: u64, dispatchers: &[(&str, f64, f64)], down: &[&str]| {
            board.read(seconds(at), &answers(1000.0 + at as f64, dispatchers, down))
        };
        let young = read(0, &[("a", 1000.0, 5.0), ("b", 998.0, 7.0)], &[]).expect("whole");
        let old = read(40, &[], &["a", "b"]).expect("not too old yet");
        assert_eq!(old, Reading { age: seconds(42), ..young });
        let error = read(44, &[], &["a", "b"]).expect_err("too old");
        assert!(matches!(&error, Error::Stale { age, .. } if *age == seconds(46)), "{error}");
        assert!(error.to_string().contains("instance=\"b\"") && error.to_string().contains("45 s"), "{error}");
        assert!(matches!(read(50, &[], &[]), Err(Error::Nobody { .. })), "all have left");
    }

    #[test]
    fn one_that_was_never_seen_and_is_down_makes_the_reading_partial() {
        let error = board().read(seconds(0), &answers(1000.0, &[("a", 1000.0, 5.0)], &["b"])).expect_err("partial");
        assert!(matches!(&error, Error::Partial { failures, .. } if matches!(failures[..], [Failure::Down { .. }])));
        assert!(error.to_string().contains("instance=\"b\""), "{error}");
    }

    #[test]
    fn an_answer_that_never_changes_grows_old() {
        let mut board = board();
        let cached = answers(1000.0, &[("a", 999.0, 5.0)], &[]);
        assert_eq!(board.read(seconds(0), &cached).expect("young").age, seconds(1));
        assert_eq!(board.read(seconds(44), &cached).expect("older").age, seconds(45));
        assert!(matches!(board.read(seconds(45), &cached), Err(Error::Stale { .. })));
    }

    #[test]
    fn figures_without_their_age_are_refused() {
        let mut without = answers(1000.0, &[("a", 1000.0, 5.0)], &[]);
        without.ages[0] = element(&[("instance", "a"), ("job", "dispatcher")], 1000.0, f64::NAN);
        assert!(matches!(board().read(seconds(0), &without), Err(Error::NoAge { .. })));
        without.ages.clear();
        assert!(matches!(board().read(seconds(0), &without), Err(Error::NoAge { .. })));
    }

    #[test]
    fn absurd_figures_name_their_dispatcher() {
        let absurd = answers(1000.0, &[("a", 1000.0, f64::NAN)], &[]);
        let error = board().read(seconds(0), &absurd).expect_err("absurd").to_string();
        assert!(
            error.contains("instance=\"a\"") && error.contains(metric::ENQUEUED) && error.contains("NaN"),
            "{error}"
        );
        let mut twice = answers(1000.0, &[("a", 1000.0, 5.0)], &[]);
        twice.figures.extend(twice.figures.clone());
        let error = board().read(seconds(0), &twice).expect_err("twice").to_string();
        assert!(error.contains("more than once"), "{error}");
    }

    #[test]
    fn clocks_that_disagree_make_nothing_younger_than_new() {
        let ahead = answers(1000.0, &[("a", 1007.0, 5.0)], &[]);
        assert_eq!(board().read(seconds(0), &ahead).expect("whole").age, seconds(0));
    }

    #[test]
    fn a_clock_of_prometheus_that_jumps_makes_neither_a_burst_nor_silence() {
        let mut board = board();
        let mut read =
            |at: u64, now: f64, enqueued| board.read(seconds(at), &answers(now, &[("a", now, enqueued)], &[]));
        let sum = |reading: Reading| (reading.arrivals, reading.age);
        assert_eq!(sum(read(0, 1000.0, 5.0).expect("whole")), (5.0, seconds(0)));
        assert_eq!(sum(read(1, 4601.0, 6.0).expect("forth")), (6.0, seconds(0)));
        assert_eq!(sum(read(2, 1002.0, 7.0).expect("back: what was known, ever older")), (6.0, seconds(1)));
        assert!(matches!(read(47, 1047.0, 99.0), Err(Error::Stale { .. })));
    }

    mod properties {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn no_answer_makes_it_panic(
                rounds in proptest::collection::vec((
                    proptest::collection::vec((0..13_usize, 0..3_usize, any::<f64>(), any::<f64>()), 0..12), 0..4_usize,
                ), 1..6),
            ) {
                let mut board = board();
                let names = series_names();
                for (round, (elements, down)) in rounds.into_iter().enumerate() {
                    let mut answers = answers(any_number(down), &[], &["0", "1", "2"][..down.min(3)]);
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
                    let _outcome = board.read(seconds(round as u64), &answers);
                }
            }
        }

        fn any_number(seed: usize) -> f64 {
            [0.0, f64::NAN, f64::INFINITY, -1e300][seed % 4]
        }
    }
}
