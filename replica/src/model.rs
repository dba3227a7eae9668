//! The interface of a classifier. In this library, only this file and the modules below it use libtorch.

mod architecture;
mod calibration;
mod checkpoint;
mod choice;
mod config_file;
mod description;
mod device;
mod directory;
mod factory;
mod file;
mod folded;
mod fused;
mod histogram;
mod libtorch;
mod names;
mod network;
#[cfg(feature = "onnx")]
mod onnx;
mod pickle;
mod preprocessor_file;
mod pth;
mod quantised;
mod stopwatch;
mod stored_tensor;
#[cfg(test)]
mod tests;
mod thread_team;
mod torchscript;
mod tuning;
mod warm_up;
pub mod weights;

pub use ::convolution::Instructions;
pub use architecture::Architecture;
pub use calibration::Calibration;
pub use choice::KernelChoice;
pub use description::Description;
pub use device::{Device, Precision};
pub use directory::files_of_directory;
pub use factory::{Error, ModelFactory, Setup};
pub use file::{ModelFile, ModelSource, WeightsSource};
pub use quantised::{Agreement, QuantisedError, QuantisedFile};

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

    /// The logits and the embeddings of a batch of images. An embedding is what the last layer makes the logits of: the
    /// mean of each channel, `[features]`.
    ///
    /// # Errors
    /// If the engine fails, or cannot give embeddings ([`ModelFactory::has_embeddings`]).
    fn logits_and_embeddings(&mut self, _images: &[Input]) -> Result<Vec<Outputs>, InferenceError> {
        Err(InferenceError::new("this engine gives no embeddings"))
    }
}

/// The logits of an image, and its embedding.
pub type Outputs = (Vec<f32>, Vec<f32>);

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
