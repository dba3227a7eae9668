//! What the files of a model say about it beside its weights: the transform, the names of the classes, and properties
//! that the weights must have.

use super::architecture::{Architecture, StridePlace};
use super::weights::OTHER_NETWORKS;
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

    /// Checks that a network is the one that `config.json` describes: its name is `architecture`, if it is a residual
    /// network, and it has `classes` classes.
    ///
    /// # Errors
    /// If the file names another network or another number of classes.
    pub(super) fn check(&self, architecture: Option<&str>, classes: usize) -> Result<(), String> {
        if let (Some(name), Some(architecture)) = (&self.architecture, architecture)
            && Architecture::named(name).map(Architecture::name).as_deref() != Some(architecture)
        {
            return Err(format!(
                "config.json says that the network is {name}, but the weights are those of a {architecture}; \
                 {OTHER_NETWORKS}, or correct config.json"
            ));
        }
        match self.classes {
            Some(described) if described != classes => Err(format!(
                "config.json says {described} classes, but the weights have {classes}; correct config.json, or take the \
                 weights that belong to it"
            )),
            _ => Ok(()),
        }
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
