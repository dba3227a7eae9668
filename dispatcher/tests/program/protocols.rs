//! Tests of the protocols between clients and the dispatcher's program: body formats, request ids, HTTP/2, TLS, tokens
//! and admin paths. Some clients are slow or hostile.

use crate::process::{Program, RunningDispatcher, WAIT_LIMIT, command, until_logged};
use crate::steady::on_steady_machine;
use crate::stub::{self, StubBehavior, StubReplica};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use service::fetch;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

/// The longest time after which the program uses a replaced file.
const RELOAD_LIMIT: Duration = Duration::from_secs(6);

/// A sequence of bytes that repeats after 251 bytes. Lost, doubled and swapped pieces would change it, because 251 is
/// prime.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 % 251) as u8).collect()
}

pub(crate) fn write(folder: &TempDir, name: &str, content: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, content).expect("the temporary folder is writable");
    path
}

pub(crate) fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

/// Sends `bytes` over a new connection. Reads the response to its end only after all bytes are sent.
async fn send_all_then_read(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the dispatcher listens");
    stream.write_all(bytes).await.expect("all bytes are sent");
    let mut answer = Vec::new();
    let read =
        tokio::time::timeout(WAIT_LIMIT, stream.read_to_end(&mut answer)).await.expect("the connection is closed");
    read.expect("the connection is not reset");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn every_body_format_reaches_the_replica_unchanged() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[]).await;
    let multipart =
        "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.jpg\"\r\n\r\n\u{0}x\r\n--b--\r\n";
    for (content_type, body) in [
        (Some("image/jpeg"), "\u{ff}\u{d8}image"),
        (Some("application/octet-stream"), "image"),
        (Some("multipart/form-data; boundary=b"), multipart),
        (Some("multipart/form-data ; Boundary=\"b\""), multipart),
        (Some("application/x-www-form-urlencoded"), "image=aW1hZ2U%3D"),
        (Some("application/json; charset=utf-8"), "{\"image\": \"aW1hZ2U=\"}"),
        (None, "image"),
        (Some("image/png"), ""),
    ] {
        for (method, path) in [
            (Method::POST, "/predict"),
            (Method::POST, "/infer"),
            (Method::POST, "/predictions/resnet-18"),
            (Method::PUT, "/predictions/resnet-18/1.0"),
        ] {
            let mut request = Request::builder().method(method);
            request = request.uri(format!("http://{}{path}", dispatcher.program.address));
            if let Some(content_type) = content_type {
                request = request.header("content-type", content_type);
            }
            let reply = dispatcher.send(request.body(Full::from(body)).expect("the request is well formed")).await;
            assert_eq!(reply.status, 200, "{content_type:?}: {}", reply.json);
            let received = stub.received().pop().expect("the replica has the request");
            assert_eq!(received.body, body.as_bytes(), "{content_type:?}");
            assert_eq!(
                received.headers.get("content-type").map(|value| value.as_bytes()),
                content_type.map(str::as_bytes)
            );
        }
    }
}

#[tokio::test]
async fn a_coded_body_is_refused_before_it_arrives() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[]).await;
    for (coding, status) in [("gzip", 415), ("br", 415), ("identity, x-gzip", 415), ("identity", 200)] {
        let reply = dispatcher.post(&[("content-encoding", coding)]).await;
        assert_eq!(reply.status, status, "{coding}: {}", reply.json);
        let error = reply.json["error"].as_str().unwrap_or_default();
        let named = coding.rsplit(' ').next().expect("there is a coding");
        assert!(status == 200 || error.contains(&format!("Content-Encoding \"{named}\"")), "{error}");
    }
    assert_eq!(stub.calls(), 1);
    // The rest of the body never comes, so the answer cannot depend on it.
    let request = "POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Encoding: gzip\r\n\
                   Content-Length: 99\r\n\r\n";
    let answer = send_all_then_read(&dispatcher.program.address, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 415") && answer.contains("gzip"), "{answer}");
    assert_eq!(stub.calls(), 1);
}

#[tokio::test]
async fn a_chunked_body_in_odd_pieces_arrives_whole() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[]).await;
    let body = pattern(1 << 20);
    let mut bytes =
        b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let (mut rest, mut sizes) = (&body[..], [1, 7, 4095, 4097, 65_537, 3].into_iter().cycle());
    while !rest.is_empty() {
        let (piece, others) = rest.split_at(rest.len().min(sizes.next().expect("the iterator is endless")));
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
        rest = others;
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    let answer = send_all_then_read(&dispatcher.program.address, &bytes).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let received = stub.received().pop().expect("the replica has the request");
    assert!(received.body == body, "the {} received bytes differ from the sent ones", received.body.len());
    assert_eq!(received.headers["content-length"], body.len().to_string());
}

#[tokio::test]
async fn well_formed_ids_are_kept_and_others_are_replaced() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[]).await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let long = "x".repeat(129);
    let names = ["x-request-id", "traceparent"];
    for (given, kept) in [
        ([None, None], [false, false]),
        ([Some("order-7"), Some(parent)], [true, true]),
        ([Some("two words"), Some("00-4bf9-00f0-01")], [false, false]),
        ([Some(&*long), Some(parent)], [false, true]),
        ([Some("order-8"), Some("00-00000000000000000000000000000000-00f067aa0ba902b7-01")], [true, false]),
    ] {
        let mut request = Request::post(format!("http://{}/predict", dispatcher.program.address));
        for (name, value) in names.into_iter().zip(given) {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let request = request.body(Full::from("image")).expect("the request is well formed");
        let response = dispatcher.client.request(request).await.expect("the dispatcher answers");
        let received = stub.received().pop().expect("the replica has the request");
        for ((name, given), kept) in names.into_iter().zip(given).zip(kept) {
            let echoed = response.headers()[name].to_str().expect("the header is ASCII");
            assert!(!echoed.is_empty(), "{name}");
            assert_eq!(given == Some(echoed), kept, "{given:?} became {echoed:?}");
            assert_eq!(received.headers[name], echoed, "the replica receives the same {name}");
        }
    }
    let refused = dispatcher.post(&[("x-request-id", "order-9"), ("content-type", "text/plain")]).await;
    assert_eq!(refused.json["request_id"], "order-9", "an error has the id, too");
}

#[tokio::test]
async fn the_replica_receives_the_number_of_predictions_and_the_time_left() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &["--deadline=4s"]).await;
    for (query, timeout, expected, most) in [
        ("", None, None, 4000),
        ("?top_k=3", Some("700"), Some("top_k=3"), 700),
        ("?embedding=1&a=b&top_k=all", None, Some("top_k=all&embedding=1"), 4000),
        ("?a=b", Some("9000"), None, 4000),
    ] {
        let mut request = Request::post(format!("http://{}/infer{query}", dispatcher.program.address));
        if let Some(timeout) = timeout {
            request = request.header("x-request-timeout-ms", timeout);
        }
        assert_eq!(
            dispatcher.send(request.body(Full::from("image")).expect("the request is well formed")).await.status,
            200
        );
        let received = stub.received().pop().expect("the replica has the request");
        assert_eq!(received.query.as_deref(), expected, "{query}");
        let left: u64 = received.headers["x-request-timeout-ms"]
            .to_str()
            .expect("the header is ASCII")
            .parse()
            .expect("the value is a number");
        assert!((1..=most).contains(&left), "{left} ms are left of {most} ms");
        let waited: f64 = received.headers["x-request-queue-ms"]
            .to_str()
            .expect("the header is ASCII")
            .parse()
            .expect("the value is a number");
        assert!((0.0..4000.0).contains(&waited), "the request waited {waited} ms");
    }
}

/// Sends one image over `stream`. Returns the response, whose body is not read yet.
async fn exchange<I>(stream: I, version: Version, body: impl Into<Bytes>) -> Response<Incoming>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let request = image_request("localhost", body);
    let stream = TokioIo::new(stream);
    if version == Version::HTTP_2 {
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), stream).await.expect("the HTTP/2 handshake succeeds");
        tokio::spawn(connection);
        sender.send_request(request).await.expect("the dispatcher answers")
    } else {
        let (mut sender, connection) = http1::handshake(stream).await.expect("the HTTP/1.1 handshake succeeds");
        tokio::spawn(connection);
        sender.send_request(request).await.expect("the dispatcher answers")
    }
}

pub(crate) fn image_request(host: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::post(format!("http://{host}/predict")).header("host", host);
    request.body(Full::new(body.into())).expect("the request is well formed")
}

#[tokio::test]
async fn a_hundred_requests_share_an_http2_connection() {
    let gate = Arc::new(Semaphore::new(0));
    let stub = StubReplica::with_capacity(100, StubBehavior::Gated(gate.clone())).await;
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &["--deadline=60s"]).await;
    let stream = dispatcher.program.connect().await;
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("the HTTP/2 handshake succeeds");
    tokio::spawn(connection);
    let requests: Vec<_> = (0..100)
        .map(|_| {
            let mut sender = sender.clone();
            tokio::spawn(async move {
                sender.send_request(image_request("localhost", "image")).await.expect("the dispatcher answers")
            })
        })
        .collect();
    // The replica receives all requests before the first is answered.
    stub.until_calls(100).await;
    gate.add_permits(100);
    for request in requests {
        let response = request.await.expect("the task does not panic");
        assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));
        let body = response.into_body().collect().await.expect("the body arrives whole").to_bytes();
        assert!(body.starts_with(b"{\"success\":true"), "{body:?}");
    }
    gate.add_permits(1);
    let body = pattern(1 << 20);
    let stream = dispatcher.program.connect().await;
    assert_eq!(exchange(stream, Version::HTTP_2, body.clone()).await.status(), StatusCode::OK);
    assert!(stub.received().pop().expect("the replica has the request").body == body, "a large body arrives whole");
}

/// A self-signed certificate and its key.
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    chain: String,
    key: String,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate can be generated");
        Self { certificate: made.cert.der().clone(), chain: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    /// Writes certificate and key to two files, and returns the flags that name them.
    pub(crate) fn install(&self, folder: &TempDir) -> [String; 2] {
        [
            flag("tls-certificate", &write(folder, "chain.pem", &self.chain)),
            flag("tls-key", &write(folder, "key.pem", &self.key)),
        ]
    }
}

/// Opens a TLS connection. The client trusts the certificates in `trusted` and offers `protocols`.
pub(crate) async fn handshake(
    address: &str,
    trusted: &[&Identity],
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    handshake_on(TcpStream::connect(address).await?, trusted, protocols).await
}

/// Like [`handshake`], on an open connection.
pub(crate) async fn handshake_on(
    stream: TcpStream,
    trusted: &[&Identity],
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for identity in trusted {
        roots.add(identity.certificate.clone()).expect("the certificate is valid");
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("localhost").expect("the name is well formed"), stream)
        .await
}

/// The certificate that the server presents now.
async fn presented_certificate(address: &str, trusted: &[&Identity]) -> CertificateDer<'static> {
    let stream = handshake(address, trusted, &[]).await.expect("the TLS handshake succeeds");
    stream.get_ref().1.peer_certificates().expect("a handshake without certificates fails")[0].clone()
}

/// Waits until the server presents the certificate of `identity`.
async fn until_presented(address: &str, identity: &Identity, trusted: &[&Identity]) {
    let since = Instant::now();
    while presented_certificate(address, trusted).await != identity.certificate {
        assert!(since.elapsed() < RELOAD_LIMIT, "the server still presents the old certificate");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn tls_works_with_http1_with_http2_and_without_negotiation() {
    let (folder, identity) = (tempfile::tempdir().expect("a temporary folder can be made"), Identity::new());
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let [certificate, key] = identity.install(&folder);
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[&certificate, &key]).await;
    let address = &dispatcher.program.address;
    assert!(dispatcher.program.has_tls, "the program announces https");
    for (offered, version) in [
        (&["h2"][..], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&["http/1.1", "h2"], Version::HTTP_2),
        (&[], Version::HTTP_11),
    ] {
        let stream = handshake(address, &[&identity], offered).await.expect("the TLS handshake succeeds");
        let agreed = stream.get_ref().1.alpn_protocol().map(|protocol| String::from_utf8_lossy(protocol).into_owned());
        let expected = if version == Version::HTTP_2 { "h2" } else { "http/1.1" };
        assert_eq!(agreed.as_deref(), (!offered.is_empty()).then_some(expected), "{offered:?}");
        let response = exchange(stream, version, "image").await;
        assert_eq!((response.status(), response.version()), (StatusCode::OK, version), "{offered:?}");
    }
    let other = Identity::new();
    assert!(handshake(address, &[&other], &[]).await.is_err(), "the client does not trust this certificate");
}

#[tokio::test]
async fn clients_that_do_not_speak_tls_do_not_disturb_others() {
    let (folder, identity) = (tempfile::tempdir().expect("a temporary folder can be made"), Identity::new());
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let [certificate, key] = identity.install(&folder);
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[&certificate, &key]).await;
    let address = &dispatcher.program.address;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(address).await.expect("the dispatcher listens"));
    }
    for bytes in ["GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\u{16}\u{3}\u{1}"] {
        let mut stream = TcpStream::connect(address).await.expect("the dispatcher listens");
        stream.write_all(bytes.as_bytes()).await.expect("the connection is open");
        stream.shutdown().await.expect("the end is sent");
        let mut answer = Vec::new();
        let read =
            tokio::time::timeout(WAIT_LIMIT, stream.read_to_end(&mut answer)).await.expect("the connection is closed");
        assert!(read.is_err() || !answer.starts_with(b"HTTP"), "{:?}", String::from_utf8_lossy(&answer));
        let stream = handshake(address, &[&identity], &["h2"]).await.expect("the TLS handshake succeeds");
        assert_eq!(exchange(stream, Version::HTTP_2, "image").await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_replaced_certificate_is_used_unless_it_is_malformed() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (first, second, third) = (Identity::new(), Identity::new(), Identity::new());
    let all = [&first, &second, &third];
    let [certificate, key] = first.install(&folder);
    let flags = ["--replicas=static:127.0.0.1:1", "--log=service=warn,error", &certificate, &key];
    let (program, mut log) = Program::start_with_log(&flags).await;
    let address = &program.address;
    assert_eq!(presented_certificate(address, &all).await, first.certificate);
    second.install(&folder);
    until_presented(address, &second, &all).await;
    write(&folder, "chain.pem", "-----BEGIN NOTHING-----\n");
    until_logged(&mut log, "the certificate file cannot be parsed").await;
    assert_eq!(presented_certificate(address, &all).await, second.certificate);
    std::fs::remove_file(folder.path().join("key.pem")).expect("the file can be removed");
    until_logged(&mut log, "key.pem").await;
    assert_eq!(presented_certificate(address, &all).await, second.certificate);
    third.install(&folder);
    until_presented(address, &third, &all).await;
}

/// Runs the program until it ends by itself. Returns its output.
async fn run_to_end(flags: &[&str]) -> Output {
    let mut command = command(&[&["--log=error"], flags].concat());
    let child = command.env("RUST_BACKTRACE", "0").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let ended = child.expect("the dispatcher starts").wait_with_output();
    tokio::time::timeout(WAIT_LIMIT, ended).await.expect("the program ends").expect("its output is read")
}

#[tokio::test]
async fn an_unusable_file_or_address_is_named_in_one_line() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (one, other) = (Identity::new(), Identity::new());
    let certificate = flag("tls-certificate", &write(&folder, "one.pem", &one.chain));
    let key = flag("tls-key", &write(&folder, "one.key", &one.key));
    let others_key = flag("tls-key", &write(&folder, "other.key", &other.key));
    let garbage = write(&folder, "garbage", "garbage\n");
    let (no_certificate, no_key) = (flag("tls-certificate", &garbage), flag("tls-key", &garbage));
    let missing = folder.path().join("missing");
    let (missing_certificate, missing_key) = (flag("tls-certificate", &missing), flag("tls-key", &missing));
    let (missing_token, empty_token) =
        (flag("token-file", &missing), flag("token-file", &write(&folder, "empty", "\n")));
    let two_tokens = flag("token-file", &write(&folder, "two", "zero\none two\n"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("the system has a free port");
    let admin = format!("--admin-listen={}", taken.local_addr().expect("the socket is bound"));
    for (flags, words) in [
        (&[&certificate, &others_key][..], "the certificate and the key cannot be used"),
        (&[&no_certificate, &key], "the certificate file cannot be parsed"),
        (&[&certificate, &no_key], "the key file cannot be parsed"),
        (&[&missing_certificate, &key], "missing"),
        (&[&certificate, &missing_key], "missing"),
        (&[&missing_token], "missing"),
        (&[&empty_token], "token"),
        (&[&two_tokens], "line 2 of the token file"),
        (&[&admin], "listen on"),
    ] {
        let flags: Vec<&str> = flags.iter().map(|flag| flag.as_str()).collect();
        let output = run_to_end(&[&["--replicas=static:127.0.0.1:1"], &flags[..]].concat()).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{flags:?}");
        assert!(error.contains(words) && error.lines().count() == 1, "{flags:?}: {error}");
    }
    // The program refuses these flags with its usage, which has several lines.
    for (flags, words) in [(&[&*certificate][..], "--tls-key"), (&[&*key], "--tls-certificate"), (&[], "--replicas")] {
        let output = run_to_end(flags).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(words), "{flags:?}: {error}");
    }
}

#[tokio::test]
async fn a_token_is_required_and_can_be_replaced() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = write(&folder, "token", "first\n");
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let replicas = format!("--replicas={}", stub::static_list(&[&stub]));
    let flags = [&*replicas, "--log=service=warn,error", &flag("token-file", &file)];
    let (program, mut log) = Program::start_with_log(&flags).await;
    let dispatcher = RunningDispatcher::new(program);
    let with = async |value: Option<&str>| {
        let headers: Vec<_> = value.map(|value| ("authorization", value)).into_iter().collect();
        dispatcher.post(&headers).await
    };
    for value in [None, Some("Bearer second"), Some("Basic first"), Some("first")] {
        let mut request = Request::post(format!("http://{}/predict", dispatcher.program.address));
        if let Some(value) = value {
            request = request.header("authorization", value);
        }
        let request = request.body(Full::from("image")).expect("the request is well formed");
        let response = dispatcher.client.request(request).await.expect("the dispatcher answers");
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{value:?}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer", "{value:?}");
        assert_eq!(with(value).await.status_and_code(), (401, "unauthorized"), "{value:?}");
    }
    assert_eq!(stub.calls(), 0);
    assert_eq!(with(Some("Bearer first")).await.status, 200);
    for path in ["/livez", "/readyz", "/metrics", "/status", "/openapi.json"] {
        assert_eq!(dispatcher.get(path).await.status, 200, "{path} needs no token");
    }

    let until_accepted = async |value: &str| {
        let since = Instant::now();
        while with(Some(value)).await.status != 200 {
            assert!(since.elapsed() < RELOAD_LIMIT, "the new token {value:?} is still refused");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    write(&folder, "token", "second\n");
    until_accepted("Bearer second").await;
    assert_eq!(with(Some("Bearer first")).await.status, 401, "the old token is refused");
    write(&folder, "token", "\n");
    until_logged(&mut log, "the previous contents stay in use").await;
    assert_eq!(with(Some("Bearer second")).await.status, 200, "a malformed token file changes nothing");
    assert_eq!(with(Some("Bearer ")).await.status, 401);
    write(&folder, "token", "third");
    until_accepted("Bearer third").await;
}

#[tokio::test]
async fn admin_paths_can_have_an_address_of_their_own() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let flags = ["--admin-listen=127.0.0.1:0"];
    let mut dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &flags).await;
    let line = dispatcher.program.next_line().await;
    let admin =
        line.strip_prefix("admin paths on http://").expect("the second line has the address of the admin paths");
    for path in ["/metrics", "/livez", "/readyz", "/status"] {
        let (status, _) = service::fetch::get(admin, path, WAIT_LIMIT).await.expect("the dispatcher answers");
        assert_eq!(status, StatusCode::OK, "{path}");
        assert_eq!(dispatcher.get(path).await.status_and_code(), (404, "not_found"), "{path}");
    }
    assert_eq!(dispatcher.post(&[]).await.status, 200);
    let elsewhere =
        Request::post(format!("http://{admin}/predict")).body(Full::from("image")).expect("the request is well formed");
    assert_eq!(dispatcher.send(elsewhere).await.status_and_code(), (404, "not_found"));
    let (_, metrics) = service::fetch::get(admin, "/metrics", WAIT_LIMIT).await.expect("the dispatcher answers");
    let metrics = String::from_utf8_lossy(&metrics);
    assert!(metrics.contains("dispatcher_requests_total{code=\"ok\"} 1"), "{metrics}");
}

#[tokio::test]
async fn replicas_are_found_by_host_name() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let port = stub.address.rsplit_once(':').expect("the address has a port").1;
    let dispatcher = RunningDispatcher::start(&format!("dns:localhost:{port}"), &[]).await;
    let reply = dispatcher.post(&[]).await;
    assert_eq!((reply.status, &reply.json["replica"]), (200, &stub.address.as_str().into()));
}

#[tokio::test]
async fn bodies_that_are_still_arriving_count_towards_queue_bytes() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let limits = ["--queue-bytes=20000", "--max-body-bytes=9000", "--max-header-bytes=1024"];
    let flags = [&limits[..], &["--body-timeout=60s", "--deadline=60s"]].concat();
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &flags).await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = dispatcher.program.connect().await;
        stream
            .write_all(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n")
            .await
            .expect("the connection is open");
        stream.write_all(&[0; 4000]).await.expect("the connection is open");
        slow.push(stream);
    }
    let until = async |status: u16| {
        for _ in 0..1000 {
            let reply = dispatcher.post_body(&[], vec![0; 6500]).await;
            if reply.status == status {
                return reply;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no reply has status {status}");
    };
    let refused = until(503).await;
    assert_eq!(refused.status_and_code(), (503, "queue_full"));
    assert!(refused.has_retry_after(), "{refused:?}");
    assert!(dispatcher.metric("dispatcher_shed_total{reason=\"bytes\"}").await >= 1.0);
    assert_eq!(dispatcher.post_body(&[], vec![0; 1000]).await.status, 200, "there is room for a small body");
    drop(slow);
    until(200).await;
    assert_eq!(dispatcher.post_body(&[], vec![0; 9000]).await.status, 200, "all bytes are free again");
}

#[tokio::test]
async fn headers_that_are_kept_count_towards_queue_bytes() {
    let gate = Arc::new(Semaphore::new(0));
    let stub = StubReplica::start(StubBehavior::Gated(gate.clone())).await;
    let flags = ["--queue-bytes=50000", "--max-body-bytes=1000", "--deadline=60s"];
    let dispatcher = Arc::new(RunningDispatcher::start(&stub::static_list(&[&stub]), &flags).await);
    let long = format!("image/jpeg; note={}", "b".repeat(12 << 10));
    let send = || {
        let (dispatcher, long) = (dispatcher.clone(), long.clone());
        tokio::spawn(async move { dispatcher.post(&[("content-type", &long)]).await })
    };
    let held: Vec<_> = (0..3).map(|_| send()).collect();
    stub.until_calls(1).await;
    dispatcher.until_waiting(2).await;
    let refused = send().await.expect("the task does not panic");
    assert_eq!(refused.status_and_code(), (503, "queue_full"), "three requests hold 36 KiB of headers");
    gate.add_permits(4);
    for request in held {
        assert_eq!(request.await.expect("the task does not panic").status, 200);
    }
    assert_eq!(send().await.expect("the task does not panic").status, 200, "all bytes are free again");
}

/// Sends `bytes` over a new connection and reads until `enough` accepts what has arrived, or the connection is closed.
async fn answer_until(address: &str, bytes: &[u8], enough: impl Fn(&str) -> bool) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the dispatcher listens");
    stream.write_all(bytes).await.expect("the connection is open");
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    while !enough(&String::from_utf8_lossy(&answer)) {
        let read = tokio::time::timeout(WAIT_LIMIT, stream.read(&mut piece)).await;
        let read = read.unwrap_or_else(|_| panic!("{} has no answer", String::from_utf8_lossy(bytes)));
        match read.expect("the connection is not reset") {
            0 => break,
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_refused_client_that_asks_to_continue_is_not_told_to() {
    on_steady_machine(async || {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let stub = StubReplica::start(StubBehavior::Prompt).await;
        let token = flag("token-file", &write(&folder, "token", "right"));
        let flags = [&*token, "--max-body-bytes=1000000"];
        let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &flags).await;
        let right = "Authorization: Bearer right\r\n";
        for (line, headers, length, status) in [
            ("POST /predict", "", 100, "401"),
            ("POST /predict", &*format!("{right}Content-Type: text/plain\r\n"), 100, "415"),
            ("POST /predict", &format!("{right}x-request-timeout-ms: soon\r\n"), 100, "400"),
            ("POST /predict", right, 50_000_000, "413"),
            ("POST /metrics", "", 100, "405"),
            ("PUT /nowhere", "", 100, "404"),
        ] {
            let head = format!(
                "{line} HTTP/1.1\r\nHost: x\r\n{headers}Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
            );
            let since = Instant::now();
            let answer =
                answer_until(&dispatcher.program.address, head.as_bytes(), |answer| answer.ends_with('}')).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{line} {headers}: {answer}");
            assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
            assert!(since.elapsed() < Duration::from_millis(900), "{line}: {:?}", since.elapsed());
        }
        let head =
            format!("POST /predict HTTP/1.1\r\nHost: x\r\n{right}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        let answer =
            answer_until(&dispatcher.program.address, head.as_bytes(), |answer| answer.ends_with("\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 100"), "a client whose head is right continues: {answer}");
        assert_eq!(stub.calls(), 0);
    });
}

#[tokio::test]
async fn a_client_of_a_short_refused_body_keeps_its_connection() {
    let dispatcher = Program::start(&["--replicas=static:127.0.0.1:1", "--log=error"], &[]).await;
    let body = "x".repeat(100_000);
    let head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n";
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let twice = request.repeat(2);
    let both = |answer: &str| answer.matches("HTTP/1.1 415").count() == 2;
    let answer = answer_until(&dispatcher.address, twice.as_bytes(), both).await;
    assert!(both(&answer), "{answer}");
}

#[tokio::test]
async fn requests_whose_end_is_ambiguous_are_refused() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[]).await;
    let good = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nimage";
    let smuggled = "0\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    for headers in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "TRANSFER-encoding: chunked\r\nX: y\r\ncontent-LENGTH: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length: 18446744073709551617",
        "Content-Length : 5",
        "Content-Length: 5\r\n Transfer-Encoding: chunked",
        "X: y\r\n folded",
        "X: y\rTransfer-Encoding: chunked",
        "X: \u{0}",
        "no colon",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \u{b}chunked",
    ] {
        let bad = format!("POST /predict HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n{smuggled}");
        for (before, bytes) in [(0, bad.clone()), (1, format!("{good}{bad}"))] {
            let answer = answer_until(&dispatcher.program.address, bytes.as_bytes(), |_| false).await;
            let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
            let expected = [&["200"][..before], &["400"]].concat();
            assert_eq!(statuses, expected, "{headers:?}: {answer}");
        }
    }
    // A parser that ends a line of the trailers at LF, and one that ends it at CR LF, find other requests after these.
    for trailers in ["\nX\r\n", "\n", "X: y\n", "X: y\nZ: a\r\n", "X: y\r", "\r"] {
        let chunked = "POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nimage\r\n0\r\n";
        let hidden = "Content-Length: 99999999\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
        let bytes = format!("{chunked}{trailers}{hidden}\r\n{hidden}");
        let answer = answer_until(&dispatcher.program.address, bytes.as_bytes(), |_| false).await;
        let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
        assert_eq!(statuses, ["400"], "{trailers:?}: {answer}");
    }
    // HTTP/1.0 has no transfer codings.
    let old = "POST /predict HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let answer = answer_until(&dispatcher.program.address, old.as_bytes(), |_| false).await;
    assert!(answer.contains(" 400 "), "{answer}");
    for received in stub.received() {
        assert_eq!(received.body, "image", "no replica receives a refused request");
    }
}

#[tokio::test]
async fn a_head_that_cannot_be_read_is_refused_with_json() {
    let program = Program::start(&["--replicas=static:127.0.0.1:1", "--log=error"], &[]).await;
    let livez = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(20_000));
    for (text, status, code) in [
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400, "bad_request"),
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "bad_request"),
        ("\0", 400, "bad_request"),
        (&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101)), 431, "too_large"),
        (&long, 431, "too_large"),
    ] {
        for before in ["", livez] {
            let answer = send_all_then_read(&program.address, format!("{before}{text}").as_bytes()).await;
            let text = &text[..text.len().min(60)];
            let (first, refusal) = answer.split_at(answer.rfind("HTTP/1.1 ").unwrap_or_default());
            assert_eq!(first.starts_with("HTTP/1.1 200"), !before.is_empty(), "{text:?}: {answer}");
            let (head, body) = refusal.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}: {answer}"));
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{text:?}: {answer}");
            assert!(head.contains(&format!("content-length: {}", body.len())), "{text:?}: {answer}");
            let body: service::wire::ErrorBody = serde_json::from_str(body).expect("the body is JSON");
            assert_eq!((body.success, &*body.code), (false, code), "{text:?}");
            assert!(!body.request_id.is_empty(), "{text:?}");
        }
    }
}

#[tokio::test]
async fn a_size_of_a_chunk_that_is_too_large_or_malformed_is_refused_at_once() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let flags = ["--body-timeout=60s", "--deadline=60s"];
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &flags).await;
    let head = "POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let endless = |before: &str, byte: &str| format!("{before}{}", byte.repeat(20_000));
    for (body, status) in [
        ("3\r\nabc\r\n1400001\r\nx", "413"),
        ("fffffffffffffff\r\nx", "413"),
        ("1400001 ;name=value", "413"),
        // No length, whatever follows.
        ("FFFFFFFFFFFFFFFF", "400"),
        ("7fffffffffffffff;name=value\r\nx", "400"),
        ("FFFFFFFFFFFFFFFFF\r\nx", "400"),
        ("3\r\nabc\r\n0001000000000000000", "400"),
        ("3\r\nabcX", "400"),
        ("g\r\n", "400"),
        ("1400001g\r\n", "400"),
        ("-1\r\n", "400"),
        ("+5\r\nimage\r\n", "400"),
        (" 5\r\nimage\r\n", "400"),
        ("0x5\r\nimage\r\n", "400"),
        ("5 5\r\nimage\r\n", "400"),
        ("\r\nimage\r\n", "400"),
        (";name=value\r\n", "400"),
        ("3\nabc", "400"),
        ("5\rimage", "400"),
        // Lines and trailers without an end.
        (&*endless("", "0"), "400"),
        (&*endless("5", " "), "400"),
        (&*endless("5;name=", "x"), "400"),
        (&*endless("0\r\nX: ", "y"), "400"),
        (&*endless("0\r\n", "X: y\r\n"), "400"),
    ] {
        let since = Instant::now();
        let answer = answer_until(&dispatcher.program.address, format!("{head}{body}").as_bytes(), |answer| {
            answer.ends_with('}')
        })
        .await;
        let body = &body[..body.len().min(40)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{body:?}: {answer}");
        assert!(answer.contains("\"request_id\":"), "{body:?}: {answer}");
        // The limits of time are 60 s.
        assert!(since.elapsed() < Duration::from_secs(10), "{body:?}: {:?}", since.elapsed());
    }
    assert_eq!(stub.calls(), 0);
    for body in ["0000000000000000005\r\nimage\r\n0\r\n\r\n", "5 \r\nimage\r\n000;a=b\r\nX: y\r\n\r\n"] {
        let answer = answer_until(&dispatcher.program.address, format!("{head}{body}").as_bytes(), |answer| {
            answer.ends_with('}')
        })
        .await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{body:?}: {answer}");
    }
}

#[test]
fn a_slow_upload_is_neither_late_nor_a_slow_service() {
    on_steady_machine(async || {
        let stub = StubReplica::start(StubBehavior::Prompt).await;
        let flags = ["--objective=200ms", "--deadline=400ms", "--body-timeout=1500ms"];
        let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &flags).await;
        dispatcher.until_states(&["ready"]).await;
        let head = |more: &str| format!("POST /predict HTTP/1.1\r\nHost: x\r\n{more}Content-Length: 5\r\n\r\nim");
        for more in ["", "x-request-timeout-ms: 300\r\n"] {
            let mut stream = dispatcher.program.connect().await;
            stream.write_all(head(more).as_bytes()).await.expect("the connection is open");
            tokio::time::sleep(Duration::from_millis(600)).await;
            stream.write_all(b"age").await.expect("the connection is open");
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.expect("the dispatcher answers");
            assert_eq!(&answer, b"HTTP/1.1 200", "{more}");
            let received = stub.received().pop().expect("the replica has the request");
            let waited: f64 =
                received.headers["x-request-queue-ms"].to_str().expect("ASCII").parse().expect("a number");
            assert!(waited < 200.0, "the request waited {waited} ms in the queue");
        }
        let answer =
            answer_until(&dispatcher.program.address, head("").as_bytes(), |answer| answer.ends_with('}')).await;
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("slow_body"), "{answer}");
        assert!(dispatcher.metric("dispatcher_request_duration_seconds_sum").await < 0.4);
        assert_eq!(dispatcher.metric("dispatcher_upload_duration_seconds_count").await, 2.0);
        assert!(dispatcher.metric("dispatcher_upload_duration_seconds_sum").await >= 1.2);
    });
}

#[tokio::test]
async fn a_trace_state_is_forwarded_and_echoed() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[]).await;
    let fields = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
    for (parent, echoed_parent, state, echoed_state) in [
        (format!("00-{fields}-01"), Some(format!("00-{fields}-01")), "rojo=1,congo=2", Some("rojo=1,congo=2")),
        (format!("42-{fields}-01-new"), Some(format!("00-{fields}-01")), "rojo=1", Some("rojo=1")),
        (format!("ff-{fields}-01"), None, "rojo=1", None),
    ] {
        let request = Request::post(format!("http://{}/predict", dispatcher.program.address))
            .header("traceparent", &parent)
            .header("tracestate", state);
        let request = request.body(Full::from("image")).expect("the request is well formed");
        let response = dispatcher.client.request(request).await.expect("the dispatcher answers");
        let received = stub.received().pop().expect("the replica has the request");
        for headers in [response.headers(), &received.headers] {
            let of = |name: &str| headers.get(name).map(|value| value.to_str().expect("the header is ASCII"));
            assert_eq!(of("tracestate"), echoed_state, "{parent}");
            assert_eq!(of("traceparent") == echoed_parent.as_deref(), echoed_parent.is_some(), "{parent}");
        }
    }
}

#[tokio::test]
async fn a_client_that_reads_only_after_it_has_sent_all_receives_the_error() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let token = flag("token-file", &write(&folder, "token", "right"));
    let dispatcher =
        RunningDispatcher::start(&stub::static_list(&[&stub]), &[&token, "--max-body-bytes=1000000"]).await;
    let body = pattern(5 << 20);
    // Some clients offer HTTP/2 in each request without TLS.
    let offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";
    for (line, headers, status) in [
        ("POST /predict", offer, "401"),
        ("POST /predict", &*format!("{offer}Authorization: Bearer right\r\n"), "413"),
        ("CONNECT x:80", "", "404"),
        ("POST /predict", "", "401"),
        ("POST /predict", "Authorization: Bearer right\r\nContent-Type: text/plain\r\n", "415"),
        ("POST /predict", "Authorization: Bearer right\r\nx-request-timeout-ms: soon\r\n", "400"),
        ("POST /predict?top_k=0", "Authorization: Bearer right\r\n", "400"),
        ("POST /predict", "Authorization: Bearer right\r\n", "413"),
        ("PUT /predict", "", "405"),
        ("POST /metrics", "", "405"),
        ("POST /nowhere", "", "404"),
    ] {
        let connection = if headers.contains("Upgrade") { "" } else { "Connection: close\r\n" };
        let head = format!("{line} HTTP/1.1\r\nHost: x\r\n{connection}{headers}");
        let whole = [format!("{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat();
        let chunked = [
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len()).as_bytes(),
            &body,
            b"\r\n0\r\n\r\n",
        ]
        .concat();
        for bytes in [whole, chunked] {
            let answer = send_all_then_read(&dispatcher.program.address, &bytes).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{line} {headers}: {answer}");
        }
    }
    assert_eq!(stub.calls(), 0);
}

#[tokio::test]
async fn a_draining_dispatcher_closes_connections_after_their_answers() {
    let dispatcher = Program::start(&["--replicas=static:127.0.0.1:1", "--drain-delay=60s"], &[]).await;
    let livez = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut stream = dispatcher.connect().await;
    let mut ask = async || {
        stream.write_all(livez).await.expect("the connection is open");
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.expect("the dispatcher answers");
        String::from_utf8_lossy(&answer[..length]).to_ascii_lowercase()
    };
    let before = ask().await;
    assert!(before.starts_with("http/1.1 200") && !before.contains("connection: close"), "{before}");
    dispatcher.signal("TERM").await;
    // The program handles the signal a moment after it was sent.
    let draining = async {
        while fetch::get(&dispatcher.address, "/readyz", WAIT_LIMIT).await.expect("the dispatcher answers").0
            == StatusCode::OK
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WAIT_LIMIT, draining).await.expect("the dispatcher is no longer ready");
    let after = ask().await;
    assert!(after.starts_with("http/1.1 200") && after.contains("connection: close"), "{after}");
    assert_eq!(stream.read(&mut [0; 1]).await.expect("the connection is not reset"), 0, "the connection is closed");
}

#[tokio::test]
async fn an_upload_may_pause_while_the_server_still_accepts_requests() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let flags = ["--drain-delay=60s", "--body-timeout=60s"];
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &flags).await;
    dispatcher.until_states(&["ready"]).await;
    let mut stream = dispatcher.program.connect().await;
    let head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nim";
    stream.write_all(head).await.expect("the connection is open");
    dispatcher.program.signal("TERM").await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    stream.write_all(b"age").await.expect("the connection is open");
    let mut answer = String::new();
    let read = tokio::time::timeout(WAIT_LIMIT, stream.read_to_string(&mut answer)).await;
    read.expect("the connection is closed").expect("the connection is not reset");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn slow_clients_do_not_disturb_others() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[]).await;
    let mut slow_clients = Vec::new();
    for beginning in
        ["", "P", "POST /predict HTTP/1.1\r\nHost:", "POST /predict HTTP/1.1\r\nContent-Length: 9\r\n\r\nx"]
    {
        for _ in 0..5 {
            let mut stream = dispatcher.program.connect().await;
            stream.write_all(beginning.as_bytes()).await.expect("the connection is open");
            slow_clients.push(stream);
        }
    }
    for _ in 0..100 {
        assert_eq!(dispatcher.post(&[("x-request-timeout-ms", "2000")]).await.status, 200);
    }
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// The bytes with which a client begins HTTP/2 (RFC 9113, section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The header block of `POST http://x/predict` in HPACK (RFC 7541). Two fields are entries of the static table. The
/// other two have the name of an entry and another value.
pub(crate) const PREDICT: &[u8] = b"\x83\x86\x04\x08/predict\x01\x01x";
