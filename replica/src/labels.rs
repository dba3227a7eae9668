//! The names of the classes, in class order. They come from the metadata of the weights, from the list of ImageNet's
//! 1000 classes, or from a file.

use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The category names that torchvision ships with its ImageNet weights, in class order.
const IMAGENET: &str = include_str!("../labels/imagenet.txt");

/// The source of the names of the classes, as the flag `--labels` gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelSource {
    /// The metadata of the weights. If they have no names, the classes are called `class 0`, `class 1` and so on.
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

/// The reason why there are no names for the classes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("--labels: read {path}: {error}; give weights, imagenet, or a file with one name on each line")]
    Read {
        /// The path of the file.
        path: String,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// There are more or fewer names than classes.
    #[error("--labels: there are {names} names for {classes} classes; give one name for each class, in class order")]
    Count {
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

    /// Loads the names of `classes` classes. `from_weights` are the names in the metadata of the weights, if there are
    /// any.
    ///
    /// # Errors
    /// If a file cannot be read, or there are more or fewer names than classes.
    pub fn load(&self, from_weights: Option<Vec<String>>, classes: usize) -> Result<Vec<String>, Error> {
        let lines = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
        let names = match self {
            Self::Weights => {
                from_weights.unwrap_or_else(|| (0..classes).map(|class| format!("class {class}")).collect())
            }
            Self::ImageNet => lines(IMAGENET),
            Self::File(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| Error::Read { path: path.display().to_string(), error })?;
                lines(&text)
            }
        };
        if names.len() != classes {
            return Err(Error::Count { names: names.len(), classes });
        }
        Ok(names)
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
        assert!(LabelSource::Weights.load(Some(vec!["one".into()]), 2).is_err());
        let missing = LabelSource::File("no/such/file".into()).load(None, 1).expect_err("missing");
        assert!(missing.to_string().contains("no/such/file"));
    }
}
