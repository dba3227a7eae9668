//! Tests that a replica has all its metrics and its model's metadata when `/readyz` first reports ready, and logs which
//! model it has loaded.

use crate::replica::{ReplicaProcess, TIMEOUT};
use hyper::StatusCode;
use replica::metrics::{self, MetricKind};
use serde_json::json;
use service::server::CONNECTION_METRICS;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

#[tokio::test]
async fn a_ready_replica_has_all_metrics_and_the_metadata_of_its_model() {
    let replica = ReplicaProcess::start_unready(&["--workers=1"]).await;
    // There is no pause between these requests. Otherwise a metric that is set after readiness would be there in time.
    while replica.get_text("/readyz").await.0 != StatusCode::OK {}
    let (status, text) = replica.get_text("/metrics").await;
    assert_eq!(status, StatusCode::OK);
    for metrics::Metric { name, kind, help } in metrics::ALL {
        let (kind, sample) = match kind {
            MetricKind::Counter => ("counter", name.to_owned()),
            MetricKind::Gauge => ("gauge", name.to_owned()),
            MetricKind::Histogram => ("histogram", format!("{name}_count")),
        };
        for line in [format!("# HELP {name} {help}"), format!("# TYPE {name} {kind}")] {
            assert!(text.lines().any(|found| found == line), "{line:?} is missing in:\n{text}");
        }
        assert!(text.lines().any(|line| line.starts_with(&sample)), "{sample} has no value in:\n{text}");
    }
    for name in CONNECTION_METRICS {
        let sample = format!("{name}{{listener=\"main\"");
        assert!(text.lines().any(|line| line.starts_with(&sample)), "{sample:?} is missing in:\n{text}");
    }
    for stage in ["decode", "queue", "forward"] {
        let sample = format!("inference_stage_seconds_count{{stage=\"{stage}\"}} 0");
        assert!(text.lines().any(|line| line == sample), "{sample:?} is missing in:\n{text}");
    }
    let startup = text.lines().find_map(|line| line.strip_prefix("replica_startup_seconds "));
    let startup: f64 = startup.expect("a value").parse().expect("a number");
    assert!(startup > 0.0, "{startup} s");

    let (status, _, model) = replica.get("/v2/models/resnet18").await;
    assert_eq!((status, &model["name"]), (StatusCode::OK, &json!("resnet18")), "{model}");
    let (status, _, ready) = replica.get("/v2/models/resnet18/ready").await;
    assert_eq!((status, ready), (StatusCode::OK, json!({"name": "resnet18", "ready": true})));
}

#[tokio::test]
async fn the_log_has_the_version_of_the_first_model() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_replica"))
        .args(["--listen=127.0.0.1:0", "--log=info", "--exit-with-parent", "--workers=1", "--kernel=libtorch"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the replica starts");
    let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
    let loaded = async {
        while let Some(line) = log.next_line().await.expect("readable") {
            if line.contains("the model is loaded") {
                return line;
            }
        }
        panic!("the replica ended before it logged the model");
    };
    let line = tokio::time::timeout(TIMEOUT, loaded).await.expect("it loads the model in time");
    assert!(line.contains(r#"version="bundled""#), "{line}");
}
