//! Reads the files that `torch.save` writes: the zip format, and the older format of some files that torchvision has
//! published. Finds the dict of weights in them, and leaves all other data alone.
//!
//! Source: PyTorch's `torch/serialization.py` (both formats).

use super::checkpoint::{self, Chosen, Table};
use super::names;
use super::pickle::{Global, Object, ObjectId, Pickle, Value};
use super::stored_tensor::{StoredTensor, View};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::{Cursor, Read};

/// How deep dicts are searched for weights. `{"ema": {"module": {…}}}` has three levels.
const MAX_DEPTH: usize = 4;

/// Largest number of dicts that are searched for weights.
const MAX_DICTS: usize = 1000;

/// Largest size of all tensors together, as a multiple of the size of all storages. Tensors may share a storage, but a
/// small file must not become a large model.
const MAX_SHARING: usize = 4;

/// Why a file has no weights.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Error(String);

fn error<T>(reason: impl Into<String>) -> Result<T, Error> {
    Err(Error(reason.into()))
}

impl From<super::pickle::Error> for Error {
    fn from(cause: super::pickle::Error) -> Self {
        Self(format!("the file is not one that torch.save wrote: {cause}"))
    }
}

/// Longest name of a tensor and longest key that is looked at, in bytes. torch's names have some 100.
const MAX_NAME: usize = 512;

/// The chosen weights of a file, and its tensors with their names.
pub(super) type ChosenTensors = (Chosen<()>, Vec<(String, StoredTensor)>);

/// The tensors of the dict of weights with their names, in the file's order. `key` names the dict if there are several;
/// see [`checkpoint::choose`].
///
/// # Errors
/// If the file has neither format, is cut short, holds no dict of weights or several.
pub(super) fn read(file: &[u8], key: Option<&str>) -> Result<ChosenTensors, Error> {
    if file.starts_with(b"PK") { read_zip(file, key) } else { read_legacy(file, key) }
}

/// Reads the zip format: the entry `data.pkl` is the pickle, and each entry `data/KEY` is a storage.
fn read_zip(file: &[u8], key: Option<&str>) -> Result<ChosenTensors, Error> {
    // torch writes two records between the directory and the end of the file. Without a known start of the archive, the
    // crate takes the second entry of the directory for the first one, if the first has just the length of the records.
    let config = zip::read::Config { archive_offset: zip::read::ArchiveOffset::Known(0) };
    let archive = zip::ZipArchive::with_config(config, Cursor::new(file));
    let mut archive = archive.or_else(|cause| error(format!("damaged zip file: {cause}")))?;
    let names: Vec<String> = archive.file_names().flatten().map(Cow::into_owned).collect();
    let has = |end: &str| names.iter().any(|name| name.ends_with(end));
    if has("/constants.pkl") {
        return error("the file is a TorchScript program; give it with --torchscript instead of --weights");
    }
    if has("/archive_format") || has("serialized_exported_program.json") {
        return error(
            "the file is an exported program (torch.export); save its weights: torch.save(program.state_dict, \
                      'weights.pth')",
        );
    }
    let Some(root) = names.iter().find_map(|name| name.strip_suffix("data.pkl")) else {
        return error("the zip file has no data.pkl, so torch.save did not write it");
    };
    // Entries may overlap. Without this limit, the same bytes could be read any number of times.
    let mut left = file.len() as u64;
    let mut entry = |name: &str| -> Result<Vec<u8>, Error> {
        let entry =
            archive.by_name(&format!("{root}{name}")).or_else(|cause| error(format!("entry {name}: {cause}")))?;
        // torch.save does not compress. A compressed entry could unpack to much more than the file.
        if entry.compression() != zip::CompressionMethod::Stored {
            return error(format!("entry {name} is compressed; save the file with torch.save"));
        }
        let size = entry.size();
        left = match left.checked_sub(size) {
            Some(left) => left,
            None => return error("the entries of the zip file are larger than the file"),
        };
        let mut bytes = Vec::new();
        entry.take(size).read_to_end(&mut bytes).or_else(|cause| error(format!("entry {name}: {cause}")))?;
        Ok(bytes)
    };
    if let Ok(order) = entry("byteorder")
        && order != b"little"
    {
        return error("the numbers are big-endian; save the file on a little-endian machine");
    }
    let program = entry("data.pkl")?;
    let pickle = Pickle::read(&program)?;
    let (chosen, views) = views(&pickle, key)?;
    let mut storages = HashMap::new();
    for (_, view) in &views {
        let key = view.storage.key;
        if !storages.contains_key(key) {
            storages.insert(key, entry(&format!("data/{key}"))?);
        }
    }
    Ok((chosen, copy_tensors(&views, |key| storages.get(key).map(Vec::as_slice))?))
}

/// Reads the older format: five pickles (magic number, protocol, system, object, keys of the storages), and then each
/// storage, as its length in elements (u64) and its numbers.
fn read_legacy(file: &[u8], key: Option<&str>) -> Result<ChosenTensors, Error> {
    const MAGIC: i64 = i64::from_le_bytes([0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8]);
    let mut rest = file;
    let mut next = || {
        let pickle = Pickle::read(rest)?;
        rest = &rest[pickle.length..];
        Ok::<_, Error>(pickle)
    };
    if !matches!(next(), Ok(Pickle { root: Value::Int(MAGIC), .. })) {
        return error(
            "the file has neither the zip format nor torch's older format; write the weights with \
             torch.save(model.state_dict(), 'weights.pth')",
        );
    }
    let (_protocol, _system) = (next()?, next()?);
    let (pickle, keys) = (next()?, next()?);
    let Some(Object::Sequence(keys)) = keys.object(keys.root) else {
        return error("the list of the keys of storages is missing");
    };
    let mut storages = HashMap::new();
    for key in keys {
        let Value::Text(key) = *key else { return error("a storage's key is not text") };
        let length = rest.split_first_chunk::<8>();
        let element_bytes = pickle.storages.get(key).map_or(1, |storage| storage.element_bytes);
        let storage = length.and_then(|(length, numbers)| {
            let bytes = usize::try_from(u64::from_le_bytes(*length)).ok()?.checked_mul(element_bytes)?;
            numbers.split_at_checked(bytes)
        });
        let Some((storage, after)) = storage else { return error(format!("the file ends before storage {key} does")) };
        storages.insert(key, storage);
        rest = after;
    }
    let (chosen, views) = views(&pickle, key)?;
    Ok((chosen, copy_tensors(&views, |key| storages.get(key).copied())?))
}

/// Tensors with their names.
type NamedViews<'p, 'a> = Vec<(&'a str, &'p View<'a>)>;

/// Chooses the dict of weights. Returns what was chosen, and the tensors of the dict that belong to the network.
fn views<'p, 'a>(pickle: &'p Pickle<'a>, key: Option<&str>) -> Result<(Chosen<()>, NamedViews<'p, 'a>), Error> {
    let mut dicts = Dicts { pickle, seen: HashSet::new(), tables: Vec::new(), opaque: None };
    dicts.collect("", pickle.root, 0);
    let Dicts { tables, opaque, .. } = dicts;
    let chosen = checkpoint::choose(&tables, key).or_else(|cause| match opaque {
        Some(class) => error(format!(
            "the file holds an object of the class {class}, whose program is not in the file; in Python, write its \
             weights: torch.save(model.state_dict(), 'weights.pth')"
        )),
        None => error(cause.to_string()),
    })?;
    let prefix = &chosen.prefix;
    let tensors = named_tensors(pickle, chosen.contents).filter(|(name, _)| name.starts_with(prefix)).collect();
    Ok((chosen.without_contents(), tensors))
}

/// The entries of the dict `value` with short names that are text.
fn entries<'p, 'a>(
    pickle: &'p Pickle<'a>,
    value: Value<'a>,
) -> impl Iterator<Item = (&'a str, Value<'a>)> + use<'p, 'a> {
    let entries = match pickle.object(value) {
        Some(Object::Dict(entries)) => entries.as_slice(),
        _ => &[],
    };
    entries.iter().filter_map(|(key, value)| match key {
        Value::Text(key) if key.len() <= MAX_NAME => Some((*key, *value)),
        _ => None,
    })
}

/// The tensors of the dict `value` with their names.
fn named_tensors<'p, 'a>(
    pickle: &'p Pickle<'a>,
    value: Value<'a>,
) -> impl Iterator<Item = (&'a str, &'p View<'a>)> + use<'p, 'a> {
    entries(pickle, value).filter_map(|(name, value)| match pickle.object(value) {
        Some(Object::Tensor(view)) => Some((name, view)),
        _ => None,
    })
}

/// The dicts of a pickle that may be weights.
struct Dicts<'p, 'a> {
    pickle: &'p Pickle<'a>,
    seen: HashSet<ObjectId>,
    tables: Vec<Table<'a, Value<'a>>>,
    /// The class of the first object at a place where weights are expected.
    opaque: Option<Global<'a>>,
}

impl<'a> Dicts<'_, 'a> {
    /// Collects the dict `value`, whose place in the file is `path`, and the dicts within it.
    fn collect(&mut self, path: &str, value: Value<'a>, depth: usize) {
        let (Value::Object(id), pickle) = (value, self.pickle) else { return };
        match pickle.object(value) {
            Some(Object::Dict(_)) if self.tables.len() < MAX_DICTS && self.seen.insert(id) => {
                let names = named_tensors(pickle, value).map(|(name, _)| name).filter(|name| !names::is_counter(name));
                self.tables.push(Table { path: path.to_owned(), names: names.collect(), contents: value });
                if depth == MAX_DEPTH {
                    return;
                }
                for (key, value) in entries(pickle, value) {
                    match pickle.object(value) {
                        Some(Object::Dict(_)) if path.is_empty() => self.collect(key, value, depth + 1),
                        Some(Object::Dict(_)) => self.collect(&format!("{path}.{key}"), value, depth + 1),
                        Some(Object::Opaque(class)) if checkpoint::is_wrapper(key) => {
                            self.opaque.get_or_insert(*class);
                        }
                        _ => {}
                    }
                }
            }
            Some(Object::Opaque(class)) => self.opaque = Some(*class),
            _ => {}
        }
    }
}

/// Copies each tensor's numbers out of its storage, which `storage` finds by its key.
fn copy_tensors<'s>(
    views: &[(&str, &View<'_>)],
    storage: impl Fn(&str) -> Option<&'s [u8]>,
) -> Result<Vec<(String, StoredTensor)>, Error> {
    let keys: HashSet<&str> = views.iter().map(|(_, view)| view.storage.key).collect();
    let mut left = MAX_SHARING * keys.into_iter().filter_map(&storage).map(<[u8]>::len).sum::<usize>();
    let copy = |(name, view): &(&str, &View<'_>)| {
        left = match view.bytes().and_then(|bytes| left.checked_sub(bytes)) {
            Some(left) => left,
            None => {
                return error(format!(
                    "its tensors together are more than {MAX_SHARING} times as large as its numbers; call .clone() on \
                     tensors that .expand() made before saving"
                ));
            }
        };
        match storage(view.storage.key).and_then(|bytes| view.copy(bytes)) {
            Some(tensor) => Ok(((*name).to_owned(), tensor)),
            None => error(format!("tensor {name} reaches past the end of its storage, or the file is cut short")),
        }
    };
    views.iter().map(copy).collect()
}

#[cfg(test)]
mod tests;
