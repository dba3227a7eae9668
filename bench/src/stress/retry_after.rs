//! Measures whether a client that returns after `Retry-After` is answered. A burst of requests fills the queue. A short
//! request, whose timeout is too short for this backlog, is then sent again and again until it is answered.

use super::client::DispatcherClient;
use super::dispatcher::DispatcherProcess;
use super::load::{self, RequestOutcome, SentRequest, SentRequests};
use super::stub_flags::StubFlags;
use crate::figure::{Figure, TargetRange};
use crate::stub::StubReplicas;
use anyhow::{Context, Result, bail};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// The dispatcher's `--deadline`, which applies to the requests of the backlog.
const DEADLINE: Duration = Duration::from_secs(10);

/// The timeout of a short request.
const SHORT_TIMEOUT: Duration = Duration::from_millis(500);

/// Time between two short requests.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Time in which the requests of the backlog must enter the queue.
const FILL_TIMEOUT: Duration = Duration::from_secs(2);

/// Number of requests from which the dispatcher learns the service time.
const LEARNING_REQUESTS: u32 = 60;

/// The target for `Retry-After` divided by the time after which a short request is answered.
const RATIO: TargetRange = TargetRange::Between(0.5, 1.5);

/// The results of one backlog.
struct Observed {
    /// The queue length when the first short request was sent.
    waiting: u64,
    /// The number of requests of the backlog that were shed.
    backlog_shed: usize,
    /// The `Retry-After` of the first short request, in seconds.
    retry_after: u64,
    /// The short requests after the first one, until one was answered.
    tries: SentRequests,
}

/// Fills the queue with requests that take the stub replicas `backlog` seconds. Compares the `Retry-After` of a short
/// request with the time after which a short request is answered.
///
/// # Errors
/// If the first short request is not shed, or none is answered afterwards.
pub(crate) fn measure(
    runtime: &Runtime,
    flags: &StubFlags,
    stubs: &StubReplicas,
    backlog: u32,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let dispatcher_flags =
        ["--order=fifo".into(), "--queue-length=100000".into(), format!("--deadline={}s", DEADLINE.as_secs())];
    let dispatcher = runtime.block_on(DispatcherProcess::start(&stubs.addresses, &dispatcher_flags))?;
    let client = Arc::new(DispatcherClient::new(dispatcher.address));
    let gap = Duration::from_secs_f64(1.5 / flags.rate());
    let times: Vec<Duration> = (0..LEARNING_REQUESTS).map(|request| gap * request).collect();
    load::offer(runtime, &client, &times)?.check()?;
    eprintln!("checking Retry-After with a backlog of {backlog} s");
    let count = (flags.rate() * f64::from(backlog)) as usize;
    let observed = runtime.block_on(observe(&dispatcher, &client, count))?;
    figures.extend(describe(&observed, backlog)?);
    observed.tries.check()
}

/// Sends `count` requests at once, and then short requests until one is answered.
async fn observe(dispatcher: &DispatcherProcess, client: &Arc<DispatcherClient>, count: usize) -> Result<Observed> {
    client.connect(count).await?;
    let start = Instant::now();
    let backlog: Vec<_> =
        (0..count).map(|id| tokio::spawn(load::send(client.clone(), id, None, start, Duration::ZERO))).collect();
    let most = (count * 9 / 10) as u64;
    let filled = dispatcher.wait_for_queue(|length| length >= most, FILL_TIMEOUT).await;
    filled.with_context(|| format!("wait until {most} of {count} requests are in the queue"))?;
    let waiting = dispatcher.queue_length().await?;
    let first = load::send(client.clone(), count, Some(SHORT_TIMEOUT), Instant::now(), Duration::ZERO).await;
    let RequestOutcome::Shed { retry_after: Some(retry_after) } = first.outcome else {
        bail!(
            "the queue length is {waiting}, but a request with a timeout of {SHORT_TIMEOUT:?} was not shed with \
             Retry-After: {first:?}"
        )
    };
    let tries = retry_until_answered(client).await?;
    let mut backlog_shed = 0;
    for request in backlog {
        match request.await?.outcome {
            RequestOutcome::Answered => {}
            RequestOutcome::Shed { .. } => backlog_shed += 1,
            other => bail!("a request of the backlog was neither answered nor shed: {other:?}"),
        }
    }
    Ok(Observed { waiting, backlog_shed, retry_after, tries })
}

fn describe(observed: &Observed, backlog: u32) -> Result<Vec<Figure>> {
    let Observed { waiting, backlog_shed, retry_after, tries } = observed;
    let answered = tries.requests.iter().filter(|request| request.outcome == RequestOutcome::Answered);
    let took = answered.map(|request| request.due).min();
    let took = took.with_context(|| format!("no short request was answered within {:?}", 2 * DEADLINE))?.as_secs_f64();
    let expired = tries.count(|outcome| *outcome == RequestOutcome::Expired);
    let retry_after = *retry_after as f64;
    let figure = |key: &str, value: f64, unit, label: &str| {
        Figure::new(format!("retry_after_{key}_{backlog}s"), value, unit).labelled(label)
    };
    Ok(vec![
        figure("waiting", *waiting as f64, "", &format!("backlog of {backlog} s: queue length")),
        figure("burst_shed", *backlog_shed as f64, "", "  requests of the backlog that were shed"),
        figure("told", retry_after, "s", "  Retry-After of a short request"),
        figure("took", took, "s", "  time until a short request is answered"),
        figure("ratio", retry_after / took, "", "  Retry-After ÷ that time").with_target(RATIO),
        figure("expired", expired as f64, "", "  short requests that expired (504)"),
    ])
}

/// Sends a short request every [`RETRY_INTERVAL`] until one is answered, for at most twice the deadline.
async fn retry_until_answered(client: &Arc<DispatcherClient>) -> Result<SentRequests> {
    let start = Instant::now();
    let mut ticks = tokio::time::interval(RETRY_INTERVAL);
    let mut tries: Vec<JoinHandle<SentRequest>> = Vec::new();
    let mut requests = Vec::new();
    while start.elapsed() < 2 * DEADLINE {
        ticks.tick().await;
        tries.push(tokio::spawn(load::send(client.clone(), tries.len(), Some(SHORT_TIMEOUT), start, start.elapsed())));
        while tries.first().is_some_and(JoinHandle::is_finished) {
            requests.push(tries.remove(0).await?);
        }
        if requests.iter().any(|request| request.outcome == RequestOutcome::Answered) {
            break;
        }
    }
    for left in tries {
        requests.push(left.await?);
    }
    Ok(SentRequests { start, requests })
}
