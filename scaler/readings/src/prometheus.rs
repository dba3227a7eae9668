//! Reads the dispatchers' figures from a Prometheus that scrapes them.
//!
//! The queries ask for the series of each dispatcher, since a sum would hide which dispatcher has restarted. A
//! dispatcher that Prometheus cannot scrape vanishes from the answer at once. The series `up` tells it from a
//! dispatcher that has left. If Prometheus scrapes others, it is silent. If it scrapes none, the last figures stand
//! until they are too old.

use super::clock::ClockOffset;
use super::counters::Counters;
use super::snapshot::{MetricSample, Snapshot, series_names};
use super::{Error, Reading, Silence, SnapshotError, log_restart};
pub use prometheus_api as client;
use prometheus_api::{Client, Element};
use service::wire::metric;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The label that holds a metric's name.
pub const NAME: &str = "__name__";

/// The labels that a dispatcher itself gives its series. All other labels together identify the dispatcher.
const OWN_LABELS: [&str; 6] = [NAME, "le", "reason", "replica", "code", "state"];

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
    /// An element with the labels of its series, or those of its target, for each dispatcher that Prometheus fails to
    /// scrape.
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
            down: down(&format!("{one}{{{selector}}}[1h]")),
        }
    }

    /// Replaces the query for the figures, and that for the dispatchers that cannot be scraped. The default one would
    /// name dispatchers that `figures` does not select.
    pub fn set_figures(&mut self, figures: String) {
        self.down = down(&format!("({figures})[1h:1m]"));
        self.figures = figures;
    }

    /// One query with all three, so that they are evaluated at one instant. Between two queries, a dispatcher could
    /// come or leave.
    fn whole(&self) -> String {
        let part = |query, part| format!("label_replace({query}, \"{PART}\", \"{part}\", \"\", \"\")");
        format!("({}) or {} or {}", self.figures, part(&self.ages, AGES), part(&self.down, DOWN))
    }
}

/// The query for those dispatchers of `series`, a range of an hour, that cannot be scraped. Dispatchers without samples
/// in that hour are left out, since they are gone. A selector for the figures may have labels that relabelling has
/// added, so it does not suit `up`, which has the labels of the target only.
fn down(series: &str) -> String {
    format!("last_over_time({series}) and on (instance, job) (up == 0)")
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

    /// Asks Prometheus once. `started` is the scaler's start.
    pub async fn read(&mut self, started: Instant) -> Result<Reading, Error> {
        let answers = QueryAnswer::of(self.client.query(&self.queries.whole()).await?);
        if self.readings.newest.is_empty() && answers.figures.is_empty() && answers.down.is_empty() {
            return Err(Error::NoDispatcher(self.queries.figures.clone()));
        }
        self.readings.read(started.elapsed(), &answers)
    }
}

/// The labels of a series.
type Labels = BTreeMap<String, String>;

/// Makes readings of Prometheus's answers. Pure.
#[derive(Debug)]
struct Readings {
    /// The age above which figures give no reading.
    limit: Duration,
    counters: Counters,
    silence: Silence,
    /// The offset of Prometheus's clock; `None` before the first answer.
    clock: Option<ClockOffset>,
    newest: BTreeMap<String, NewestSample>,
}

/// The newest sample of a dispatcher.
#[derive(Debug)]
struct NewestSample {
    labels: Labels,
    /// The time of the sample by Prometheus's clock, in seconds since 1970.
    taken: f64,
    /// The scaler's time for it when it was first seen. A jump of Prometheus's clock does not change it, and a sample
    /// from a cache grows old.
    received: f64,
    /// The time of the last sample that was dated earlier, after a jump back of Prometheus's clock.
    earlier: Option<f64>,
}

impl Readings {
    fn new(limit: Duration) -> Self {
        let (counters, silence) = (Counters::default(), Silence::default());
        Self { limit, counters, silence, clock: None, newest: BTreeMap::new() }
    }

    /// Makes a reading of the answer that was received at `at`.
    fn read(&mut self, at: Duration, answers: &QueryAnswer) -> Result<Reading, Error> {
        let mut dispatchers: BTreeMap<String, Vec<&Element>> = BTreeMap::new();
        for element in &answers.figures {
            dispatchers.entry(endpoint(&element.metric)).or_default().push(element);
        }
        let ages: BTreeMap<String, &Element> = answers.ages.iter().map(|age| (endpoint(&age.metric), age)).collect();
        let mut silent = BTreeMap::new();
        for (endpoint, elements) in &dispatchers {
            if let Err(error) = self.enter(at, endpoint, elements, ages.get(endpoint).copied()) {
                silent.insert(endpoint.clone(), error);
            }
        }
        self.note_missing(&dispatchers, answers, &mut silent);
        for endpoint in self.newest.keys() {
            let newest = self.counters.newest(endpoint).unwrap_or_default();
            let age = Duration::try_from_secs_f64(at.as_secs_f64() - newest).unwrap_or_default();
            if age > self.limit {
                silent.entry(endpoint.clone()).or_insert(SnapshotError::Stale(endpoint.clone(), age, self.limit));
            }
        }
        let known = self.newest.keys().chain(silent.keys().filter(|endpoint| !self.newest.contains_key(*endpoint)));
        match known.count() {
            0 => Err(Error::NoDispatcher("any dispatcher".into())),
            count => self.silence.reading(&mut self.counters, count, silent),
        }
    }

    /// Enters the samples of one dispatcher. `age` has the time of the newest one.
    fn enter(
        &mut self,
        at: Duration,
        endpoint: &str,
        elements: &[&Element],
        age: Option<&Element>,
    ) -> Result<(), SnapshotError> {
        let age = age.filter(|age| age.value().is_finite() && age.evaluated().is_finite());
        let age = age.ok_or_else(|| SnapshotError::NoAge(endpoint.into()))?;
        let taken = age.value();
        let samples: Vec<MetricSample> = elements.iter().map(|it| sample(&it.metric, it.value())).collect();
        let fault = |fault| SnapshotError::Figures(endpoint.into(), fault);
        let snapshot = Snapshot::of(&samples).map_err(fault)?;
        let received = match self.newest.get_mut(endpoint) {
            Some(newest) if taken < newest.taken => {
                let is_old = at.as_secs_f64() - newest.received > self.limit.as_secs_f64();
                let is_running = newest.earlier.replace(taken).is_some_and(|earlier| taken > earlier);
                if !is_old || !is_running {
                    return Ok(());
                }
                // Prometheus's clock has gone back. The samples have no known order, so the counters begin anew: a
                // smaller count may be no restart, and its counts no load.
                tracing::warn!(endpoint, "the clock of Prometheus has gone back; the dispatcher is read anew");
                self.counters.close(endpoint);
                (taken + self.offset(age.evaluated(), at)).min(at.as_secs_f64())
            }
            Some(newest) if taken == newest.taken => newest.received,
            // If clocks differ, the sample may be newer than Prometheus's time of evaluation.
            _ => (taken + self.offset(age.evaluated(), at)).min(at.as_secs_f64()),
        };
        let newest = NewestSample { labels: elements[0].metric.clone(), taken, received, earlier: None };
        self.newest.insert(endpoint.into(), newest);
        log_restart(endpoint, self.counters.enter(endpoint, received, snapshot).map_err(fault)?);
        Ok(())
    }

    /// The offset of Prometheus's clock after an answer that was evaluated at `evaluated` and received at `at`.
    fn offset(&mut self, evaluated: f64, at: Duration) -> f64 {
        let clock = self.clock.get_or_insert(ClockOffset::new(evaluated, at.as_secs_f64()));
        clock.learn(evaluated, at.as_secs_f64());
        clock.seconds
    }

    /// Closes the counters of dispatchers that have left, and adds those that are down to `silent`.
    fn note_missing(
        &mut self,
        dispatchers: &BTreeMap<String, Vec<&Element>>,
        answers: &QueryAnswer,
        silent: &mut BTreeMap<String, SnapshotError>,
    ) {
        self.newest.retain(|endpoint, newest| {
            let is_down = || answers.down.iter().any(|down| is_of(&down.metric, &newest.labels));
            let stays = dispatchers.contains_key(endpoint) || is_down();
            if !stays {
                tracing::info!(endpoint, "the dispatcher has left");
                self.counters.close(endpoint);
            } else if !dispatchers.contains_key(endpoint) && !dispatchers.is_empty() {
                silent.entry(endpoint.clone()).or_insert(SnapshotError::Down(endpoint.clone()));
            }
            stays
        });
        for down in &answers.down {
            if !self.newest.values().any(|newest| is_of(&down.metric, &newest.labels)) {
                let endpoint = endpoint(&down.metric);
                silent.entry(endpoint.clone()).or_insert(SnapshotError::Down(endpoint));
            }
        }
    }
}

/// Whether the series of a dispatcher with the labels `known` may belong to the target `down`: no label has two values.
fn is_of(down: &Labels, known: &Labels) -> bool {
    let target = down.iter().filter(|(name, _)| !OWN_LABELS.contains(&name.as_str()));
    target.into_iter().all(|(name, value)| known.get(name).is_none_or(|same| same == value))
}

/// The dispatcher with these labels, as a text: all labels but those that the dispatcher itself gives.
pub fn endpoint(labels: &Labels) -> String {
    let labels = labels.iter().filter(|(name, _)| !OWN_LABELS.contains(&name.as_str()));
    let labels: Vec<String> = labels.map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", labels.join(","))
}

/// A sample with those of the `labels` that the dispatcher itself gives.
pub fn sample(labels: &Labels, value: f64) -> MetricSample {
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

    /// The arrivals of a whole reading, and its time.
    fn figures(outcome: Result<Reading, Error>) -> (f64, Duration) {
        let Reading { figures, silent } = outcome.expect("a reading");
        assert_eq!((figures.is_partial, silent), (false, None));
        (figures.arrivals, figures.at)
    }

    /// The message of a partial reading about the silent dispatchers, its arrivals and its time.
    fn partial(outcome: Result<Reading, Error>) -> (String, f64, Duration) {
        let Reading { figures, silent } = outcome.expect("a reading");
        assert!(figures.is_partial);
        (silent.expect("one is silent"), figures.arrivals, figures.at)
    }

    #[test]
    fn each_instance_has_its_own_counters_and_they_are_added_up_at_one_time() {
        let mut it = readings();
        let early = read(&mut it, 1, &[("a", 1000.0, 5.0), ("b", 990.0, 7.0)], &[]);
        assert!(matches!(early, Err(Error::TooEarly)), "{early:?}");
        assert_eq!(figures(read(&mut it, 11, &[("a", 1000.0, 5.0), ("b", 1004.0, 7.0)], &[])), (12.0, S(0)));
        assert_eq!(figures(read(&mut it, 15, &[("a", 1010.0, 15.0), ("b", 1004.0, 7.0)], &[])), (16.0, S(4)));
        // The counts of the old process after its last sample are unknown.
        let (_, arrivals, at) = partial(read(&mut it, 21, &[("a", 1020.0, 1.0), ("b", 1014.0, 9.0)], &[]));
        assert_eq!((arrivals, at), (24.4, S(14)));
        let (_, arrivals, at) = partial(read(&mut it, 25, &[("a", 1020.0, 1.0), ("b", 1024.0, 9.0)], &[]));
        assert_eq!((arrivals, at), (25.0, S(20)));
        let whole = read(&mut it, 31, &[("a", 1030.0, 3.0), ("b", 1024.0, 9.0)], &[]);
        assert_eq!(figures(whole), (25.8, S(24)));
    }

    #[test]
    fn a_replaced_dispatcher_is_no_fall_of_the_load() {
        let mut it = readings();
        assert_eq!(figures(read(&mut it, 5, &[("a", 1005.0, 50.0)], &[])), (50.0, S(5)));
        assert_eq!(figures(read(&mut it, 6, &[], &["a"])), (50.0, S(5)));
        let (_, arrivals, at) = partial(read(&mut it, 12, &[("b", 1012.0, 70.0)], &[]));
        assert_eq!((arrivals, at), (50.0, S(12)), "seven seconds without a known arrival");
        assert_eq!(figures(read(&mut it, 27, &[("b", 1027.0, 220.0)], &[])), (200.0, S(27)));
    }

    #[test]
    fn one_of_several_dispatchers_that_is_down_is_silent_until_it_answers_or_has_left() {
        let mut it = readings();
        assert_eq!(figures(read(&mut it, 0, &[("a", 1000.0, 5.0), ("b", 1000.0, 7.0)], &[])), (12.0, S(0)));
        let (message, arrivals, at) = partial(read(&mut it, 20, &[("a", 1020.0, 6.0)], &["b"]));
        assert!(message.contains("1 of 2") && message.contains("instance=\"b\"") && !message.contains("\"a\""));
        assert_eq!((arrivals, at), (13.0, S(20)));
        let back = read(&mut it, 40, &[("a", 1040.0, 6.0), ("b", 1040.0, 9.0)], &[]);
        assert_eq!(figures(back), (14.0, S(40)), "the two requests came in 40 s, of which 20 s count");
        let (missing, arrivals, _) = partial(read(&mut it, 60, &[("a", 1060.0, 8.0)], &[]));
        assert!(missing.contains("left") && arrivals == 16.0, "{missing}");
        assert_eq!(figures(read(&mut it, 80, &[("a", 1080.0, 9.0)], &[])), (17.0, S(80)));
        // A dispatcher that was never scraped makes the reading partial, too.
        let (message, ..) = partial(read(&mut readings(), 0, &[("a", 1000.0, 5.0)], &["b"]));
        assert!(message.contains("instance=\"b\""), "{message}");
    }

    #[test]
    fn labels_that_only_one_side_has_do_not_tell_dispatchers_apart() {
        let labels = |pairs: &[(&str, &str)]| element(pairs, 0.0, 0.0).metric;
        let known = labels(&[(NAME, "dispatcher_queue_length"), ("instance", "a"), ("job", "d"), ("app", "shop")]);
        for (down, expected) in [
            (&[(NAME, "up"), ("instance", "a"), ("job", "d")][..], true),
            (&[("instance", "a"), ("job", "d"), ("node", "n")], true),
            (&[("instance", "b"), ("job", "d")], false),
            (&[("instance", "a"), ("job", "d"), ("app", "other")], false),
        ] {
            assert_eq!(is_of(&labels(down), &known), expected, "{down:?}");
        }
    }

    #[test]
    fn the_query_for_dispatchers_that_are_down_selects_by_their_figures() {
        let mut queries = Queries::of("app=\"shop\"");
        let down = |series| format!("last_over_time({series}) and on (instance, job) (up == 0)");
        assert_eq!(queries.down, down("dispatcher_queue_length{app=\"shop\"}[1h]"));
        queries.set_figures("mine or yours".into());
        assert_eq!(queries.down, down("(mine or yours)[1h:1m]"));
    }

    #[test]
    fn the_last_figures_stand_until_they_are_too_old_if_no_dispatcher_can_be_scraped() {
        let mut it = readings();
        let young = read(&mut it, 5, &[("a", 1005.0, 5.0), ("b", 1003.0, 7.0)], &[]);
        assert!(matches!(young, Err(Error::TooEarly)));
        let young = read(&mut it, 8, &[("a", 1005.0, 5.0), ("b", 1008.0, 7.0)], &[]).expect("whole");
        assert_eq!(read(&mut it, 50, &[], &["a", "b"]).expect("not too old yet"), young);
        let (message, ..) = partial(read(&mut it, 52, &[], &["a", "b"]));
        assert!(message.contains("{instance=\"a\",job=\"dispatcher\"} are 47 s old"), "{message}");
        match read(&mut it, 54, &[], &["a", "b"]) {
            Err(Error::Silent(2, errors)) => {
                assert!(matches!(errors[1], SnapshotError::Stale(_, age, _) if age == S(46)))
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(read(&mut it, 55, &[], &[]), Err(Error::NoDispatcher(_))), "all have left");
    }

    #[test]
    fn an_answer_that_never_changes_grows_old() {
        let mut readings = readings();
        let cached = answers(1000.0, &[("a", 999.0, 5.0)], &[]);
        assert_eq!(figures(readings.read(S(1), &cached)).1, S(0));
        assert_eq!(figures(readings.read(S(45), &cached)).1, S(0));
        assert!(matches!(readings.read(S(46), &cached), Err(Error::Silent(1, _))));
    }

    #[test]
    fn figures_without_their_age_and_impossible_figures_are_refused() {
        let mut without = answers(1000.0, &[("a", 1000.0, 5.0)], &[]);
        without.ages[0] = element(&[("instance", "a"), ("job", "dispatcher")], 1000.0, f64::NAN);
        let is_ageless = |answers: &QueryAnswer| match readings().read(S(0), answers) {
            Err(Error::Silent(1, errors)) => matches!(errors[..], [SnapshotError::NoAge(_)]),
            _ => false,
        };
        assert!(is_ageless(&without));
        without.ages.clear();
        assert!(is_ageless(&without));

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
        assert_eq!(figures(read(1, 4601.0, 6.0)), (6.0, S(1)), "forth");
        assert_eq!(figures(read(2, 1002.0, 7.0)), (6.0, S(1)), "back: the figures of before, ever older");
        assert_eq!(figures(read(4, 4604.0, 53.0)), (53.0, S(4)), "forth again");
    }

    #[test]
    fn a_clock_of_prometheus_that_stays_behind_is_taken_once_the_figures_are_too_old() {
        let mut it = readings();
        let mut read =
            |at: u64, now: f64, taken, enqueued| it.read(S(at), &answers(now, &[("a", taken, enqueued)], &[]));
        assert_eq!(figures(read(0, 5000.0, 5000.0, 900.0)), (900.0, S(0)));
        assert_eq!(figures(read(1, 1001.0, 1000.0, 910.0)), (900.0, S(0)), "back by an hour");
        // The sample does not change, so it may be an old one.
        assert!(matches!(read(46, 1046.0, 1000.0, 910.0), Err(Error::Silent(..))));
        // The dispatcher has started again, too. Its counts are no load.
        let (_, arrivals, at) = partial(read(47, 1047.0, 1045.0, 300.0));
        assert_eq!((arrivals, at), (900.0, S(45)));
        assert_eq!(figures(read(62, 1062.0, 1060.0, 310.0)), (910.0, S(60)));
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
