//! The description of the model that a replica serves.

/// The properties of the served model that answers contain or depend on. They are known once the model is loaded.
#[derive(Debug)]
pub struct ServedModel {
    /// The model's name.
    pub name: String,
    /// The kind of the model in the Open Inference Protocol's metadata, such as `pytorch_libtorch`.
    pub platform: &'static str,
    /// The names of the classes, in class order.
    pub labels: Vec<String>,
    /// The side of the square images that the model takes, in pixels.
    pub side: usize,
}
