//! The names of the classes in class order: from the metadata of the weights, the list of ImageNet's 1000 classes, or a
//! file.

use std::path::PathBuf;
use std::str::FromStr;

/// The category names that torchvision ships with its ImageNet weights, in class order.
const IMAGENET: &str = include_str!("../labels/imagenet.txt");

/// `--labels`: where the names of the classes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelSource {
    /// The metadata of the weights; if that has no names, `class 0`, `class 1`, …
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

/// Why there are no names of classes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read labels {path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// There are more or fewer names than classes.
    #[error("{names} labels for {classes} classes; give one label on each line, in class order")]
    Count {
        /// Number of names.
        names: usize,
        /// Number of classes of the model.
        classes: usize,
    },
}

impl LabelSource {
    /// The names of `classes` classes. `from_weights` are the names in the metadata of the weights, if it has any.
    ///
    /// # Errors
    /// When a file cannot be read, or there are more or fewer names than classes.
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
    fn imagenet_has_a_thousand_classes_in_order() {
        let names = LabelSource::ImageNet.load(None, 1000).expect("a thousand names");
        assert_eq!([&names[0], &names[207], &names[999]], ["tench", "golden retriever", "toilet tissue"]);
    }

    #[test]
    fn a_wrong_count_is_refused_and_a_missing_file_is_named() {
        assert!(LabelSource::ImageNet.load(None, 12).is_err());
        assert_eq!(LabelSource::Weights.load(None, 2).expect("numbered"), ["class 0", "class 1"]);
        assert!(LabelSource::Weights.load(Some(vec!["one".into()]), 2).is_err());
        let missing = LabelSource::File("no/such/file".into()).load(None, 1).expect_err("missing");
        assert!(missing.to_string().contains("no/such/file"));
    }
}
