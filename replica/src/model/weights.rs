//! Named tensors from a file: `.safetensors`, or a `.pth` as `torch.save(model.state_dict())` writes it. Both are data:
//! nothing in a file is ever executed.

use super::architecture::Architecture;
use super::pth::{self, Element};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::Path;

/// The tensors of a model by their names, and the file's metadata.
pub struct Weights {
    /// The file's name, for messages.
    source: String,
    tensors: HashMap<String, Tensor>,
    /// The file's metadata; empty for formats that have none.
    pub metadata: HashMap<String, String>,
}

/// A tensor, converted to f32.
struct Tensor {
    /// Sizes, outermost first.
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
    /// The file has none of the formats, or contains numbers that are not finite.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong with the file.
        reason: String,
    },
    /// A tensor that the architecture needs is missing.
    #[error("{path}: tensor {name} is missing; is this a {architecture}?")]
    Missing {
        /// The file.
        path: String,
        /// The tensor's name.
        name: String,
        /// The architecture that was to be built.
        architecture: Architecture,
    },
    /// The file has a tensor that the architecture does not use.
    #[error("{path}: tensor {name} has no place in a {architecture}; is this another network?")]
    LeftOver {
        /// The file.
        path: String,
        /// The tensor's name.
        name: String,
        /// The architecture that was to be built.
        architecture: Architecture,
    },
    /// A tensor has another shape than the architecture needs.
    #[error("{path}: tensor {name} has shape {found:?}, {architecture} needs {needed}")]
    Shape {
        /// The file.
        path: String,
        /// The tensor's name.
        name: String,
        /// The tensor's shape in the file.
        found: Vec<usize>,
        /// The shape that the architecture needs; `n` is any size.
        needed: String,
        /// The architecture that was to be built.
        architecture: Architecture,
    },
}

impl Weights {
    /// Reads a file. The ending of its name tells the format: `.safetensors`, `.pth` or `.pt`.
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
        let metadata = header.metadata().clone().unwrap_or_default();
        let file = SafeTensors::deserialize(bytes).map_err(|error| malformed(error.to_string()))?;
        let mut tensors = HashMap::new();
        for (name, view) in file.iter() {
            let element = match view.dtype() {
                Dtype::F32 => Element::F32,
                Dtype::F16 => Element::F16,
                Dtype::BF16 => Element::Bf16,
                // Integers are counters of training steps (`num_batches_tracked`), which classification does not need.
                _ => continue,
            };
            let tensor = Tensor { shape: view.shape().to_vec(), numbers: to_f32(view.data(), element) };
            tensors.insert(name.to_owned(), tensor);
        }
        Ok(Self { source: source.into(), tensors, metadata })
    }

    /// Reads the file that `torch.save` writes of a state dict; `source` names it in messages.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn from_pth(bytes: &[u8], source: &str) -> Result<Self, Error> {
        let malformed = |reason: String| Error::Malformed { path: source.into(), reason };
        let mut tensors = HashMap::new();
        for (name, stored) in pth::read(bytes).map_err(|error| malformed(error.to_string()))? {
            if stored.element == Element::Other {
                continue;
            }
            let numbers = to_f32(&stored.data, stored.element);
            let shape: Vec<usize> = stored.shape.iter().map(|&side| usize::try_from(side).unwrap_or(0)).collect();
            if shape.iter().product::<usize>() != numbers.len() {
                return Err(malformed(format!("{name}: {} numbers do not make {shape:?}", numbers.len())));
            }
            tensors.insert(name, Tensor { shape, numbers });
        }
        Ok(Self { source: source.into(), tensors, metadata: HashMap::new() })
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Removes the tensor `name` and returns its numbers in row-major order. It must have the shape `needed`, in which
    /// `None` stands for any size above zero.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Shape`], and [`Error::Malformed`] if a number is not finite.
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
    /// [`Error::LeftOver`] for the first remaining tensor by name.
    pub fn finish(self, architecture: Architecture) -> Result<(), Error> {
        match self.tensors.into_keys().min() {
            Some(name) => Err(Error::LeftOver { path: self.source, name, architecture }),
            None => Ok(()),
        }
    }
}

/// Converts little-endian `data` to f32. [`Element::Other`] becomes nothing.
fn to_f32(data: &[u8], element: Element) -> Vec<f32> {
    let halves = || data.as_chunks::<2>().0.iter();
    match element {
        Element::F32 => data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        // Whole slices at once, since processors have vector instructions for the conversion.
        Element::F16 => halves().map(|bytes| f16::from_le_bytes(*bytes)).collect::<Vec<_>>().to_f32_vec(),
        Element::Bf16 => halves().map(|bytes| bf16::from_le_bytes(*bytes)).collect::<Vec<_>>().to_f32_vec(),
        Element::Other => Vec::new(),
    }
}
