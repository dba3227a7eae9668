//! The description of the model that a replica serves.

use crate::transform::Transform;

/// The properties of a served model that answers contain or depend on.
#[derive(Debug)]
pub struct ServedModel {
    /// The model's name.
    pub name: String,
    /// The kind of the model in the Open Inference Protocol's metadata, such as `pytorch_libtorch`.
    pub platform: &'static str,
    /// The first 12 hexadecimal digits of the SHA-256 of the model's file, or of the names and hashes of all its files if
    /// it has several. `bundled` for the bundled model.
    pub version: String,
    /// The names of the classes, in class order.
    pub labels: Vec<String>,
    /// The transform from pixels to the model's input.
    pub transform: Transform,
    /// Whether the model gives embeddings.
    pub has_embeddings: bool,
}

impl ServedModel {
    /// The side of the square images that the model takes, in pixels.
    pub fn side(&self) -> usize {
        self.transform.crop as usize
    }
}
