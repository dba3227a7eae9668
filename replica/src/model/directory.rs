//! The directory that `--model` names: finds the file or files of weights in it, and reads the files beside them.

use super::config_file::{self, NetworkKind};
use super::description::Description;
use super::preprocessor_file;
use super::weights::{Error, TORCH_ENDINGS};
use crate::{bounded_file, labels};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Largest size of a JSON file: 8 MiB. A `config.json` with the names of ImageNet's 21,841 classes has 2 MiB.
const MAX_JSON_BYTES: u64 = 8 << 20;

/// Largest number of files of weights.
const MAX_SHARDS: usize = 1000;

/// The names of the files that describe a model.
const DESCRIPTIONS: [&str; 3] = ["config.json", "preprocessor_config.json", "labels.txt"];

/// Beginnings of the names of files that training programs write beside weights, with torch.save but without weights.
const NOT_WEIGHTS: [&str; 6] = ["optimizer", "scheduler", "training_args", "rng_state", "scaler", "random_states"];

/// The weights of a directory, and what the other files say.
#[derive(Debug)]
pub(super) struct ModelDirectory {
    /// The files of weights: one, or the parts of a safetensors file.
    pub(super) weights: Vec<PathBuf>,
    pub(super) description: Description,
}

/// The index of a safetensors file in parts.
#[derive(Deserialize)]
struct ShardIndex {
    /// For each tensor, the name of its file.
    weight_map: BTreeMap<String, String>,
}

impl ModelDirectory {
    /// Reads the directory. Files of other names are ignored, and so are hidden files.
    ///
    /// # Errors
    /// If the directory cannot be read, has no weights or several, or one of the files is malformed, too large, or
    /// describes what is not supported.
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        if directory.is_file() {
            return Err(malformed(directory, "this is a file; give it with --weights instead of --model".into()));
        }
        let names = file_names(directory)?;
        let chosen = choose_weights(&names).map_err(|reason| malformed(directory, reason))?;
        let weights = weights_of(directory, chosen)?;
        tracing::info!(directory = %directory.display(), weights = weights.join(", "), "chose the weights of the directory");
        let network = if has_ending(chosen, &["onnx"]) { NetworkKind::Onnx } else { NetworkKind::Residual };
        let preprocessor = described(directory, &names, "preprocessor_config.json", preprocessor_file::parse)?;
        let parse_config = |bytes: &[u8], source: &str| config_file::parse(bytes, source, network);
        let config = described(directory, &names, "config.json", parse_config)?;
        let mut description = preprocessor.or(config);
        if names.contains("labels.txt") {
            let path = directory.join("labels.txt");
            let labels = labels::read(&path).map_err(|error| malformed(directory, error.to_string()))?;
            description.labels = Some(labels);
        }
        Ok(Self { weights: weights.iter().map(|name| directory.join(name)).collect(), description })
    }
}

/// The files of a directory that a model is loaded from, in the order of their names: those that [`ModelDirectory::open`]
/// reads, and the files beside an ONNX network that have its name and more, which may have its weights. If the directory
/// has no weights, or several, all its files.
///
/// # Errors
/// If the directory cannot be read.
pub fn files_of_directory(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let names = file_names(directory).map_err(std::io::Error::other)?;
    let chosen = choose_weights(&names).ok();
    let weights = chosen.and_then(|chosen| weights_of(directory, chosen).ok());
    let is_read = |name: &&String| match (chosen, &weights) {
        (Some(chosen), Some(weights)) => {
            let beside_onnx = has_ending(chosen, &["onnx"]) && name.starts_with(chosen);
            let is_described = DESCRIPTIONS.contains(&name.as_str());
            name.as_str() == chosen || weights.contains(name) || beside_onnx || is_described
        }
        _ => true,
    };
    Ok(names.iter().filter(is_read).map(|name| directory.join(name)).collect())
}

/// The names of the files of weights that `chosen`, a file of weights or an index, stands for.
fn weights_of(directory: &Path, chosen: &str) -> Result<Vec<String>, Error> {
    match chosen.strip_suffix(".index.json") {
        Some(_) => shards(&directory.join(chosen)),
        None => Ok(vec![chosen.to_owned()]),
    }
}

/// What the JSON file `name` of a directory says; nothing if it is not among `names`.
fn described(
    directory: &Path,
    names: &BTreeSet<String>,
    name: &str,
    parse: impl Fn(&[u8], &str) -> Result<Description, String>,
) -> Result<Description, Error> {
    let path = directory.join(name);
    match names.contains(name) {
        true => parse(&read_json(&path)?, name).map_err(|reason| malformed(&path, reason)),
        false => Ok(Description::default()),
    }
}

/// The names of the files in a directory. A name that is not UTF-8 or begins with a dot is left out.
fn file_names(directory: &Path) -> Result<BTreeSet<String>, Error> {
    let failed = |error| Error::Read { path: directory.display().to_string(), error };
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Kubernetes mounts files as links.
        let is_file = match std::fs::metadata(entry.path()) {
            Ok(metadata) => metadata.is_file(),
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(failed(error)),
        };
        match entry.file_name().into_string() {
            Ok(name) if is_file && !name.starts_with('.') => drop(names.insert(name)),
            _ => {}
        }
    }
    Ok(names)
}

/// The file of weights among `names`: `model.safetensors`, or its index, or the only other safetensors file, or
/// `pytorch_model.bin`, or the only other file that torch.save may have written, or else the only ONNX file.
///
/// # Errors
/// If there is no such file, or several: the reason.
fn choose_weights(names: &BTreeSet<String>) -> Result<&str, String> {
    let safetensors: Vec<&String> = names.iter().filter(|name| has_ending(name, &["safetensors"])).collect();
    let is_weights = |name: &&String| !NOT_WEIGHTS.iter().any(|start| name.starts_with(start));
    let torch: Vec<&String> = names.iter().filter(|name| has_ending(name, &TORCH_ENDINGS)).filter(is_weights).collect();
    let onnx: Vec<&String> = names.iter().filter(|name| has_ending(name, &["onnx"])).collect();
    let fixed = |name: &str| names.get(name).map(String::as_str);
    if let Some(name) = fixed("model.safetensors").or(fixed("model.safetensors.index.json")) {
        return Ok(name);
    }
    let several = |names: &[&String]| {
        let names = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        Err(format!("the directory has several files of weights: {names}; keep one, or give one with --weights"))
    };
    match (safetensors.as_slice(), fixed("pytorch_model.bin"), torch.as_slice(), onnx.as_slice()) {
        ([name], ..) => Ok(name),
        ([_, _, ..], ..) => several(&safetensors),
        ([], Some(name), ..) => Ok(name),
        ([], None, ..) if names.contains("pytorch_model.bin.index.json") => {
            Err("the weights are in several .bin files; save them with model.save_pretrained(directory), which writes \
             model.safetensors"
                .into())
        }
        ([], None, [name], _) | ([], None, [], [name]) => Ok(name),
        ([], None, [], []) => {
            Err("the directory has no weights; put model.safetensors, a .pth or an .onnx file into it, beside \
             config.json, preprocessor_config.json and labels.txt, if there are any"
                .into())
        }
        ([], None, [], _) => several(&onnx),
        ([], None, ..) => several(&torch),
    }
}

/// Whether the name of a file has one of `endings`, in small or capital letters.
fn has_ending(name: &str, endings: &[&str]) -> bool {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    ending.is_some_and(|ending| endings.contains(&ending.as_str()))
}

/// The names of the files of a safetensors file in parts.
fn shards(index: &Path) -> Result<Vec<String>, Error> {
    let parsed: ShardIndex =
        serde_json::from_slice(&read_json(index)?).map_err(|error| malformed(index, format!("malformed: {error}")))?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    // A name with a slash could lead out of the directory.
    if let Some(name) = names.iter().find(|name| name.contains('/') || !name.ends_with(".safetensors")) {
        return Err(malformed(index, format!("{name:?} is not the name of a safetensors file in the same directory")));
    }
    match names.len() {
        1..=MAX_SHARDS => Ok(names.into_iter().collect()),
        count => Err(malformed(index, format!("the index has {count} files, but must have 1 to {MAX_SHARDS}"))),
    }
}

fn read_json(path: &Path) -> Result<Vec<u8>, Error> {
    bounded_file::read(path, MAX_JSON_BYTES).map_err(|error| Error::Read { path: path.display().to_string(), error })
}

fn malformed(path: &Path, reason: String) -> Error {
    Error::Malformed { path: path.display().to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str]) -> String {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        choose_weights(&names).map_or_else(|reason| reason, str::to_owned)
    }

    #[test]
    fn the_weights_of_a_directory_are_chosen_by_a_fixed_order() {
        for (names, expected) in [
            (&["model.safetensors", "pytorch_model.bin", "other.safetensors"][..], "model.safetensors"),
            (&["model.safetensors.index.json", "a.safetensors"], "model.safetensors.index.json"),
            (&["resnet18.safetensors", "checkpoint.pth"], "resnet18.safetensors"),
            (&["pytorch_model.bin", "checkpoint.pth", "config.json"], "pytorch_model.bin"),
            (&["training_args.bin", "optimizer.pt", "rng_state_0.pth", "best.ckpt"], "best.ckpt"),
            (&["model_best.pth.tar"], "model_best.pth.tar"),
            (&["Weights.PTH"], "Weights.PTH"),
            (&["a.safetensors", "b.safetensors"], "several files of weights: a.safetensors, b.safetensors"),
            (&["model.onnx", "model.onnx.data", "config.json"], "model.onnx"),
            (&["model.onnx", "resnet18.pth"], "resnet18.pth"),
            (&["a.onnx", "b.onnx"], "several files of weights: a.onnx, b.onnx"),
            (&["a.pth", "b.pt"], "several files of weights: a.pth, b.pt"),
            (&["config.json", "labels.txt"], "has no weights"),
            (&["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"], "save_pretrained"),
        ] {
            assert!(chosen(names).contains(expected), "{names:?}: {}", chosen(names));
        }
    }

    #[test]
    fn only_the_files_that_a_model_is_loaded_from_count() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |names: &[&str]| {
            names.iter().for_each(|name| std::fs::write(directory.path().join(name), "{}").expect("writable"));
        };
        let found = || {
            let files = files_of_directory(directory.path()).expect("readable");
            files
                .iter()
                .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
                .collect::<Vec<_>>()
        };
        write(&["config.json", "flax_model.msgpack", "train.log", "net.onnx", "net.onnx.data"]);
        assert_eq!(found(), ["config.json", "net.onnx", "net.onnx.data"]);
        write(&["labels.txt", "model.safetensors", "pytorch_model.bin"]);
        assert_eq!(found(), ["config.json", "labels.txt", "model.safetensors"]);
        std::fs::remove_file(directory.path().join("model.safetensors")).expect("the file exists");
        write(&["a.safetensors", "b.safetensors"]);
        assert_eq!(found().len(), 9, "no weights are chosen");
        let index = directory.path().join("model.safetensors.index.json");
        std::fs::write(index, r#"{"weight_map": {"x": "b.safetensors"}}"#).expect("writable");
        assert_eq!(found(), ["b.safetensors", "config.json", "labels.txt", "model.safetensors.index.json"]);
    }

    #[test]
    fn an_index_that_leads_out_of_the_directory_or_is_malformed_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let index = directory.path().join("model.safetensors.index.json");
        for (text, expected) in [
            (r#"{"weight_map": {"a": "../x.safetensors"}}"#, "\"../x.safetensors\" is not the name"),
            (r#"{"weight_map": {"a": "x.bin"}}"#, "x.bin"),
            (r#"{"weight_map": {}}"#, "0 files"),
            (r#"{"weight_map": 3}"#, "malformed"),
        ] {
            std::fs::write(&index, text).expect("writable");
            let refused = ModelDirectory::open(directory.path()).expect_err(text).to_string();
            assert!(refused.contains(expected) && refused.contains("index.json"), "{refused}");
        }
        std::fs::write(&index, r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}}"#)
            .expect("writable");
        assert_eq!(ModelDirectory::open(directory.path()).expect("well formed").weights.len(), 2);
    }

    #[test]
    fn files_that_are_too_large_malformed_or_missing_are_refused_with_their_paths() {
        let directory = tempfile::tempdir().expect("a directory");
        let missing = ModelDirectory::open(&directory.path().join("none")).expect_err("missing").to_string();
        assert!(missing.contains("none"), "{missing}");
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(ModelDirectory::open(file.path()).expect_err("a file").to_string().contains("--weights"));
        std::fs::write(directory.path().join("model.safetensors"), "").expect("writable");
        for name in ["config.json", "preprocessor_config.json", "labels.txt"] {
            let path = directory.path().join(name);
            std::fs::write(&path, b"{\xff").expect("writable");
            let refused = ModelDirectory::open(directory.path()).expect_err("malformed").to_string();
            assert!(refused.contains(name), "{refused}");
            std::fs::File::create(&path).expect("writable").set_len(MAX_JSON_BYTES + 1).expect("a sparse file");
            let refused = ModelDirectory::open(directory.path()).expect_err("too large").to_string();
            assert!(refused.contains(name) && refused.contains("more than"), "{refused}");
            std::fs::remove_file(&path).expect("the file exists");
        }
        assert!(ModelDirectory::open(directory.path()).is_ok());
    }
}
