//! Tests the replica's program with an ONNX network.

use crate::replica::ReplicaProcess;
use hyper::{Method, StatusCode};
use serde_json::json;

/// A random network of four classes for images of 16 by 16 pixels. Its metadata has the names of the classes.
const TINY: &str = concat!("--weights=", env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.onnx");

#[tokio::test]
async fn an_onnx_network_is_served_like_any_model() {
    let replica = ReplicaProcess::start(&[TINY, "--max-batch=4", "--workers=2"]).await;
    let picture = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/picture.png")).expect("readable");
    let (status, _, answer) = replica.send(Method::POST, "/predict", &[("content-type", "image/png")], picture).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["model"], "tiny");
    let label = answer["prediction"]["label"].as_str().expect("a label");
    assert!(["ant", "bee", "cat", "dog"].contains(&label), "{answer}");
    let (_, _, metadata) = replica.get("/v2/models/tiny").await;
    assert_eq!(metadata["platform"], "onnx_onnxv1");
    assert_eq!(metadata["inputs"][0]["shape"], json!([-1, 3, 16, 16]));
    assert_eq!(metadata["outputs"][0]["shape"], json!([-1, 4]));
    // Three tensors that share a pass or not: each has the logits that it has alone.
    let numbers: Vec<f32> = (0..3 * 3 * 256).map(|index| (index * 31 % 97) as f32 / 48.0 - 1.0).collect();
    let body = |images: &[f32]| {
        let shape = [images.len() / 768, 3, 16, 16];
        let input = json!({"name": "input", "datatype": "FP32", "shape": shape, "data": images});
        json!({"inputs": [input], "outputs": [{"name": "logits"}]}).to_string()
    };
    let infer = "/v2/models/tiny/infer";
    let logits = |answer: serde_json::Value| -> Vec<f64> {
        let numbers = answer["outputs"][0]["data"].as_array().unwrap_or_else(|| panic!("no logits: {answer}"));
        numbers.iter().map(|number| number.as_f64().expect("a number")).collect()
    };
    let together = logits(replica.send(Method::POST, infer, &[], body(&numbers)).await.2);
    assert_eq!(together.len(), 3 * 4);
    for (image, expected) in numbers.chunks(768).zip(together.chunks(4)) {
        let alone = logits(replica.send(Method::POST, infer, &[], body(image)).await.2);
        let difference = alone.iter().zip(expected).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max);
        assert!(difference < 1e-5, "{alone:?} {expected:?}");
    }
}
