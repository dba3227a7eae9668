//! 3×3 convolutions of stride 1 by Winograd's minimal filtering, in `f32`, on the CPU.
//!
//! A square of `m` × `m` outputs takes `(m + 2)²` multiplications for each pair of channels instead of `9 m²`: for `m` of 4
//! a quarter, for 2 four ninths. Pictures are `[n, height, width, channels]`, channels innermost, padded with one
//! row and column of zeros on each side, so that the output has the size of the input.
//!
//! Knows nothing of libtorch or of models. Safe to call; vector instructions and threads are inside.
//!
//! Source: A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308, section 4.

mod aligned;
mod convolution;
mod filter;
mod instructions;
mod part;
mod product;
mod spread;
mod tile;
mod vector;

pub use convolution::{Activation, Shape, convolve};
pub use filter::Filter;
pub use instructions::Instructions;
pub use spread::{Alone, Spread};
pub use tile::Tile;
