//! The names of the classes, in class order. They come from the files of the model, from the list of ImageNet's 1000
//! classes, or from a file of their own.

use crate::bounded_file;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The category names that torchvision ships with its ImageNet weights, in class order.
const IMAGENET: &str = include_str!("../labels/imagenet.txt");

/// Largest size of a file of names: 8 MiB. The names of ImageNet's 21,841 classes have 1 MiB.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// The source of the names of the classes, as the flag `--labels` gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelSource {
    /// The directory of the model, or the metadata of its weights. If they have no names, the classes are called
    /// `class 0`, `class 1` and so on.
    Weights,
    /// The list of ImageNet's 1000 classes.
    ImageNet,
    /// A file with one name on each line.
    File(PathBuf),
}

impl FromStr for LabelSource {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "weights" => Self::Weights,
            "imagenet" => Self::ImageNet,
            path => Self::File(path.into()),
        })
    }
}

/// The names that the files of a model give to its classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelLabels {
    /// The file that has the names.
    pub source: String,
    /// The names, in class order.
    pub names: Vec<String>,
}

/// The reason why there are no names for the classes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read the names of classes {path}: {error}; give a file with one name on each line")]
    Read {
        /// The path of the file.
        path: String,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// The file is no list of names.
    #[error("{path}: {reason}; give a file with one name on each line")]
    Malformed {
        /// The path of the file.
        path: String,
        /// What is wrong with the file.
        reason: &'static str,
    },
    /// There are more or fewer names than classes.
    #[error("{source_name} has {names} names for {classes} classes; give one name for each class, in class order")]
    Count {
        /// The file or flag that has the names.
        source_name: String,
        /// The number of names.
        names: usize,
        /// The number of classes of the model.
        classes: usize,
    },
}

impl LabelSource {
    /// The file with the names, if they come from a file of their own.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Weights | Self::ImageNet => None,
            Self::File(path) => Some(path),
        }
    }

    /// Loads the names of `classes` classes, and logs their source. `of_model` are the names in the model's files, if
    /// there are any.
    ///
    /// # Errors
    /// If a file cannot be read, or there are more or fewer names than classes.
    pub fn load(&self, of_model: Option<ModelLabels>, classes: usize) -> Result<Vec<String>, Error> {
        let labels = match self {
            Self::Weights => of_model.unwrap_or_else(|| ModelLabels {
                source: "numbers".into(),
                names: (0..classes).map(|class| format!("class {class}")).collect(),
            }),
            Self::ImageNet => ModelLabels { source: "--labels imagenet".into(), names: lines(IMAGENET) },
            Self::File(path) => read(path)?,
        };
        let ModelLabels { source, names } = labels;
        if names.len() != classes {
            return Err(Error::Count { source_name: source, names: names.len(), classes });
        }
        tracing::info!(source, classes, "names of the classes");
        Ok(names)
    }
}

/// Reads the names in a file, one on each line.
///
/// # Errors
/// If the file cannot be read, is larger than 8 MiB, or is not UTF-8.
pub fn read(path: &Path) -> Result<ModelLabels, Error> {
    let source = path.display().to_string();
    let bytes =
        bounded_file::read(path, MAX_FILE_BYTES).map_err(|error| Error::Read { path: source.clone(), error })?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(ModelLabels { names: lines(text), source }),
        Err(_) => Err(Error::Malformed { path: source, reason: "the file is not UTF-8" }),
    }
}

/// The lines of a text without the empty ones at its end. Some editors begin a file with a byte order mark.
pub fn lines(text: &str) -> Vec<String> {
    text.trim_start_matches('\u{feff}').trim_end().lines().map(|line| line.trim().to_owned()).collect()
}

/// The names as a text that [`lines`] reads. Line breaks within a name become spaces.
///
/// # Errors
/// If the last name is blank, because [`lines`] would not see it: the reason.
pub fn text(names: &[String]) -> Result<String, &'static str> {
    let text = names.iter().map(|name| name.replace(['\r', '\n'], " ")).collect::<Vec<_>>().join("\n");
    match lines(&text).len() == names.len() {
        true => Ok(text),
        false => Err("the last class has an empty name; give it a name"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imagenet_has_the_names_of_a_thousand_classes_in_class_order() {
        let names = LabelSource::ImageNet.load(None, 1000).expect("a thousand names");
        assert_eq!([&names[0], &names[207], &names[999]], ["tench", "golden retriever", "toilet tissue"]);
    }

    #[test]
    fn a_wrong_number_of_names_and_a_missing_file_are_refused() {
        assert!(LabelSource::ImageNet.load(None, 12).is_err());
        assert_eq!(LabelSource::Weights.load(None, 2).expect("numbered"), ["class 0", "class 1"]);
        let one = ModelLabels { source: "config.json".into(), names: vec!["one".into()] };
        let refused = LabelSource::Weights.load(Some(one), 2).expect_err("one name for two classes").to_string();
        assert!(refused.contains("config.json has 1 names for 2 classes"), "{refused}");
        let missing = LabelSource::File("no/such/file".into()).load(None, 1).expect_err("missing");
        assert!(missing.to_string().contains("no/such/file"));
    }

    #[test]
    fn files_of_any_editor_are_read_and_others_are_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "\u{feff}cat\r\n dog \r\n\r\n").expect("writable");
        assert_eq!(read(file.path()).expect("a list of names").names, ["cat", "dog"]);
        std::fs::write(file.path(), b"cat\xff").expect("writable");
        assert!(read(file.path()).expect_err("refused").to_string().contains("not UTF-8"));
        file.as_file().set_len(MAX_FILE_BYTES + 1).expect("a sparse file");
        assert!(read(file.path()).expect_err("refused").to_string().contains("more than 8388608 bytes"));
    }

    #[test]
    fn every_list_of_names_is_one_line_for_each_or_refused() {
        for (names, expected) in [
            (&["cat", "dog"][..], Some(&["cat", "dog"][..])),
            (&["big\ncat", "dog\r\n", "\n", "a\rb"], Some(&["big cat", "dog", "", "a b"])),
            (&["", "", "dog"], Some(&["", "", "dog"])),
            (&["cat", ""], None),
            (&["cat", "\n"], None),
            (&["", ""], None),
            (&[""], None),
            (&[], Some(&[])),
        ] {
            let owned: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let read = text(&owned).ok().map(|text| lines(&text));
            assert_eq!(read, expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect()), "{names:?}");
        }
    }
}
