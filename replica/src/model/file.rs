//! The file that a model comes from: weights, which are data, or TorchScript, which is code.

use super::architecture::Architecture;
use super::torchscript;
use super::weights::{self, Weights};
use std::collections::HashMap;
use std::path::PathBuf;

/// Twelve textured shapes; `models/README.md` says how it was made.
static BUNDLED: &[u8] = include_bytes!("../../models/shapes.safetensors");

/// Where a model comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The one within this program.
    Bundled,
    /// A file of weights, of the given architecture or of the one that its names tell.
    Weights(PathBuf, Option<Architecture>),
    /// A file of code, whose contents have this SHA-256.
    TorchScript(PathBuf, [u8; 32]),
}

/// What was read.
pub enum ModelFile {
    /// Named tensors.
    Weights(Weights, Architecture),
    /// A file whose hash was right.
    TorchScript(torchscript::Verified),
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// As weights.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// As code.
    #[error(transparent)]
    TorchScript(#[from] torchscript::Error),
}

impl ModelFile {
    /// Reads and checks it.
    ///
    /// # Errors
    /// When it cannot be read, or is not what it should be.
    pub fn open(source: &Source) -> Result<Self, Error> {
        let (weights, wanted) = match source {
            Source::Bundled => (Weights::from_safetensors(BUNDLED, "the bundled weights")?, None),
            Source::Weights(path, architecture) => (Weights::open(path)?, *architecture),
            Source::TorchScript(path, sha256) => {
                return Ok(Self::TorchScript(torchscript::Verified::open(path, sha256)?));
            }
        };
        let architecture = wanted.unwrap_or_else(|| Architecture::recognise(weights.names()));
        Ok(Self::Weights(weights, architecture))
    }

    /// What the file says about itself.
    pub fn metadata(&self) -> HashMap<String, String> {
        match self {
            Self::Weights(weights, _) => weights.metadata.clone(),
            Self::TorchScript(_) => HashMap::new(),
        }
    }

    /// Its name in answers.
    pub fn name(&self) -> &str {
        match self {
            Self::Weights(_, architecture) => architecture.name(),
            Self::TorchScript(file) => file.name(),
        }
    }
}
