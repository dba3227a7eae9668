//! Reads the history that a Prometheus has recorded of a period. Knows nothing of laws.

use super::answers::RecordedAnswers;
use super::counter_history::{CounterHistory, CountingSpan};
use super::history::{History, ImplausibleAnswers};
use super::load::{ImplausibleRate, RecordedLoad};
use super::period::Period;
use super::range::{RecordedSeries, query_range};
use super::samples::{self, NAMES, RecordedSamples};
use indicatif::ProgressBar;
use readings::prometheus::client::{Client, Error as ClientError};
use readings::prometheus::{NAME, endpoint, sample};
use readings::snapshot::MetricSample;
use service::wire::metric;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The look-back of Prometheus: a series without a sample for this time counts as gone.
const LOOK_BACK: Duration = Duration::from_secs(300);

/// The largest number of points at which start-up times are read.
const MAX_STARTUP_POINTS: usize = 500;

/// The reason why the history cannot be read or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Prometheus does not answer, or refuses a query.
    #[error(transparent)]
    Prometheus(#[from] ClientError),
    /// A recorded sample is implausible.
    #[error(transparent)]
    Unusable(#[from] samples::Unusable),
    /// The recorded load is implausible.
    #[error(transparent)]
    Rate(#[from] ImplausibleRate),
    /// No dispatcher has two samples without a gap between them.
    #[error(
        "no two samples of {}{{{selector}}} from {from} to {until} lie within {} of each other; check that the \
         Prometheus scrapes the dispatchers and has kept these samples, and check --prometheus, \
         --prometheus-selector, --since and --until",
        metric::ENQUEUED, humantime::format_duration(*.max_gap)
    )]
    NoSamples {
        /// The label matchers of the query.
        selector: String,
        /// The beginning of the period, in UTC.
        from: String,
        /// The end of the period, in UTC.
        until: String,
        /// The longest time between two samples that is no gap.
        max_gap: Duration,
    },
    /// No request arrived in the period.
    #[error("from {from} to {until} no request arrived; choose another period with --since and --until")]
    Idle {
        /// The beginning of the period, in UTC.
        from: String,
        /// The end of the period, in UTC.
        until: String,
    },
    /// Several dispatchers answer in turns at one address, so that their counters alternate.
    #[error(
        "the counters of {endpoint} started again {restarts} times within {points} points, so several dispatchers seem \
         to answer behind one address; configure Prometheus to scrape each dispatcher at its own address"
    )]
    Alternating {
        /// The labels that identify the dispatcher.
        endpoint: String,
        /// The number of restarts.
        restarts: usize,
        /// The number of points at which the counters are known.
        points: usize,
    },
}

/// The counter histories of all dispatchers. The key is the labels that identify the dispatcher.
type CounterHistories<'a> = BTreeMap<&'a str, CounterHistory>;

/// Reads the history of a period from a Prometheus.
#[derive(Debug)]
pub struct HistoryReader<'a> {
    /// The client of the Prometheus.
    pub client: &'a Client,
    /// The label matchers of the series that are read; empty for all series.
    pub selector: &'a str,
    /// The period whose history is read.
    pub period: Period,
}

impl HistoryReader<'_> {
    /// Reads the history. `bar` advances by one for each query.
    ///
    /// # Errors
    /// If the history cannot be read or used; see [`Error`].
    pub async fn read(&self, bar: &ProgressBar) -> Result<History, Error> {
        let period = self.period;
        let max_gap = (LOOK_BACK.as_secs() / period.step).max(2) as usize;
        let samples = self.samples(bar).await?;
        let counters = self.counter_histories(&samples, max_gap)?;
        let load = RecordedLoad::of(counters.values(), &period)?;
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
        self.period.timestamp(0).to_string()
    }

    fn until(&self) -> String {
        self.period.timestamp(self.period.steps).to_string()
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

    /// The answers of all dispatchers. They are read only at both ends of each span: a histogram has dozens of series,
    /// so reading it at every point would take too long. The inner error says that the answers are implausible.
    async fn answers(
        &self,
        counters: &CounterHistories<'_>,
        bar: &ProgressBar,
    ) -> Result<Result<RecordedAnswers, ImplausibleAnswers>, Error> {
        let spans =
            || counters.iter().flat_map(|(&endpoint, history)| history.spans.iter().map(move |&span| (endpoint, span)));
        let ends = |(endpoint, span): (_, CountingSpan)| [(span.first, endpoint), (span.last, endpoint)];
        let needed: BTreeSet<(usize, &str)> = spans().flat_map(ends).collect();
        let points: BTreeSet<usize> = needed.iter().map(|(index, _)| *index).collect();
        bar.inc_length(points.len() as u64);
        let mut answers = BTreeMap::new();
        for index in points {
            let samples = self.answer_samples(index).await?;
            bar.inc(1);
            for &(_, endpoint) in needed.range((index, "")..(index + 1, "")) {
                match RecordedAnswers::of(samples.get(endpoint).map_or(&[], Vec::as_slice)) {
                    Ok(counted) => _ = answers.insert((index, endpoint), counted),
                    Err(fault) => {
                        let at = self.period.timestamp(index).to_string();
                        return Ok(Err(ImplausibleAnswers { endpoint: endpoint.into(), at, fault }));
                    }
                }
            }
        }
        let mut sum = RecordedAnswers::default();
        for (endpoint, span) in spans() {
            sum.add(span, &answers[&(span.first, endpoint)], &answers[&(span.last, endpoint)]);
        }
        Ok(Ok(sum))
    }

    /// The samples for [`RecordedAnswers`] at the point `index`. The key is the labels that identify the dispatcher.
    async fn answer_samples(&self, index: usize) -> Result<BTreeMap<String, Vec<MetricSample>>, Error> {
        let durations = [metric::REPLICA_WORK, metric::REQUEST_DURATION].join("|");
        let query = self.newest_of_step(&format!("({durations})_(bucket|sum|count)|{}", metric::REQUESTS));
        let mut samples: BTreeMap<String, Vec<MetricSample>> = BTreeMap::new();
        for RecordedSeries { metric, values } in query_range(self.client, &query, self.period.only(index)).await? {
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

    /// A query for the newest sample of each series within each step. `names` is a regular expression for the names of
    /// the metrics. The window is a millisecond shorter than the step, since a window includes both of its ends. A
    /// query without a window would repeat the last sample for five minutes, and so would hide that Prometheus was
    /// down.
    fn newest_of_step(&self, names: &str) -> String {
        let milliseconds = 1000 * self.period.step - 1;
        format!("last_over_time({{{NAME}=~\"{names}\",{}}}[{milliseconds}ms])", self.selector)
    }
}
