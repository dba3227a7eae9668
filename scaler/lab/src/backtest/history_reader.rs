//! Reads the recorded history of a period from a Prometheus. Knows nothing of laws.

use super::answers::Answers;
use super::counter_history::{CounterHistory, Span};
use super::history::{History, ImplausibleAnswers};
use super::load::{ImplausibleRate, Load};
use super::period::Period;
use super::range::{Series, query_range};
use super::samples::{self, NAMES, RecordedSamples};
use indicatif::ProgressBar;
use scaler::observe::prometheus::client::{Client, Error as ClientError};
use scaler::observe::prometheus::{NAME, endpoint, sample};
use scaler::observe::snapshot::MetricSample;
use service::wire::metric;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Prometheus' own look-back: a series without a sample for this time counts as gone.
const LOOK_BACK: Duration = Duration::from_secs(300);

/// Most points over which start-up times are read.
const MAX_STARTUP_POINTS: usize = 500;

/// A reason why there is no history.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Prometheus does not answer, or refuses the query.
    #[error(transparent)]
    Prometheus(#[from] ClientError),
    /// A recorded sample is implausible.
    #[error(transparent)]
    Unusable(#[from] samples::Unusable),
    /// The recorded load is implausible.
    #[error(transparent)]
    Rate(#[from] ImplausibleRate),
    /// There are no samples.
    #[error(
        "no two samples of {}{{{selector}}} from {from} to {until} lie within {} of each other; does that Prometheus \
         scrape the dispatchers, and keep samples for so long? Check --prometheus, --prometheus-selector, --since and --until",
        metric::ENQUEUED, humantime::format_duration(*.max_gap)
    )]
    NoSamples {
        /// Matchers of labels.
        selector: String,
        /// Beginning of the period.
        from: String,
        /// End of the period.
        until: String,
        /// A longer time without a sample is a gap.
        max_gap: Duration,
    },
    /// No request arrived.
    #[error("from {from} to {until} no request arrived; choose another time by --since and --until")]
    Idle {
        /// Beginning of the period.
        from: String,
        /// End of the period.
        until: String,
    },
    /// The counters of several dispatchers alternate under one name.
    #[error(
        "{endpoint}: its counters started again {restarts} times within {points} points; do several dispatchers answer \
         behind one address? Let Prometheus scrape each by itself"
    )]
    Alternating {
        /// Labels that identify the dispatcher.
        endpoint: String,
        /// Number of restarts.
        restarts: usize,
        /// Number of points.
        points: usize,
    },
}

/// The counter histories of all dispatchers, by the labels that identify each.
type CounterHistories<'a> = BTreeMap<&'a str, CounterHistory>;

/// A Prometheus, and the part of its history that is read.
#[derive(Debug)]
pub struct HistoryReader<'a> {
    /// Client of the Prometheus.
    pub client: &'a Client,
    /// Matchers of labels; empty for all series.
    pub selector: &'a str,
    /// The period.
    pub period: Period,
}

impl HistoryReader<'_> {
    /// Reads the history. `bar` advances by one for each query.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read(&self, bar: &ProgressBar) -> Result<History, Error> {
        let period = self.period;
        let max_gap = (LOOK_BACK.as_secs() / period.step).max(2) as usize;
        let samples = self.samples(bar).await?;
        let counters = self.counter_histories(&samples, max_gap)?;
        let load = Load::of(counters.values(), &period)?;
        if load.total() == 0.0 {
            return Err(Error::Idle { from: self.from(), until: self.until() });
        }
        Ok(History {
            period,
            load,
            shed: counters.values().map(|history| history.shed).sum(),
            dispatchers: counters.len(),
            restarts: counters.values().map(|history| history.restarts).sum(),
            answers: self.answers(&counters, bar).await?,
            replicas: samples.replicas(),
            slots: samples.slots(),
            startup: self.startup().await?,
            max_gap,
        })
    }

    fn from(&self) -> String {
        self.period.shown(0).to_string()
    }

    fn until(&self) -> String {
        self.period.shown(self.period.steps).to_string()
    }

    async fn samples(&self, bar: &ProgressBar) -> Result<RecordedSamples, Error> {
        let query = self.newest_of_step(&NAMES.join("|"));
        let mut samples = RecordedSamples::new(self.period);
        bar.set_length(self.period.ranges().count() as u64);
        for (first, range) in self.period.ranges() {
            samples.enter(first, &query_range(self.client, &query, range).await?)?;
            bar.inc(1);
        }
        Ok(samples)
    }

    fn counter_histories<'s>(
        &self,
        samples: &'s RecordedSamples,
        max_gap: usize,
    ) -> Result<CounterHistories<'s>, Error> {
        let counters: CounterHistories = samples
            .dispatchers
            .iter()
            .map(|(endpoint, points)| (endpoint.as_str(), CounterHistory::of(points, max_gap)))
            .filter(|(_, history)| !history.arrivals.is_empty())
            .collect();
        if counters.is_empty() {
            let max_gap = Duration::from_secs(max_gap as u64 * self.period.step);
            let selector = self.selector.into();
            return Err(Error::NoSamples { selector, from: self.from(), until: self.until(), max_gap });
        }
        match counters.iter().find(|(_, history)| history.alternates()) {
            Some((endpoint, history)) => {
                let (restarts, points) = (history.restarts, history.arrivals.len() + 1);
                Err(Error::Alternating { endpoint: (*endpoint).into(), restarts, points })
            }
            None => Ok(counters),
        }
    }

    /// The answers of all dispatchers. A histogram has dozens of series, so histograms are read at the ends of spans
    /// only.
    async fn answers(
        &self,
        counters: &CounterHistories<'_>,
        bar: &ProgressBar,
    ) -> Result<Result<Answers, ImplausibleAnswers>, Error> {
        let spans =
            || counters.iter().flat_map(|(&endpoint, history)| history.spans.iter().map(move |&span| (endpoint, span)));
        let ends = |(endpoint, span): (_, Span)| [(span.first, endpoint), (span.last, endpoint)];
        let needed: BTreeSet<(usize, &str)> = spans().flat_map(ends).collect();
        let points: BTreeSet<usize> = needed.iter().map(|(index, _)| *index).collect();
        bar.inc_length(points.len() as u64);
        let mut answers = BTreeMap::new();
        for index in points {
            let samples = self.answer_samples(index).await?;
            bar.inc(1);
            for &(_, endpoint) in needed.range((index, "")..(index + 1, "")) {
                match Answers::of(samples.get(endpoint).map_or(&[], Vec::as_slice)) {
                    Ok(counted) => _ = answers.insert((index, endpoint), counted),
                    Err(fault) => {
                        let at = self.period.shown(index).to_string();
                        return Ok(Err(ImplausibleAnswers { endpoint: endpoint.into(), at, fault }));
                    }
                }
            }
        }
        let mut sum = Answers::default();
        for (endpoint, span) in spans() {
            sum.add(span, &answers[&(span.first, endpoint)], &answers[&(span.last, endpoint)]);
        }
        Ok(Ok(sum))
    }

    /// The samples from which [`Answers`] are made, at one point, by the labels that identify each dispatcher.
    async fn answer_samples(&self, index: usize) -> Result<BTreeMap<String, Vec<MetricSample>>, Error> {
        let durations = [metric::REPLICA_WORK, metric::REQUEST_DURATION].join("|");
        let query = self.newest_of_step(&format!("({durations})_(bucket|sum|count)|{}", metric::REQUESTS));
        let mut samples: BTreeMap<String, Vec<MetricSample>> = BTreeMap::new();
        for Series { metric, values } in query_range(self.client, &query, self.period.only(index)).await? {
            let of_dispatcher = samples.entry(endpoint(&metric)).or_default();
            of_dispatcher.extend(values.iter().map(|&(_, value)| sample(&metric, value)));
        }
        Ok(samples)
    }

    async fn startup(&self) -> Result<Option<Duration>, Error> {
        let query = format!("quantile(0.5, {}{{{}}})", metric::STARTUP, self.selector);
        let answer = query_range(self.client, &query, self.period.coarse(MAX_STARTUP_POINTS)).await?;
        let values = answer.iter().flat_map(|series| &series.values).map(|(_, value)| *value);
        let mut values: Vec<f64> = values.filter(|value| (0.0..=86_400.0).contains(value)).collect();
        values.sort_by(f64::total_cmp);
        Ok(values.get(values.len() / 2).copied().map(Duration::from_secs_f64))
    }

    /// A query for the newest sample of each series within each step. The window is a millisecond shorter than the
    /// step, since both ends of a window are part of it. A selector alone would repeat the last sample for five
    /// minutes, and hide that Prometheus was down.
    fn newest_of_step(&self, names: &str) -> String {
        let milliseconds = 1000 * self.period.step - 1;
        format!("last_over_time({{{NAME}=~\"{names}\",{}}}[{milliseconds}ms])", self.selector)
    }
}
