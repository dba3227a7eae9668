//! Reads the dispatcher's `/metrics`. Counters that start again at zero, because the dispatcher did, go on from where
//! they were.

use crate::policy::Histogram;
use hyper::StatusCode;
use prometheus_parse::{Scrape, Value};
use service::fetch;
use service::wire::metric;
use std::time::Duration;

/// For one scrape.
const TIMEOUT: Duration = Duration::from_secs(1);

/// What the dispatcher says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// Requests waiting.
    pub queue_length: f64,
    /// Requests sent to replicas, unanswered.
    pub in_flight: f64,
    /// Requests that all replicas in rotation take at once.
    pub capacity: f64,
    /// Requests ever admitted or refused for want of capacity.
    pub arrivals: f64,
    /// Dispatched → answered, seconds.
    pub service: Histogram,
    /// Accepted → answered, seconds.
    pub latency: Histogram,
}

/// Why there is no reading.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answered.
    #[error("scrape the dispatcher: {0}")]
    Fetch(#[from] fetch::Error),
    /// Somebody else answered.
    #[error("scrape the dispatcher: {0} on /metrics")]
    Status(StatusCode),
    /// A metric is missing, or is no finite number of at least zero.
    #[error("the dispatcher's metric {0} is missing or absurd")]
    Metric(&'static str),
}

/// Asks one dispatcher, again and again.
#[derive(Debug)]
pub struct Dispatcher {
    address: String,
    last: Reading,
    /// What earlier lives of the dispatcher had counted.
    before: Reading,
}

impl Dispatcher {
    /// The dispatcher at `host:port`.
    pub fn new(address: String) -> Self {
        Self { address, last: Reading::default(), before: Reading::default() }
    }

    /// Scrapes once.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read(&mut self) -> Result<Reading, Error> {
        let (status, body) = fetch::get(&self.address, "/metrics", TIMEOUT).await?;
        if status != StatusCode::OK {
            return Err(Error::Status(status));
        }
        let reading = parse(&String::from_utf8_lossy(&body))?;
        Ok(self.continued(reading))
    }

    fn continued(&mut self, reading: Reading) -> Reading {
        if reading.arrivals < self.last.arrivals {
            self.before = self.before.plus(&self.last);
        }
        self.last = reading;
        let total = self.before.plus(&self.last);
        total
    }
}

impl Reading {
    fn plus(&self, other: &Self) -> Self {
        Self {
            queue_length: other.queue_length,
            in_flight: other.in_flight,
            capacity: other.capacity,
            arrivals: self.arrivals + other.arrivals,
            service: sum(&self.service, &other.service),
            latency: sum(&self.latency, &other.latency),
        }
    }
}

fn sum(a: &Histogram, b: &Histogram) -> Histogram {
    if a.buckets.is_empty() || b.buckets.is_empty() {
        return if a.buckets.is_empty() { b.clone() } else { a.clone() };
    }
    let buckets = a.buckets.iter().zip(&b.buckets).map(|(a, b)| (a.0, a.1 + b.1)).collect();
    Histogram { buckets, sum: a.sum + b.sum }
}

fn parse(text: &str) -> Result<Reading, Error> {
    let unreadable = |_| Error::Metric(metric::QUEUE_LENGTH);
    let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).map_err(unreadable)?;
    Ok(Reading {
        queue_length: number(&scrape, metric::QUEUE_LENGTH)?.ok_or(Error::Metric(metric::QUEUE_LENGTH))?,
        arrivals: number(&scrape, metric::ENQUEUED)?.ok_or(Error::Metric(metric::ENQUEUED))?
            + sum_of(&scrape, metric::SHED)?,
        in_flight: sum_of(&scrape, metric::IN_FLIGHT)?,
        capacity: number(&scrape, metric::CAPACITY)?.unwrap_or_default(),
        // Histograms appear with their first sample.
        service: histogram(&scrape, metric::UPSTREAM_DURATION)?,
        latency: histogram(&scrape, metric::REQUEST_DURATION)?,
    })
}

/// Over all labels; nothing has happened where there is no sample. Of refused requests all count as offered: those are
/// what capacity is planned for.
fn sum_of(scrape: &Scrape, name: &'static str) -> Result<f64, Error> {
    let samples = scrape.samples.iter().filter(|sample| sample.metric == name);
    let values = samples.map(|sample| match sample.value {
        Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => sane(value, name),
        _ => Err(Error::Metric(name)),
    });
    values.sum()
}

fn number(scrape: &Scrape, name: &'static str) -> Result<Option<f64>, Error> {
    let Some(sample) = scrape.samples.iter().find(|sample| sample.metric == name) else { return Ok(None) };
    match sample.value {
        Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => sane(value, name).map(Some),
        _ => Err(Error::Metric(name)),
    }
}

fn histogram(scrape: &Scrape, name: &'static str) -> Result<Histogram, Error> {
    let mut found = Histogram::default();
    for sample in &scrape.samples {
        match &sample.value {
            Value::Histogram(counts) if sample.metric == name => {
                for count in counts {
                    found.buckets.push((count.less_than, sane(count.count, name)?));
                }
            }
            Value::Untyped(value) if sample.metric.strip_suffix("_sum") == Some(name) => {
                found.sum = sane(*value, name)?;
            }
            _ => {}
        }
    }
    let ascending = found.buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
    if ascending { Ok(found) } else { Err(Error::Metric(name)) }
}

fn sane(value: f64, name: &'static str) -> Result<f64, Error> {
    if value.is_finite() && value >= 0.0 { Ok(value) } else { Err(Error::Metric(name)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposition(queue_length: &str, arrivals: &str) -> String {
        format!(
            "# TYPE dispatcher_queue_length gauge\ndispatcher_queue_length {queue_length}\n\
             # TYPE dispatcher_enqueued_requests_total counter\ndispatcher_enqueued_requests_total {arrivals}\n\
             # TYPE dispatcher_upstream_duration_seconds histogram\n\
             dispatcher_upstream_duration_seconds_bucket{{le=\"0.1\"}} 3\n\
             dispatcher_upstream_duration_seconds_bucket{{le=\"+Inf\"}} 4\n\
             dispatcher_upstream_duration_seconds_sum 0.5\ndispatcher_upstream_duration_seconds_count 4\n"
        )
    }

    #[test]
    fn the_exposition_becomes_a_reading() {
        let reading = parse(&exposition("7", "12")).expect("well formed");
        assert_eq!((reading.queue_length, reading.arrivals), (7.0, 12.0));
        assert_eq!(reading.service, Histogram { buckets: vec![(0.1, 3.0), (f64::INFINITY, 4.0)], sum: 0.5 });
        assert_eq!(reading.latency, Histogram::default());
    }

    #[test]
    fn absurd_numbers_are_no_reading() {
        for (queue_length, arrivals) in [("NaN", "1"), ("-1", "1"), ("+Inf", "1"), ("1", "NaN"), ("1", "-5")] {
            assert!(parse(&exposition(queue_length, arrivals)).is_err(), "{queue_length} {arrivals}");
        }
        assert!(parse("").is_err() && parse("<html>").is_err());
    }

    #[test]
    fn a_restarted_dispatcher_goes_on_counting() {
        let mut dispatcher = Dispatcher::new("nowhere:1".into());
        let mut next = |arrivals: &str| {
            let reading = parse(&exposition("1", arrivals)).expect("well formed");
            let reading = dispatcher.continued(reading);
            (reading.arrivals, reading.service.count())
        };
        assert_eq!(next("10"), (10.0, 4.0));
        assert_eq!(next("12"), (12.0, 4.0));
        assert_eq!(next("3"), (15.0, 8.0));
        assert_eq!(next("5"), (17.0, 8.0));
    }
}
