//! The interface of a classifier. Only this file and the modules below it name libtorch.

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
#[cfg(test)]
mod tests;
mod thread_team;
mod torchscript;
mod tuning;
mod warm_up;
pub mod weights;

pub use architecture::Architecture;
pub use choice::KernelChoice;
pub use device::{Device, Precision};
pub use factory::{ModelFactory, Setup};
pub use file::{ModelFile, ModelSource};

/// Channels of an image: red, green and blue.
pub const CHANNELS: usize = 3;

/// One image as a model takes it: `[side, side, 3]` normalised numbers, row by row, channels innermost.
pub type Input = Vec<f32>;

/// A classifier that belongs to one thread.
pub trait Model {
    /// The logits of a batch of images, `[n][classes]`: scores of all classes, which a softmax turns into
    /// probabilities.
    ///
    /// # Errors
    /// When the engine fails; the message is the engine's own.
    fn logits(&mut self, images: &[Input]) -> Result<Vec<Vec<f32>>, Failure>;
}

/// A failed forward pass.
#[derive(Debug, thiserror::Error)]
#[error("inference failed: {0}")]
pub struct Failure(String);

impl Failure {
    /// A failure with the engine's reason.
    pub fn new(reason: impl std::fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

impl From<tch::TchError> for Failure {
    fn from(error: tch::TchError) -> Self {
        // The other lines of libtorch's messages are a C++ backtrace.
        let message = error.to_string();
        Self::new(message.lines().next().unwrap_or_default())
    }
}
