//! Named tensors from a file: `.safetensors`, or a `.pth` that `torch.save(model.state_dict())` has written. Both are
//! data: nothing in a file is ever executed.

use super::architecture::Architecture;
use super::pth::{self, ElementType};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::Path;

/// The tensors of a model by their names, and the file's metadata.
pub struct Weights {
    /// The file's name, for messages.
    source: String,
    tensors: HashMap<String, F32Tensor>,
    /// The file's metadata; empty for formats that have none.
    pub metadata: HashMap<String, String>,
}

/// A tensor, converted to f32.
struct F32Tensor {
    /// The length of each dimension, outermost first.
    shape: Vec<usize>,
    /// The numbers in row-major order.
    numbers: Vec<f32>,
}

/// Why a file of weights cannot be used. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read weights {path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// The file has none of the known formats, or contains numbers that are not finite.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong with the file.
        reason: String,
    },
    /// A tensor that the architecture needs is missing.
    #[error(
        "{path}: tensor {name} is missing, which a {architecture} needs; give --architecture if this is another network"
    )]
    Missing {
        /// The file.
        path: String,
        /// The tensor's name.
        name: String,
        /// The architecture that the tensors should fit.
        architecture: Architecture,
    },
    /// The file has a tensor that the architecture does not use.
    #[error("{path}: tensor {name} has no place in a {architecture}; give --architecture if this is another network")]
    LeftOver {
        /// The file.
        path: String,
        /// The tensor's name.
        name: String,
        /// The architecture that the tensors should fit.
        architecture: Architecture,
    },
    /// A tensor has another shape than the architecture needs.
    #[error(
        "{path}: tensor {name} has shape {found:?}, but a {architecture} needs {needed} (n is any number); give \
         --architecture if this is another network"
    )]
    Shape {
        /// The file.
        path: String,
        /// The tensor's name.
        name: String,
        /// The tensor's shape in the file.
        found: Vec<usize>,
        /// The shape that the architecture needs; `n` is any length.
        needed: String,
        /// The architecture that the tensors should fit.
        architecture: Architecture,
    },
}

impl Weights {
    /// Reads a file. The ending of its name tells the format: `.safetensors`, `.pth` or `.pt`.
    ///
    /// # Errors
    /// If the file cannot be read ([`Error::Read`]) or is not of that format ([`Error::Malformed`]).
    pub fn open(path: &Path) -> Result<Self, Error> {
        let source = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| Error::Read { path: source.clone(), error })?;
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("safetensors") => Self::from_safetensors(&bytes, &source),
            Some("pth" | "pt") => Self::from_pth(&bytes, &source),
            _ => Err(Error::Malformed {
                path: source,
                reason: "the name of a file of weights must end in .safetensors, .pth or .pt".into(),
            }),
        }
    }

    /// Reads the contents of a safetensors file, which messages call `source`.
    ///
    /// # Errors
    /// If the contents are not of that format ([`Error::Malformed`]).
    pub fn from_safetensors(bytes: &[u8], source: &str) -> Result<Self, Error> {
        let malformed = |reason: String| Error::Malformed { path: source.into(), reason };
        let (_, header) =
            SafeTensors::read_metadata(bytes).map_err(|error| malformed(format!("not a safetensors file: {error}")))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let file =
            SafeTensors::deserialize(bytes).map_err(|error| malformed(format!("damaged safetensors file: {error}")))?;
        let mut tensors = HashMap::new();
        for (name, view) in file.iter() {
            let element = match view.dtype() {
                Dtype::F32 => ElementType::F32,
                Dtype::F16 => ElementType::F16,
                Dtype::BF16 => ElementType::Bf16,
                // Integers are counters of training steps (`num_batches_tracked`), which classification does not need.
                _ => continue,
            };
            let tensor = F32Tensor { shape: view.shape().to_vec(), numbers: to_f32(view.data(), element) };
            tensors.insert(name.to_owned(), tensor);
        }
        Ok(Self { source: source.into(), tensors, metadata })
    }

    /// Reads the contents of a file that `torch.save` has written of a state dict. Messages call the file `source`.
    ///
    /// # Errors
    /// If the contents are no state dict ([`Error::Malformed`]).
    pub fn from_pth(bytes: &[u8], source: &str) -> Result<Self, Error> {
        let malformed = |reason: String| Error::Malformed { path: source.into(), reason };
        let mut tensors = HashMap::new();
        for (name, stored) in pth::read(bytes).map_err(|error| malformed(error.to_string()))? {
            if stored.element == ElementType::Other {
                continue;
            }
            let numbers = to_f32(&stored.data, stored.element);
            let shape: Vec<usize> = stored.shape.iter().map(|&side| usize::try_from(side).unwrap_or(0)).collect();
            if shape.iter().product::<usize>() != numbers.len() {
                return Err(malformed(format!("tensor {name} has shape {shape:?}, but {} numbers", numbers.len())));
            }
            tensors.insert(name, F32Tensor { shape, numbers });
        }
        Ok(Self { source: source.into(), tensors, metadata: HashMap::new() })
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Removes the tensor `name` and returns its numbers in row-major order. The tensor must have the shape `needed`,
    /// in which `None` stands for any length above zero.
    ///
    /// # Errors
    /// If the tensor is missing ([`Error::Missing`]), has another shape ([`Error::Shape`]), or has a number that is not
    /// finite ([`Error::Malformed`]).
    pub fn take(
        &mut self,
        architecture: Architecture,
        name: &str,
        needed: &[Option<usize>],
    ) -> Result<Vec<f32>, Error> {
        let (path, name) = (self.source.clone(), name.to_owned());
        let Some(tensor) = self.tensors.remove(&name) else {
            return Err(Error::Missing { path, name, architecture });
        };
        let found = tensor.shape;
        let fits = found.len() == needed.len()
            && found.iter().zip(needed).all(|(&found, needed)| needed.map_or(found > 0, |needed| found == needed));
        if !fits {
            let needed: Vec<String> =
                needed.iter().map(|side| side.map_or("n".into(), |side| side.to_string())).collect();
            return Err(Error::Shape { path, name, found, needed: format!("[{}]", needed.join(", ")), architecture });
        }
        if let Some(index) = tensor.numbers.iter().position(|number| !number.is_finite()) {
            let reason = format!("tensor {name} has {} at index {index}", tensor.numbers[index]);
            return Err(Error::Malformed { path, reason });
        }
        Ok(tensor.numbers)
    }

    /// Checks that all tensors have been taken.
    ///
    /// # Errors
    /// If tensors remain: [`Error::LeftOver`] with the first of them in alphabetical order.
    pub fn finish(self, architecture: Architecture) -> Result<(), Error> {
        match self.tensors.into_keys().min() {
            Some(name) => Err(Error::LeftOver { path: self.source, name, architecture }),
            None => Ok(()),
        }
    }
}

/// Converts little-endian `data` to f32. The result is empty for [`ElementType::Other`].
fn to_f32(data: &[u8], element: ElementType) -> Vec<f32> {
    let halves = || data.as_chunks::<2>().0.iter();
    match element {
        ElementType::F32 => data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        // Whole slices are converted at once, since processors have vector instructions for the conversion.
        ElementType::F16 => halves().map(|bytes| f16::from_le_bytes(*bytes)).collect::<Vec<_>>().to_f32_vec(),
        ElementType::Bf16 => halves().map(|bytes| bf16::from_le_bytes(*bytes)).collect::<Vec<_>>().to_f32_vec(),
        ElementType::Other => Vec::new(),
    }
}
