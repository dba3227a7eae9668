//! What a classifier is. Everything that names libtorch lives below this file.

mod pth;
pub mod resnet;
pub mod threads;
pub mod weights;

/// Side of the square that every model takes, pixels.
pub const SIDE: usize = 224;

/// Numbers that describe one picture.
pub const INPUT_LENGTH: usize = SIDE * SIDE * 3;

/// One picture: [`INPUT_LENGTH`] normalised numbers, row by row, channels interleaved.
pub type Input = Vec<f32>;

/// A classifier that one thread owns.
pub trait Model {
    /// Scores of every class for each of `n` pictures: what a softmax makes probabilities of.
    ///
    /// # Errors
    /// When libtorch refuses, with its own words.
    fn logits(&self, pictures: &[Input]) -> Result<Vec<Vec<f32>>, Failure>;

    /// How many classes it tells apart.
    fn classes(&self) -> usize;
}

/// A forward pass that did not work.
#[derive(Debug, thiserror::Error)]
#[error("inference failed: {0}")]
pub struct Failure(String);

impl Failure {
    /// With the reason in the engine's own words.
    pub fn new(reason: impl std::fmt::Display) -> Self {
        Self(reason.to_string())
    }
}
