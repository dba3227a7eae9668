//! Asks a Prometheus for what it recorded in a period. Knows nothing of laws.

use super::account::Account;
use super::answers::Answers;
use super::load::{Leap, Load};
use super::period::Period;
use super::range::{Series, query_range};
use super::record::{self, NAMES, Points, Record, Replicas};
use super::recorded::Recorded;
use crate::simulate::comparison::Row;
use indicatif::ProgressBar;
use scaler::observe::prometheus::client::{Client, Error as Refusal};
use scaler::observe::prometheus::{NAME, endpoint, sample};
use scaler::observe::snapshot::{Fault, Sample};
use service::wire::metric;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What Prometheus itself takes for gone: a series without a sample for so long.
const GONE: Duration = Duration::from_secs(300);

/// Over so many points, at most, start-up times are looked at.
const STARTUPS: usize = 500;

/// Everything that was recorded, and can be believed.
#[derive(Debug)]
pub struct History {
    /// When.
    pub period: Period,
    /// What arrived.
    pub load: Load,
    /// Of that, what was refused.
    pub shed: f64,
    /// How many dispatchers there were.
    pub dispatchers: usize,
    /// How often one of them started again.
    pub restarts: usize,
    /// How requests were answered, or why nobody knows.
    pub answers: Result<Answers, Unbelievable>,
    /// Where they are known.
    pub replicas: Points<Replicas>,
    /// Requests that a replica takes at once.
    pub slots: Option<u32>,
    /// Exec → ready of a replica, median.
    pub startup: Option<Duration>,
    /// Points that lie further apart have a gap between them.
    pub patience: usize,
}

impl History {
    /// What happened, beside what the laws would have made of it.
    pub fn recorded(&self, objective: Duration) -> Row {
        let unknown = Answers::default();
        let recorded = Recorded {
            period: &self.period,
            load: &self.load,
            shed: self.shed,
            answers: self.answers.as_ref().unwrap_or(&unknown),
            replicas: &self.replicas,
            patience: self.patience,
        };
        recorded.row(objective)
    }
}

/// Why what was recorded of answers cannot be true.
#[derive(Debug, thiserror::Error)]
#[error("{endpoint} at {at}: {fault}")]
pub struct Unbelievable {
    endpoint: String,
    at: String,
    fault: Fault,
}

/// Why there is no history.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Prometheus cannot be asked, or does not understand.
    #[error(transparent)]
    Prometheus(#[from] Refusal),
    /// It answered what no dispatcher says.
    #[error(transparent)]
    Unusable(#[from] record::Unusable),
    /// It recorded more than anybody sends.
    #[error(transparent)]
    Leap(#[from] Leap),
    /// No figures at all.
    #[error(
        "no two figures of {}{{{selector}}} from {from} to {until} lie within {} of each other; does that Prometheus scrape \
         the dispatchers, and keep figures for so long? Check --prometheus, --prometheus-selector, --since and --until",
        metric::ENQUEUED, humantime::format_duration(*.patience)
    )]
    Nothing {
        /// Matchers.
        selector: String,
        /// The period's beginning.
        from: String,
        /// And its end.
        until: String,
        /// What is too long without a figure.
        patience: Duration,
    },
    /// Nobody came.
    #[error("from {from} to {until} no request arrived; choose another time by --since and --until")]
    Idle {
        /// The period's beginning.
        from: String,
        /// And its end.
        until: String,
    },
    /// Counters that jump to and fro.
    #[error(
        "{endpoint}: its counters started again {restarts} times within {points} points; do several dispatchers answer \
         behind one address? Let Prometheus scrape each by itself"
    )]
    Restless {
        /// Whose.
        endpoint: String,
        /// How often.
        restarts: usize,
        /// Of how many.
        points: usize,
    },
}

/// One Prometheus, and what is asked of it.
#[derive(Debug)]
pub struct Archive<'a> {
    /// Asks.
    pub client: &'a Client,
    /// Matchers of labels; none for all series.
    pub selector: &'a str,
    /// When.
    pub period: Period,
}

impl Archive<'_> {
    /// Everything; `bar` shows how much of it is there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read(&self, bar: &ProgressBar) -> Result<History, Error> {
        let Self { period, .. } = *self;
        let patience = (GONE.as_secs() / period.step).max(2) as usize;
        let record = self.record(bar).await?;
        let accounts: BTreeMap<&str, Account> = record
            .dispatchers
            .iter()
            .map(|(endpoint, points)| (endpoint.as_str(), Account::of(points, patience)))
            .filter(|(_, account)| !account.steps.is_empty())
            .collect();
        let (from, until) = (period.shown(0).to_string(), period.shown(period.steps).to_string());
        if accounts.is_empty() {
            let patience = Duration::from_secs(patience as u64 * period.step);
            return Err(Error::Nothing { selector: self.selector.into(), from, until, patience });
        }
        if let Some((endpoint, account)) = accounts.iter().find(|(_, account)| account.is_restless()) {
            let (restarts, points) = (account.restarts, account.steps.len() + 1);
            return Err(Error::Restless { endpoint: (*endpoint).into(), restarts, points });
        }
        let load = Load::of(accounts.values(), &period)?;
        if load.total() == 0.0 {
            return Err(Error::Idle { from, until });
        }
        Ok(History {
            period,
            load,
            shed: accounts.values().map(|account| account.shed).sum(),
            dispatchers: accounts.len(),
            restarts: accounts.values().map(|account| account.restarts).sum(),
            answers: self.answers(&accounts, bar).await?,
            replicas: record.replicas(),
            slots: record.slots(),
            startup: self.startup().await?,
            patience,
        })
    }

    async fn record(&self, bar: &ProgressBar) -> Result<Record, Error> {
        let query = self.newest(&NAMES.join("|"));
        let mut record = Record::new(self.period);
        bar.set_length(self.period.ranges().count() as u64);
        for (first, range) in self.period.ranges() {
            record.enter(first, &query_range(self.client, &query, range).await?)?;
            bar.inc(1);
        }
        Ok(record)
    }

    /// Histograms have dozens of series, so they are read at the ends of spans only.
    async fn answers(
        &self,
        accounts: &BTreeMap<&str, Account>,
        bar: &ProgressBar,
    ) -> Result<Result<Answers, Unbelievable>, Error> {
        let spans =
            || accounts.iter().flat_map(|(&endpoint, account)| account.spans.iter().map(move |&span| (endpoint, span)));
        let wanted: BTreeSet<(usize, &str)> =
            spans().flat_map(|(endpoint, span)| [(span.first, endpoint), (span.last, endpoint)]).collect();
        let points: BTreeSet<usize> = wanted.iter().map(|(index, _)| *index).collect();
        bar.inc_length(points.len() as u64);
        let mut seen = BTreeMap::new();
        for index in points {
            let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
            for Series { metric, values } in query_range(self.client, &self.counted(), self.period.only(index)).await? {
                let of_this = samples.entry(endpoint(&metric)).or_default();
                of_this.extend(values.iter().map(|&(_, value)| sample(&metric, value)));
            }
            bar.inc(1);
            for &(_, endpoint) in wanted.range((index, "")..(index + 1, "")) {
                match Answers::of(samples.get(endpoint).map_or(&[], Vec::as_slice)) {
                    Ok(answers) => _ = seen.insert((index, endpoint), answers),
                    Err(fault) => {
                        let at = self.period.shown(index).to_string();
                        return Ok(Err(Unbelievable { endpoint: endpoint.into(), at, fault }));
                    }
                }
            }
        }
        let mut sum = Answers::default();
        for (endpoint, span) in spans() {
            sum.add(span, &seen[&(span.first, endpoint)], &seen[&(span.last, endpoint)]);
        }
        Ok(Ok(sum))
    }

    async fn startup(&self) -> Result<Option<Duration>, Error> {
        let query = format!("quantile(0.5, {}{{{}}})", metric::STARTUP, self.selector);
        let answer = query_range(self.client, &query, self.period.coarse(STARTUPS)).await?;
        let values = answer.iter().flat_map(|series| &series.values).map(|(_, value)| *value);
        let mut values: Vec<f64> = values.filter(|value| (0.0..=86_400.0).contains(value)).collect();
        values.sort_by(f64::total_cmp);
        Ok(values.get(values.len() / 2).copied().map(Duration::from_secs_f64))
    }

    fn counted(&self) -> String {
        let durations = [metric::REPLICA_WORK, metric::REQUEST_DURATION].join("|");
        self.newest(&format!("({durations})_(bucket|sum|count)|{}", metric::REQUESTS))
    }

    /// Each series' newest sample within the step, both of whose ends would be part of it. A selector alone would repeat
    /// the last one for five minutes, and hide that Prometheus was down.
    fn newest(&self, names: &str) -> String {
        let milliseconds = 1000 * self.period.step - 1;
        format!("last_over_time({{{NAME}=~\"{names}\",{}}}[{milliseconds}ms])", self.selector)
    }
}
