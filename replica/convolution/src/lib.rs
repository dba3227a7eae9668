//! Convolutions in `f32` on the CPU: by Winograd's minimal filtering where that is possible, directly elsewhere.
//!
//! Pictures are `[n, height, width, channels]`, channels innermost. Bias, addition and rectification come with the convolution,
//! while its sums are in registers. Safe to call; vector instructions and threads are inside. Knows nothing of libtorch
//! or of models.

mod activation;
mod aligned;
pub mod amx;
pub mod direct;
mod division;
mod instructions;
pub mod memory;
pub mod pool;
mod product;
mod shape;
mod spread;
mod vector;
pub mod winograd;

pub use activation::Activation;
pub use instructions::Instructions;
pub use shape::Shape;
pub use spread::{Alone, Spread};
