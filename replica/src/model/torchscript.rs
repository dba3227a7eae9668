//! Classifiers that were scripted or traced with PyTorch. Their files are programs, so a file is loaded only if its
//! SHA-256 is the one that `--sha256` gives.

use super::libtorch::{self, TensorOptions};
use super::{InferenceError, Input, Model, warm_up};
use sha2::{Digest, Sha256};
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use tch::{CModule, no_grad};

/// The contents of a TorchScript file whose SHA-256 is the expected one.
pub struct Verified {
    path: String,
    name: String,
    bytes: Vec<u8>,
}

/// Why a TorchScript file cannot be used. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read TorchScript {path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// The contents have another SHA-256 than the one that `--sha256` gives.
    #[error("{path}: the SHA-256 of this file is {found}, but --sha256 gives {expected}; the file will not be run")]
    Hash {
        /// The file.
        path: String,
        /// The SHA-256 of the contents, hexadecimal.
        found: String,
        /// The SHA-256 that `--sha256` gives, hexadecimal.
        expected: String,
    },
    /// libtorch cannot load or run the program, or the program is no classifier.
    #[error("{path}: {reason}")]
    Unusable {
        /// The file.
        path: String,
        /// Why the program cannot be used.
        reason: String,
    },
}

impl Verified {
    /// Reads the file and compares the SHA-256 of its contents with the expected one.
    ///
    /// # Errors
    /// If the file cannot be read ([`Error::Read`]) or has another SHA-256 ([`Error::Hash`]).
    pub(super) fn open(path: &Path, sha256: &[u8; 32]) -> Result<Self, Error> {
        let name = path.file_stem().map_or_else(|| "torchscript".into(), |stem| stem.to_string_lossy().into_owned());
        let path = path.display().to_string();
        let bytes = std::fs::read(&path).map_err(|error| Error::Read { path: path.clone(), error })?;
        let found: [u8; 32] = Sha256::digest(&bytes).into();
        if found != *sha256 {
            return Err(Error::Hash { path, found: hex(&found), expected: hex(sha256) });
        }
        Ok(Self { path, name, bytes })
    }

    /// The file's name without its ending.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Loads the program and classifies one or two synthetic images with it. Returns the program and the number of
    /// classes.
    ///
    /// # Errors
    /// If libtorch cannot load or run the program, or the program is no classifier ([`Error::Unusable`]).
    pub(super) fn load(
        self,
        options: TensorOptions,
        side: usize,
        max_batch: usize,
    ) -> Result<(Arc<CModule>, usize), Error> {
        let unusable = |reason: String| Error::Unusable { path: self.path.clone(), reason };
        let load = CModule::load_data_on_device(&mut Cursor::new(&self.bytes), options.device);
        let mut module =
            load.map_err(|error| unusable(format!("not TorchScript: {}", InferenceError::from(error).0)))?;
        module.set_eval();
        module.to(options.device, options.kind, false);
        let module = Arc::new(module);
        let mut model = TorchScriptModel::new(module.clone(), options, side);
        let tried = model.logits(&warm_up::images(max_batch.min(2), side));
        let rows = tried
            .map_err(|error| unusable(format!("the program fails on images of {side}x{side} pixels: {}", error.0)))?;
        let classes = rows[0].len();
        if rows.iter().flatten().any(|logit| !logit.is_finite()) {
            return Err(unusable("the program's logits are not finite numbers".into()));
        }
        Ok((module, classes))
    }
}

/// A model that runs a loaded program. All models of a factory share the program.
pub(super) struct TorchScriptModel {
    module: Arc<CModule>,
    options: TensorOptions,
    side: usize,
}

impl TorchScriptModel {
    pub(super) fn new(module: Arc<CModule>, options: TensorOptions, side: usize) -> Self {
        Self { module, options, side }
    }
}

impl Model for TorchScriptModel {
    fn logits(&mut self, images: &[Input]) -> Result<Vec<Vec<f32>>, InferenceError> {
        no_grad(|| {
            let input = libtorch::input(images, self.side, self.options.device, self.options.kind)?;
            let logits = self.module.forward_ts(&[input])?;
            match logits.size()[..] {
                [count, classes] if count == images.len() as i64 && classes > 0 => {
                    libtorch::rows(&logits, images.len())
                }
                ref other => {
                    let expected = format!("[{}, classes]", images.len());
                    Err(InferenceError::new(format!(
                        "the output of a classifier has shape {expected}, but that of this program has shape {other:?}"
                    )))
                }
            }
        })
    }
}

/// Hexadecimal digits of `bytes`.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    /// Saves a traced program that applies `answer` to images of 8 by 8 pixels. Returns the folder, the path and the
    /// SHA-256 of the file.
    fn saved(name: &str, answer: fn(&Tensor) -> Tensor) -> (tempfile::TempDir, std::path::PathBuf, [u8; 32]) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        let input = Tensor::zeros([2, 3, 8, 8], (Kind::Float, Device::Cpu));
        let mut trace = |inputs: &[Tensor]| vec![answer(&inputs[0])];
        let module = CModule::create_by_tracing("Probe", "forward", &[input], &mut trace).expect("traced");
        module.save(&path).expect("saved");
        let hash = Sha256::digest(std::fs::read(&path).expect("just written")).into();
        (folder, path, hash)
    }

    #[test]
    fn a_program_with_the_right_hash_classifies() {
        let (_folder, path, hash) = saved("means.pt", |x| x.mean_dim(&[2_i64, 3][..], false, Kind::Float));
        let file = Verified::open(&path, &hash).expect("the right hash");
        assert_eq!(file.name(), "means");
        let (module, classes) = file.load(TensorOptions::CPU_F32, 8, 2).expect("a classifier");
        assert_eq!(classes, 3);
        // In every pixel red is 1, green is 2 and blue is 3.
        let image: Vec<f32> = [1.0, 2.0, 3.0].repeat(64);
        let rows =
            TorchScriptModel::new(module, TensorOptions::CPU_F32, 8).logits(&[image.clone(), image]).expect("run");
        assert_eq!(rows, [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]);
    }

    #[test]
    fn a_file_with_another_hash_is_never_run() {
        let (_folder, path, mut hash) = saved("means.pt", |x| x.mean_dim(&[2_i64, 3][..], false, Kind::Float));
        hash[0] ^= 1;
        let refused = Verified::open(&path, &hash).err().expect("refused").to_string();
        assert!(refused.contains("will not be run") && refused.contains(&hex(&hash)), "{refused}");
        let missing = Verified::open(Path::new("no/such.pt"), &hash).err().expect("missing").to_string();
        assert!(missing.contains("no/such.pt"), "{missing}");
    }

    #[test]
    fn a_program_that_is_no_classifier_is_refused_with_a_reason() {
        let load = |path: &Path| {
            let hash = Sha256::digest(std::fs::read(path).expect("just written")).into();
            Verified::open(path, &hash)
                .expect("the right hash")
                .load(TensorOptions::CPU_F32, 8, 2)
                .expect_err("refused")
                .to_string()
        };
        let (_folder, path, _) = saved("same.pt", |x| x * 1.0);
        assert!(load(&path).contains("[2, classes]"), "{}", load(&path));
        let (_folder, path, _) = saved("nan.pt", |x| x.mean_dim(&[2_i64, 3][..], false, Kind::Float) / 0.0 * 0.0);
        assert!(load(&path).contains("finite"), "{}", load(&path));
        std::fs::write(&path, "not a program").expect("written");
        assert!(load(&path).contains("not TorchScript"), "{}", load(&path));
    }
}
