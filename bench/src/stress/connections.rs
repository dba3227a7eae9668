//! `bench connections`: many idle connections. Measures the memory for each, before and after each has carried a
//! request that had to wait, and the latency of requests on new connections beside them.

use super::BYTES_PER_REQUEST;
use super::client::{self, BODY, DispatcherClient, Http1Connection};
use super::dispatcher::DispatcherProcess;
use super::quantile_ms;
use crate::figure::{Figure, TargetRange};
use crate::memory::megabytes;
use crate::output::Output;
use crate::progress::Lines;
use crate::stub::{AnswerDelay, StubReplicas, StubSettings};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::{Args, value_parser};
use http_body_util::Full;
use hyper::{Request, StatusCode};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The number of connections to which the memory is extrapolated.
const MANY: f64 = 20_000.0;

/// The target for the dispatcher's memory with [`MANY`] connections, in MB.
const MEMORY_OF_MANY: TargetRange = TargetRange::AtMost(400.0);

/// Connections that the limit of open files must leave for `/status` and for new connections.
const LEFT: usize = 50;

/// Most connections from one source address, which has some 28,000 ports.
const PER_SOURCE: usize = 5000;

/// Number of connections that are opened without a pause, like a burst of new clients.
const BATCH: usize = 500;

/// The target for the time to open a connection, in milliseconds. If the listener's backlog is full, the kernel tries
/// again after a second.
const CONNECT_MS: TargetRange = TargetRange::AtMost(100.0);

/// Most requests for `/livez` in flight at the same time.
const MAX_IN_FLIGHT: usize = 32;

/// Time in which the dispatcher must accept a batch of connections.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Number of new connections that are opened one after another while all others are idle.
const FRESH: usize = 100;

/// The target for the 99th percentile of the latencies on new connections, in milliseconds. The stub replica answers at
/// once.
const FRESH_P99_MS: TargetRange = TargetRange::AtMost(10.0);

/// Time in which all requests must enter the queue, and in which all must then be answered.
const HOLD_TIMEOUT: Duration = Duration::from_secs(60);

/// Flags of `bench connections`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Number of connections; fewer are opened if the limit of open files (ulimit -n) is too low
    #[arg(long, default_value_t = 20_000, value_parser = value_parser!(u32).range(1..=100_000))]
    connections: u32,
    #[command(flatten)]
    output: Output,
}

/// Measures the memory for idle connections, and the latency on new ones.
///
/// # Errors
/// If the dispatcher closes a connection, or a request fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    super::run(&options.output, |client, figures| client.block_on(measure(options, figures)))
}

async fn measure(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    let count = (options.connections as usize).min(service::descriptors::for_connections().saturating_sub(LEFT));
    let (gate, opened) = watch::channel(false);
    let stubs =
        StubReplicas::start(StubSettings { answer_delay: AnswerDelay::UntilOpen(opened), ..StubSettings::default() })?;
    // With these flags, every request is admitted and none expires.
    let flags = [
        format!("--deadline={}s", 2 * HOLD_TIMEOUT.as_secs()),
        format!("--queue-length={count}"),
        "--order=fifo".into(),
    ];
    let dispatcher = DispatcherProcess::start(&stubs.addresses, &flags).await?;
    let before = dispatcher.settled_memory().await?;
    figures.push(memory("before", before, "RSS before"));

    let (streams, slowest) = open(&dispatcher, count).await?;
    let silent = dispatcher.settled_memory().await?;
    let closed = streams.iter().filter(|stream| is_closed(stream)).count();
    ensure!(closed == 0, "the dispatcher closed {closed} of {count} connections that carried no request yet");
    let slowest = Figure::new("connections_slowest_ms", slowest.as_secs_f64() * 1e3, "ms");
    figures.push(slowest.labelled(format!("slowest connect in bursts of {BATCH}")).with_target(CONNECT_MS));
    figures.extend(per_connection("silent", "connections without a request", count, before, silent));

    let connections = use_each_once(streams).await?;
    let used = dispatcher.settled_memory().await?;
    check_open(&connections)?;
    figures.extend(per_connection("used", "connections idle after GET /livez", count, before, used));

    let waiting = post_on_each(&dispatcher, connections).await?;
    let held = dispatcher.settled_memory().await?;
    let each = held.saturating_sub(used) as f64 / count as f64 - BODY.len() as f64;
    figures.push(memory("waiting", held, "RSS, a request waits on each connection"));
    let each = Figure::new("connections_bytes_per_request", each, "B");
    figures.push(each.labelled("  per request beyond its body").with_target(BYTES_PER_REQUEST));
    gate.send(true).context("the stub replica has ended before the gate was opened")?;
    let posted = tokio::time::timeout(HOLD_TIMEOUT, waiting.join_all()).await;
    let posted = posted.with_context(|| format!("not all {count} requests were answered within {HOLD_TIMEOUT:?}"))?;
    let posted = posted.into_iter().collect::<Result<Vec<Http1Connection>>>()?;
    let after = dispatcher.settled_memory().await?;
    check_open(&posted)?;
    figures.extend(per_connection("posted", "connections idle after POST /predict", count, before, after));

    figures.extend(fresh_connections(dispatcher.address).await?);
    check_open(&posted)
}

fn memory(state: &str, bytes: u64, label: &str) -> Figure {
    Figure::new(format!("connections_rss_{state}"), megabytes(bytes), "MB").labelled(label)
}

/// Figures about the memory of the dispatcher with `count` connections: `before` and `now` are its resident memory in
/// bytes, without and with the connections.
fn per_connection(state: &str, description: &str, count: usize, before: u64, now: u64) -> [Figure; 3] {
    let each = now.saturating_sub(before) as f64 / count as f64;
    let many = megabytes((before as f64 + each * MANY) as u64);
    [
        memory(state, now, &format!("RSS, {count} {description}")),
        Figure::new(format!("connections_bytes_{state}"), each, "B").labelled("  per connection"),
        Figure::new(format!("connections_20k_{state}"), many, "MB")
            .labelled("  RSS with 20,000 connections")
            .with_target(MEMORY_OF_MANY),
    ]
}

/// Opens `count` connections and waits until the dispatcher has accepted them. Returns the connections, and the longest
/// time that one of them took to connect.
async fn open(dispatcher: &DispatcherProcess, count: usize) -> Result<(Vec<TcpStream>, Duration)> {
    let files = dispatcher.open_files()?;
    let mut slowest = Duration::ZERO;
    let mut streams = Vec::with_capacity(count);
    let mut progress = Lines::new("connections open", count);
    while streams.len() < count {
        for _ in 0..BATCH.min(count - streams.len()) {
            let socket = TcpSocket::new_v4()?;
            let source = Ipv4Addr::new(127, 0, 0, 2 + (streams.len() / PER_SOURCE) as u8);
            socket.bind((source, 0).into()).with_context(|| format!("bind to {source}"))?;
            let started = Instant::now();
            let connected = socket.connect(dispatcher.address).await;
            streams.push(connected.with_context(|| format!("connect from {source} to {}", dispatcher.address))?);
            slowest = slowest.max(started.elapsed());
        }
        let deadline = Instant::now() + ACCEPT_TIMEOUT;
        // Without `+ 1` this could wait for ever: a connection to /status may have been open when `files` was counted,
        // and closed since.
        while dispatcher.open_files()? + 1 < files + streams.len() {
            ensure!(
                Instant::now() < deadline,
                "the dispatcher has not accepted all of {} connections after {ACCEPT_TIMEOUT:?}",
                streams.len()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        progress.update(streams.len());
    }
    Ok((streams, slowest))
}

fn is_closed(stream: &TcpStream) -> bool {
    !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

fn check_open(connections: &[Http1Connection]) -> Result<()> {
    let closed = connections.iter().filter(|connection| connection.is_closed()).count();
    ensure!(closed == 0, "the dispatcher closed {closed} of {} idle connections", connections.len());
    Ok(())
}

/// Sends `GET /livez` on each connection. At most [`MAX_IN_FLIGHT`] requests are in flight at the same time.
async fn use_each_once(streams: Vec<TcpStream>) -> Result<Vec<Http1Connection>> {
    let total = streams.len();
    let mut progress = Lines::new("connections used", total);
    let mut used = Vec::with_capacity(total);
    let mut in_flight = JoinSet::new();
    for stream in streams {
        if in_flight.len() == MAX_IN_FLIGHT {
            used.push(in_flight.join_next().await.expect("the set is not empty")??);
            progress.update(used.len());
        }
        let connection = client::open(stream).await?;
        in_flight.spawn(exchange(connection, client::livez()));
    }
    for connection in in_flight.join_all().await {
        used.push(connection?);
    }
    Ok(used)
}

/// Sends `POST /predict` on each connection. Waits until all requests are in the queue, except one, which the stub
/// replica takes.
async fn post_on_each(
    dispatcher: &DispatcherProcess,
    connections: Vec<Http1Connection>,
) -> Result<JoinSet<Result<Http1Connection>>> {
    let in_queue = connections.len() as u64 - 1;
    let mut waiting = JoinSet::new();
    for (id, connection) in connections.into_iter().enumerate() {
        waiting.spawn(exchange(connection, client::predict("/predict", dispatcher.address, id, None)));
    }
    let filled = dispatcher.wait_for_queue(|length| length == in_queue, HOLD_TIMEOUT).await;
    filled.with_context(|| format!("wait until the queue length is {in_queue}"))?;
    Ok(waiting)
}

/// Sends one request and reads its answer, which must have status 200. Returns the connection.
///
/// # Errors
/// If the connection is closed, or the answer has another status.
async fn exchange(mut connection: Http1Connection, request: Request<Full<Bytes>>) -> Result<Http1Connection> {
    let path = request.uri().path().to_owned();
    let failed = || format!("send a request for {path} on a connection that was idle");
    connection.ready().await.with_context(failed)?;
    let answer = client::read(connection.send_request(request).await.with_context(failed)?).await?;
    ensure!(answer.status == StatusCode::OK, "a request for {path} was answered {}", answer.status);
    Ok(connection)
}

/// Sends `POST /predict` on new connections, one after another. Returns figures about the latencies.
async fn fresh_connections(address: SocketAddr) -> Result<[Figure; 2]> {
    let mut times = Vec::with_capacity(FRESH);
    for id in 0..FRESH {
        let started = Instant::now();
        let answer = DispatcherClient::new(address).post(id, None).await.context("post on a new connection")?;
        times.push(started.elapsed());
        ensure!(answer.status == StatusCode::OK, "a request on a new connection was answered {}", answer.status);
    }
    let figure = |quantile: &str, q: f64| {
        Figure::new(format!("connections_fresh_{quantile}_ms"), quantile_ms(&times, q), "ms")
            .labelled(format!("latency on a new connection, {quantile}"))
    };
    Ok([figure("p50", 0.5), figure("p99", 0.99).with_target(FRESH_P99_MS)])
}
