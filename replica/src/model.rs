//! The interface of a classifier. In this library, only this file and the modules below it use libtorch.

mod architecture;
mod choice;
mod device;
mod factory;
mod file;
mod folded;
mod fused;
mod libtorch;
mod network;
mod pth;
mod stopwatch;
#[cfg(test)]
mod tests;
mod thread_team;
mod torchscript;
mod tuning;
mod warm_up;
pub mod weights;

pub use ::convolution::Instructions;
pub use architecture::Architecture;
pub use choice::KernelChoice;
pub use device::{Device, Precision};
pub use factory::{ModelFactory, Setup};
pub use file::{ModelFile, ModelSource};

/// Number of channels of an image: red, green and blue.
pub const CHANNELS: usize = 3;

/// The model's input for one image: `[side, side, 3]` normalised numbers, row by row, channels innermost.
pub type Input = Vec<f32>;

/// A classifier that belongs to one thread.
pub trait Model {
    /// The logits of a batch of images, `[n][classes]`: scores of all classes, which a softmax turns into
    /// probabilities.
    ///
    /// # Errors
    /// If the engine fails. The message is that of the engine.
    fn logits(&mut self, images: &[Input]) -> Result<Vec<Vec<f32>>, InferenceError>;
}

/// Why a model could not be made, or why a forward pass failed.
#[derive(Debug, thiserror::Error)]
#[error("the model cannot be computed: {0}")]
pub struct InferenceError(String);

impl InferenceError {
    /// An error with the engine's reason.
    pub fn new(reason: impl std::fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

impl From<tch::TchError> for InferenceError {
    fn from(error: tch::TchError) -> Self {
        // Only the first line of libtorch's message is for users. The others are a C++ backtrace.
        let message = error.to_string();
        Self::new(message.lines().next().unwrap_or_default())
    }
}
