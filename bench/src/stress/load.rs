//! Sends requests in an open loop: each is sent at its scheduled time, even if earlier ones are not answered yet. The
//! latency of a request counts from its scheduled time.

use super::client::{DispatcherClient, FullAnswer};
use crate::progress::Lines;
use anyhow::{Context, Result};
use hyper::StatusCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Time in which all requests must be answered after the last one was sent.
const LAST_ANSWERS: Duration = Duration::from_secs(20);

/// Time between the call and the start of the schedule. Without it, the first request would be sent late.
const HEAD_START: Duration = Duration::from_millis(20);

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestOutcome {
    /// The request was answered with status 200.
    Answered,
    /// The request was shed at admission, with status 503.
    Shed {
        /// The header `Retry-After` in seconds; `None` if the answer has no such header.
        retry_after: Option<u64>,
    },
    /// The request expired in the queue, with status 504.
    Expired,
    /// The request was not answered, or was answered with another status. The text describes the failure.
    Failed(String),
}

impl RequestOutcome {
    /// Whether the request was shed.
    pub(crate) fn is_shed(&self) -> bool {
        matches!(self, Self::Shed { .. })
    }
}

impl From<Result<FullAnswer>> for RequestOutcome {
    fn from(answer: Result<FullAnswer>) -> Self {
        match answer {
            Err(error) => Self::Failed(format!("{error:#}")),
            Ok(answer) => match answer.status {
                StatusCode::OK => Self::Answered,
                StatusCode::SERVICE_UNAVAILABLE => Self::Shed { retry_after: answer.retry_after },
                StatusCode::GATEWAY_TIMEOUT => Self::Expired,
                other => Self::Failed(format!("status {other}: {}", String::from_utf8_lossy(&answer.body))),
            },
        }
    }
}

/// A request that was sent, with its times and its outcome.
#[derive(Debug, Clone)]
pub(crate) struct SentRequest {
    /// The scheduled time of the request, since the start of the schedule.
    pub(crate) due: Duration,
    /// The time from the scheduled time to the sending: the part of the latency that this process causes.
    pub(crate) send_delay: Duration,
    /// The time from the scheduled time to the last byte of the answer.
    pub(crate) latency: Duration,
    /// How the request ended.
    pub(crate) outcome: RequestOutcome,
}

/// All requests of a schedule.
pub(crate) struct SentRequests {
    /// The start of the schedule.
    pub(crate) start: Instant,
    /// The requests in the order of the schedule.
    pub(crate) requests: Vec<SentRequest>,
}

/// Sends a request at each of `times`, which count from the start of the schedule. The calling thread waits for the
/// times, because tokio's timers round up to whole milliseconds.
///
/// # Errors
/// If a request is not answered within 20 s after the last one was sent.
pub(crate) fn offer(runtime: &Runtime, client: &Arc<DispatcherClient>, times: &[Duration]) -> Result<SentRequests> {
    let start = Instant::now() + HEAD_START;
    let mut progress = Lines::new("requests sent", times.len());
    let mut tasks = Vec::with_capacity(times.len());
    for (id, &due) in times.iter().enumerate() {
        std::thread::sleep((start + due).saturating_duration_since(Instant::now()));
        tasks.push(runtime.spawn(send(client.clone(), id, None, start, due)));
        progress.update(id);
    }
    let finish = async {
        let mut requests = Vec::with_capacity(tasks.len());
        for task in tasks {
            requests.push(task.await.context("the task of a request panicked")?);
        }
        anyhow::Ok(requests)
    };
    let late = || format!("requests were not answered within {LAST_ANSWERS:?} after the last one was sent");
    let requests = runtime.block_on(async { tokio::time::timeout(LAST_ANSWERS, finish).await });
    Ok(SentRequests { start, requests: requests.with_context(late)?? })
}

/// Sends one request now. Its scheduled time is `start + due`.
pub(crate) async fn send(
    client: Arc<DispatcherClient>,
    id: usize,
    timeout: Option<Duration>,
    start: Instant,
    due: Duration,
) -> SentRequest {
    let due_at = start + due;
    let send_delay = due_at.elapsed();
    let outcome = client.post(id, timeout).await.into();
    SentRequest { due, send_delay, latency: due_at.elapsed(), outcome }
}

impl SentRequests {
    /// The latencies of the requests for whose outcome `condition` is true.
    pub(crate) fn latencies(&self, condition: impl Fn(&RequestOutcome) -> bool) -> Vec<Duration> {
        self.requests.iter().filter(|request| condition(&request.outcome)).map(|request| request.latency).collect()
    }

    /// The number of requests for whose outcome `condition` is true.
    pub(crate) fn count(&self, condition: impl Fn(&RequestOutcome) -> bool) -> usize {
        self.requests.iter().filter(|request| condition(&request.outcome)).count()
    }

    /// Checks that every request was answered, shed or expired.
    ///
    /// # Errors
    /// If a request failed. The message has the failure of the first one.
    pub(crate) fn check(&self) -> Result<()> {
        let failures = self.requests.iter().filter_map(|request| match &request.outcome {
            RequestOutcome::Failed(description) => Some(description),
            RequestOutcome::Answered | RequestOutcome::Shed { .. } | RequestOutcome::Expired => None,
        });
        let failures: Vec<&String> = failures.collect();
        match failures[..] {
            [] => Ok(()),
            [first, ..] => {
                anyhow::bail!("{} of {} requests failed; the first: {first}", failures.len(), self.requests.len())
            }
        }
    }
}
