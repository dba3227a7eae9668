//! What is served, once it is loaded.

/// What answers tell of the model.
#[derive(Debug)]
pub struct Served {
    /// Its name.
    pub name: String,
    /// Class names, in order.
    pub labels: Vec<String>,
    /// Sides of the square that it takes, pixels.
    pub side: usize,
}
