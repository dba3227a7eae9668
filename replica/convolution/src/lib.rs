//! Convolutions and poolings of residual networks in `f32` on the CPU.
//!
//! A convolution is computed by one of three algorithms: [`winograd`] (3×3 filters of stride 1 and padding 1),
//! [`direct`] (any filter) and [`amx`] (any filter, on the matrix unit of newer x86 processors). A batch of images or
//! of a layer's activations is `[images, height, width, channels]`, channels innermost (NHWC). Bias, residual addition
//! and ReLU are applied before an output is stored, so that no output is read again for them.
//!
//! This is the only crate of the workspace with unsafe code: vector and tile instructions, aligned memory, threads that
//! write to disjoint parts of one slice, and calls of the C library. Its public functions are safe to call and check
//! all lengths. It knows nothing of libtorch, of networks or of model files.

mod aligned;
pub mod amx;
mod batch_shape;
mod cache;
pub mod direct;
mod epilogue;
mod executor;
mod geometry;
mod instructions;
pub mod int8;
pub mod memory;
mod partition;
pub mod pool;
mod product;
mod vector;
pub mod winograd;

pub use batch_shape::BatchShape;
pub use epilogue::{Epilogue, Nonlinearity};
pub use executor::{CurrentThread, Executor};
pub use geometry::Geometry;
pub use instructions::Instructions;
