//! Named tensors from a file: `.safetensors`, or one that `torch.save` has written. Both are data: nothing in a file is
//! ever executed. All names are torchvision's; see `names`.

use super::architecture::Architecture;
use super::checkpoint::{self, Table, listed};
use super::description::Description;
use super::stored_tensor::{ElementType, StoredTensor, to_f32};
use super::{names, pth};
use crate::bounded_file;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Largest size of a file of weights: 8 GiB. ResNeXt-101 32x48d, the largest published residual network, has 3.3 GB.
pub(super) const MAX_FILE_BYTES: u64 = 8 << 30;

/// Most blocks of a stage. The deepest published residual network has less than a hundred. The network's tensors are listed
/// before the file is found to lack them.
const MAX_BLOCKS: usize = 1000;

/// Endings of the names of files that `torch.save` writes.
pub(super) const TORCH_ENDINGS: [&str; 7] = ["pth", "pt", "bin", "ckpt", "tar", "pkl", "th"];

/// The tensors of a model by their names, and the file's metadata.
#[derive(Debug)]
pub struct Weights {
    /// The file's name, for messages.
    source: String,
    tensors: HashMap<String, StoredTensor>,
    /// What the file's metadata and the files beside it say.
    pub(super) description: Box<Description>,
}

/// Why a file of weights cannot be used. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read weights {path}: {error}{}", permission_advice(error))]
    Read {
        /// The file.
        path: String,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// The file has none of the known formats, has no network, or contains numbers that are not finite.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong with the file.
        reason: String,
    },
    /// Tensors that the architecture needs are missing.
    #[error("{path}: the weights of a {architecture} lack {names}; {hint}")]
    Missing {
        /// The file.
        path: String,
        /// The tensors' names.
        names: String,
        /// The architecture that the tensors should fit.
        architecture: String,
        /// What the cause may be.
        hint: &'static str,
    },
    /// The file has a tensor that the architecture does not use.
    #[error("{path}: tensor {name} has no place in a {architecture}, so this is another network; {OTHER_NETWORKS}")]
    LeftOver {
        /// The file.
        path: String,
        /// The tensor's name.
        name: String,
        /// The architecture that the tensors should fit.
        architecture: String,
    },
    /// A tensor has another shape than the architecture needs.
    #[error("{path}: tensor {name} has shape {found:?}, but a {architecture} needs {needed} (n is any number)")]
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
        architecture: String,
    },
}

/// What to do about a network of another kind.
pub(super) const OTHER_NETWORKS: &str = "for other networks, see \"Your own model\" in the README";

/// What to do about a file that may not be read. Writers such as safetensors leave files that only their owner may read.
fn permission_advice(error: &std::io::Error) -> String {
    if error.kind() != std::io::ErrorKind::PermissionDenied {
        return String::new();
    }
    let user = rustix::process::geteuid().as_raw();
    format!("; let user {user}, as which this program runs, read it, for example by chmod a+rX")
}

impl Weights {
    /// Reads a file, or the safetensors files of one network. The ending of the name tells the format: `.safetensors`,
    /// or one of [`TORCH_ENDINGS`]. `key` names the weights if there are several networks.
    ///
    /// # Errors
    /// If a file cannot be read ([`Error::Read`]), is not of that format, or has no network ([`Error::Malformed`]).
    pub fn open(paths: &[PathBuf], key: Option<&str>) -> Result<Self, Error> {
        let source = paths.first().map(|path| path.display().to_string()).unwrap_or_default();
        let malformed = |reason: String| Error::Malformed { path: source.clone(), reason };
        let ending = |path: &PathBuf| path.extension().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
        let endings: Vec<String> = paths.iter().map(ending).collect();
        if paths.iter().any(|path| path.is_dir()) {
            return Err(malformed("this is a directory; give it with --model instead of --weights".into()));
        }
        let files: Vec<Vec<u8>> = match endings.iter().all(|ending| is_known(ending)) {
            true => paths.iter().map(|path| read(path)).collect::<Result<_, Error>>()?,
            false => {
                return Err(malformed(format!(
                    "the name of a file of weights must end in .safetensors or .{}",
                    TORCH_ENDINGS.join(", .")
                )));
            }
        };
        match files.as_slice() {
            [file] if endings[0] != "safetensors" => Self::from_pth(file, &source, key),
            files => Self::from_safetensors(files, &source, key),
        }
    }

    /// Reads the contents of safetensors files, which have one network together. Messages call them `source`. `key` is
    /// the prefix of the names, if there are several networks.
    ///
    /// # Errors
    /// If the contents are not of that format, or have no network ([`Error::Malformed`]).
    pub fn from_safetensors(files: &[impl AsRef<[u8]>], source: &str, key: Option<&str>) -> Result<Self, Error> {
        let malformed = |reason: String| Error::Malformed { path: source.into(), reason };
        let (mut parsed, mut metadata) = (Vec::new(), HashMap::new());
        for file in files {
            let file = file.as_ref();
            let (_, header) = SafeTensors::read_metadata(file)
                .map_err(|error| malformed(format!("not a safetensors file: {error}")))?;
            metadata.extend(header.metadata().clone().unwrap_or_default());
            let file = SafeTensors::deserialize(file);
            parsed.push(file.map_err(|error| malformed(format!("damaged safetensors file: {error}")))?);
        }
        let description = Description::from_metadata(&metadata, "metadata of the weights")
            .map_err(|error| malformed(format!("malformed metadata: {error}")))?;
        let names = parsed.iter().flat_map(SafeTensors::names).filter(|name| !names::is_counter(name)).collect();
        let tables = [Table { path: String::new(), names, contents: () }];
        let chosen = checkpoint::choose(&tables, key).map_err(|error| malformed(error.to_string()))?;
        let views = parsed.iter().flat_map(SafeTensors::iter).filter(|(name, _)| name.starts_with(&chosen.prefix));
        let tensors = views.map(|(name, view)| {
            let element = match view.dtype() {
                Dtype::F32 => ElementType::F32,
                Dtype::F64 => ElementType::F64,
                Dtype::F16 => ElementType::F16,
                Dtype::BF16 => ElementType::Bf16,
                _ => ElementType::Other,
            };
            let numbers = match element {
                ElementType::Other => Err(format!("{:?}", view.dtype())),
                element => Ok(to_f32(view.data(), element)),
            };
            (name.to_owned(), StoredTensor { shape: view.shape().to_vec(), numbers })
        });
        Ok(Self::new(source, &chosen, tensors.collect(), description))
    }

    /// Reads the contents of a file that `torch.save` has written. Messages call the file `source`. `key` names the
    /// weights, if the file has several networks.
    ///
    /// # Errors
    /// If the contents are not of that format, or have no network ([`Error::Malformed`]).
    pub fn from_pth(bytes: &[u8], source: &str, key: Option<&str>) -> Result<Self, Error> {
        let (chosen, tensors) = pth::read(bytes, key)
            .map_err(|error| Error::Malformed { path: source.into(), reason: error.to_string() })?;
        Ok(Self::new(source, &chosen, tensors, Description::default()))
    }

    /// Gives the tensors of the chosen network torchvision's names, and logs what was chosen.
    fn new<C>(
        source: &str,
        chosen: &checkpoint::Chosen<C>,
        tensors: Vec<(String, StoredTensor)>,
        description: Description,
    ) -> Self {
        if !chosen.place.is_empty() || !chosen.others.is_empty() {
            let others = listed(chosen.others.iter().map(String::as_str));
            tracing::info!(
                weights = chosen.place,
                not_used = others,
                "chose the weights in {source}; --weights-key names others"
            );
        }
        let unused = chosen.unused.iter().map(String::as_str).filter(|name| !names::is_counter(name));
        warn_unused(source, unused);
        let renamed = tensors.into_iter().filter(|(name, _)| !names::is_counter(name)).map(|(name, tensor)| {
            let name = name.strip_prefix(&chosen.prefix).unwrap_or(&name);
            (chosen.scheme.torchvision(name), tensor)
        });
        let mut tensors: HashMap<String, StoredTensor> = renamed.collect();
        if let Some(module) = names::sequential_classifier(tensors.keys().map(String::as_str)) {
            for parameter in ["weight", "bias"] {
                if let Some(tensor) = tensors.remove(&format!("{module}.{parameter}")) {
                    tensors.insert(format!("fc.{parameter}"), tensor);
                }
            }
        }
        Self { source: source.into(), tensors, description: Box::new(description) }
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Number of classes: the rows of the classifier; 0 if it is missing.
    pub(super) fn classes(&self) -> usize {
        self.tensors.get("fc.weight").and_then(|tensor| tensor.shape.first().copied()).unwrap_or(0)
    }

    /// Number of blocks of a stage, counted from 1: the largest index of a block and one. An index that is not
    /// below the number of tensors or [`MAX_BLOCKS`] does not count; [`finish`](Self::finish) refuses its tensor.
    pub(super) fn blocks(&self, stage: usize) -> usize {
        let stage = format!("layer{stage}.");
        let index = |name: &str| name.strip_prefix(&stage)?.split('.').next()?.parse().ok();
        let most = self.tensors.len().min(MAX_BLOCKS);
        let last = self.names().filter_map(index).filter(|&index: &usize| index < most).max();
        last.map_or(0, |last| last + 1)
    }

    /// The length of a dimension of the tensor `name`, which must be that of a convolution.
    ///
    /// # Errors
    /// If the tensor is missing, has other than four dimensions, or has no numbers.
    pub(super) fn length(&self, name: &str, dimension: usize) -> Result<usize, Error> {
        let architecture = "residual network";
        match self.tensors.get(name).map(|tensor| tensor.shape.as_slice()) {
            Some(shape @ [_, _, _, _]) if !shape.contains(&0) => Ok(shape[dimension]),
            Some(shape) => Err(Error::Shape {
                path: self.source.clone(),
                name: name.to_owned(),
                found: shape.to_vec(),
                needed: "[n, n, n, n]".into(),
                architecture: architecture.into(),
            }),
            None => Err(self.missing(name.to_owned(), architecture.into())),
        }
    }

    /// The error that the tensor `name` belongs to another kind of network, which has `part`.
    pub(super) fn other_network(&self, name: &str, part: &str) -> Error {
        let reason = format!("tensor {name} is of a network with {part}, which this engine lacks; {OTHER_NETWORKS}");
        Error::Malformed { path: self.source.clone(), reason }
    }

    /// Checks that no tensor of `architecture` is missing.
    ///
    /// # Errors
    /// If tensors are missing: [`Error::Missing`] with their names.
    pub(super) fn check(&self, architecture: Architecture) -> Result<(), Error> {
        let missing: Vec<String> = architecture.tensors().filter(|name| !self.tensors.contains_key(name)).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(self.missing(listed(missing.iter().map(String::as_str)), architecture.name())),
        }
    }

    /// Checks that the files beside the weights describe this network.
    ///
    /// # Errors
    /// If they name another network or another number of classes: [`Error::Malformed`].
    pub(super) fn check_description(&self, architecture: Architecture) -> Result<(), Error> {
        let checked = self.description.check(Some(&architecture.name()), self.classes());
        checked.map_err(|reason| self.malformed(reason))
    }

    /// The error that the file is malformed for `reason`.
    pub(super) fn malformed(&self, reason: String) -> Error {
        Error::Malformed { path: self.source.clone(), reason }
    }

    fn missing(&self, names: String, architecture: String) -> Error {
        let has = |part: &str| self.names().any(|name| name.contains(part));
        let hint = if names.starts_with("fc.") {
            "the classifier must be one linear layer called fc (classifier.1 in transformers)"
        } else if !has(".running_mean") {
            "networks without batch normalisation, or with another one, are not supported"
        } else {
            "the file is incomplete, or --architecture should name another network"
        };
        Error::Missing { path: self.source.clone(), names, architecture, hint }
    }

    /// Removes the tensor `name` and returns its numbers in row-major order. The tensor must have the shape `needed`,
    /// in which `None` stands for any length above zero.
    ///
    /// # Errors
    /// If the tensor is missing ([`Error::Missing`]), has another shape ([`Error::Shape`]), or has numbers of another
    /// type or that are not finite ([`Error::Malformed`]).
    pub fn take(
        &mut self,
        architecture: Architecture,
        name: &str,
        needed: &[Option<usize>],
    ) -> Result<Vec<f32>, Error> {
        let Some(StoredTensor { shape: found, numbers }) = self.tensors.remove(name) else {
            return Err(self.missing(name.to_owned(), architecture.name()));
        };
        let (path, name) = (self.source.clone(), name.to_owned());
        let fits = found.len() == needed.len()
            && found.iter().zip(needed).all(|(&found, needed)| needed.map_or(found > 0, |needed| found == needed));
        if !fits {
            let needed: Vec<String> =
                needed.iter().map(|side| side.map_or("n".into(), |side| side.to_string())).collect();
            let (needed, architecture) = (format!("[{}]", needed.join(", ")), architecture.name());
            return Err(Error::Shape { path, name, found, needed, architecture });
        }
        let malformed = |reason| Error::Malformed { path, reason };
        let numbers = numbers.map_err(|element| {
            malformed(format!("tensor {name} has numbers of type {element}; save it as float32, float16 or bfloat16"))
        })?;
        match numbers.iter().position(|number| !number.is_finite()) {
            Some(index) => Err(Error::Malformed {
                path: self.source.clone(),
                reason: format!("tensor {name} has {} at index {index}", numbers[index]),
            }),
            None => Ok(numbers),
        }
    }

    /// Checks that all tensors of the network have been taken, and logs a warning about tensors beside the network.
    ///
    /// # Errors
    /// If tensors within the network remain: [`Error::LeftOver`] with the first of them in alphabetical order.
    pub fn finish(self, architecture: Architecture) -> Result<(), Error> {
        let within = self.names().filter(|name| names::is_within_network(name)).min();
        if let Some(name) = within {
            let (name, architecture) = (name.to_owned(), architecture.name());
            return Err(Error::LeftOver { path: self.source, name, architecture });
        }
        warn_unused(&self.source, self.names());
        Ok(())
    }
}

/// Whether files with this ending can be read.
fn is_known(ending: &str) -> bool {
    ending == "safetensors" || TORCH_ENDINGS.contains(&ending)
}

/// The contents of a file of weights.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    bounded_file::read(path, MAX_FILE_BYTES).map_err(|error| Error::Read { path: path.display().to_string(), error })
}

/// Logs the names of tensors that the network does not use.
fn warn_unused<'n>(source: &str, names: impl Iterator<Item = &'n str>) {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    if !names.is_empty() {
        tracing::warn!("{source}: tensors that the network does not use: {}", listed(names.into_iter()));
    }
}
