//! The file that a model is read from: weights or an ONNX network, which are data, or TorchScript, which is a program.

use super::architecture::Architecture;
use super::description::Description;
use super::directory::ModelDirectory;
#[cfg(feature = "onnx")]
use super::onnx::{self, OnnxFile};
use super::quantised::{QuantisedError, QuantisedFile};
use super::torchscript;
use super::weights::{self, Weights};
use std::path::{Path, PathBuf};

/// The bundled weights, a classifier of twelve textured shapes; see `models/README.md`.
static BUNDLED: &[u8] = include_bytes!("../../models/shapes.safetensors");

/// Where a model comes from.
#[derive(Debug, Clone)]
pub enum ModelSource {
    /// The weights that this program contains.
    Bundled,
    /// A file of weights, or of an ONNX network if its name ends with `.onnx`.
    Weights(WeightsSource),
    /// A directory with such a file, and perhaps `config.json`, `preprocessor_config.json` and `labels.txt`.
    Directory(WeightsSource),
    /// A file of TorchScript, and the SHA-256 that its contents must have.
    TorchScript(PathBuf, [u8; 32]),
}

impl ModelSource {
    /// The files and folders of the model.
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Bundled => Vec::new(),
            Self::Weights(source) | Self::Directory(source) => vec![&source.path],
            Self::TorchScript(path, _) => vec![path],
        }
    }

    /// Whether the files are data, and not a program, which is never loaded again.
    pub fn is_data(&self) -> bool {
        !matches!(self, Self::TorchScript(..))
    }
}

/// A file or directory with weights.
#[derive(Debug, Clone)]
pub struct WeightsSource {
    /// The file or directory.
    pub path: PathBuf,
    /// The place of the weights in a file with several networks.
    pub key: Option<String>,
    /// The network. If it is `None`, the tensors tell it.
    pub architecture: Option<Architecture>,
}

impl WeightsSource {
    /// A file with one network, which the tensors tell.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), key: None, architecture: None }
    }
}

/// The contents of a model's file.
pub enum ModelFile {
    /// Named tensors, and the architecture that they belong to.
    Weights(Weights, Architecture),
    /// A TorchScript program whose SHA-256 is the expected one.
    TorchScript(torchscript::Verified),
    /// An ONNX network.
    #[cfg(feature = "onnx")]
    Onnx(OnnxFile),
    /// A network in 8-bit integers.
    Quantised(Box<QuantisedFile>),
}

/// Why a model's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The weights cannot be read.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// The file of a network in 8-bit integers is malformed.
    #[error(transparent)]
    Quantised(#[from] QuantisedError),
    /// The TorchScript file cannot be read, or its SHA-256 is not the expected one.
    #[error(transparent)]
    TorchScript(#[from] torchscript::Error),
    /// The ONNX file cannot be read, or its network is no classifier.
    #[cfg(feature = "onnx")]
    #[error(transparent)]
    Onnx(#[from] ::onnx::Error),
}

impl ModelFile {
    /// Reads and checks the file of `source`.
    ///
    /// # Errors
    /// If the file cannot be read, is malformed, or has another SHA-256 than the given one.
    pub fn open(source: &ModelSource) -> Result<Self, Error> {
        let source = match source {
            ModelSource::Bundled => {
                let weights = Weights::from_safetensors(&[BUNDLED], "the bundled weights", None)?;
                return Ok(Self::of_weights(weights, None)?);
            }
            ModelSource::TorchScript(path, sha256) => {
                return Ok(Self::TorchScript(torchscript::Verified::open(path, sha256)?));
            }
            ModelSource::Directory(source) => {
                let ModelDirectory { weights, description } = ModelDirectory::open(&source.path)?;
                #[cfg(feature = "onnx")]
                if let [network] = weights.as_slice()
                    && onnx::is_onnx(network)
                {
                    return Ok(Self::Onnx(OnnxFile::open(network, source, description)?));
                }
                if let Some(file) = quantised(&weights, source, &description)? {
                    return Ok(Self::Quantised(Box::new(file)));
                }
                let mut weights = Weights::open(&weights, source.key.as_deref())?;
                // The files of the directory are easier to change than the metadata of the weights, so they win.
                *weights.description = description.or(*weights.description);
                return Ok(Self::of_weights(weights, source.architecture)?);
            }
            #[cfg(feature = "onnx")]
            ModelSource::Weights(source) if onnx::is_onnx(&source.path) => {
                return Ok(Self::Onnx(OnnxFile::open(&source.path, source, Description::default())?));
            }
            ModelSource::Weights(source) => source,
        };
        let paths = std::slice::from_ref(&source.path);
        if let Some(file) = quantised(paths, source, &Description::default())? {
            return Ok(Self::Quantised(Box::new(file)));
        }
        let weights = Weights::open(paths, source.key.as_deref())?;
        Ok(Self::of_weights(weights, source.architecture)?)
    }

    /// The model of `weights`, which must have the network and the classes that their description says. If
    /// `architecture` is `None`, the tensors tell it.
    fn of_weights(weights: Weights, architecture: Option<Architecture>) -> Result<Self, weights::Error> {
        let architecture = architecture.map_or_else(|| Architecture::recognise(&weights), Ok)?;
        weights.check_description(architecture)?;
        let stride = weights.description.stride.unwrap_or(architecture.stride);
        Ok(Self::Weights(weights, Architecture { stride, ..architecture }))
    }

    /// Checks that a network in 8-bit integers agrees with f32 for at least the share `min_agreement` (0 to 1) of the
    /// pictures of its calibration, and that this machine computes the same logits as the machine that wrote the file.
    /// Other files are not checked.
    ///
    /// # Errors
    /// If the network agrees for fewer pictures, or the logits differ.
    pub fn verify(&self, min_agreement: f64) -> Result<(), Error> {
        match self {
            Self::Quantised(file) => Ok(file.verify(min_agreement)?),
            _ => Ok(()),
        }
    }

    /// What the files of the model say about it; nothing for TorchScript.
    pub fn description(&self) -> Description {
        match self {
            Self::Weights(weights, _) => (*weights.description).clone(),
            Self::Quantised(file) => file.description.clone(),
            Self::TorchScript(_) => Description::default(),
            #[cfg(feature = "onnx")]
            Self::Onnx(file) => file.description().clone(),
        }
    }

    /// The name of the engine's kind in the metadata of the Open Inference Protocol.
    pub fn platform(&self) -> &'static str {
        match self {
            Self::Weights(..) | Self::Quantised(_) | Self::TorchScript(_) => "pytorch_libtorch",
            #[cfg(feature = "onnx")]
            Self::Onnx(_) => "onnx_onnxv1",
        }
    }

    /// The name of the model in answers: that of the architecture, or that of the TorchScript or ONNX file without its
    /// ending.
    pub fn name(&self) -> String {
        match self {
            Self::Weights(_, architecture) => architecture.name(),
            Self::TorchScript(file) => file.name().to_owned(),
            Self::Quantised(file) => file.architecture.clone(),
            #[cfg(feature = "onnx")]
            Self::Onnx(file) => file.name().to_owned(),
        }
    }
}

/// The network in 8-bit integers that the only one of `paths` has; `None` if it is another file, or there are several.
/// `beside` is what the files in its directory say, which wins over its metadata.
///
/// # Errors
/// If the file is malformed, `source` has a key or another architecture, or `beside` describes another network.
fn quantised(paths: &[PathBuf], source: &WeightsSource, beside: &Description) -> Result<Option<QuantisedFile>, Error> {
    let [path] = paths else { return Ok(None) };
    let Some(mut file) = QuantisedFile::open(path)? else { return Ok(None) };
    let contradiction = match (&source.key, source.architecture.map(Architecture::name)) {
        (Some(key), _) => Err(format!("a file of 8-bit weights has one network; leave out --weights-key {key}")),
        (None, Some(name)) if name != file.architecture => Err(format!(
            "the 8-bit weights are those of a {}; leave out --architecture {name}, or take other weights",
            file.architecture
        )),
        (None, _) => beside.check(Some(&file.architecture), file.classes()),
    };
    contradiction.map_err(|reason| weights::Error::Malformed { path: path.display().to_string(), reason })?;
    file.description = beside.clone().or(file.description);
    Ok(Some(file))
}
