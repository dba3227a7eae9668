//! Many requests held and then let go: memory for each, and the order in which they leave. Over HTTP/2, as one
//! connection for each would be more than a process may have.

use crate::Bench;
use crate::client::{self, BODY};
use crate::figures::{Figures, Target};
use crate::progress::Progress;
use crate::stub::{Served, Stubs, Work};
use crate::subject::Dispatcher;
use admission::Order;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::{Args, ValueEnum, value_parser};
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

/// Streams that hyper's server permits on a connection.
const STREAMS: usize = 200;

/// For memory that is not needed any more to be given back, and for requests under way to arrive.
const SETTLE: Duration = Duration::from_secs(1);

/// For a connection's requests to be in the queue.
const FILL_TIMEOUT: Duration = Duration::from_secs(10);

/// For all of it; the dispatcher's deadline, so that nothing ends before.
const DEADLINE: Duration = Duration::from_secs(300);

/// Of the queue's memory for a request, its body not counted.
const BYTES_PER_REQUEST: f64 = 2048.0;

/// Flags of `queue`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Requests held together
    #[arg(long, default_value_t = 100_000, value_parser = value_parser!(u32).range(1000..=1_000_000))]
    requests: u32,
    /// Of those, so many are sent one at a time, each when the one before is seen in the queue; the others a
    /// connection at a time
    #[arg(long, default_value_t = 1000, value_parser = value_parser!(u32).range(..=1000))]
    in_step: u32,
    /// The dispatcher's
    #[arg(long, value_enum, default_value = "fifo")]
    order: Order,
}

/// Measures.
///
/// # Errors
/// When not every request was answered.
pub(crate) fn run(bench: &Bench, options: &Options, figures: &mut Figures) -> Result<()> {
    bench.client.block_on(measure(bench, options, figures))
}

async fn measure(bench: &Bench, options: &Options, figures: &mut Figures) -> Result<()> {
    let requests = options.requests as usize;
    let (gate, opened) = watch::channel(false);
    let stubs = Stubs::start(1, &Work::Gate(opened))?;
    // Everybody is late by the time that the gate opens, or nobody ever is: either way the order is that of arrival.
    let objective = if options.order == Order::LateLast { "500ms" } else { "300s" };
    let order = options.order.to_possible_value().expect("no order is hidden");
    let flags = [
        format!("--queue-length={}", 2 * requests),
        format!("--queue-bytes={}", 1 << 30),
        format!("--deadline={}s", DEADLINE.as_secs()),
        format!("--objective={objective}"),
        format!("--order={}", order.get_name()),
    ];
    let dispatcher = Dispatcher::start(&bench.program, &stubs.addresses, &flags).await?;
    let settled = async || {
        tokio::time::sleep(SETTLE).await;
        dispatcher.memory()
    };
    let before = settled().await?;
    let mut connections = Vec::new();
    for _ in 0..requests.div_ceil(STREAMS) {
        connections.push(open(dispatcher.address).await?);
    }
    let connected = settled().await?;

    let answered = Arc::new(AtomicUsize::new(0));
    let mut waiting = fill(&dispatcher, &mut connections, options, &answered).await?;
    let full = settled().await?;
    let per_request = full.saturating_sub(connected) as f64 / requests as f64 - BODY.len() as f64;
    figures.size("queue_rss_before", "RSS before", before);
    figures.size("queue_rss_connected", format!("RSS with {} idle connections", connections.len()), connected);
    figures.size("queue_rss_full", format!("RSS with {requests} requests held"), full);
    figures.add("queue_bytes_per_request", "memory per request beyond its body", per_request, "B");
    figures.target(Target::AtMost(BYTES_PER_REQUEST));

    let released = Instant::now();
    gate.send(true).context("open the gate")?;
    let mut progress = Progress::new("requests answered", requests);
    let mut good = 0;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while let Some(status) = tokio::time::timeout_at(deadline, waiting.join_next()).await.context("drain")? {
        good += usize::from(status?? == StatusCode::OK);
        progress.at(answered.load(Ordering::Relaxed));
    }
    let drained = released.elapsed();
    figures.add("queue_answered", "answered 200", good as f64, "");
    figures.target(Target::AtLeast(requests as f64));
    figures.add("queue_drain_per_second", "drained at", good as f64 / drained.as_secs_f64(), "/s");
    let served = stubs.take_served();
    let in_step = options.in_step as usize;
    let overtaken = [
        overtaken(served.iter().filter_map(id).filter(|id| *id < in_step)),
        overtaken(served.iter().filter_map(id).map(|id| id / STREAMS)),
        overtaken(served.iter().filter_map(id)),
    ];
    figures.add(
        "queue_overtaken_in_step",
        format!("overtaken among {in_step} sent one by one"),
        overtaken[0] as f64,
        "",
    );
    figures.target(Target::AtMost(0.0));
    figures.add("queue_overtaken_between", "overtaken by a later connection's", overtaken[1] as f64, "");
    figures.target(Target::AtMost(0.0));
    figures.add(
        "queue_overtaken_at_once",
        "overtaken by one sent at the same time",
        (overtaken[2] - overtaken[1]) as f64,
        "",
    );
    figures.size("queue_rss_after", "RSS after", settled().await?);
    ensure!(served.len() == requests, "the stub has seen {} requests, not {requests}", served.len());
    ensure!(good == requests, "{} of {requests} requests were not answered 200", requests - good);
    Ok(())
}

type Waiting = JoinSet<Result<StatusCode>>;

/// Sends every request, and sees every one in the queue; but for the first, which the stub has.
async fn fill(
    dispatcher: &Dispatcher,
    connections: &mut [Sender],
    options: &Options,
    answered: &Arc<AtomicUsize>,
) -> Result<Waiting> {
    let (requests, in_step) = (options.requests as usize, options.in_step as usize);
    let uri = format!("http://{}/predict", dispatcher.address);
    let mut waiting = JoinSet::new();
    let mut progress = Progress::new("requests held", requests);
    for id in 0..requests {
        let connection = &mut connections[id / STREAMS];
        connection.ready().await.context("a connection has ended")?;
        // It is on its way now, before it is awaited.
        let response = connection.send_request(client::predict(&uri, dispatcher.address, id, None));
        let answered = answered.clone();
        waiting.spawn(async move {
            let reply = client::read(response.await.context("send")?).await?;
            answered.fetch_add(1, Ordering::Relaxed);
            Ok(reply.status)
        });
        let sent = id + 1;
        if sent <= in_step || sent.is_multiple_of(STREAMS) || sent == requests {
            dispatcher.wait_for_queue(|length| length == id as u64, FILL_TIMEOUT).await?;
            progress.at(sent);
        }
    }
    Ok(waiting)
}

type Sender = SendRequest<Full<Bytes>>;

async fn open(address: SocketAddr) -> Result<Sender> {
    let stream = TcpStream::connect(address).await.context("connect")?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    // Its error is its requests', too.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

fn id(served: &Served) -> Option<usize> {
    served.id.map(|id| id as usize)
}

/// How many came after a higher one.
fn overtaken(numbers: impl Iterator<Item = usize>) -> usize {
    let mut highest = 0;
    let is_overtaken = |number: &usize| {
        highest = highest.max(*number);
        *number < highest
    };
    numbers.filter(is_overtaken).count()
}
