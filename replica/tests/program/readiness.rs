//! Everything that a ready replica promises is true when `/readyz` first says so.

use crate::replica::Replica;
use hyper::StatusCode;
use replica::metrics::{self, Kind};
use serde_json::json;

#[tokio::test]
async fn a_replica_that_says_ready_has_all_metrics_and_describes_its_model() {
    let replica = Replica::start_unready(&["--workers=1"]).await;
    // Without a pause: what is set only after readiness is missed here.
    while replica.get_text("/readyz").await.0 != StatusCode::OK {}
    let (status, text) = replica.get_text("/metrics").await;
    assert_eq!(status, StatusCode::OK);
    for metrics::Metric { name, kind, help } in metrics::ALL {
        let (kind, sample) = match kind {
            Kind::Gauge => ("gauge", name.to_owned()),
            Kind::Histogram => ("histogram", format!("{name}_count")),
        };
        for line in [format!("# HELP {name} {help}"), format!("# TYPE {name} {kind}")] {
            assert!(text.lines().any(|found| found == line), "{line:?} is missing in:\n{text}");
        }
        assert!(text.lines().any(|line| line.starts_with(&sample)), "{sample} has no value in:\n{text}");
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
