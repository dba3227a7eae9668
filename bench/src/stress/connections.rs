//! Connections that do nothing: memory for each, before and after a request waited on every one of them, and whether
//! others are served beside them.

use crate::Bench;
use crate::client::{self, BODY, Client, Sender};
use crate::figures::{Figures, Target, megabytes, quantile_ms};
use crate::progress::Progress;
use crate::stub::{Stubs, Work};
use crate::subject::Dispatcher;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::{Args, value_parser};
use http_body_util::Full;
use hyper::{Request, StatusCode};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the memory is extrapolated to.
const MANY: f64 = 20_000.0;

/// ... and what it may be then, in MB.
const MEMORY_OF_MANY: f64 = 400.0;

/// Slots that are left for others: `/status` and new requests.
const LEFT: usize = 50;

/// Connections from one source address, which has some 28,000 ports.
const PER_SOURCE: usize = 5000;

/// Connections opened in a row, as a burst of new clients does, before the next look.
const BATCH: usize = 500;

/// Milliseconds for any of them; one that finds the listener's backlog full is tried again after a second.
const CONNECT_MS: f64 = 100.0;

/// Requests at once.
const LANES: usize = 32;

/// For a batch to be accepted.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);

/// For buffers to be given back.
const SETTLE: Duration = Duration::from_secs(1);

/// New connections, one after another, while all others are idle.
const FRESH: usize = 100;

/// What a new connection's request may take at p99, in milliseconds; the stub takes nothing.
const FRESH_P99_MS: f64 = 10.0;

/// Of a waiting request's memory, its body not counted.
const BYTES_PER_REQUEST: f64 = 2048.0;

/// For all requests to wait, and then for all to be answered.
const HOLD_TIMEOUT: Duration = Duration::from_secs(60);

/// Flags of `connections`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// As many as the limit of open files leaves, at most this
    #[arg(long, default_value_t = 20_000, value_parser = value_parser!(u32).range(1..=100_000))]
    connections: u32,
}

/// Measures.
///
/// # Errors
/// When a connection is closed or a request fails.
pub(crate) fn run(bench: &Bench, options: &Options, figures: &mut Figures) -> Result<()> {
    bench.client.block_on(measure(bench, options, figures))
}

async fn measure(bench: &Bench, options: &Options, figures: &mut Figures) -> Result<()> {
    let count = (options.connections as usize).min(service::descriptors::for_connections().saturating_sub(LEFT));
    let (gate, opened) = watch::channel(false);
    let stubs = Stubs::start(1, &Work::Gate(opened))?;
    // Each picture is let in, and answered however long those before it take.
    let flags = [
        format!("--deadline={}s", 2 * HOLD_TIMEOUT.as_secs()),
        format!("--queue-length={count}"),
        "--order=fifo".into(),
    ];
    let dispatcher = Dispatcher::start(&bench.program, &stubs.addresses, &flags).await?;
    let settled = async || {
        tokio::time::sleep(SETTLE).await;
        dispatcher.memory()
    };
    let before = settled().await?;
    figures.size("connections_rss_before", "RSS before", before);

    let (streams, slowest) = open(&dispatcher, count).await?;
    let silent = settled().await?;
    let closed = streams.iter().filter(|stream| is_closed(stream)).count();
    ensure!(closed == 0, "{closed} silent connections were closed");
    figures.add(
        "connections_slowest_ms",
        format!("slowest connect, {BATCH} in a row"),
        slowest.as_secs_f64() * 1e3,
        "ms",
    );
    figures.target(Target::AtMost(CONNECT_MS));
    report(figures, "silent", "open and silent", count, before, silent);

    let mut senders = Vec::with_capacity(count);
    for stream in streams {
        senders.push(client::open(stream).await?);
    }
    let senders = ask(senders, "connections used", |_id| client::livez()).await?;
    let used = settled().await?;
    check_open(&senders)?;
    report(figures, "used", "idle after GET /livez", count, before, used);

    let address = dispatcher.address;
    let mut waiting = JoinSet::new();
    for (id, sender) in senders.into_iter().enumerate() {
        waiting.spawn(exchange(sender, client::predict("/predict", address, id, None)));
    }
    // The stub has one.
    let all = count as u64 - 1;
    dispatcher.wait_for_queue(|length| length == all, HOLD_TIMEOUT).await.context("pictures sent")?;
    let held = settled().await?;
    let each = held.saturating_sub(used) as f64 / count as f64 - BODY.len() as f64;
    figures.size("connections_rss_waiting", "RSS, a picture waits on each of them", held);
    figures.add("connections_bytes_per_request", "  per request beyond its body", each, "B");
    figures.target(Target::AtMost(BYTES_PER_REQUEST));
    gate.send(true).context("open the gate")?;
    let posted = tokio::time::timeout(HOLD_TIMEOUT, waiting.join_all()).await.context("pictures answered")?;
    let posted = posted.into_iter().collect::<Result<Vec<Sender>>>()?;
    let after = settled().await?;
    check_open(&posted)?;
    report(figures, "posted", "idle after POST /predict", count, before, after);

    let mut took = Vec::with_capacity(FRESH);
    for id in 0..FRESH {
        let started = Instant::now();
        let reply = Client::new(address).post(id, None).await.context("ask on a fresh connection")?;
        took.push(started.elapsed());
        ensure!(reply.status == StatusCode::OK, "a fresh connection's request was answered {}", reply.status);
    }
    figures.add("connections_fresh_p50_ms", "request on a fresh connection, p50", quantile_ms(took.clone(), 0.5), "ms");
    figures.add("connections_fresh_p99_ms", "request on a fresh connection, p99", quantile_ms(took, 0.99), "ms");
    figures.target(Target::AtMost(FRESH_P99_MS));
    check_open(&posted)
}

fn report(figures: &mut Figures, name: &str, what: &str, count: usize, before: u64, now: u64) {
    let each = now.saturating_sub(before) as f64 / count as f64;
    figures.size(format!("connections_rss_{name}"), format!("RSS, {count} {what}"), now);
    figures.add(format!("connections_bytes_{name}"), "  per connection", each, "B");
    let many = megabytes((before as f64 + each * MANY) as u64);
    figures.add(format!("connections_20k_{name}"), "  RSS with 20,000", many, "MB");
    figures.target(Target::AtMost(MEMORY_OF_MANY));
}

/// Opens `count` connections, sees that the dispatcher has accepted them, and tells how long one took at most.
async fn open(dispatcher: &Dispatcher, count: usize) -> Result<(Vec<TcpStream>, Duration)> {
    let files = dispatcher.open_files()?;
    let mut slowest = Duration::ZERO;
    let mut streams = Vec::with_capacity(count);
    let mut progress = Progress::new("connections open", count);
    while streams.len() < count {
        for _ in 0..BATCH.min(count - streams.len()) {
            let socket = TcpSocket::new_v4()?;
            let source = Ipv4Addr::new(127, 0, 0, 2 + (streams.len() / PER_SOURCE) as u8);
            socket.bind((source, 0).into()).with_context(|| format!("bind to {source}"))?;
            let started = Instant::now();
            streams.push(socket.connect(dispatcher.address).await.context("connect")?);
            slowest = slowest.max(started.elapsed());
        }
        let deadline = Instant::now() + ACCEPT_TIMEOUT;
        // A connection of ours to `/status` may have gone since they were counted.
        while dispatcher.open_files()? + 1 < files + streams.len() {
            ensure!(Instant::now() < deadline, "the dispatcher does not accept connection {}", streams.len());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        progress.at(streams.len());
    }
    Ok((streams, slowest))
}

fn is_closed(stream: &TcpStream) -> bool {
    !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

fn check_open(senders: &[Sender]) -> Result<()> {
    let closed = senders.iter().filter(|sender| sender.is_closed()).count();
    ensure!(closed == 0, "{closed} idle connections were closed");
    Ok(())
}

type Made = Request<Full<Bytes>>;

/// One request on each connection, some at a time.
async fn ask(senders: Vec<Sender>, what: &'static str, request: impl Fn(usize) -> Made) -> Result<Vec<Sender>> {
    let total = senders.len();
    let mut progress = Progress::new(what, total);
    let mut asked = Vec::with_capacity(total);
    let mut under_way = JoinSet::new();
    for (id, sender) in senders.into_iter().enumerate() {
        if under_way.len() == LANES {
            asked.push(under_way.join_next().await.expect("some are under way")??);
            progress.at(asked.len());
        }
        under_way.spawn(exchange(sender, request(id)));
    }
    for sender in under_way.join_all().await {
        asked.push(sender?);
    }
    Ok(asked)
}

/// One request and its answer.
async fn exchange(mut sender: Sender, request: Made) -> Result<Sender> {
    sender.ready().await.context("a connection was closed")?;
    let reply = client::read(sender.send_request(request).await.context("send")?).await?;
    ensure!(reply.status == StatusCode::OK, "answered {}", reply.status);
    Ok(sender)
}
