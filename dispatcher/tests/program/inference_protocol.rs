//! Tests of the Open Inference Protocol at the dispatcher, with stub replicas. Triton's client is in the tests of the
//! crate `bench`, because it needs a real replica.

use crate::process::{DispatcherReply, RunningDispatcher};
use crate::stub::{self, StubBehavior, StubReplica};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::HeaderValue;
use hyper::{Method, Request};
use std::sync::Arc;

const INFER: &str = "/v2/models/resnet18/infer";

impl RunningDispatcher {
    async fn request(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> DispatcherReply {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.program.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::new(Bytes::from_static(b"{}"))).expect("the request is well formed")).await
    }
}

#[tokio::test]
async fn an_inference_request_goes_through_the_queue_and_keeps_its_path_and_headers() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[]).await;
    for (number, path) in [INFER, "/v2/models/a%20b/versions/1/infer"].into_iter().enumerate() {
        let headers = [("inference-header-content-length", "2"), ("content-type", "x/y"), ("x-request-id", "order-7")];
        assert_eq!(dispatcher.request(Method::POST, path, &headers).await.status, 200);
        let received = &stub.received()[number];
        assert_eq!((received.path.as_str(), &received.body[..]), (path, &b"{}"[..]));
        for (name, value) in headers {
            assert_eq!(received.headers[name], value);
        }
        assert!(received.headers.contains_key("x-request-timeout-ms"));
    }
    assert_eq!(dispatcher.metric("dispatcher_requests_total{code=\"ok\"}").await, 2.0);
    assert_eq!(dispatcher.metric("dispatcher_enqueued_requests_total").await, 2.0);
}

#[tokio::test]
async fn errors_have_the_form_of_the_protocol() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    std::fs::write(&file, "s3cret").expect("the temporary folder is writable");
    let flag = format!("--token-file={}", file.path().display());
    let dispatcher = RunningDispatcher::start("static:127.0.0.1:1", &[&flag]).await;
    let token = ("authorization", "Bearer s3cret");
    for (method, path, headers, status, message) in [
        (Method::POST, INFER, vec![], 401, "token"),
        (Method::POST, INFER, vec![token, ("x-request-timeout-ms", "50")], 504, "within 50 ms"),
        (Method::POST, INFER, vec![token, ("content-encoding", "gzip")], 415, "gzip"),
        (Method::GET, INFER, vec![], 405, "POST only"),
        (Method::POST, "/v2/health/live", vec![], 405, "GET, HEAD only"),
        (Method::GET, "/v2/models/resnet18", vec![], 503, "no replica is ready"),
    ] {
        let reply = dispatcher.request(method, path, &headers).await;
        assert_eq!(reply.status, status, "{path}: {}", reply.json);
        assert_eq!(reply.json.as_object().map(serde_json::Map::len), Some(1), "{}", reply.json);
        assert!(reply.json["error"].as_str().is_some_and(|error| error.contains(message)), "{}", reply.json);
    }
    for (method, path, allowed) in [(Method::GET, INFER, "POST"), (Method::POST, "/v2/health/live", "GET, HEAD")] {
        let request = Request::builder().method(method).uri(format!("http://{}{path}", dispatcher.program.address));
        let request = request.body(Full::default()).expect("the request is well formed");
        let response = dispatcher.client.request(request).await.expect("the dispatcher answers");
        assert_eq!(
            (response.status().as_u16(), &response.headers()["allow"]),
            (405, &HeaderValue::from_static(allowed))
        );
    }
}

#[tokio::test]
async fn a_request_for_more_slots_than_are_free_is_sent_a_few_times_and_delays_no_other() {
    let stub = StubReplica::with_capacity(4, StubBehavior::Crowded).await;
    let dispatcher = Arc::new(RunningDispatcher::start(&stub::static_list(&[&stub]), &[]).await);
    dispatcher.until_states(&["ready"]).await;
    let client = dispatcher.clone();
    let crowded = tokio::spawn(async move { client.request(Method::POST, INFER, &[]).await });
    let mut others = 0;
    while !crowded.is_finished() {
        assert_eq!(dispatcher.post(&[]).await.status, 200);
        others += 1;
    }
    let reply = crowded.await.expect("the task does not panic");
    assert_eq!(reply.status, 503, "{}", reply.json);
    assert!(reply.has_retry_after());
    assert_eq!(stub.calls() - others, 4, "attempts of the request with many images");
    assert_eq!(dispatcher.metric("dispatcher_retries_total{reason=\"crowded\"}").await, 3.0);
    assert_eq!(dispatcher.metric("dispatcher_retries_total{reason=\"busy\"}").await, 0.0);
    assert!(others >= 10, "{others} other requests were answered meanwhile");
}

#[tokio::test]
async fn the_dispatcher_is_ready_for_inference_once_a_replica_is() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    stub.set_ready(false);
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[]).await;
    assert_eq!(dispatcher.get("/v2/health/live").await.json, serde_json::json!({"live": true}));
    let ready = dispatcher.get("/v2/health/ready").await;
    assert_eq!((ready.status, ready.json), (503, serde_json::json!({"ready": false})));
    stub.set_ready(true);
    dispatcher.until_states(&["ready"]).await;
    let ready = dispatcher.get("/v2/health/ready").await;
    assert_eq!((ready.status, ready.json), (200, serde_json::json!({"ready": true})));
}
