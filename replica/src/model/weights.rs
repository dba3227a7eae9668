//! Named tensors from a file: `.safetensors`, or a `.pth` as `torch.save(model.state_dict())` writes it.
//! Both are data and are parsed as such: nothing in a file is ever executed.

use super::pth;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::Path;
use tch::{Kind, Tensor};

/// A model's tensors by their torchvision names, and what the file says about itself.
pub struct Weights {
    /// Where they came from, for messages.
    source: String,
    tensors: HashMap<String, Tensor>,
    /// Class names in order, when the file's metadata holds them (`labels`, one a line).
    pub labels: Option<Vec<String>>,
}

/// Why a file cannot be used. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read weights {path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// The system's words.
        error: std::io::Error,
    },
    /// The file is neither of the formats.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that the architecture needs is not there.
    #[error("{path}: tensor {name} is missing; is this a {architecture}?")]
    Missing {
        /// The file.
        path: String,
        /// The tensor's name.
        name: String,
        /// The model that was being built.
        architecture: &'static str,
    },
    /// A tensor has another shape than the architecture's.
    #[error("{path}: tensor {name} has shape {found:?}, {architecture} needs {needed:?}")]
    Shape {
        /// The file.
        path: String,
        /// The tensor's name.
        name: String,
        /// Its shape in the file.
        found: Vec<i64>,
        /// The shape that fits; -1 is any size.
        needed: Vec<i64>,
        /// The model that was being built.
        architecture: &'static str,
    },
}

impl Weights {
    /// Reads a file, by its name's ending.
    ///
    /// # Errors
    /// [`Error::Read`] and [`Error::Malformed`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let source = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| Error::Read { path: source.clone(), error })?;
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("safetensors") => Self::from_safetensors(&bytes, &source),
            Some("pth" | "pt") => Self::from_pth(&bytes, &source),
            _ => Err(Error::Malformed { path: source, reason: "weights end in .safetensors, .pth or .pt".into() }),
        }
    }

    /// Reads the safetensors format; `source` names it in messages.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn from_safetensors(bytes: &[u8], source: &str) -> Result<Self, Error> {
        let malformed = |reason: String| Error::Malformed { path: source.into(), reason };
        let (_, header) =
            SafeTensors::read_metadata(bytes).map_err(|error| malformed(format!("not a safetensors file: {error}")))?;
        let labels = header
            .metadata()
            .as_ref()
            .and_then(|metadata| metadata.get("labels"))
            .map(|labels| labels.lines().map(str::to_owned).collect());
        let file = SafeTensors::deserialize(bytes).map_err(|error| malformed(error.to_string()))?;
        let mut tensors = HashMap::new();
        for (name, view) in file.iter() {
            let kind = match view.dtype() {
                Dtype::F32 => Kind::Float,
                Dtype::F16 => Kind::Half,
                Dtype::BF16 => Kind::BFloat16,
                // `num_batches_tracked` counts training steps: not needed to classify.
                _ => continue,
            };
            let shape: Vec<i64> = view.shape().iter().map(|&side| side as i64).collect();
            let tensor = tensor(view.data(), &shape, kind).map_err(|error| malformed(format!("{name}: {error}")))?;
            tensors.insert(name.to_owned(), tensor);
        }
        Ok(Self { source: source.into(), tensors, labels })
    }

    /// Reads the zip file that `torch.save` writes of a state dict; `source` names it in messages.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn from_pth(bytes: &[u8], source: &str) -> Result<Self, Error> {
        let malformed = |reason: String| Error::Malformed { path: source.into(), reason };
        let mut tensors = HashMap::new();
        for (name, stored) in pth::read(bytes).map_err(|error| malformed(error.to_string()))? {
            let kind = match stored.element {
                pth::Element::F32 => Kind::Float,
                pth::Element::F16 => Kind::Half,
                pth::Element::Bf16 => Kind::BFloat16,
                pth::Element::Other => continue,
            };
            let tensor =
                tensor(&stored.data, &stored.shape, kind).map_err(|error| malformed(format!("{name}: {error}")))?;
            tensors.insert(name, tensor);
        }
        Ok(Self { source: source.into(), tensors, labels: None })
    }

    /// The tensor `name` as `f32`, of the given shape; -1 stands for any size.
    ///
    /// # Errors
    /// [`Error::Missing`] and [`Error::Shape`].
    pub fn get(&self, architecture: &'static str, name: &str, needed: &[i64]) -> Result<Tensor, Error> {
        let (path, name) = (self.source.clone(), name.to_owned());
        let Some(tensor) = self.tensors.get(&name) else {
            return Err(Error::Missing { path, name, architecture });
        };
        let found = tensor.size();
        let fits = found.len() == needed.len() && found.iter().zip(needed).all(|(f, n)| *n == -1 || f == n);
        if !fits {
            return Err(Error::Shape { path, name, found, needed: needed.to_vec(), architecture });
        }
        Ok(tensor.shallow_clone())
    }
}

fn tensor(data: &[u8], shape: &[i64], kind: Kind) -> Result<Tensor, String> {
    let stored = Tensor::f_from_data_size(data, shape, kind).map_err(|error| error.to_string())?;
    Ok(stored.to_kind(Kind::Float))
}
