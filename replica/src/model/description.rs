//! What the files of a model say about it beside its weights: the transform, the names of the classes, and properties
//! that the weights must have.

use super::architecture::StridePlace;
use crate::labels::{self, ModelLabels};
use crate::transform::{self, TransformValues};
use std::collections::HashMap;

/// The properties of a model that its files tell.
#[derive(Debug, Clone, Default)]
pub struct Description {
    /// Parameters of the transform, each with the file that they come from. Earlier ones win.
    pub transform: Vec<(String, TransformValues)>,
    /// The names of the classes.
    pub labels: Option<ModelLabels>,
    /// Number of classes.
    pub(super) classes: Option<usize>,
    /// timm's or torchvision's name of the network.
    pub(super) architecture: Option<String>,
    /// The convolution with the stride in bottleneck blocks.
    pub(super) stride: Option<StridePlace>,
}

impl Description {
    /// The properties in the metadata of a model's file, which is called `source`: the keys of
    /// [`TransformValues::from_metadata`], and `labels`, with one name on each line.
    ///
    /// # Errors
    /// If a value is malformed.
    pub(super) fn from_metadata(metadata: &HashMap<String, String>, source: &str) -> Result<Self, transform::Error> {
        let source = source.to_owned();
        let names = metadata.get("labels").map(|text| labels::lines(text));
        Ok(Self {
            labels: names.map(|names| ModelLabels { source: source.clone(), names }),
            transform: vec![(source, TransformValues::from_metadata(metadata)?)],
            ..Self::default()
        })
    }

    /// This description, completed by `other`.
    pub(super) fn or(mut self, other: Self) -> Self {
        self.transform.extend(other.transform);
        Self {
            transform: self.transform,
            labels: self.labels.or(other.labels),
            classes: self.classes.or(other.classes),
            architecture: self.architecture.or(other.architecture),
            stride: self.stride.or(other.stride),
        }
    }
}
