//! Convolutions and poolings of residual networks in 8-bit integers.
//!
//! Activations are `u8`, `[images, height, width, padded channels]`, and stand for `scale × (level − zero point)`.
//! Weights are `s8`, with a scale for each output channel. A sum of products is an exact `i32`. What follows the sum
//! (bias, residual addition, rounding and clamping) is a fixed sequence of IEEE operations. So every set of
//! instructions, and every processor, computes the same bytes; the tests compare all of them with the definition byte
//! by byte.
//!
//! The instruction that makes this fast (`vpdpbusd`: four products of `u8` and `s8`, added to an `i32`) is
//! AVX-512-VNNI's and AVX-VNNI's. [`Int8Instructions::Portable`] has no such instruction, and is slower than
//! [`crate::direct`] in `f32`.

mod bytes;
mod classifier;
mod convolution;
mod dot;
mod filter;
mod instructions;
mod picture;
mod pool;
mod tile;

pub use bytes::Bytes;
pub use classifier::Int8Classifier;
pub use convolution::{Residual, convolve};
pub use filter::Int8Filter;
pub use instructions::Int8Instructions;
pub use picture::{PictureLevels, quantise};
pub use pool::{max, sums};

/// Number of bytes of a pixel with `channels` channels: the next multiple of four. The bytes after the channels are
/// zero. An instruction reads four channels at once. Only the pixels of a picture, the input of a filter without
/// padding, have no such bytes; see [`Int8Filter::input_bytes`].
pub const fn padded(channels: usize) -> usize {
    channels.next_multiple_of(4)
}
