//! Classifiers that were scripted or traced with PyTorch. Such a file is a program, so it is loaded only if its SHA-256
//! is the one that the operator gave.

use super::libtorch::{self, Placement};
use super::{Failure, Input, Model, warm_up};
use sha2::{Digest, Sha256};
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use tch::{CModule, no_grad};

/// The contents of a file whose hash was the expected one.
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
    /// The contents have another hash than the one given.
    #[error("{path}: its SHA-256 is {found}, not {expected}; it will not be run")]
    Hash {
        /// The file.
        path: String,
        /// SHA-256 of the contents, hexadecimal.
        found: String,
        /// SHA-256 of the flag, hexadecimal.
        expected: String,
    },
    /// libtorch cannot load or run the program, or it is no classifier.
    #[error("{path}: {reason}")]
    Unusable {
        /// The file.
        path: String,
        /// The reason, for people.
        reason: String,
    },
}

impl Verified {
    /// Reads `path` and compares its contents with the expected hash.
    ///
    /// # Errors
    /// [`Error::Read`] and [`Error::Hash`].
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
    /// [`Error::Unusable`].
    pub(super) fn load(
        self,
        placement: Placement,
        side: usize,
        max_batch: usize,
    ) -> Result<(Arc<CModule>, usize), Error> {
        let unusable = |reason: String| Error::Unusable { path: self.path.clone(), reason };
        let load = CModule::load_data_on_device(&mut Cursor::new(&self.bytes), placement.device);
        let mut module = load.map_err(|error| unusable(format!("not TorchScript: {}", Failure::from(error))))?;
        module.set_eval();
        module.to(placement.device, placement.kind, false);
        let module = Arc::new(module);
        let mut model = TorchScriptModel::new(module.clone(), placement, side);
        let tried = model.logits(&warm_up::images(max_batch.min(2), side));
        let rows = tried.map_err(|failure| unusable(format!("with images of {side}x{side} pixels: {failure}")))?;
        let classes = rows[0].len();
        if rows.iter().flatten().any(|logit| !logit.is_finite()) {
            return Err(unusable("its answers are not finite numbers".into()));
        }
        Ok((module, classes))
    }
}

/// A loaded program. All models of a factory share it.
pub(super) struct TorchScriptModel {
    module: Arc<CModule>,
    placement: Placement,
    side: usize,
}

impl TorchScriptModel {
    pub(super) fn new(module: Arc<CModule>, placement: Placement, side: usize) -> Self {
        Self { module, placement, side }
    }
}

impl Model for TorchScriptModel {
    fn logits(&mut self, images: &[Input]) -> Result<Vec<Vec<f32>>, Failure> {
        no_grad(|| {
            let input = libtorch::input(images, self.side, self.placement.device, self.placement.kind)?;
            let logits = self.module.forward_ts(&[input])?;
            match logits.size()[..] {
                [count, classes] if count == images.len() as i64 && classes > 0 => {
                    libtorch::rows(&logits, images.len())
                }
                ref other => {
                    let expected = format!("[{}, classes]", images.len());
                    Err(Failure::new(format!("a classifier's output is {expected}; this program's is {other:?}")))
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

    /// Saves a traced program that computes `answer` of images of 8 by 8 pixels. Returns its folder, path and hash.
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
        let (module, classes) = file.load(Placement::CPU_F32, 8, 2).expect("a classifier");
        assert_eq!(classes, 3);
        // In every pixel red is 1, green is 2 and blue is 3.
        let image: Vec<f32> = [1.0, 2.0, 3.0].repeat(64);
        let rows = TorchScriptModel::new(module, Placement::CPU_F32, 8).logits(&[image.clone(), image]).expect("run");
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
                .load(Placement::CPU_F32, 8, 2)
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
