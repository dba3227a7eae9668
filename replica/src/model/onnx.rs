//! ONNX networks, which ONNX Runtime computes on the CPU in f32. The crate `onnx` reads the file.

use super::description::Description;
use super::factory::Setup;
use super::file::WeightsSource;
use super::{Device, InferenceError, Input, Model, Precision, warm_up};
use crate::transform::TransformValues;
use onnx::{Error, File, Session};
use std::path::Path;
use std::sync::Mutex;

/// The shorter side of a resized image divided by the side of the model's input, as torchvision and timm evaluate most
/// networks: 256 for 224.
const RESIZE: f64 = 256.0 / 224.0;

/// An ONNX file and the name of its network.
pub struct OnnxFile {
    path: String,
    name: String,
    file: File,
    description: Description,
}

/// A network that was tried. Each worker gets a session of its own.
pub(super) struct OnnxNetwork {
    file: File,
    side: usize,
    threads: usize,
    /// The session that was tried, which the first worker takes.
    tried: Mutex<Option<Session>>,
}

/// A network of one worker.
struct OnnxModel(Session);

/// Whether the name of a file is that of an ONNX network.
pub(super) fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
}

impl OnnxFile {
    /// Reads and checks the file `path`. `beside` is what the files in its directory say, which wins over its metadata.
    ///
    /// # Errors
    /// If the file cannot be read, its network is no classifier, its metadata is malformed, or `source` has an
    /// architecture or a key, which only weights need.
    pub(super) fn open(path: &Path, source: &WeightsSource, beside: Description) -> Result<Self, Error> {
        let unusable = |reason: String| Error::Unusable { path: path.display().to_string(), reason };
        if let Some(architecture) = source.architecture {
            let reason = format!("an ONNX network has its own architecture; leave out --architecture {architecture}");
            return Err(unusable(reason));
        }
        if let Some(key) = &source.key {
            return Err(unusable(format!("an ONNX file has one network; leave out --weights-key {key}")));
        }
        let name = path.file_stem().map_or_else(|| "onnx".into(), |stem| stem.to_string_lossy().into_owned());
        let file = File::open(path)?;
        let own = Description::from_metadata(file.metadata(), "metadata of the network")
            .map_err(|error| unusable(format!("malformed metadata: {error}")))?;
        let description = beside.or(own).or(of_side(file.side()));
        Ok(Self { path: path.display().to_string(), name, file, description })
    }

    /// The file's name without its ending.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What the files beside the network, its metadata and the size of its input say.
    pub(super) fn description(&self) -> &Description {
        &self.description
    }

    /// Loads the network and classifies one or two synthetic images with it. Returns the network and the number of
    /// classes.
    ///
    /// # Errors
    /// If ONNX Runtime is missing or cannot compute the network, or the network is no classifier of images of `side` by
    /// `side` pixels, or config.json says another number of classes, or `setup` asks for another device or precision
    /// than the CPU in f32.
    pub(super) fn load(self, side: usize, setup: Setup) -> Result<(OnnxNetwork, usize), Error> {
        let Self { path, file, description, .. } = self;
        let unusable = |reason: String| Error::Unusable { path: path.clone(), reason };
        if matches!(setup.device, Device::Cuda(_)) || setup.precision != Precision::F32 {
            return Err(unusable("ONNX networks run with --device cpu and --precision f32 only".into()));
        }
        if let Some(batch) = file.fixed_batch().filter(|&batch| batch != setup.max_batch) {
            tracing::warn!(
                batch,
                max_batch = setup.max_batch,
                "every pass of this network takes the same number of images, so that larger batches take several passes \
                 and smaller ones the time of a full one; export it with a dynamic batch"
            );
        }
        let mut session = file.session(side, setup.threads)?;
        let tried = session.logits(&warm_up::images(setup.max_batch.min(2), side));
        let rows = tried
            .map_err(|reason| unusable(format!("the network fails on images of {side}x{side} pixels: {reason}")))?;
        if rows.iter().flatten().any(|logit| !logit.is_finite()) {
            return Err(unusable("the network's logits are not finite numbers".into()));
        }
        let classes = rows[0].len();
        description.check(None, classes).map_err(unusable)?;
        Ok((OnnxNetwork { file, side, threads: setup.threads, tried: Mutex::new(Some(session)) }, classes))
    }
}

/// The transform for a network whose input is fixed to images of `side` by `side` pixels.
fn of_side(side: Option<usize>) -> Description {
    let values = side.and_then(|side| {
        let resize = (side as f64 * RESIZE).round() as u32;
        Some(TransformValues {
            crop: Some(u32::try_from(side).ok()?),
            resize: Some(resize),
            ..TransformValues::default()
        })
    });
    let source = "size of the network's input".to_owned();
    Description {
        transform: values.into_iter().map(|values| (source.clone(), values)).collect(),
        ..Description::default()
    }
}

impl OnnxNetwork {
    /// A model for the calling thread.
    ///
    /// # Errors
    /// If the memory does not suffice for another copy of the weights.
    pub(super) fn model(&self) -> Result<Box<dyn Model>, InferenceError> {
        let tried = self.tried.lock().map_or(None, |mut tried| tried.take());
        let session = tried.map_or_else(|| self.file.session(self.side, self.threads), Ok);
        Ok(Box::new(OnnxModel(session.map_err(InferenceError::new)?)))
    }
}

impl Model for OnnxModel {
    fn logits(&mut self, images: &[Input]) -> Result<Vec<Vec<f32>>, InferenceError> {
        self.0.logits(images).map_err(InferenceError::new)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{KernelChoice, ModelFactory, ModelFile, ModelSource};
    use super::*;
    use crate::transform::Transform;
    use std::path::PathBuf;

    const SETUP: Setup =
        Setup { kernel: KernelChoice::Auto, device: Device::Cpu, precision: Precision::F32, threads: 1, max_batch: 3 };

    /// The side of the images of `tests/data/tiny.onnx`, in pixels.
    const SIDE: usize = 16;

    /// torch's logits of [`images`], which `tests/data/make_onnx.py` prints.
    const EXPECTED: [[f32; 4]; 3] = [
        [-0.153668, 0.215394, -0.500957, -0.310803],
        [-0.141236, 0.235291, -0.532300, -0.387414],
        [-0.155435, 0.254474, -0.522792, -0.309868],
    ];

    fn tiny() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny.onnx")
    }

    /// The images of which `tests/data/make_onnx.py` prints the logits.
    fn images() -> Vec<Input> {
        let length = 3 * SIDE * SIDE;
        let number = |index: usize| (index * 31 % 97) as f32 / 48.0 - 1.0;
        (0..3).map(|image| (image * length..(image + 1) * length).map(number).collect()).collect()
    }

    #[test]
    fn every_worker_computes_the_logits_of_torch() {
        for threads in [1, 2] {
            let file = ModelFile::open(&ModelSource::Weights(WeightsSource::file(tiny()))).expect("a classifier");
            let factory = ModelFactory::new(file, SIDE, Setup { threads, ..SETUP }).expect("a classifier");
            assert_eq!((factory.classes(), factory.to_string().as_str()), (4, "ONNX Runtime, Cpu, Float"));
            // The first worker takes the session that was tried, the second one gets another.
            for _worker in 0..2 {
                let rows = factory.model().expect("there is memory").logits(&images()).expect("computed");
                let expected = EXPECTED.map(|row| row.to_vec());
                let difference = super::super::choice::difference(&rows, &expected);
                assert!(difference < 1e-5, "{difference:e}: {rows:?}");
            }
        }
    }

    #[test]
    fn the_side_of_the_network_and_its_metadata_make_the_transform() {
        let file = ModelFile::open(&ModelSource::Weights(WeightsSource::file(tiny()))).expect("a classifier");
        assert_eq!((&*file.name(), file.platform()), ("tiny", "onnx_onnxv1"));
        let description = file.description();
        assert_eq!(description.labels.expect("the metadata names the classes").names, ["ant", "bee", "cat", "dog"]);
        let values: Vec<_> =
            description.transform.iter().map(|(from, values)| (from.as_str(), values.clone())).collect();
        let (transform, _) = Transform::resolve(&values);
        assert_eq!((transform.crop, transform.resize, transform.std), (16, 16, [0.5; 3]));
    }

    #[test]
    fn a_directory_may_have_the_config_of_any_network_with_the_right_number_of_classes() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::copy(tiny(), folder.path().join("Model.ONNX")).expect("copied");
        let open = |classes: usize| {
            let config = format!(
                r#"{{"architectures": ["ViTForImageClassification"], "hidden_act": "gelu", "num_labels": {classes}}}"#
            );
            std::fs::write(folder.path().join("config.json"), config).expect("written");
            let file = ModelFile::open(&ModelSource::Directory(WeightsSource::file(folder.path())));
            ModelFactory::new(file.expect("the file describes an ONNX network"), SIDE, SETUP)
        };
        assert_eq!(open(4).expect("four classes").classes(), 4);
        let refused = open(5).err().expect("the network has four classes").to_string();
        assert!(refused.contains("config.json says 5 classes") && refused.contains("Model.ONNX"), "{refused}");
    }

    #[test]
    fn settings_that_the_network_cannot_have_are_refused_with_a_reason() {
        let cuda = Setup { device: Device::Cuda(0), ..SETUP };
        let bf16 = Setup { precision: Precision::Bf16, ..SETUP };
        let architecture =
            |name: &str| WeightsSource { architecture: name.parse().ok(), ..WeightsSource::file(tiny()) };
        let key = WeightsSource { key: Some("ema".into()), ..WeightsSource::file(tiny()) };
        for (source, side, setup, expected) in [
            (WeightsSource::file(tiny()), 224, SETUP, "16x16 pixels, but the transform makes 224x224"),
            (WeightsSource::file(tiny()), SIDE, cuda, "--device cpu"),
            (WeightsSource::file(tiny()), SIDE, bf16, "--precision f32"),
            (architecture("resnet50"), SIDE, SETUP, "leave out --architecture resnet50"),
            (key, SIDE, SETUP, "leave out --weights-key ema"),
        ] {
            let loaded =
                OnnxFile::open(&source.path, &source, Description::default()).and_then(|file| file.load(side, setup));
            let refused = loaded.err().expect(expected).to_string();
            assert!(refused.contains(expected) && refused.contains("tiny.onnx"), "{refused}");
        }
    }
}
