//! Open loop: every request is sent when it is due, whatever became of those before. Latency counts from then.

use crate::client::{Client, Reply};
use crate::progress::Progress;
use anyhow::{Context, Result};
use hyper::StatusCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// For the last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(20);

/// Between now and the first request, so that it is not late already.
const HEAD_START: Duration = Duration::from_millis(20);

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// 200.
    Answered,
    /// 503, and the seconds after which to come back, if it said so.
    Shed(Option<u64>),
    /// 504.
    Expired,
    /// Anything else, in words.
    Failed(String),
}

impl Outcome {
    fn of(reply: Result<Reply>) -> Self {
        match reply {
            Err(error) => Self::Failed(format!("{error:#}")),
            Ok(reply) => match reply.status {
                StatusCode::OK => Self::Answered,
                StatusCode::SERVICE_UNAVAILABLE => Self::Shed(reply.retry_after),
                StatusCode::GATEWAY_TIMEOUT => Self::Expired,
                other => Self::Failed(format!("{other}: {}", String::from_utf8_lossy(&reply.body))),
            },
        }
    }
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// When it was to be sent, since the start.
    pub(crate) at: Duration,
    /// From then to its sending: this process's own part of the latency.
    pub(crate) delay: Duration,
    /// From when it was to be sent to its last byte.
    pub(crate) latency: Duration,
    /// How it ended.
    pub(crate) outcome: Outcome,
}

/// A whole run.
pub(crate) struct Offered {
    /// Of the schedule.
    pub(crate) start: Instant,
    /// In order of the schedule.
    pub(crate) samples: Vec<Sample>,
}

/// Sends a request at each of `times` from this thread, which tells milliseconds apart as tokio's timers do not.
///
/// # Errors
/// When requests are left without any answer.
pub(crate) fn offer(runtime: &Handle, client: &Arc<Client>, times: &[Duration]) -> Result<Offered> {
    let start = Instant::now() + HEAD_START;
    let mut progress = Progress::new("requests sent", times.len());
    let mut requests = Vec::with_capacity(times.len());
    for (id, &at) in times.iter().enumerate() {
        let due = start + at;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        requests.push(runtime.spawn(send(client.clone(), id, None, due, at)));
        progress.at(id);
    }
    let collect = async {
        let mut samples = Vec::with_capacity(requests.len());
        for request in requests {
            samples.push(request.await.context("a request panicked")?);
        }
        anyhow::Ok(samples)
    };
    let samples = runtime.block_on(async { tokio::time::timeout(LAST_ANSWERS, collect).await });
    Ok(Offered { start, samples: samples.context("requests were never answered")?? })
}

/// Sends one request that was due at `due`.
pub(crate) async fn send(
    client: Arc<Client>,
    id: usize,
    patience: Option<Duration>,
    due: Instant,
    at: Duration,
) -> Sample {
    let delay = due.elapsed();
    let reply = client.post(id, patience).await;
    Sample { at, delay, latency: due.elapsed(), outcome: Outcome::of(reply) }
}

impl Offered {
    /// Latencies of those whose outcome `is` so.
    pub(crate) fn latencies(&self, is: impl Fn(&Outcome) -> bool) -> Vec<Duration> {
        self.samples.iter().filter(|sample| is(&sample.outcome)).map(|sample| sample.latency).collect()
    }

    /// How many of them.
    pub(crate) fn count(&self, is: impl Fn(&Outcome) -> bool) -> usize {
        self.samples.iter().filter(|sample| is(&sample.outcome)).count()
    }

    /// # Errors
    /// When there was any failure: neither an answer nor one of the two ways to refuse.
    pub(crate) fn check(&self) -> Result<()> {
        let failures = self.samples.iter().filter_map(|sample| match &sample.outcome {
            Outcome::Failed(words) => Some(words),
            _ => None,
        });
        let failures: Vec<&String> = failures.collect();
        match failures[..] {
            [] => Ok(()),
            [first, ..] => anyhow::bail!("{} requests failed; the first one: {first}", failures.len()),
        }
    }
}
