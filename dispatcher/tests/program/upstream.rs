//! Tests of the connections to replicas. Raw servers answer in odd ways, close connections at odd moments, or are out of
//! reach, and the dispatcher must neither lose a request nor blame an innocent one.

use crate::process::{Program, RunningDispatcher, WAIT_LIMIT, command};
use crate::steady::on_steady_machine;
use crate::stub::{StubBehavior, StubReplica};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::{Semaphore, mpsc, watch};

/// An answer in the form of the wire contract.
const ANSWER: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"success\":true}";

/// The way in which a raw replica reacts to an image.
#[derive(Debug, Clone)]
enum Reaction {
    /// It writes these bytes after it has read the body.
    Writes(String),
    /// It writes these bytes without having read the body, and closes the connection.
    WritesEarly(String),
    /// It closes the connection after it has read the body.
    Closes,
    /// It resets the connection after it has read the body.
    Resets,
    /// It resets the connection after it has read the head.
    ResetsEarly,
    /// It closes its listener, and then the connection, after it has read the body.
    Stops,
}

impl Reaction {
    fn answers() -> Self {
        Self::Writes(ANSWER.to_owned())
    }
}

/// The reaction of a raw replica to the image with this number on a connection, from 0.
type React = dyn Fn(usize) -> Reaction + Send + Sync;

/// A replica that speaks HTTP/1.1 by hand.
struct RawReplica {
    address: String,
    shared: Arc<RawState>,
}

struct RawState {
    react: Box<React>,
    /// Whether the replica closes every new connection at once.
    closes_all: AtomicBool,
    images: AtomicUsize,
    /// Whether the replica should listen, and whether it does.
    should_listen: watch::Sender<bool>,
    listens: watch::Sender<bool>,
    /// Receives a message when the dispatcher has closed a connection on which it had sent an image.
    closed: mpsc::UnboundedSender<()>,
}

impl RawReplica {
    async fn start(react: impl Fn(usize) -> Reaction + Send + Sync + 'static) -> Self {
        Self::start_watched(react).await.0
    }

    /// Starts a replica. The channel receives a message for each connection that the dispatcher closes.
    async fn start_watched(
        react: impl Fn(usize) -> Reaction + Send + Sync + 'static,
    ) -> (Self, mpsc::UnboundedReceiver<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("the socket is bound").to_string();
        let (closed, connections_closed) = mpsc::unbounded_channel();
        let shared = Arc::new(RawState {
            react: Box::new(react),
            closes_all: AtomicBool::new(false),
            images: AtomicUsize::new(0),
            should_listen: watch::Sender::new(true),
            listens: watch::Sender::new(true),
            closed,
        });
        let state = shared.clone();
        tokio::spawn(async move {
            let mut should_listen = state.should_listen.subscribe();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.expect("the replica listens").0,
                    _ = should_listen.wait_for(|&should_listen| !should_listen) => break,
                };
                if !state.closes_all.load(Ordering::SeqCst) {
                    tokio::spawn(serve(stream, state.clone()));
                }
            }
            drop(listener);
            state.listens.send_replace(false);
        });
        (Self { address, shared }, connections_closed)
    }

    /// The number of images that the replica has received.
    fn images(&self) -> usize {
        self.shared.images.load(Ordering::SeqCst)
    }

    fn set_closes_all(&self, closes_all: bool) {
        self.shared.closes_all.store(closes_all, Ordering::SeqCst);
    }
}

/// Serves one connection until it ends.
async fn serve(mut stream: TcpStream, state: Arc<RawState>) -> Option<()> {
    let mut received = Vec::new();
    for number in 0.. {
        let Some(head) = read_head(&mut stream, &mut received).await else {
            if number > 0 {
                state.closed.send(()).ok()?;
            }
            return None;
        };
        if head.starts_with("GET") {
            let ready = "HTTP/1.1 200 OK\r\nContent-Length: 14\r\nConnection: close\r\n\r\n{\"ready\":true}";
            return stream.write_all(ready.as_bytes()).await.ok();
        }
        state.images.fetch_add(1, Ordering::SeqCst);
        let reaction = (state.react)(number);
        if let Reaction::WritesEarly(bytes) = &reaction {
            stream.write_all(bytes.as_bytes()).await.ok()?;
            stream.shutdown().await.ok()?;
            // Closing with unread bytes would reset the connection at once.
            tokio::time::sleep(Duration::from_millis(300)).await;
            return None;
        }
        if matches!(reaction, Reaction::ResetsEarly) {
            stream.set_zero_linger().expect("the socket is open");
            return None;
        }
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a request has a length");
        let length: usize = length.parse().expect("the length is a number");
        while received.len() < length {
            if stream.read_buf(&mut received).await.ok()? == 0 {
                return None;
            }
        }
        received.drain(..length);
        match reaction {
            Reaction::Writes(bytes) => stream.write_all(bytes.as_bytes()).await.ok()?,
            Reaction::Resets => {
                // With this option, closing the connection resets it.
                stream.set_zero_linger().expect("the socket is open");
                return None;
            }
            Reaction::Stops => {
                state.should_listen.send_replace(false);
                state.listens.subscribe().wait_for(|&listens| !listens).await.ok()?;
                return None;
            }
            Reaction::Closes | Reaction::WritesEarly(_) | Reaction::ResetsEarly => return None,
        }
    }
    None
}

/// Reads the head of the next request out of `received`; `None` if the connection ends.
async fn read_head(stream: &mut TcpStream, received: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = received.drain(..end + 4).collect();
            return Some(
                String::from_utf8(head).expect("a head is ASCII").to_ascii_lowercase().replace("get ", "GET "),
            );
        }
        if stream.read_buf(received).await.ok()? == 0 {
            return None;
        }
    }
}

/// Starts the dispatcher with `replicas`, and waits until all of them are ready.
async fn start(replicas: &[&RawReplica], flags: &[&str]) -> Arc<RunningDispatcher> {
    let addresses: Vec<&str> = replicas.iter().map(|replica| replica.address.as_str()).collect();
    let dispatcher = RunningDispatcher::start(&format!("static:{}", addresses.join(",")), flags).await;
    dispatcher.until_states(&vec!["ready"; replicas.len()]).await;
    Arc::new(dispatcher)
}

/// The number of retries for `reason`.
async fn retries(dispatcher: &RunningDispatcher, reason: &str) -> f64 {
    dispatcher.metric(&format!("dispatcher_retries_total{{reason=\"{reason}\"}}")).await
}

#[tokio::test]
async fn a_replica_that_closes_connections_when_they_are_used_again_is_not_blamed() {
    for close in [Reaction::Closes, Reaction::Resets] {
        let reaction = close.clone();
        let replica =
            RawReplica::start(move |number| if number == 0 { Reaction::answers() } else { reaction.clone() }).await;
        let dispatcher = start(&[&replica], &[]).await;
        for sent in 0..12 {
            let reply = dispatcher.post(&[]).await;
            assert_eq!(reply.status, 200, "request {sent}: {}; {close:?}", reply.json);
            assert_eq!(dispatcher.states().await, ["ready"], "request {sent}; {close:?}");
        }
        assert!(replica.images() > 12, "no connection was used again; {close:?}");
        assert_eq!(retries(&dispatcher, "reset").await, 0.0, "{close:?}");
    }
}

#[tokio::test]
async fn a_replica_that_closes_every_connection_at_once_makes_no_image_poison() {
    let replicas = [RawReplica::start(|_| Reaction::answers()).await, RawReplica::start(|_| Reaction::answers()).await];
    let dispatcher = start(&[&replicas[0], &replicas[1]], &["--deadline=20s", "--objective=10s"]).await;
    replicas.iter().for_each(|replica| replica.set_closes_all(true));
    let client = dispatcher.clone();
    let request = tokio::spawn(async move { client.post(&[]).await });
    dispatcher.until_states(&["ejected", "ejected"]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(retries(&dispatcher, "reset").await, 0.0);
    assert!(retries(&dispatcher, "closed").await >= 2.0);
    replicas.iter().for_each(|replica| replica.set_closes_all(false));
    let reply = request.await.expect("the task does not panic");
    assert_eq!(reply.status, 200, "{}", reply.json);
}

#[test]
fn a_replica_that_stops_while_a_request_is_on_its_way_is_not_killed_by_it() {
    on_steady_machine(async || {
        let stops = |number| if number == 0 { Reaction::answers() } else { Reaction::Stops };
        let stopping = [RawReplica::start(stops).await, RawReplica::start(stops).await];
        let steady = RawReplica::start(|_| Reaction::answers()).await;
        let dispatcher = start(&[&stopping[0], &stopping[1], &steady], &[]).await;
        for _ in 0..6 {
            let reply = dispatcher.post(&[]).await;
            assert_eq!(reply.status, 200, "{}", reply.json);
        }
        assert_eq!(retries(&dispatcher, "reset").await, 0.0);
        assert!(retries(&dispatcher, "connect").await >= 1.0, "no replica stopped");
    });
}

#[tokio::test]
async fn a_body_that_kills_replicas_while_they_read_it_is_refused_after_two() {
    let large = Bytes::from(vec![7; 16 << 20]);
    let replicas = [(); 3].map(|()| RawReplica::start(|_| Reaction::ResetsEarly));
    let replicas = futures_util::future::join_all(replicas).await;
    let dispatcher = start(&replicas.iter().collect::<Vec<_>>(), &[]).await;
    let reply = dispatcher.post_body(&[], large).await;
    assert_eq!(reply.status_and_code(), (422, "poison"));
    assert_eq!(replicas.iter().map(RawReplica::images).sum::<usize>(), 2);
}

#[tokio::test]
async fn a_long_answer_to_an_inference_request_is_passed_on_and_one_above_the_limit_is_not_computed_again() {
    let kind = "Content-Type: application/json";
    let long = format!("{{\"data\":\"{}\"}}", "x".repeat(3 << 20));
    let whole = format!("HTTP/1.1 200 OK\r\n{kind}\r\nContent-Length: {}\r\n\r\n{long}", long.len());
    let too_long = format!("HTTP/1.1 200 OK\r\n{kind}\r\nContent-Length: {}\r\n\r\n", (64 << 20) + 1);
    for (answer, status, field) in [(whole, 200, "data"), (too_long, 502, "error")] {
        let replica = RawReplica::start(move |_| Reaction::Writes(answer.clone())).await;
        let dispatcher = start(&[&replica], &[]).await;
        for sent in 1..=4 {
            let request = Request::post(format!("http://{}/v2/models/m/infer", dispatcher.program.address));
            let reply = dispatcher.send(request.body("{}".into()).expect("the request is well formed")).await;
            assert_eq!(reply.status, status);
            assert!(reply.json[field].as_str().is_some_and(|text| status != 200 || text.len() == 3 << 20));
            assert_eq!((replica.images(), dispatcher.states().await), (sent, vec!["ready".to_owned()]));
        }
    }
}

#[tokio::test]
async fn a_malformed_answer_is_no_death() {
    let long = "x".repeat(20 << 10);
    let json = "Content-Type: application/json\r\n";
    for answer in [
        "SSH-2.0-OpenSSH_9.6\r\n".to_owned(),
        "HTTP/1.1 2x0 OK\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\n{json}X-Long: {long}\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\n{json}Content-Length: 1048577\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\n{json}Content-Length: 2\r\nContent-Length: 2\r\n\r\n{{}}"),
        format!("HTTP/1.1 200 OK\r\n{json}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\n{json}Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{{}}"),
        format!("HTTP/1.1 200 OK\r\n{json}Content-Length: 0\r\n\r\n"),
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>".to_owned(),
        "HTTP/1.1 100 Continue\r\n\r\n".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n".to_owned(),
    ] {
        let [bytes, shown] = [answer.clone(), answer.chars().take(80).collect()];
        let replica = RawReplica::start(move |_| Reaction::Writes(bytes.clone())).await;
        // A replica is ejected after three failures, so the fourth attempt comes after its next probe.
        let dispatcher = start(&[&replica], &[]).await;
        let reply = dispatcher.post(&[]).await;
        assert_eq!(reply.status_and_code(), (502, "replica_failed"), "{shown:?}");
        assert_eq!((replica.images(), retries(&dispatcher, "invalid").await), (4, 3.0), "{shown:?}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_makes_no_image_poison() {
    let half = ANSWER.split_at(ANSWER.len() - 8).0;
    for head_only in [false, true] {
        let part = if head_only { &half[..20] } else { half };
        let replica = RawReplica::start(move |_| Reaction::WritesEarly(part.to_owned())).await;
        let dispatcher = start(&[&replica], &[]).await;
        let reply = dispatcher.post(&[]).await;
        assert_eq!(reply.status_and_code(), (502, "replica_failed"), "{part:?}");
        assert_eq!((replica.images(), retries(&dispatcher, "reset").await), (4, 3.0), "{part:?}");
    }
}

#[tokio::test]
async fn an_answer_of_another_http_server_is_accepted() {
    let json = "{\"success\":true}";
    for head in [
        "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\nServer: Werkzeug/3.0",
        "HTTP/1.1 200 OK\r\ndate: now\r\nserver: uvicorn\r\ncontent-length: 16\r\ncontent-type: application/json",
        "HTTP/1.1 200\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 16\r\nConnection: keep-alive",
    ] {
        let replica = RawReplica::start(move |_| Reaction::Writes(format!("{head}\r\n\r\n{json}"))).await;
        let dispatcher = start(&[&replica], &[]).await;
        for _ in 0..3 {
            assert_eq!(dispatcher.post(&[]).await.status, 200, "{head}");
        }
        assert_eq!(replica.images(), 3, "{head}");
    }
}

#[tokio::test]
async fn the_advertised_capacity_has_a_maximum() {
    for (advertised, expected) in [("7", 7), ("1024", 1024), ("1025", 1024), ("99999999999999999999", 1), ("+7", 1)] {
        let headers = format!("HTTP/1.1 200 OK\r\nX-Replica-Capacity: {advertised}\r\n");
        let answer = ANSWER.replace("HTTP/1.1 200 OK\r\n", &headers);
        let replica = RawReplica::start(move |_| Reaction::Writes(answer.clone())).await;
        let dispatcher = start(&[&replica], &[]).await;
        assert_eq!(dispatcher.post(&[]).await.status, 200);
        let status = dispatcher.get("/status").await.json;
        assert_eq!(status["replicas"][0]["capacity"], expected, "{advertised} is advertised");
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_was_read_counts() {
    let large = Bytes::from(vec![7; 16 << 20]);
    let refusal = |status: &str, code: &str| {
        let body = format!("{{\"success\":false,\"code\":\"{code}\",\"error\":\"\",\"request_id\":\"\"}}");
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    let too_large = refusal("413 Content Too Large", "too_large");
    let replica = RawReplica::start(move |_| Reaction::WritesEarly(too_large.clone())).await;
    let dispatcher = start(&[&replica], &[]).await;
    for _ in 0..3 {
        let reply = dispatcher.post_body(&[], large.clone()).await;
        assert_eq!(reply.status_and_code(), (413, "too_large"));
    }
    assert_eq!(replica.images(), 3);
    let busy = refusal("503 Service Unavailable", "busy");
    let [full, free] = [
        RawReplica::start(move |_| Reaction::WritesEarly(busy.clone())).await,
        RawReplica::start(|_| Reaction::answers()).await,
    ];
    let dispatcher = start(&[&full, &free], &[]).await;
    for _ in 0..4 {
        assert_eq!(dispatcher.post_body(&[], large.clone()).await.status, 200);
    }
    assert_eq!((retries(&dispatcher, "busy").await, free.images()), (full.images() as f64, 4));
    assert!(full.images() > 0, "the full replica was asked");
}

#[tokio::test]
async fn an_idle_connection_is_closed_before_its_replica_would_close_it() {
    let (replica, mut closed) = RawReplica::start_watched(|_| Reaction::answers()).await;
    let dispatcher = start(&[&replica], &[]).await;
    let since = Instant::now();
    for _ in 0..3 {
        assert_eq!(dispatcher.post(&[]).await.status, 200);
    }
    tokio::time::timeout(WAIT_LIMIT, closed.recv()).await.expect("the connection is closed").expect("the replica runs");
    let open = since.elapsed();
    assert!((3..12).contains(&open.as_secs()), "closed after {open:?}");
    assert_eq!(dispatcher.post(&[]).await.status, 200);
    assert_eq!(retries(&dispatcher, "reset").await, 0.0);
}

#[tokio::test]
async fn a_dispatcher_without_file_descriptors_ejects_no_replica_and_loses_no_request() {
    // Looking up a name needs descriptors, too, and its errors do not tell that there are none.
    for host in ["127.0.0.1", "localhost"] {
        exhaust_descriptors(host).await;
    }
}

/// Sends a dispatcher more requests than it has descriptors for connections to its replica at `host`.
async fn exhaust_descriptors(host: &str) {
    const REQUESTS: usize = 120;
    let gate = Arc::new(Semaphore::new(0));
    let stub = StubReplica::with_capacity(2 * REQUESTS, StubBehavior::Gated(gate.clone())).await;
    // The requests come over one connection with HTTP/2, and need more connections to the replica than the limit has.
    let flags = [
        "--objective=30s",
        "--deadline=60s",
        &format!("--replicas=static:{}", stub.address.replace("127.0.0.1", host)),
    ];
    let plain = command(&[&["--log=error"][..], &flags].concat());
    let mut limited = Command::new("sh");
    limited.arg("-c").arg("ulimit -n 100 && exec \"$0\" \"$@\"").arg(plain.as_std().get_program());
    limited.args(plain.as_std().get_args()).stdin(std::process::Stdio::piped()).kill_on_drop(true);
    let (program, mut log) = Program::run_with_log(&mut limited).await;
    let dispatcher = RunningDispatcher::new(program);
    dispatcher.until_states(&["ready"]).await;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let mut requests = Vec::new();
    for _ in 0..REQUESTS {
        let request = Request::post(format!("http://{}/predict", dispatcher.program.address)).body("image".into());
        requests.push(tokio::spawn(client.request(request.expect("the request is well formed"))));
    }
    crate::process::until_logged(&mut log, "raise the limit of open files").await;
    // During this time the replica is checked for liveness, and that check has no file descriptor either.
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(1500) {
        assert_eq!(dispatcher.states().await, ["ready"]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(stub.calls() < REQUESTS, "the limit of open files was not reached");
    gate.add_permits(REQUESTS);
    for request in requests {
        let response = request.await.expect("the task does not panic").expect("the dispatcher answers");
        assert_eq!(response.status(), 200);
    }
    assert_eq!((stub.calls(), dispatcher.states().await), (REQUESTS, vec!["ready".to_owned()]));
}
