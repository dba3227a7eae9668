//! Named tensors from a file: `.safetensors`, or a `.pth` as `torch.save(model.state_dict())` writes it.
//! Both are data and are parsed as such: nothing in a file is ever executed.

use super::architecture::Architecture;
use super::pth::{self, Element};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::Path;

/// A model's tensors by their torchvision names, and what the file says about itself.
pub struct Weights {
    /// Where they came from, for messages.
    source: String,
    tensors: HashMap<String, Numbers>,
    /// What the file says about itself; empty in formats that cannot.
    pub metadata: HashMap<String, String>,
}

/// A tensor, converted from whatever the file has.
struct Numbers {
    /// Sizes, outermost first.
    shape: Vec<usize>,
    /// Row-major.
    numbers: Vec<f32>,
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
        architecture: Architecture,
    },
    /// The file has what the architecture does not use.
    #[error("{path}: tensor {name} has no place in a {architecture}; is this another network?")]
    LeftOver {
        /// The file.
        path: String,
        /// The tensor's name.
        name: String,
        /// The model that was being built.
        architecture: Architecture,
    },
    /// A tensor has another shape than the architecture's.
    #[error("{path}: tensor {name} has shape {found:?}, {architecture} needs {needed}")]
    Shape {
        /// The file.
        path: String,
        /// The tensor's name.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape that fits; `n` is any size.
        needed: String,
        /// The model that was being built.
        architecture: Architecture,
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
        let metadata = header.metadata().clone().unwrap_or_default();
        let file = SafeTensors::deserialize(bytes).map_err(|error| malformed(error.to_string()))?;
        let mut tensors = HashMap::new();
        for (name, view) in file.iter() {
            let element = match view.dtype() {
                Dtype::F32 => Element::F32,
                Dtype::F16 => Element::F16,
                Dtype::BF16 => Element::Bf16,
                // `num_batches_tracked` counts training steps: not needed to classify.
                _ => continue,
            };
            let numbers = Numbers { shape: view.shape().to_vec(), numbers: numbers(view.data(), element) };
            tensors.insert(name.to_owned(), numbers);
        }
        Ok(Self { source: source.into(), tensors, metadata })
    }

    /// Reads the zip file that `torch.save` writes of a state dict; `source` names it in messages.
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
            let numbers = numbers(&stored.data, stored.element);
            let shape: Vec<usize> = stored.shape.iter().map(|&side| usize::try_from(side).unwrap_or(0)).collect();
            if shape.iter().product::<usize>() != numbers.len() {
                return Err(malformed(format!("{name}: {} numbers do not make {shape:?}", numbers.len())));
            }
            tensors.insert(name, Numbers { shape, numbers });
        }
        Ok(Self { source: source.into(), tensors, metadata: HashMap::new() })
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Takes out the tensor `name`, row-major, of the given shape; none stands for any size.
    ///
    /// # Errors
    /// [`Error::Missing`] and [`Error::Shape`].
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

    /// Everything was taken.
    ///
    /// # Errors
    /// [`Error::LeftOver`], for the first by name.
    pub fn finish(self, architecture: Architecture) -> Result<(), Error> {
        match self.tensors.into_keys().min() {
            Some(name) => Err(Error::LeftOver { path: self.source, name, architecture }),
            None => Ok(()),
        }
    }
}

/// Little-endian `data` as `f32`.
fn numbers(data: &[u8], element: Element) -> Vec<f32> {
    let halves = || data.as_chunks::<2>().0.iter();
    match element {
        Element::F32 => data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        // In whole slices, for which processors have instructions.
        Element::F16 => halves().map(|bytes| f16::from_le_bytes(*bytes)).collect::<Vec<_>>().to_f32_vec(),
        Element::Bf16 => halves().map(|bytes| bf16::from_le_bytes(*bytes)).collect::<Vec<_>>().to_f32_vec(),
        Element::Other => Vec::new(),
    }
}
