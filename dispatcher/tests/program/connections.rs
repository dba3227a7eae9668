//! Tests of the limits of connections: clients that fall silent, send heads without an end, or do not read their answers.

use crate::process::{Program, RunningDispatcher, WAIT_LIMIT, report_skipped, test_command, until_logged};
use crate::protocols::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Identity, PREDICT, PREFACE, SETTINGS, frame,
    handshake, handshake_on,
};
use crate::steady::on_steady_machine;
use crate::stub::{self, StubBehavior, StubReplica};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;

/// A connection with or without TLS.
trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// The connection of a client that has sent something and falls silent.
async fn silent_client(
    address: &str,
    identity: Option<&Identity>,
    protocol: &str,
    bytes: &[u8],
) -> Box<dyn Connection> {
    let mut stream: Box<dyn Connection> = match identity {
        Some(identity) => {
            Box::new(handshake(address, &[identity], &[protocol]).await.expect("the TLS handshake succeeds"))
        }
        None => Box::new(TcpStream::connect(address).await.expect("the dispatcher listens")),
    };
    stream.write_all(bytes).await.expect("the connection is open");
    stream.flush().await.expect("the connection is open");
    stream
}

/// The kinds of clients that fall silent without a request in progress: a name, whether TLS is used, the protocol that
/// ALPN negotiates, and the bytes that the client sends.
fn silent_kinds() -> Vec<(&'static str, bool, &'static str, Vec<u8>)> {
    let settings = frame(SETTINGS, 0, 0, &[]);
    let opened = [PREFACE, &settings].concat();
    let head: &[u8] = b"GET /livez HTTP/1.1\r\nHost:";
    let whole: &[u8] = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    vec![
        ("no byte", false, "", vec![]),
        ("a part of a head", false, "", head.to_vec()),
        ("a head after a request", false, "", [whole, head].concat()),
        ("a request", false, "", whole.to_vec()),
        ("the letter P", false, "", b"P".to_vec()),
        ("PRI", false, "", b"PRI".to_vec()),
        ("a part of the preface", false, "", PREFACE[..20].to_vec()),
        ("the preface", false, "", PREFACE.to_vec()),
        ("preface and settings", false, "", opened.clone()),
        ("a header block without an end", false, "", [&opened[..], &frame(HEADERS, 0, 1, PREDICT)].concat()),
        ("TLS, no byte, HTTP/2", true, "h2", vec![]),
        ("TLS, no byte, HTTP/1.1", true, "http/1.1", vec![]),
        ("TLS, a part of the preface", true, "h2", PREFACE[..5].to_vec()),
        ("TLS, preface and settings", true, "h2", opened),
        ("TLS, a part of a head", true, "http/1.1", head.to_vec()),
    ]
}

/// Reads until the connection is closed or reset. Returns the bytes.
async fn read_to_end(stream: &mut (impl AsyncRead + Unpin + ?Sized)) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    let _ended = tokio::time::timeout(WAIT_LIMIT, stream.read_to_end(&mut bytes)).await.expect("the connection ends");
    bytes
}

#[test]
fn a_silent_connection_is_closed_in_every_state() {
    on_steady_machine(async || {
        let (folder, identity) = (tempfile::tempdir().expect("a temporary folder can be made"), Identity::new());
        let limits = ["--replicas=static:127.0.0.1:1", "--log=error", "--header-timeout=400ms", "--idle-timeout=800ms"];
        let [certificate, key] = identity.install(&folder);
        let plain = Program::start(&limits, &[]).await;
        let tls = Program::start(&[&limits[..], &[&certificate, &key]].concat(), &[]).await;
        let clients = silent_kinds().into_iter().map(async |(name, has_tls, protocol, bytes)| {
            let address = if has_tls { &tls.address } else { &plain.address };
            let since = Instant::now();
            let mut stream = silent_client(address, has_tls.then_some(&identity), protocol, &bytes).await;
            read_to_end(&mut stream).await;
            (name, since.elapsed())
        });
        let mut silent_handshake = TcpStream::connect(&tls.address).await.expect("the dispatcher listens");
        let since = Instant::now();
        for (name, time) in join_all(clients).await {
            // A connection is retired after at most 1.2 times its limit, and then has a second to close.
            assert!(
                (Duration::from_millis(300)..Duration::from_secs(4)).contains(&time),
                "{name} was closed after {time:?}"
            );
        }
        read_to_end(&mut silent_handshake).await;
        assert!(since.elapsed() < Duration::from_secs(4), "a TLS handshake has a limit, too");
    });
}

/// Waits until the program has ended. Returns the time since `since`.
async fn until_ended(mut program: Program, since: Instant) -> Duration {
    tokio::time::timeout(WAIT_LIMIT, program.child.wait()).await.expect("the program ends").expect("it is a child");
    since.elapsed()
}

#[test]
fn a_drain_waits_for_no_silent_connection() {
    on_steady_machine(async || {
        let (folder, identity) = (tempfile::tempdir().expect("a temporary folder can be made"), Identity::new());
        let [certificate, key] = identity.install(&folder);
        let slow = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx".to_vec();
        let opened = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        let unread = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2000);
        let no_window = frame(SETTINGS, 0, 0, &NO_WINDOW);
        let unread2 = [PREFACE, &no_window, &frame(HEADERS, END_HEADERS | END_STREAM, 1, METRICS)].concat();
        let slow2 = [&opened[..], &frame(HEADERS, END_HEADERS, 1, PREDICT)].concat();
        let kinds = [
            silent_kinds(),
            vec![
                ("a part of a body", false, "", slow.clone()),
                ("TLS, a part of a body", true, "http/1.1", slow),
                ("a part of a body on HTTP/2", false, "", slow2),
                ("unread answers", false, "", unread),
                ("an unread answer on HTTP/2", false, "", unread2),
            ],
        ]
        .concat();
        let identity = &identity;
        let drained = kinds.into_iter().map(async |(name, has_tls, protocol, bytes)| {
            let times = ["--grace=60s", "--body-timeout=60s", "--deadline=60s"];
            let mut flags = [&["--replicas=static:127.0.0.1:1", "--log=error"][..], &times].concat();
            if has_tls {
                flags.extend([&*certificate, &*key]);
            }
            let program = Program::start(&flags, &[]).await;
            let mut held = Vec::new();
            for _ in 0..3 {
                held.push(silent_client(&program.address, has_tls.then_some(identity), protocol, &bytes).await);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            program.signal("TERM").await;
            (name, until_ended(program, Instant::now()).await)
        });
        for (name, time) in join_all(drained).await {
            assert!(time < Duration::from_millis(3500), "a client with {name} delayed the end by {time:?}");
        }
    });
}

#[test]
fn a_head_or_a_handshake_that_has_begun_may_end_while_the_program_drains() {
    on_steady_machine(async || {
        let (folder, identity) = (tempfile::tempdir().expect("a temporary folder can be made"), Identity::new());
        let [certificate, key] = identity.install(&folder);
        let flags = ["--replicas=static:127.0.0.1:1", "--log=error", &certificate, &key];
        let (plain, tls) = (Program::start(&flags[..2], &[]).await, Program::start(&flags, &[]).await);
        let whole = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
        let opened = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        let metrics = frame(HEADERS, END_HEADERS | END_STREAM, 1, METRICS);
        let mut clients = Vec::new();
        // The bytes before the drain, and those after it.
        for (name, before, after) in [
            ("a first head", &whole.as_bytes()[..15], whole.as_bytes()[15..].to_vec()),
            ("a second head", format!("{whole}GET /li").as_bytes(), whole.as_bytes()[7..].to_vec()),
            ("the letter P", b"P", [&opened[1..], &metrics].concat()),
            ("the preface of HTTP/2", &PREFACE[..20], [&opened[20..], &metrics].concat()),
        ] {
            let mut stream = silent_client(&plain.address, None, "", before).await;
            if name == "a second head" {
                // The first request is answered at once.
                let mut first = [0; 15];
                let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut first)).await;
                read.expect("the first answer is in time").expect("the connection is open");
                assert_eq!(&first, b"HTTP/1.1 200 OK");
            }
            clients.push((name, stream, after));
        }
        let handshaking = tls.connect().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        plain.signal("TERM").await;
        tls.signal("TERM").await;
        let since = Instant::now();
        tokio::time::sleep(Duration::from_millis(200)).await;
        // The bytes are sent first, because the end of a client with HTTP/2 takes a second.
        for (name, stream, after) in &mut clients {
            stream.write_all(after).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let mut secure = handshake_on(handshaking, &[&identity], &["http/1.1"]).await.expect("the handshake may end");
        secure.write_all(whole.as_bytes()).await.expect("the connection is open");
        let answer = String::from_utf8_lossy(&read_to_end(&mut secure).await).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200"), "TLS: {answer}");
        for (name, mut stream, _) in clients {
            let answer = read_to_end(&mut stream).await;
            let text = String::from_utf8_lossy(&answer);
            let count = text.matches("HTTP/1.1 200").count() + text.matches("dispatcher_").count().min(1);
            assert_eq!(count, 1, "{name}: {text}");
        }
        for program in [plain, tls] {
            let time = until_ended(program, since).await;
            assert!(time < Duration::from_millis(3500), "the drain took {time:?}");
        }
    });
}

/// The header block of `GET http://x/openapi.json` in HPACK (RFC 7541).
const OPENAPI: &[u8] = b"\x82\x86\x04\x0d/openapi.json\x01\x01x";

#[tokio::test]
async fn an_answer_that_is_sent_reaches_a_slow_client_although_the_program_ends() {
    let program = Program::start(&["--replicas=static:127.0.0.1:1", "--log=error"], &[]).await;
    let mut stream = connect_with_small_buffer(&program.address).await;
    let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, OPENAPI);
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &request].concat()).await.expect("the connection is open");
    tokio::time::sleep(Duration::from_millis(200)).await;
    program.signal("TERM").await;
    until_ended(program, Instant::now()).await;
    let frames = frames(&mut stream).await;
    let page: Vec<u8> = frames.into_iter().filter(|(kind, _)| *kind == DATA).flat_map(|(_, payload)| payload).collect();
    assert!(page.ends_with(b"\n}\n"), "{} bytes have arrived", page.len());
}

#[test]
fn the_last_answer_reaches_a_client_that_has_sent_more_requests() {
    on_steady_machine(async || {
        let flags = ["--replicas=static:127.0.0.1:1", "--log=error", "--max-connection-age=300ms"];
        let program = Program::start(&flags, &[]).await;
        let mut stream = program.connect().await;
        livez(&mut stream).await.expect("the connection is open");
        tokio::time::sleep(Duration::from_millis(500)).await;
        // Whole requests of 64 bytes fill each read, so that no part of a request shows that there are more.
        let request = format!("GET /livez HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(27));
        assert_eq!(request.len(), 64);
        let requests = request.repeat(60_000).into_bytes();
        stream.write_all(&requests).await.expect("the connection is open");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("the connection is not reset");
        let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
    });
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let gate = Arc::new(Semaphore::new(0));
        let stub = StubReplica::start(StubBehavior::Gated(gate.clone())).await;
        let flags = ["--grace=60s", "--deadline=60s"];
        let RunningDispatcher { mut program, .. } =
            RunningDispatcher::start(&stub::static_list(&[&stub]), &flags).await;
        let mut stream = program.connect().await;
        let request = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nimage";
        stream.write_all(request).await.expect("the connection is open");
        stub.until_calls(1).await;
        program.signal("TERM").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(program.child.try_wait().expect("it is a child").is_none(), "the program waits for the answer");
        program.signal(signal).await;
        let ended = tokio::time::timeout(Duration::from_secs(2), program.child.wait()).await;
        let status = ended.expect("the program ends at once").expect("it is a child");
        assert_eq!(status.code(), Some(code), "{signal}");
    }
}

#[tokio::test]
async fn the_first_signal_after_the_end_of_the_parent_loses_no_request() {
    let gate = Arc::new(Semaphore::new(0));
    let stub = StubReplica::start(StubBehavior::Gated(gate.clone())).await;
    let (program, mut log) = Program::start_with_log(&[&format!("--replicas={}", stub::static_list(&[&stub]))]).await;
    let mut dispatcher = RunningDispatcher::new(program);
    let parent = dispatcher.program.child.stdin.take();
    let stop = async {
        stub.until_calls(1).await;
        drop(parent);
        until_logged(&mut log, "the parent process has ended").await;
        dispatcher.program.signal("TERM").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        gate.add_permits(1);
    };
    assert_eq!(tokio::join!(dispatcher.post(&[]), stop).0.status, 200);
    assert!(dispatcher.program.child.wait().await.expect("it is a child").success());
}

/// Sends `GET /livez` and reads the answer.
async fn livez(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer[..length]).to_ascii_lowercase())
}

#[test]
fn an_idle_connection_is_kept_for_longer_than_a_head_may_take() {
    on_steady_machine(async || {
        let flags = ["--replicas=static:127.0.0.1:1", "--header-timeout=200ms", "--idle-timeout=1s"];
        let program = Program::start(&flags, &[]).await;
        let mut stream = program.connect().await;
        for _ in 0..3 {
            assert!(livez(&mut stream).await.expect("the connection is open").starts_with("http/1.1 200"));
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        let since = Instant::now();
        assert_eq!(stream.read(&mut [0; 1]).await.expect("the connection is not reset"), 0);
        // The limit counts from the last answer, 700 ms ago, and jitter adds up to 200 ms.
        let time = since.elapsed() + Duration::from_millis(700);
        assert!((Duration::from_millis(950)..Duration::from_secs(2)).contains(&time), "closed after {time:?}");
    });
}

/// Opens a connection whose client can receive few bytes that it has not read.
async fn connect_with_small_buffer(address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket can be made");
    socket.set_recv_buffer_size(4096).expect("the size can be set");
    socket.connect(address.parse().expect("an address")).await.expect("the dispatcher listens")
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_disconnected() {
    let flags = ["--replicas=static:127.0.0.1:1", "--log=error", "--write-timeout=500ms"];
    let program = Program::start(&flags, &[]).await;
    let mut stream = connect_with_small_buffer(&program.address).await;
    let request = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n";
    let writing = async {
        // The dispatcher reads no more requests once the client takes no more answers.
        while stream.write_all(request).await.is_ok() {}
    };
    tokio::time::timeout(Duration::from_secs(10), writing).await.expect("the dispatcher resets the connection");
    assert!(livez(&mut program.connect().await).await.expect("another client is served").contains("200"));
}

/// The header block of `GET http://x/metrics` in HPACK (RFC 7541).
const METRICS: &[u8] = b"\x82\x86\x04\x08/metrics\x01\x01x";

/// The setting with which a client allows no bytes of an answer: SETTINGS_INITIAL_WINDOW_SIZE, number 4, is 0.
const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];

/// The first byte of a header block with status 200, which is an entry of the static table.
const STATUS_200: u8 = 0x88;

/// The kind and the payload of each frame until the connection ends.
async fn frames(stream: &mut TcpStream) -> Vec<(u8, Vec<u8>)> {
    let bytes = read_to_end(stream).await;
    let (mut rest, mut frames) = (&bytes[..], Vec::new());
    while let Some((head, after)) = rest.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, after)) = after.split_at_checked(length) else { break };
        frames.push((head[3], payload.to_vec()));
        rest = after;
    }
    frames
}

#[tokio::test]
async fn an_http2_client_without_a_window_gets_few_pages_and_is_disconnected() {
    let flags = ["--replicas=static:127.0.0.1:1", "--log=error", "--write-timeout=500ms"];
    let program = Program::start(&flags, &[]).await;
    let mut stream = program.connect().await;
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &NO_WINDOW)].concat();
    for number in 0..200 {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, METRICS));
    }
    stream.write_all(&bytes).await.expect("the connection is open");
    let since = Instant::now();
    let frames = frames(&mut stream).await;
    assert!(since.elapsed() < Duration::from_secs(5), "the connection ended after {:?}", since.elapsed());
    let answers = frames.iter().filter(|(kind, _)| *kind == HEADERS).map(|(_, payload)| payload[0]);
    let (pages, refusals): (Vec<u8>, Vec<u8>) = answers.partition(|&first| first == STATUS_200);
    assert!((1..=8).contains(&pages.len()), "{} pages are rendered", pages.len());
    assert_eq!(pages.len() + refusals.len(), 200, "every request is answered");
    assert!(livez(&mut program.connect().await).await.expect("another client is served").contains("200"));
}

#[test]
fn an_old_connection_is_closed_after_its_last_answer() {
    on_steady_machine(async || {
        let flags = ["--replicas=static:127.0.0.1:1", "--log=error", "--max-connection-age=300ms"];
        let program = Program::start(&flags, &[]).await;
        let mut old = program.connect().await;
        let young = livez(&mut old).await.expect("the connection is open");
        assert!(young.starts_with("http/1.1 200") && !young.contains("connection: close"), "{young}");
        let mut http2 = program.connect().await;
        http2.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.expect("the connection is open");
        tokio::time::sleep(Duration::from_millis(500)).await;
        let last = livez(&mut old).await.expect("the connection is open");
        assert!(last.starts_with("http/1.1 200") && last.contains("connection: close"), "{last}");
        let frames = frames(&mut http2).await;
        assert!(frames.iter().any(|(kind, _)| *kind == GOAWAY), "{frames:?}");
    });
}

#[tokio::test]
async fn a_peer_can_be_limited_to_a_number_of_connections() {
    let flags = ["--replicas=static:127.0.0.1:1", "--log=error", "--max-connections-per-peer=3"];
    let program = Program::start(&flags, &[]).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = program.connect().await;
        livez(&mut stream).await.expect("the connection is open");
        held.push(stream);
    }
    let mut fourth = program.connect().await;
    let answer = livez(&mut fourth).await;
    assert!(answer.as_ref().is_ok_and(String::is_empty) || answer.is_err(), "{answer:?}");
    drop(held);
    let mut answer = String::new();
    for _ in 0..100 {
        answer = livez(&mut program.connect().await).await.unwrap_or_default();
        if answer.contains("200") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(answer.contains("200"), "a connection that has ended no longer counts");
}

#[tokio::test]
async fn a_head_may_have_as_many_bytes_as_the_flag_says() {
    for (flags, limit) in [(&[][..], 16 << 10), (&["--max-header-bytes=2048"], 2048)] {
        let program = Program::start(&[&["--replicas=static:127.0.0.1:1", "--log=error"], flags].concat(), &[]).await;
        for (length, status) in [(limit - 100, "200"), (limit, "431"), (limit + 5000, "431"), (600_000, "431")] {
            let value = "v".repeat(length);
            let head = format!("GET /livez HTTP/1.1\r\nConnection: close\r\nHost: x\r\nX: {value}\r\n\r\n");
            let mut stream = program.connect().await;
            let (mut reader, mut writer) = stream.split();
            let (written, answer) = tokio::join!(writer.write_all(head.as_bytes()), read_to_end(&mut reader));
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(answer.contains(status), "{length} bytes: {answer}, {written:?}");
        }
        for (length, status) in
            [(limit / 2, StatusCode::OK), (limit + 5000, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)]
        {
            let stream = TokioIo::new(program.connect().await);
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), stream).await.expect("the HTTP/2 handshake succeeds");
            tokio::spawn(connection);
            let request = Request::get("http://x/livez").header("x", "v".repeat(length));
            let request = request.body(Full::<Bytes>::default()).expect("the request is well formed");
            let response = sender.send_request(request).await.expect("the dispatcher answers");
            assert_eq!(response.status(), status, "{length} bytes on HTTP/2");
        }
    }
}

/// Reads the next frame. Returns its kind, its flags and its payload.
async fn next_frame(stream: &mut TcpStream) -> (u8, u8, Vec<u8>) {
    let read = async {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await?;
        Ok::<_, std::io::Error>((head[3], head[4], payload))
    };
    tokio::time::timeout(WAIT_LIMIT, read).await.expect("a frame arrives").expect("the connection is open")
}

/// The flag of a `SETTINGS` frame that acknowledges one of the other side.
const ACK: u8 = 1;

#[tokio::test]
async fn an_http2_client_gets_each_settings_frame_once_before_and_after_its_first_request() {
    let program = Program::start(&["--replicas=static:127.0.0.1:1", "--log=error"], &[]).await;
    let mut stream = program.connect().await;
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.expect("the connection is open");
    // Some clients wait for these frames before their first request.
    let mut before = [next_frame(&mut stream).await, next_frame(&mut stream).await];
    before.sort();
    assert_eq!(before.each_ref().map(|(kind, flags, _)| (*kind, *flags)), [(SETTINGS, 0), (SETTINGS, ACK)]);
    let opened = [frame(SETTINGS, ACK, 0, &[]), frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9])].concat();
    // A header block in three frames, the last of which comes later.
    let (first, rest) = METRICS.split_at(5);
    let block = [frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, 0, 1, &[])].concat();
    stream.write_all(&[opened, block].concat()).await.expect("the connection is open");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let end = [frame(CONTINUATION, END_HEADERS, 1, rest), frame(SETTINGS, 0, 0, &[])].concat();
    stream.write_all(&end).await.expect("the connection is open");
    let (mut acknowledgements, mut is_answered) = (0, false);
    while acknowledgements < 2 || !is_answered {
        let (kind, flags, payload) = next_frame(&mut stream).await;
        assert!(kind != GOAWAY && (kind != SETTINGS || flags == ACK), "{kind} {payload:?}");
        acknowledgements += u32::from(kind == SETTINGS);
        is_answered |= kind == DATA && flags & END_STREAM != 0;
    }
    assert_eq!(acknowledgements, 2, "those of the first settings were sent before");
    // A second request on the same connection, in one frame and then in pieces.
    for (number, size) in [(3, 1000), (5, 1)] {
        for piece in frame(HEADERS, END_HEADERS | END_STREAM, number, METRICS).chunks(size) {
            stream.write_all(piece).await.expect("the connection is open");
            tokio::task::yield_now().await;
        }
        while next_frame(&mut stream).await.0 != HEADERS {}
    }
}

/// Waits until the metric `name` with these `labels` has the value `expected` at the address `admin`.
async fn until_metric(admin: &str, name: &str, labels: &str, expected: f64) {
    let (since, line) = (Instant::now(), format!("{name}{{{labels}}} {expected}"));
    loop {
        let answer = service::fetch::get(admin, "/metrics", WAIT_LIMIT).await.expect("the dispatcher answers");
        let text = String::from_utf8_lossy(&answer.1).into_owned();
        if text.lines().any(|found| found == line) {
            return;
        }
        assert!(since.elapsed() < WAIT_LIMIT, "{line:?} is not in {text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn connections_are_counted_by_listener_and_by_the_limit_that_closes_them() {
    let gate = Arc::new(Semaphore::new(0));
    let stub = StubReplica::start(StubBehavior::Gated(gate.clone())).await;
    let flags = ["--admin-listen=127.0.0.1:0", "--max-connections-per-peer=3", "--deadline=60s"];
    let times = ["--header-timeout=1s", "--idle-timeout=1s", "--write-timeout=200ms"];
    let mut dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[&flags[..], &times].concat()).await;
    let line = dispatcher.program.next_line().await;
    let admin = line.strip_prefix("admin paths on http://").expect("the line has the address of the admin paths");
    let closed = "http_connections_closed_total";
    let reasons = ["idle", "header_timeout", "write_timeout", "age", "per_peer", "head_memory"];
    for listener in ["main", "admin"].map(|listener| format!("listener=\"{listener}\"")) {
        for reason in reasons {
            until_metric(admin, closed, &format!("{listener},reason=\"{reason}\""), 0.0).await;
        }
        // The connection that reads the metrics counts, too.
        let own = if listener.contains("admin") { 1.0 } else { 0.0 };
        until_metric(admin, "http_connections", &listener, own).await;
        until_metric(admin, "http_busy_connections", &listener, own).await;
    }
    let main = "listener=\"main\"";
    let until_closed = async |reason: &str| {
        until_metric(admin, closed, &format!("{main},reason=\"{reason}\""), 1.0).await;
        until_metric(admin, "http_connections", main, 0.0).await;
    };
    let address = &dispatcher.program.address;

    let request = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nimage";
    let busy = silent_client(address, None, "", request).await;
    stub.until_calls(1).await;
    let held = [silent_client(address, None, "", b"").await, silent_client(address, None, "", b"").await];
    until_metric(admin, "http_connections", main, 3.0).await;
    until_metric(admin, "http_busy_connections", main, 1.0).await;
    let mut fourth = TcpStream::connect(address).await.expect("the dispatcher listens");
    read_to_end(&mut fourth).await;
    drop(held);
    gate.add_permits(1);
    until_metric(admin, "http_busy_connections", main, 0.0).await;
    drop(busy);
    until_closed("per_peer").await;

    let silent = silent_client(address, None, "", b"").await;
    until_closed("idle").await;
    let head = silent_client(address, None, "", b"GET /livez HTTP/1.1\r\nHost:").await;
    until_closed("header_timeout").await;
    drop((silent, head));

    let mut unread = connect_with_small_buffer(address).await;
    let requests = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n";
    let writing = async { while unread.write_all(requests).await.is_ok() {} };
    tokio::time::timeout(WAIT_LIMIT, writing).await.expect("the dispatcher resets the connection");
    until_closed("write_timeout").await;

    let flags = ["--replicas=static:127.0.0.1:1", "--log=error", "--max-connection-age=300ms"];
    let program = Program::start(&flags, &[]).await;
    let mut old = program.connect().await;
    livez(&mut old).await.expect("the connection is open");
    tokio::time::sleep(Duration::from_millis(500)).await;
    livez(&mut old).await.expect("the connection is open");
    read_to_end(&mut old).await;
    until_metric(&program.address, closed, &format!("{main},reason=\"age\""), 1.0).await;
}

/// The dispatcher without `--listen`, in a network of its own, where its port is free.
#[tokio::test]
#[ignore = "the next test runs this one in a network of its own"]
async fn a_program_with_its_default_address() {
    let has_ipv6 = TcpSocket::new_v6().is_ok_and(|socket| socket.bind("[::1]:0".parse().expect("an address")).is_ok());
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_dispatcher"));
    let child = command
        .args(["--replicas=static:127.0.0.1:1", "--exit-with-parent"])
        .env_remove("ROUNDHOUSE_LISTEN")
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let _child = child.expect("the dispatcher starts");
    for (address, is_there) in [("127.0.0.1:5052", true), ("[::1]:5052", has_ipv6)] {
        if !is_there {
            report_skipped(&format!("{address}, because this network has no IPv6"));
            continue;
        }
        let since = Instant::now();
        while service::fetch::get(address, "/livez", WAIT_LIMIT).await.is_err() {
            assert!(since.elapsed() < WAIT_LIMIT, "nothing listens at {address}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_default_address_takes_ipv4_and_ipv6() {
    const UNSHARE: [&str; 3] = ["unshare", "--map-root-user", "--net"];
    let up = "ip link set lo up";
    let probe = tokio::process::Command::new(UNSHARE[0]).args(&UNSHARE[1..]).args(["sh", "-c", up]).output().await;
    if !probe.is_ok_and(|output| output.status.success()) {
        return report_skipped("the default address: no network of its own can be made (unshare, ip)");
    }
    let without_ipv6 = format!("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 && {up}");
    for preparation in [up, &without_ipv6] {
        let name = "connections::a_program_with_its_default_address";
        let output = test_command(name, preparation, &UNSHARE).output().await.expect("unshare exists");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{preparation}: {text}");
    }
}
