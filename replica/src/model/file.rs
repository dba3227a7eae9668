//! The file that a model is read from: weights, which are data, or TorchScript, which is a program.

use super::architecture::Architecture;
use super::torchscript;
use super::weights::{self, Weights};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

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

impl ModelSource {
    /// The files and folders of the model.
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Bundled => Vec::new(),
            Self::Weights(path, _) | Self::TorchScript(path, _) => vec![path],
        }
    }

    /// Whether the files are data, and not a program, which is never loaded again.
    pub fn is_data(&self) -> bool {
        !matches!(self, Self::TorchScript(..))
    }
}

/// The contents of a model's file.
pub enum ModelFile {
    /// Named tensors, and the architecture that they belong to.
    Weights(Weights, Architecture),
    /// A TorchScript program whose SHA-256 is the expected one.
    TorchScript(torchscript::Verified),
}

/// Why a model's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The weights cannot be read.
    #[error(transparent)]
    Weights(#[from] weights::Error),
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
            ModelSource::Weights(path, architecture) => (Weights::open(path)?, *architecture),
            ModelSource::TorchScript(path, sha256) => {
                return Ok(Self::TorchScript(torchscript::Verified::open(path, sha256)?));
            }
        };
        let architecture = architecture.unwrap_or_else(|| Architecture::recognise(weights.names()));
        Ok(Self::Weights(weights, architecture))
    }

    /// The metadata in the file; empty for TorchScript.
    pub fn metadata(&self) -> HashMap<String, String> {
        match self {
            Self::Weights(weights, _) => weights.metadata.clone(),
            Self::TorchScript(_) => HashMap::new(),
        }
    }

    /// The name of the model in answers: that of the architecture, or that of the TorchScript file without its ending.
    pub fn name(&self) -> &str {
        match self {
            Self::Weights(_, architecture) => architecture.name(),
            Self::TorchScript(file) => file.name(),
        }
    }
}
