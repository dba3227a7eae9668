//! Tests that a replica replaces its model when the file changes, under load and without a lost request.

use crate::replica::ReplicaProcess;
use hyper::Method;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A file of weights, with what answers say of it.
#[derive(Clone)]
struct ModelVersion {
    bytes: Vec<u8>,
    version: String,
    classes: usize,
    /// The beginning of the names of its classes.
    word: &'static str,
}

/// The bundled model with only its first `classes` classes, whose names begin with `word`.
fn model(classes: usize, word: &'static str) -> ModelVersion {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/shapes.safetensors");
    let bundled = fs::read(path).expect("the bundled model");
    let tensors = SafeTensors::deserialize(&bundled).expect("safetensors").tensors();
    let first_rows = |name: &str, tensor: &TensorView<'_>| {
        let (mut shape, mut data) = (tensor.shape().to_vec(), tensor.data().to_vec());
        if name.starts_with("fc.") {
            data.truncate(data.len() / shape[0] * classes);
            shape[0] = classes;
        }
        (shape, data)
    };
    let owned: BTreeMap<_, _> =
        tensors.iter().map(|(name, tensor)| (name.clone(), (tensor.dtype(), first_rows(name, tensor)))).collect();
    let views = owned.iter().map(|(name, (dtype, (shape, data)))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).expect("the data fit the shape"))
    });
    let labels: Vec<String> = (0..classes).map(|class| format!("{word} {class}")).collect();
    let metadata = HashMap::from([("labels".to_owned(), labels.join("\n"))]);
    let bytes = safetensors::serialize(views, Some(metadata)).expect("tensors");
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    ModelVersion { bytes, version: hash[..12].to_owned(), classes, word }
}

/// Waits until the metrics have the line.
async fn until_metric(replica: &ReplicaProcess, line: &str) {
    replica.until("/metrics", |_, text| text.lines().any(|found| found == line)).await;
}

async fn until_served(replica: &ReplicaProcess, model: &ModelVersion) {
    until_metric(replica, &format!("replica_model_info{{version=\"{}\"}} 1", model.version)).await;
    until_metric(replica, "replica_model_stale 0").await;
}

/// The resident memory of the replica, in MB (proc_pid_status(5)).
fn resident_mb(replica: &ReplicaProcess) -> u64 {
    let path = format!("/proc/{}/status", replica.child.id().expect("it runs"));
    let status = fs::read_to_string(path).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the resident memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1000
}

fn picture() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/grey.jpg")).expect("the picture")
}

/// Sends requests until `stop` is set, and checks that each answer is that of one whole version. Returns the versions in
/// the order in which they came.
async fn classify_until(replica: Arc<ReplicaProcess>, models: Vec<ModelVersion>, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut versions = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let (status, _, answer) = replica.send(Method::POST, "/predict?top_k=all", &[], picture()).await;
        if status.as_u16() == 503 {
            // The four clients and the checks of this test share the slots.
            continue;
        }
        assert_eq!(status.as_u16(), 200, "{answer}");
        let version = answer["model_version"].as_str().expect("a version").to_owned();
        let model = models.iter().find(|model| model.version == version).expect("a known version");
        let predictions = answer["predictions"].as_array().expect("predictions");
        assert_eq!(predictions.len(), model.classes, "{answer}");
        let is_of_model = |class: &Value| class["label"].as_str().is_some_and(|label| label.starts_with(model.word));
        assert!(predictions.iter().all(is_of_model), "{answer}");
        versions.push(version);
    }
    versions.dedup();
    versions
}

#[tokio::test]
async fn a_changed_file_takes_over_under_load_and_a_bad_one_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let weights: PathBuf = at("model.safetensors");
    let models = [model(12, "one"), model(12, "two"), model(3, "three"), model(7, "four")];
    let [one, two, three, four] = &models;
    // As Kubernetes mounts a volume: the file is a link through a link to a folder.
    for (name, model) in [("..a", one), ("..b", two)] {
        fs::create_dir(at(name)).expect("a folder");
        fs::write(at(name).join("model.safetensors"), &model.bytes).expect("written");
    }
    symlink("..a", at("..data")).and_then(|()| symlink("..data/model.safetensors", &weights)).expect("links");
    let flag = format!("--weights={}", weights.display());
    let replica = ReplicaProcess::start(&[&flag, "--workers=1", "--capacity=6", "--reload-interval=200ms"]).await;
    let (replica, stop) = (Arc::new(replica), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> =
        (0..2).map(|_| tokio::spawn(classify_until(replica.clone(), models.to_vec(), stop.clone()))).collect();
    until_served(&replica, one).await;

    symlink("..b", at("..new")).and_then(|()| fs::rename(at("..new"), at("..data"))).expect("the links are swapped");
    until_served(&replica, two).await;
    let before = resident_mb(&replica);

    // The file is written in place, and grows for longer than an interval.
    for end in [three.bytes.len() / 3, three.bytes.len() / 2, three.bytes.len()] {
        fs::write(at("..b/model.safetensors"), &three.bytes[..end]).expect("written");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until_served(&replica, three).await;
    let (status, _, metadata) = replica.get("/v2/models/resnet18").await;
    assert_eq!((status.as_u16(), &metadata["outputs"][0]["shape"]), (200, &json!([-1, 3])), "{metadata}");

    fs::write(at("next"), &four.bytes).and_then(|()| fs::rename(at("next"), &weights)).expect("renamed");
    until_served(&replica, four).await;

    let (_, metrics) = replica.get_text("/metrics").await;
    let count = |text: &str, outcome: &str| {
        let start = format!("replica_model_reloads_total{{outcome=\"{outcome}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&start)).expect("the counter").parse::<u64>().expect("a number")
    };
    assert_eq!(count(&metrics, "replaced"), 3, "{metrics}");
    let refused = count(&metrics, "refused");
    for (bad, bytes) in [("no tensors", b"nonsense".to_vec()), ("cut short", one.bytes[..one.bytes.len() / 2].to_vec())]
    {
        fs::write(at("next"), bytes).and_then(|()| fs::rename(at("next"), &weights)).expect(bad);
        until_metric(&replica, "replica_model_stale 1").await;
        fs::write(at("next"), &four.bytes).and_then(|()| fs::rename(at("next"), &weights)).expect(bad);
        until_metric(&replica, "replica_model_stale 0").await;
    }
    fs::remove_file(&weights).expect("removed");
    until_metric(&replica, "replica_model_stale 1").await;
    fs::write(&weights, &four.bytes).expect("written");
    until_metric(&replica, "replica_model_stale 0").await;
    let (_, metrics) = replica.get_text("/metrics").await;
    assert_eq!((count(&metrics, "replaced"), count(&metrics, "refused")), (3, refused + 2), "{metrics}");

    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let versions = client.await.expect("every answer was right");
        let expected: Vec<_> = models.iter().map(|model| model.version.clone()).collect();
        assert_eq!(versions, expected, "each version in its turn");
    }
    let after = resident_mb(&replica);
    assert!(after < before + 60, "{before} MB with the second model, {after} MB with the fourth");
}

#[tokio::test]
async fn an_embedding_and_all_classes_are_given_if_asked_for() {
    let replica = ReplicaProcess::start(&["--workers=1", "--capacity=2"]).await;
    let (status, _, plain) = replica.send(Method::POST, "/predict", &[], picture()).await;
    assert_eq!((status.as_u16(), plain.get("embedding"), &plain["model_version"]), (200, None, &json!("bundled")));
    let (status, _, answer) = replica.send(Method::POST, "/predict?top_k=all&embedding=1", &[], picture()).await;
    assert_eq!(status.as_u16(), 200, "{answer}");
    assert_eq!(answer["predictions"].as_array().map(Vec::len), Some(12), "{answer}");
    assert_eq!(answer["prediction"], plain["prediction"], "the embedding changes nothing");
    let embedding: Vec<f64> = serde_json::from_value(answer["embedding"].clone()).expect("numbers");
    assert_eq!(embedding.len(), 512);
    // The embedding comes after a ReLU, and the last layer makes the logits of it.
    assert!(embedding.iter().all(|&number| number >= 0.0) && embedding.iter().any(|&number| number > 0.0));
    for query in ["embedding=yes", "top_k=some"] {
        let (status, _, answer) = replica.send(Method::POST, &format!("/predict?{query}"), &[], picture()).await;
        assert_eq!((status.as_u16(), &answer["code"]), (400, &json!("bad_request")), "{query}: {answer}");
    }
    // The transform makes infinite numbers of the levels, and the network makes NaN of them.
    let flags = ["--workers=1", "--kernel=libtorch", "--mean=1e6,1e6,1e6", "--std=2e-38,2e-38,2e-38"];
    let broken = ReplicaProcess::start(&flags).await;
    let (status, _, answer) = broken.send(Method::POST, "/predict", &[], picture()).await;
    assert!(status.as_u16() == 500 && answer["error"].to_string().contains("not finite numbers"), "{status} {answer}");
    until_metric(&broken, "inference_not_finite_total 1").await;
}
