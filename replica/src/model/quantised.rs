//! Residual networks in 8-bit integers: what a file of them holds, and the model that computes them.
//!
//! An activation is a level from 0 to 255, and stands for `scale × level`; after a convolution without a ReLU, for
//! `scale × (level − 128)`. Every activation has one scale. A weight is an integer from -127 to 127, and stands for itself
//! times the scale of its output channel. `calibration` finds the scales.

mod agreement;
mod engine;
mod file;
mod layers;
#[cfg(test)]
mod tests;

pub use agreement::Agreement;
pub(super) use engine::{Int8Model, Int8Network};
pub use file::{Error as QuantisedError, QuantisedFile};

use super::network::Network;
use convolution::Geometry;
use convolution::int8::PictureLevels;

/// The level of the number 0 in activations that may be negative.
const SIGNED_ZERO: f32 = 128.0;

/// The levels above [`SIGNED_ZERO`].
pub(super) const SIGNED_LEVELS: f32 = 127.0;

/// The greatest level of an activation.
pub(super) const LEVELS: f32 = 255.0;

/// A convolution with 8-bit weights.
#[derive(Debug)]
pub(super) struct QuantisedConvolution {
    /// The weights, `[outputs, inputs, side, side]`.
    pub(super) weights: Vec<i8>,
    /// What a weight of each output channel is multiplied by, `[outputs]`.
    pub(super) weight_scale: Vec<f32>,
    /// The bias, `[outputs]`.
    pub(super) bias: Vec<f32>,
    /// Number of input channels.
    pub(super) inputs: usize,
    /// Side, stride and padding.
    pub(super) geometry: Geometry,
    /// The difference between the numbers of two neighbouring levels of the output; 1 for the head, whose output is f32.
    pub(super) output_scale: f32,
}

/// A residual network in 8-bit integers.
#[derive(Debug)]
pub(super) struct QuantisedNetwork {
    /// The layers. The stem's weights include the scales of the picture.
    pub(super) layers: Network<QuantisedConvolution>,
    /// What the levels of a picture stand for.
    pub(super) picture: PictureLevels,
}
