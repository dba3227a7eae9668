//! The file that a model is read from: weights, which are data, or TorchScript, which is a program.

use super::architecture::Architecture;
use super::quantised::{QuantisedError, QuantisedFile};
use super::torchscript;
use super::weights::{self, Weights};
use std::collections::HashMap;
use std::path::PathBuf;

/// The bundled weights, a classifier of twelve textured shapes; see `models/README.md`.
static BUNDLED: &[u8] = include_bytes!("../../models/shapes.safetensors");

/// Where a model comes from.
#[derive(Debug, Clone)]
pub enum ModelSource {
    /// The weights that this program contains.
    Bundled,
    /// A file of weights, and its architecture. If the architecture is `None`, the names of the tensors tell it.
    Weights(PathBuf, Option<Architecture>),
    /// A file of TorchScript, and the SHA-256 that its contents must have.
    TorchScript(PathBuf, [u8; 32]),
}

/// The contents of a model's file.
pub enum ModelFile {
    /// Named tensors, and the architecture that they belong to.
    Weights(Weights, Architecture),
    /// A TorchScript program whose SHA-256 is the expected one.
    TorchScript(torchscript::Verified),
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
}

impl ModelFile {
    /// Reads and checks the file of `source`.
    ///
    /// # Errors
    /// If the file cannot be read, is malformed, or has another SHA-256 than the given one.
    pub fn open(source: &ModelSource) -> Result<Self, Error> {
        let (weights, architecture) = match source {
            ModelSource::Bundled => (Weights::from_safetensors(BUNDLED, "the bundled weights")?, None),
            ModelSource::Weights(path, architecture) => match QuantisedFile::open(path)? {
                Some(quantised) => return Ok(Self::Quantised(Box::new(quantised))),
                None => (Weights::open(path)?, *architecture),
            },
            ModelSource::TorchScript(path, sha256) => {
                return Ok(Self::TorchScript(torchscript::Verified::open(path, sha256)?));
            }
        };
        let architecture = architecture.unwrap_or_else(|| Architecture::recognise(weights.names()));
        Ok(Self::Weights(weights, architecture))
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
            Self::Weights(..) | Self::TorchScript(_) => Ok(()),
        }
    }

    /// The metadata in the file; empty for TorchScript.
    pub fn metadata(&self) -> HashMap<String, String> {
        match self {
            Self::Weights(weights, _) => weights.metadata.clone(),
            Self::TorchScript(_) => HashMap::new(),
            Self::Quantised(file) => file.metadata.clone(),
        }
    }

    /// The name of the model in answers: that of the architecture, or that of the TorchScript file without its ending.
    pub fn name(&self) -> &str {
        match self {
            Self::Weights(_, architecture) => architecture.name(),
            Self::TorchScript(file) => file.name(),
            Self::Quantised(file) => &file.architecture,
        }
    }
}
