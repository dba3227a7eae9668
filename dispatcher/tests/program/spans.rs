//! Tests of the spans that the dispatcher sends to a collector.

use crate::process::{Program, RunningDispatcher, until_logged};
use crate::stub::{self, StubBehavior, StubReplica};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// A receiver of OTLP over HTTP. It decodes with the types that are generated from the protocol's own definition.
struct Collector {
    endpoint: String,
    requests: mpsc::UnboundedReceiver<ExportTraceServiceRequest>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let endpoint = format!("http://{}", listener.local_addr().expect("the socket is bound"));
        let (sender, requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _peer)) = listener.accept().await {
                let sender = sender.clone();
                let answer = move |request: Request<Incoming>| {
                    let sender = sender.clone();
                    async move {
                        assert_eq!(request.uri().path(), "/v1/traces");
                        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                        let body = request.into_body().collect().await?.to_bytes();
                        let decoded = ExportTraceServiceRequest::decode(body).expect("the body is of the protocol");
                        // The test may have ended.
                        let _ended = sender.send(decoded);
                        Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::new())))
                    }
                };
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
            }
        });
        Self { endpoint, requests }
    }

    /// The next `count` spans, with the name of the service.
    async fn spans(&mut self, count: usize) -> (String, Vec<Span>) {
        let (mut service, mut spans) = (String::new(), Vec::new());
        while spans.len() < count {
            let received = tokio::time::timeout(Duration::from_secs(20), self.requests.recv()).await;
            let request = received.expect("spans arrive within 20 s").expect("the collector runs");
            for resource_spans in request.resource_spans {
                let resource = resource_spans.resource.expect("there is a resource");
                let name = resource.attributes.iter().find(|attribute| attribute.key == "service.name");
                service = format!("{:?}", name.expect("the service has a name").value);
                spans.extend(resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        (service, spans)
    }
}

#[tokio::test]
async fn a_sampled_request_has_spans_that_continue_the_clients_trace_and_reach_the_replica() {
    let mut collector = Collector::start().await;
    let stub = StubReplica::start(StubBehavior::Delayed(Duration::from_millis(20))).await;
    let endpoint = format!("--otlp-endpoint={}", collector.endpoint);
    let flags = [endpoint.as_str(), "--trace-ratio=0"];
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &flags).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    assert_eq!(dispatcher.post(&[]).await.status, 200, "this request is not sampled");
    assert_eq!(dispatcher.post(&[("traceparent", &parent), ("x-request-id", "order-7")]).await.status, 200);
    let (service, spans) = collector.spans(3).await;
    assert!(service.contains("dispatcher"), "{service}");
    let find = |name: &str| spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name}: {spans:?}"));
    let (whole, queue, attempt) = (find("POST /predict"), find("queue"), find("attempt"));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert!(spans.iter().all(|span| hex(&span.trace_id) == trace), "{spans:?}");
    assert_eq!(hex(&whole.parent_span_id), "00f067aa0ba902b7");
    assert_eq!([&queue.parent_span_id, &attempt.parent_span_id], [&whole.span_id; 2]);
    assert!(attempt.end_time_unix_nano - attempt.start_time_unix_nano >= 20_000_000, "{attempt:?}");
    assert!(format!("{:?}", whole.attributes).contains("order-7"));
    let received = stub.received();
    let forwarded = received[1].headers["traceparent"].to_str().expect("ASCII");
    assert_eq!(forwarded, format!("00-{trace}-{}-01", hex(&whole.span_id)));
    let unsampled = received[0].headers["traceparent"].to_str().expect("ASCII");
    assert!(unsampled.ends_with("-00"), "{unsampled}");
}

#[tokio::test]
async fn requests_are_answered_while_no_collector_listens_and_the_log_says_so() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let source = format!("--replicas={}", stub::static_list(&[&stub]));
    let flags = [source.as_str(), "--otlp-endpoint=http://127.0.0.1:1", "--trace-ratio=1"];
    let (program, mut log) = Program::start_with_log(&flags).await;
    let dispatcher = RunningDispatcher::new(program);
    assert_eq!(dispatcher.post(&[]).await.status, 200);
    until_logged(&mut log, "--otlp-endpoint").await;
    for _ in 0..100 {
        assert_eq!(dispatcher.post(&[]).await.status, 200);
    }
}
