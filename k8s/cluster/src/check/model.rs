//! The check of the components that bring a model: a ResNet-50 with random weights, made here, answers a request, whether
//! it comes from a volume, from an image, or from a URL.

use super::Fixture;
use crate::node::serves_image_volumes;
use crate::paths;
use anyhow::{Context, Result, ensure};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use service::respond;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// The labels of the model's classes.
const LABELS: [&str; 3] = ["signal box", "turntable", "water tower"];

/// The prefix of the labels in a ConfigMap of the operator. They win over those of the model's directory.
const OWN_PREFIX: &str = "my ";

/// An image of one white pixel.
const GIF: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

/// Time in which a request must be answered. A ResNet-50 takes a tenth of a second on a whole core.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The ways by which the model comes to the replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A PersistentVolumeClaim.
    Claim,
    /// An image that an init container copies.
    ImageCopy,
    /// An image that is a volume.
    Image,
    /// A URL.
    Url,
}

impl Way {
    /// The folder of the component, relative to k8s/components/model.
    fn folder(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::ImageCopy => "image-copy",
            Self::Image => "image",
            Self::Url => "url",
        }
    }
}

/// Tries each way that the API server has. Then applies the manifests without a model again.
pub(super) async fn check(fixture: &Fixture) -> Result<String> {
    let directory = fixture.cluster.folder.join("resnet-50");
    write_model(&directory)?;
    let server = ModelServer::start(fixture, &directory).await?;
    let images = fixture.cluster.local()?.node.images();
    images.extend("model", "replica", &directory, "/model").context("make the image of the model")?;
    let mut ways = vec![Way::Claim, Way::ImageCopy, Way::Url];
    if serves_image_volumes(&fixture.cluster.client).await? {
        ways.push(Way::Image);
    }
    let figures = try_ways(fixture, &ways, &directory, &server).await;
    // Also after a failure, which would otherwise make the next checks fail.
    let kubectl = &fixture.cluster.kubectl;
    kubectl.run(&["delete", "configmap", "roundhouse-model", "--ignore-not-found"]).await?;
    fixture.apply("without-model", &fixture.manifests).await?;
    figures
}

async fn try_ways(fixture: &Fixture, ways: &[Way], directory: &Path, server: &ModelServer) -> Result<String> {
    apply_claim(fixture, directory).await?;
    let mut figures = Vec::new();
    for way in ways {
        let labels: Vec<_> = match way {
            // The labels of the directory.
            Way::Claim => LABELS.map(str::to_owned).into(),
            _ => LABELS.map(|label| format!("{OWN_PREFIX}{label}")).into(),
        };
        if *way != Way::Claim {
            apply_settings(fixture, &labels, server).await?;
        }
        let start = Instant::now();
        let mut manifests = fixture.manifests.clone();
        manifests.components.push(paths::root().join("k8s/components/model").join(way.folder()));
        let applied = fixture.apply(&format!("model-{}", way.folder()), &manifests).await;
        applied.with_context(|| format!("serve the model by k8s/components/model/{}", way.folder()))?;
        let seconds = start.elapsed().as_secs();
        let answer = post(fixture.route.url.clone()).await?;
        let (model, label) = (&answer["model"], answer["prediction"]["label"].as_str().unwrap_or_default());
        ensure!(*model == "resnet50", "the model of the answer must be resnet50, not {model}");
        ensure!(
            labels.iter().any(|known| known == label),
            "the answer has the label {label:?}, which is none of {labels:?}"
        );
        figures.push(format!("{}: {seconds} s", way.folder()));
    }
    Ok(format!("a ResNet-50 answers; from `kubectl apply` to all pods ready: {}", figures.join(", ")))
}

/// Creates the volume with the model, and the claim on it.
async fn apply_claim(fixture: &Fixture, directory: &Path) -> Result<()> {
    let modes = json!(["ReadOnlyMany"]);
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "roundhouse-model"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": modes, "hostPath": {"path": directory},
            "storageClassName": "", "claimRef": {"name": "model", "namespace": fixture.cluster.kubectl.namespace()}}});
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "model"},
        "spec": {"accessModes": modes, "storageClassName": "", "volumeName": "roundhouse-model",
            "resources": {"requests": {"storage": "1Gi"}}}});
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [volume, claim]});
    fixture.cluster.kubectl.run_with_input(&["apply", "-f", "-"], &list.to_string()).await.map(drop)
}

/// Creates the ConfigMaps of the operator with labels and the URL of the model.
async fn apply_settings(fixture: &Fixture, labels: &[String], server: &ModelServer) -> Result<()> {
    let settings = json!({"ROUNDHOUSE_FETCH": server.source, "ROUNDHOUSE_LABELS": "/model-files/labels.txt"});
    let files = json!({"labels.txt": labels.join("\n")});
    for (name, data) in [("roundhouse-model", settings), ("roundhouse-model-files", files)] {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
        fixture.cluster.kubectl.run_with_input(&["apply", "-f", "-"], &object.to_string()).await?;
    }
    Ok(())
}

/// Posts an image to `url`. Returns the answer.
async fn post(url: String) -> Result<Value> {
    let send = move || -> Result<Value> {
        let agent = ureq::Agent::from(ureq::Agent::config_builder().timeout_global(Some(ANSWER_TIMEOUT)).build());
        let answer = agent.post(&url).header("Content-Type", "image/gif").send(GIF);
        let text = answer.with_context(|| format!("post an image to {url}"))?.into_body().read_to_string()?;
        serde_json::from_str(&text).with_context(|| format!("parse the answer {text}"))
    };
    tokio::task::spawn_blocking(send).await.context("post an image")?
}

/// A server on the node that has the model as an archive. It ends when this value is dropped.
struct ModelServer {
    /// The URL of the archive, with its SHA-256 sum.
    source: String,
    task: AbortHandle,
}

impl ModelServer {
    async fn start(fixture: &Fixture, directory: &Path) -> Result<Self> {
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_dir_all("resnet-50", directory).context("make an archive of the model")?;
        let archive = hyper::body::Bytes::from(archive.into_inner().context("make an archive of the model")?);
        let mut sum = String::new();
        for byte in Sha256::digest(&archive) {
            write!(sum, "{byte:02x}").expect("writing to a String never fails");
        }
        let node = fixture.cluster.local()?.node.network().families.primary.node_address();
        let listener =
            TcpListener::bind(SocketAddr::from((node, 0))).await.context("listen for requests of the model")?;
        let source = format!("http://{}/resnet-50.tar#sha256={sum}", listener.local_addr()?);
        let answer = move |_: Request<Incoming>| {
            std::future::ready(respond::bytes(StatusCode::OK, "application/x-tar", archive.clone()))
        };
        let serve = service::server::serve(listener, None, answer, std::future::pending(), Duration::ZERO);
        Ok(Self { source, task: tokio::spawn(serve).abort_handle() })
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Writes a ResNet-50 with random weights, and the names of its classes, as transformers write them.
fn write_model(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let shapes = resnet50(LABELS.len());
    let mut random = StdRng::seed_from_u64(50);
    let data: Vec<Vec<u8>> = shapes.iter().map(|(name, shape)| random_tensor(name, shape, &mut random)).collect();
    let tensors: Vec<_> = shapes
        .iter()
        .zip(&data)
        .map(|((name, shape), data)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), data)?)))
        .collect::<Result<_>>()?;
    let file = directory.join("model.safetensors");
    serialize_to_file(tensors, None, &file).with_context(|| format!("write {}", file.display()))?;
    // safetensors writes files that only their owner may read, and replicas run as another user.
    fs::set_permissions(&file, Permissions::from_mode(0o644)).context("let all users read the weights")?;
    let labels: PathBuf = directory.join("labels.txt");
    fs::write(&labels, LABELS.join("\n")).with_context(|| format!("write {}", labels.display()))
}

/// The f32 values of a tensor as bytes. Weights of convolutions have the deviation of He's initialisation, so that
/// activations neither vanish nor overflow; scales and variances are 1, shifts and means 0.
fn random_tensor(name: &str, shape: &[usize], random: &mut StdRng) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let inputs: usize = shape.iter().skip(1).product();
    // A uniform distribution in ±bound has the deviation bound / √3.
    let bound = (6.0 / inputs as f32).sqrt();
    let values = (0..count).map(|_| match shape.len() {
        1 if name.ends_with(".weight") || name.ends_with("running_var") => 1.0,
        1 => 0.0,
        _ => random.random_range(-bound..bound),
    });
    values.flat_map(f32::to_le_bytes).collect()
}

/// The names and shapes of the tensors of torchvision's ResNet-50 with this number of classes.
fn resnet50(classes: usize) -> Vec<(String, Vec<usize>)> {
    let mut tensors = Vec::new();
    let mut convolution = |name: &str, norm: &str, shape: [usize; 4]| {
        tensors.push((format!("{name}.weight"), shape.to_vec()));
        for part in ["weight", "bias", "running_mean", "running_var"] {
            tensors.push((format!("{norm}.{part}"), vec![shape[0]]));
        }
    };
    convolution("conv1", "bn1", [64, 3, 7, 7]);
    let mut inputs = 64;
    for (stage, blocks) in [3, 4, 6, 3].into_iter().enumerate() {
        let width = 64 << stage;
        let outputs = 4 * width;
        for block in 0..blocks {
            let place = format!("layer{}.{block}", stage + 1);
            let mut layer = |number: u8, shape| {
                convolution(&format!("{place}.conv{number}"), &format!("{place}.bn{number}"), shape);
            };
            layer(1, [width, inputs, 1, 1]);
            layer(2, [width, width, 3, 3]);
            layer(3, [outputs, width, 1, 1]);
            if block == 0 {
                let shortcut = format!("{place}.downsample");
                convolution(&format!("{shortcut}.0"), &format!("{shortcut}.1"), [outputs, inputs, 1, 1]);
            }
            inputs = outputs;
        }
    }
    tensors.push(("fc.weight".into(), vec![classes, inputs]));
    tensors.push(("fc.bias".into(), vec![classes]));
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resnet_50_has_25_557_032_parameters() {
        let tensors = resnet50(1000);
        let is_parameter = |name: &str| !name.contains("running_");
        let count: usize = tensors
            .iter()
            .filter(|(name, _)| is_parameter(name))
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        // The number in torchvision's documentation.
        assert_eq!(count, 25_557_032);
    }
}
