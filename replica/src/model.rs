//! What a classifier is. Everything that names libtorch lives below this file.

mod architecture;
mod choice;
mod device;
mod file;
mod folded;
mod fused;
mod libtorch;
mod network;
mod pth;
mod recipe;
mod team;
#[cfg(test)]
mod tests;
mod torchscript;
mod tuning;
mod warm_up;
pub mod weights;

pub use architecture::Architecture;
pub use choice::Wanted;
pub use device::{Device, Precision};
pub use file::{ModelFile, Source};
pub use recipe::{Recipe, Setup};

/// Red, green and blue.
pub const CHANNELS: usize = 3;

/// One picture: normalised numbers, row by row, channels interleaved.
pub type Input = Vec<f32>;

/// A classifier that one thread owns.
pub trait Model {
    /// Scores of every class for each of `n` pictures: what a softmax makes probabilities of.
    ///
    /// # Errors
    /// When the engine refuses, with its own words.
    fn logits(&mut self, pictures: &[Input]) -> Result<Vec<Vec<f32>>, Failure>;
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

impl From<tch::TchError> for Failure {
    fn from(error: tch::TchError) -> Self {
        // libtorch's messages go on with a backtrace of its own.
        let message = error.to_string();
        Self::new(message.lines().next().unwrap_or_default())
    }
}
