//! An open loop of requests: each is sent when it is due, even if earlier ones are unanswered. Latency counts from
//! the time at which the request was due.

use super::client::{DispatcherClient, FullAnswer};
use crate::progress::Lines;
use anyhow::{Context, Result};
use hyper::StatusCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Time for the answers that are missing when the last request has been sent.
const LAST_ANSWERS: Duration = Duration::from_secs(20);

/// Time from now to the start of the schedule, so that the first request is not late already.
const HEAD_START: Duration = Duration::from_millis(20);

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestOutcome {
    /// Status 200.
    Answered,
    /// Status 503: shed at admission.
    Shed {
        /// The header `Retry-After`, seconds.
        retry_after: Option<u64>,
    },
    /// Status 504: the deadline passed in the queue.
    Expired,
    /// Any other status, or no answer; with a description.
    Failed(String),
}

impl RequestOutcome {
    /// Whether the request was shed.
    pub(crate) fn is_shed(&self) -> bool {
        matches!(self, Self::Shed { .. })
    }
}

impl From<Result<FullAnswer>> for RequestOutcome {
    fn from(reply: Result<FullAnswer>) -> Self {
        match reply {
            Err(error) => Self::Failed(format!("{error:#}")),
            Ok(reply) => match reply.status {
                StatusCode::OK => Self::Answered,
                StatusCode::SERVICE_UNAVAILABLE => Self::Shed { retry_after: reply.retry_after },
                StatusCode::GATEWAY_TIMEOUT => Self::Expired,
                other => Self::Failed(format!("{other}: {}", String::from_utf8_lossy(&reply.body))),
            },
        }
    }
}

/// A request that was sent, and how it ended.
#[derive(Debug, Clone)]
pub(crate) struct SentRequest {
    /// When the request was due, since the start of the schedule.
    pub(crate) due: Duration,
    /// From then until it was sent: the part of the latency that this process causes.
    pub(crate) send_delay: Duration,
    /// From when it was due to the last byte of the answer.
    pub(crate) latency: Duration,
    pub(crate) outcome: RequestOutcome,
}

/// All requests of a schedule.
pub(crate) struct SentRequests {
    /// Start of the schedule.
    pub(crate) start: Instant,
    /// Every request, in the order of the schedule.
    pub(crate) requests: Vec<SentRequest>,
}

/// Sends a request at each of `times` since the start. The calling thread waits for the times, because tokio's timers
/// round up to whole milliseconds.
///
/// # Errors
/// When requests are left without any answer.
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
            requests.push(task.await.context("a request panicked")?);
        }
        anyhow::Ok(requests)
    };
    let requests = runtime.block_on(async { tokio::time::timeout(LAST_ANSWERS, finish).await });
    Ok(SentRequests { start, requests: requests.context("requests were never answered")?? })
}

/// Sends one request, which was due at `start + due`.
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
    /// Latencies of the requests whose outcome fulfils `condition`.
    pub(crate) fn latencies(&self, condition: impl Fn(&RequestOutcome) -> bool) -> Vec<Duration> {
        self.requests.iter().filter(|request| condition(&request.outcome)).map(|request| request.latency).collect()
    }

    /// Number of requests whose outcome fulfils `condition`.
    pub(crate) fn count(&self, condition: impl Fn(&RequestOutcome) -> bool) -> usize {
        self.requests.iter().filter(|request| condition(&request.outcome)).count()
    }

    /// Checks that every request was answered, shed or expired.
    ///
    /// # Errors
    /// When a request failed otherwise.
    pub(crate) fn check(&self) -> Result<()> {
        let failures = self.requests.iter().filter_map(|request| match &request.outcome {
            RequestOutcome::Failed(description) => Some(description),
            RequestOutcome::Answered | RequestOutcome::Shed { .. } | RequestOutcome::Expired => None,
        });
        let failures: Vec<&String> = failures.collect();
        match failures[..] {
            [] => Ok(()),
            [first, ..] => anyhow::bail!("{} requests failed; the first one: {first}", failures.len()),
        }
    }
}
