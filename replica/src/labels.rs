//! Class names in order: from the weights themselves, the list of ImageNet's 1000, or a file.

use std::path::PathBuf;
use std::str::FromStr;

/// The category names that torchvision ships with its ImageNet weights, in class order.
const IMAGENET: &str = include_str!("../labels/imagenet.txt");

/// `--labels`: where names come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The weights' metadata; without it, `class 0`, `class 1`, …
    Weights,
    /// ImageNet's 1000.
    ImageNet,
    /// A file with one name a line.
    File(PathBuf),
}

impl FromStr for Source {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "weights" => Self::Weights,
            "imagenet" => Self::ImageNet,
            path => Self::File(path.into()),
        })
    }
}

/// Why there are no names.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read labels {path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// The system's words.
        error: std::io::Error,
    },
    /// As many names as classes are needed.
    #[error("{names} labels for {classes} classes; give one label a line, in class order")]
    Count {
        /// How many there are.
        names: usize,
        /// How many the model has.
        classes: usize,
    },
}

impl Source {
    /// The names of `classes` classes; `from_weights` are those in the weights' metadata.
    ///
    /// # Errors
    /// See [`Error`].
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
    fn imagenet_has_its_thousand_in_order() {
        let names = Source::ImageNet.load(None, 1000).expect("a thousand");
        assert_eq!([&names[0], &names[207], &names[999]], ["tench", "golden retriever", "toilet tissue"]);
    }

    #[test]
    fn the_count_must_match_and_a_missing_file_is_named() {
        assert!(Source::ImageNet.load(None, 12).is_err());
        assert_eq!(Source::Weights.load(None, 2).expect("numbered"), ["class 0", "class 1"]);
        assert!(Source::Weights.load(Some(vec!["one".into()]), 2).is_err());
        let missing = Source::File("no/such/file".into()).load(None, 1).expect_err("missing");
        assert!(missing.to_string().contains("no/such/file"));
    }
}
