//! `bench queue`: many requests wait in the queue, and are then answered. Measures the memory for each, and the order
//! in which they leave. The requests come over HTTP/2, because a process may not open a connection for each.

use super::client::{self, BODY};
use super::dispatcher::DispatcherProcess;
use super::{BYTES_PER_REQUEST, order};
use crate::figure::{Figure, TargetRange};
use crate::memory::megabytes;
use crate::output::Output;
use crate::progress::Lines;
use crate::stub::{AnswerDelay, Record, StubReplicas, StubSettings};
use admission::Order;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::{Args, value_parser};
use http_body_util::Full;
use hyper::StatusCode;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Streams that hyper's server permits on one connection.
const STREAMS: usize = 200;

/// Time in which the requests of one connection must enter the queue.
const FILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The dispatcher's `--deadline`. It is longer than the whole measurement, so that no request expires.
const DEADLINE: Duration = Duration::from_secs(300);

/// The dispatcher's `--queue-bytes`: the memory that all bodies may take.
const QUEUE_BYTES: usize = 1 << 30;

/// The target of figures that count faults: zero.
const NONE: TargetRange = TargetRange::AtMost(0.0);

/// An open HTTP/2 connection.
type Http2Connection = SendRequest<Full<Bytes>>;

/// The tasks that wait for answers. Each returns the status of one answer.
type PendingAnswers = JoinSet<Result<StatusCode>>;

/// Flags of `bench queue`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Number of requests that wait at the same time
    #[arg(long, default_value_t = 100_000, value_parser = value_parser!(u32).range(1000..=1_000_000))]
    requests: u32,
    /// Number of requests that are sent one at a time, each after the one before has reached the queue; the others are
    /// sent one connection at a time
    #[arg(long, default_value_t = 1000, value_parser = value_parser!(u32).range(..=1000))]
    in_step: u32,
    /// Order of the dispatcher's queue
    #[arg(long, value_enum, default_value = "fifo")]
    order: Order,
    #[command(flatten)]
    output: Output,
}

impl Options {
    fn dispatcher_flags(&self) -> Vec<String> {
        // Either all requests are late when the gate opens, or none is. In both cases they must leave in the order of
        // their arrival.
        let objective = if self.order == Order::LateLast { "500ms" } else { "300s" };
        vec![
            format!("--queue-length={}", 2 * self.requests),
            format!("--queue-bytes={QUEUE_BYTES}"),
            format!("--deadline={}s", DEADLINE.as_secs()),
            format!("--objective={objective}"),
            format!("--order={}", order::name(self.order)),
        ]
    }
}

/// Measures the memory for waiting requests, and the order in which they leave.
///
/// # Errors
/// If a request was not answered with status 200.
pub(crate) fn run(options: &Options) -> Result<()> {
    super::run(&options.output, |client, figures| client.block_on(measure(options, figures)))
}

async fn measure(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    let requests = options.requests as usize;
    let (gate, opened) = watch::channel(false);
    let stubs =
        StubReplicas::start(StubSettings { answer_delay: AnswerDelay::UntilOpen(opened), ..StubSettings::default() })?;
    let dispatcher = DispatcherProcess::start(&stubs.addresses, &options.dispatcher_flags()).await?;
    let before = dispatcher.settled_memory().await?;
    let mut connections = Vec::new();
    for _ in 0..requests.div_ceil(STREAMS) {
        connections.push(open(dispatcher.address).await?);
    }
    let connected = dispatcher.settled_memory().await?;
    let answered = Arc::new(AtomicUsize::new(0));
    let waiting = fill(&dispatcher, &mut connections, options, &answered).await?;
    let full = dispatcher.settled_memory().await?;
    let per_request = full.saturating_sub(connected) as f64 / requests as f64 - BODY.len() as f64;
    figures.extend([
        memory("before", before, "RSS before"),
        memory("connected", connected, &format!("RSS with {} idle connections", connections.len())),
        memory("full", full, &format!("RSS with {requests} waiting requests")),
        Figure::new("queue_bytes_per_request", per_request, "B")
            .labelled("memory per request beyond its body")
            .with_target(BYTES_PER_REQUEST),
    ]);

    let released = Instant::now();
    gate.send(true).context("the stub replica has ended before the gate was opened")?;
    let good = drain(waiting, requests, &answered).await?;
    let per_second = good as f64 / released.elapsed().as_secs_f64();
    let records = stubs.take_records();
    let all = TargetRange::AtLeast(requests as f64);
    figures.push(Figure::new("queue_answered", good as f64, "").labelled("answered with 200").with_target(all));
    figures.push(Figure::new("queue_drain_per_second", per_second, "/s").labelled("answers while the queue drains"));
    figures.extend(order_of(&records, options.in_step as usize));
    figures.push(memory("after", dispatcher.settled_memory().await?, "RSS after"));
    ensure!(records.len() == requests, "the stub replica received {} requests, not {requests}", records.len());
    ensure!(good == requests, "{} of {requests} requests were not answered with status 200", requests - good);
    Ok(())
}

fn memory(when: &str, bytes: u64, label: &str) -> Figure {
    Figure::new(format!("queue_rss_{when}"), megabytes(bytes), "MB").labelled(label)
}

/// Sends all requests and waits until they are in the queue, except the first one, which the stub replica takes.
async fn fill(
    dispatcher: &DispatcherProcess,
    connections: &mut [Http2Connection],
    options: &Options,
    answered: &Arc<AtomicUsize>,
) -> Result<PendingAnswers> {
    let (requests, in_step) = (options.requests as usize, options.in_step as usize);
    let uri = format!("http://{}/predict", dispatcher.address);
    let mut waiting = JoinSet::new();
    let mut progress = Lines::new("requests in the queue", requests);
    for id in 0..requests {
        let connection = &mut connections[id / STREAMS];
        let closed =
            || format!("send request {id}: the dispatcher at {} has closed the connection", dispatcher.address);
        connection.ready().await.with_context(closed)?;
        // The request is sent here, so that requests are sent in order. The task only waits for the answer.
        let response = connection.send_request(client::predict(&uri, dispatcher.address, id, None));
        let answered = answered.clone();
        waiting.spawn(async move {
            let response = response.await.with_context(|| format!("send request {id}"))?;
            let answer = client::read(response).await.with_context(|| format!("send request {id}"))?;
            answered.fetch_add(1, Ordering::Relaxed);
            Ok(answer.status)
        });
        let sent = id + 1;
        if sent <= in_step || sent.is_multiple_of(STREAMS) || sent == requests {
            let queued = dispatcher.wait_for_queue(|length| length == id as u64, FILL_TIMEOUT).await;
            queued.with_context(|| format!("wait until the queue length is {id}"))?;
            progress.update(sent);
        }
    }
    Ok(waiting)
}

/// Waits for all answers. Returns the number of answers with status 200.
async fn drain(mut waiting: PendingAnswers, requests: usize, answered: &AtomicUsize) -> Result<usize> {
    let mut progress = Lines::new("requests answered", requests);
    let mut good = 0;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let late = || format!("some of {requests} requests were not answered within {DEADLINE:?}");
    while let Some(status) = tokio::time::timeout_at(deadline, waiting.join_next()).await.with_context(late)? {
        good += usize::from(status?? == StatusCode::OK);
        progress.update(answered.load(Ordering::Relaxed));
    }
    Ok(good)
}

async fn open(address: SocketAddr) -> Result<Http2Connection> {
    let failed = || format!("connect to the dispatcher at {address}");
    let stream = TcpStream::connect(address).await.with_context(failed)?;
    stream.set_nodelay(true).with_context(failed)?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = handshake.with_context(failed)?;
    // If the connection breaks, its requests report the error.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Figures about the order in which the stub replica received the requests.
fn order_of(records: &[Record], in_step: usize) -> [Figure; 3] {
    let ids = || records.iter().filter_map(|record| record.id).map(|id| id as usize);
    let one_by_one = overtaken(ids().filter(|id| *id < in_step));
    let between_connections = overtaken(ids().map(|id| id / STREAMS));
    let at_once = overtaken(ids()) - between_connections;
    let figure = |key: &str, count: usize, label: &str| {
        Figure::new(format!("queue_overtaken_{key}"), count as f64, "").labelled(label)
    };
    [
        figure("in_step", one_by_one, &format!("overtaken, of {in_step} sent one at a time")).with_target(NONE),
        figure("between", between_connections, "overtaken by a request of a later connection").with_target(NONE),
        figure("at_once", at_once, "overtaken by a request sent at the same time"),
    ]
}

/// The number of elements that come after a higher element.
fn overtaken(numbers: impl Iterator<Item = usize>) -> usize {
    let mut highest = 0;
    let mut count = 0;
    for number in numbers {
        count += usize::from(number < highest);
        highest = highest.max(number);
    }
    count
}
