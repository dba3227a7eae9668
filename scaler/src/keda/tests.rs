//! The service, called by a gRPC client over TCP, and connections that break its rules.

use super::*;
use crate::advice::{Advice, MAX_AGE};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tonic::Streaming;
use tonic::codegen::http::uri::PathAndQuery;

/// The longest wait of a test.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A server of this process, and the senders of the advice to its targets.
struct TestServer {
    address: SocketAddr,
    server: Server,
    targets: Vec<watch::Sender<Option<Advice>>>,
}

impl TestServer {
    /// Serves targets with these values of `--target`.
    async fn start(flags: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("the listener is bound");
        let target = |flag: &&str| {
            let (advise, advice) = watch::channel(None);
            (advise, AdvisedTarget { name: flag.parse().expect("a name"), advice })
        };
        let (targets, advised): (_, Vec<_>) = flags.iter().map(target).unzip();
        Self { address, server: Server::start(listener, advised.into_iter().collect()), targets }
    }

    /// Recommends a number of replicas for the first target.
    fn advise(&self, replicas: usize) {
        self.targets[0].send_replace(Some(Advice { replicas, confirmed: Instant::now(), max_age: MAX_AGE }));
    }

    async fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.expect("the server listens");
        let connect = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (requests, connection) = connect.await.expect("the server speaks HTTP/2");
        tokio::spawn(connection);
        Client { requests }
    }

    /// Whether the server still answers.
    async fn assert_answers(&self) {
        self.advise(1);
        let answer = timeout(TIMEOUT, async { self.client().await.is_active(&object("shop", &[])).await });
        assert_eq!(answer.await.expect("an answer in time").map(|answer| answer.result), Ok(true));
    }
}

/// A connection to a server.
#[derive(Clone)]
struct Client {
    requests: hyper::client::conn::http2::SendRequest<Body>,
}

type Answer<R> = Result<R, (Code, String)>;

impl Client {
    fn grpc(
        &self,
    ) -> tonic::client::Grpc<impl tonic::client::GrpcService<Body, ResponseBody = Incoming, Future: Send> + use<>> {
        let requests = self.requests.clone();
        tonic::client::Grpc::new(tower::service_fn(move |mut request: Request<Body>| {
            // hyper takes the scheme and the host of a request from its URI.
            *request.uri_mut() = format!("http://scaler{}", request.uri().path()).parse().expect("a URI");
            requests.clone().send_request(request)
        }))
    }

    async fn call<M: Message + 'static, R: Message + Default + 'static>(&self, method: &str, message: M) -> Answer<R> {
        let path = PathAndQuery::try_from(format!("/externalscaler.ExternalScaler/{method}")).expect("a path");
        let mut grpc = self.grpc();
        let request = tonic::Request::new(message);
        let answer = grpc.unary(request, path, ProstCodec::<M, R>::default()).await;
        answer.map(tonic::Response::into_inner).map_err(|error| (error.code(), error.message().to_owned()))
    }

    async fn is_active(&self, object: &ScaledObjectRef) -> Answer<IsActiveResponse> {
        self.call("IsActive", object.clone()).await
    }

    async fn metric_spec(&self, object: &ScaledObjectRef) -> Answer<GetMetricSpecResponse> {
        self.call("GetMetricSpec", object.clone()).await
    }

    async fn metrics(&self, object: Option<&ScaledObjectRef>, metric_name: &str) -> Answer<GetMetricsResponse> {
        let request = GetMetricsRequest { scaled_object_ref: object.cloned(), metric_name: metric_name.into() };
        self.call("GetMetrics", request).await
    }

    async fn stream_is_active(&self, object: &ScaledObjectRef) -> Result<Streaming<IsActiveResponse>, Status> {
        let path = PathAndQuery::from_static("/externalscaler.ExternalScaler/StreamIsActive");
        let request = tonic::Request::new(object.clone());
        let mut grpc = self.grpc();
        let answer = grpc.server_streaming(request, path, ProstCodec::<ScaledObjectRef, _>::default()).await;
        answer.map(tonic::Response::into_inner)
    }
}

fn object(namespace: &str, metadata: &[(&str, &str)]) -> ScaledObjectRef {
    let scaler_metadata = metadata.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    ScaledObjectRef { name: "replica".into(), namespace: namespace.into(), scaler_metadata }
}

#[test]
fn messages_have_the_numbers_and_types_of_the_interface() {
    let spec = MetricSpec { metric_name: "a".into(), target_size: 7, target_size_float: 1.0 };
    let value = MetricValue { metric_name: "a".into(), metric_value: 7, metric_value_float: 1.0 };
    // Each byte before a field is its number times 8, plus 0 for integers, 1 for doubles and 2 for what has a length.
    let numbers = [&[0x0a, 1, b'a', 0x10, 7, 0x19][..], &1_f64.to_le_bytes()].concat();
    assert_eq!((spec.encode_to_vec(), value.encode_to_vec()), (numbers.clone(), numbers.clone()));
    let listed = [&[0x0a, numbers.len() as u8][..], &numbers].concat();
    assert_eq!(GetMetricSpecResponse { metric_specs: vec![spec] }.encode_to_vec(), listed);
    assert_eq!(GetMetricsResponse { metric_values: vec![value] }.encode_to_vec(), listed);
    assert_eq!(IsActiveResponse { result: true }.encode_to_vec(), [0x08, 1]);
    let object = ScaledObjectRef { name: "n".into(), ..object("s", &[("k", "v")]) };
    let reference = [0x0a, 1, b'n', 0x12, 1, b's', 0x1a, 6, 0x0a, 1, b'k', 0x12, 1, b'v'];
    assert_eq!(object.encode_to_vec(), reference);
    let request = GetMetricsRequest { scaled_object_ref: Some(object), metric_name: "m".into() };
    assert_eq!(request.encode_to_vec(), [&[0x0a, 14][..], &reference, &[0x12, 1, b'm']].concat());
}

#[tokio::test]
async fn keda_gets_the_recommendation_as_a_metric_of_which_each_replica_stands_for_one() {
    let server = TestServer::start(&["deployment:shop/replica"]).await;
    let client = server.client().await;
    let object = object("shop", &[("scalerAddress", "scaler.shop.svc:5054"), ("target", "replica")]);
    for replicas in [0_u32, 1, 21] {
        server.advise(replicas as usize);
        assert_eq!(client.is_active(&object).await, Ok(IsActiveResponse { result: replicas > 0 }));
        let value = MetricValue {
            metric_name: "scaler_desired_replicas".into(),
            metric_value: replicas.into(),
            metric_value_float: replicas.into(),
        };
        let expected = GetMetricsResponse { metric_values: vec![value] };
        assert_eq!(client.metrics(Some(&object), "scaler_desired_replicas").await, Ok(expected));
    }
    let spec = MetricSpec { metric_name: "scaler_desired_replicas".into(), target_size: 1, target_size_float: 1.0 };
    assert_eq!(client.metric_spec(&object).await, Ok(GetMetricSpecResponse { metric_specs: vec![spec] }));
}

#[tokio::test]
async fn an_error_says_what_is_wrong_with_a_trigger() {
    let server = TestServer::start(&["deployment:shop/a", "deployment:shop/b"]).await;
    let client = server.client().await;
    server.advise(1);
    let long = "x".repeat(30_000);
    for (namespace, metadata, code, words) in [
        ("shop", &[][..], Code::InvalidArgument, "deployment:shop/a, deployment:shop/b; name one of them"),
        ("shop", &[("target", "b")], Code::Unavailable, "no recommendation for deployment:shop/b"),
        ("shop", &[("target", "c")], Code::NotFound, "no c in shop; it advises deployment:shop/a"),
        ("other", &[], Code::NotFound, "no target in other"),
        ("shop", &[("targt", "a")], Code::InvalidArgument, "the key \"targt\""),
        ("shop", &[("target", &long)], Code::NotFound, "no xxx"),
    ] {
        let object = object(namespace, metadata);
        let (found, message) = client.is_active(&object).await.expect_err("refused");
        assert!(found == code && message.contains(words) && message.len() <= MAX_ERROR_LENGTH, "{found}: {message}");
        let metrics = client.metrics(Some(&object), DESIRED_REPLICAS).await.expect_err("refused");
        assert_eq!(metrics, (found, message.clone()));
        if code != Code::Unavailable {
            assert_eq!(client.metric_spec(&object).await.expect_err("refused"), (found, message.clone()));
            let stream = client.stream_is_active(&object).await.expect_err("refused");
            assert_eq!((stream.code(), stream.message()), (found, message.as_str()));
        }
    }
    let object = object("shop", &[("target", "a")]);
    for (object, name, words) in [
        (Some(&object), "s0-queue", "no metric \"s0-queue\"; it has scaler_desired"),
        (None, DESIRED_REPLICAS, "names no"),
    ] {
        let (code, message) = client.metrics(object, name).await.expect_err("refused");
        assert!(code == Code::InvalidArgument && message.contains(words), "{code}: {message}");
    }
    let unknown = client.call::<_, IsActiveResponse>("StreamMetricSpec", object).await.expect_err("refused");
    assert_eq!(unknown.0, Code::Unimplemented, "KEDA then asks for the specification again and again");
}

#[tokio::test]
async fn activity_is_pushed_at_once_and_on_each_change_until_the_server_stops() {
    let server = TestServer::start(&["deployment:shop/replica"]).await;
    let client = server.client().await;
    let mut stream = client.stream_is_active(&object("shop", &[])).await.expect("a stream");
    let mut next = async || {
        let pushed = timeout(TIMEOUT, stream.message()).await.expect("in time").expect("no error");
        pushed.map(|IsActiveResponse { result }| result)
    };
    for (recommended, pushed) in [(&[0, 0][..], false), (&[1], true), (&[2, 3, 0], false)] {
        for replicas in recommended {
            server.advise(*replicas);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(next().await, Some(pushed), "{recommended:?}");
    }
    let mut late = client.stream_is_active(&object("shop", &[])).await.expect("a stream");
    assert_eq!(late.message().await.expect("no error").map(|it| it.result), Some(false), "the present state");
    server.server.stop().await;
    assert_eq!(next().await, None);
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn old_advice_is_not_pushed() {
    let (advise, advice) = watch::channel(None);
    let mut target = AdvisedTarget { name: "deployment:shop/a".parse().expect("a name"), advice };
    tokio::time::pause();
    advise.send_replace(Some(Advice { replicas: 1, confirmed: Instant::now(), max_age: MAX_AGE }));
    tokio::time::advance(MAX_AGE).await;
    let is_silent =
        async |target: &mut AdvisedTarget, told| timeout(MAX_AGE, next_activity(target, told)).await.is_err();
    assert!(is_silent(&mut target, None).await);
    advise.send_replace(Some(Advice { replicas: 1, confirmed: Instant::now(), max_age: MAX_AGE }));
    assert_eq!(next_activity(&mut target, None).await, Some(true));
    assert!(is_silent(&mut target, Some(true)).await);
    drop(advise);
    assert_eq!(next_activity(&mut target, Some(true)).await, None);
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused() {
    let server = TestServer::start(&["deployment:shop/replica"]).await;
    let client = server.client().await;
    server.advise(1);
    let long = "x".repeat(MAX_MESSAGE_BYTES);
    let (code, message) = client.is_active(&object("shop", &[("target", &long)])).await.expect_err("refused");
    assert!(code == Code::OutOfRange && message.contains("65536"), "{code}: {message}");
    assert!(client.is_active(&object("shop", &[])).await.is_ok(), "the connection goes on");
}

/// What a server sends until it closes the connection.
async fn answer_to(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    let mut answer = Vec::new();
    // The server may close the connection before it has read everything, which resets it.
    let _reset = stream.write_all(bytes).await;
    let _reset = timeout(TIMEOUT, stream.read_to_end(&mut answer)).await.expect("closed in time");
    answer
}

#[tokio::test]
async fn bytes_of_another_protocol_close_the_connection() {
    let server = TestServer::start(&["deployment:shop/replica"]).await;
    let garbage: Vec<u8> = (0..100_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    for bytes in
        [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), garbage.clone(), [preface, garbage].concat(), vec![0x16; 300]]
    {
        answer_to(server.address, &bytes).await;
    }
    server.assert_answers().await;
}

#[tokio::test]
async fn a_connection_has_a_limited_number_of_calls_and_keeps_none_waiting_for_others() {
    let server = TestServer::start(&["deployment:shop/replica"]).await;
    server.advise(1);
    let client = server.client().await;
    let open = |client: Client| async move { client.stream_is_active(&object("shop", &[])).await };
    let streams: Vec<_> = (0..1000).map(|_| tokio::spawn(open(client.clone()))).collect();
    // A thousand streams of one connection are more than it may have, so the last ones wait in the client.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let opened: Vec<_> = streams.iter().filter(|stream| stream.is_finished()).collect();
    assert!(!opened.is_empty() && opened.len() <= 128, "{}", opened.len());
    server.assert_answers().await;
    streams.iter().for_each(tokio::task::JoinHandle::abort);
    drop((streams, client));
    server.assert_answers().await;
}

#[tokio::test]
async fn a_client_that_never_reads_does_not_delay_the_end() {
    let server = TestServer::start(&["deployment:shop/replica"]).await;
    let stream = TcpStream::connect(server.address).await.expect("the server listens");
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    // The server may send no byte of an answer, except its headers.
    let connect = builder.initial_stream_window_size(0).handshake(TokioIo::new(stream));
    let (requests, connection) = connect.await.expect("the server speaks HTTP/2");
    tokio::spawn(connection);
    let client = Client { requests };
    let mut stream = client.stream_is_active(&object("shop", &[])).await.expect("a stream");
    for replicas in (0..10_000).map(|round| round % 2) {
        server.advise(replicas);
        tokio::task::yield_now().await;
    }
    assert!(timeout(Duration::from_millis(100), stream.message()).await.is_err(), "nothing can be sent");
    let started = Instant::now();
    server.server.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(timeout(TIMEOUT, stream.message()).await.expect("the connection has ended").is_err());
}

#[tokio::test]
async fn a_call_whose_message_never_arrives_ends() {
    let server = TestServer::start(&["deployment:shop/replica"]).await;
    let mut client = server.client().await;
    let never = futures_util::stream::pending::<Result<hyper::body::Frame<bytes::Bytes>, Status>>();
    let request = Request::post("http://scaler/externalscaler.ExternalScaler/IsActive");
    let request = request.header("content-type", "application/grpc");
    let request = request.body(Body::new(http_body_util::StreamBody::new(never))).expect("a request");
    let started = Instant::now();
    let answer = client.requests.send_request(request).await.expect("an answer");
    assert!((CALL_TIMEOUT..TIMEOUT).contains(&started.elapsed()), "{:?}", started.elapsed());
    let status = Status::from_header_map(answer.headers()).expect("an error");
    assert!(status.code() == Code::DeadlineExceeded && status.message().contains("10s"), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_idle_if_no_call_has_been_open_for_a_minute() {
    let calls = watch::Sender::new(0_usize);
    let mut idle = std::pin::pin!(connections::idle(calls.subscribe()));
    let mut is_over = async |seconds| timeout(Duration::from_secs(seconds), idle.as_mut()).await.is_ok();
    assert!(!is_over(59).await);
    calls.send_replace(1);
    assert!(!is_over(1000).await, "a call is open");
    calls.send_replace(0);
    assert!(!is_over(59).await);
    assert!(is_over(2).await);
}
