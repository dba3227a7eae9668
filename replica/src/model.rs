//! What a classifier is. Everything that names libtorch lives below this file.

pub mod pth;
pub mod resnet;
pub mod weights;

/// Side of the square that every model takes, pixels.
pub const SIDE: usize = 224;

/// Numbers that describe one picture: `SIDE * SIDE * 3`, row by row, channels interleaved.
pub const INPUT_LENGTH: usize = SIDE * SIDE * 3;

/// A classifier that one thread owns.
pub trait Model {
    /// Classifies pictures, each [`INPUT_LENGTH`] normalised numbers, and returns for each the probability of every class.
    ///
    /// # Errors
    /// When libtorch refuses, with its own words.
    fn classify(&self, pictures: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, Failure>;
}

/// A forward pass that did not work.
#[derive(Debug, thiserror::Error)]
#[error("inference failed: {0}")]
pub struct Failure(String);
