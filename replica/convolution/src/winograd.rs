//! 3×3 convolutions of stride 1 and padding 1, by Winograd's minimal filtering.
//!
//! For each pair of input and output channel, a tile of `m` × `m` outputs takes `(m + 2)²` multiplications instead of
//! `9 m²`: a quarter of them for `m = 4`, four ninths for `m = 2`.
//!
//! Source: A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks (2015), arXiv:1509.09308, section 4.

mod convolution;
mod filter;
mod transform;

use crate::partition::{check_lengths, divide};
use crate::{BatchShape, Epilogue, Executor};
use convolution::{WinogradConvolution, WinogradPart};

pub use filter::WinogradFilter;
pub use transform::TileSize;

/// The least number of tiles of a part. A part with fewer tiles would read all weights for little work, so output
/// channels are divided among the parts instead of tiles.
const LEAST_TILES_OF_PART: usize = 32;

/// Convolves `input` into `output`: `output = epilogue(input * filter + bias)`. Both slices have the shape `shape`;
/// `input` has the filter's input channels, and `output` has the filter's output channels.
///
/// # Panics
/// If the length of a slice does not fit its shape and channels.
pub fn convolve(
    input: &[f32],
    shape: BatchShape,
    filter: &WinogradFilter,
    epilogue: Epilogue<'_>,
    output: &mut [f32],
    executor: &dyn Executor,
) {
    check_lengths((input, shape, filter.inputs), (output, shape, filter.outputs), epilogue);
    let side = filter.tile.outputs();
    let (tiles_down, tiles_across) = (shape.height.div_ceil(side), shape.width.div_ceil(side));
    let tiles = shape.images * tiles_down * tiles_across;
    if tiles == 0 {
        return;
    }
    let convolution = WinogradConvolution::new(input, shape, (tiles_down, tiles_across), filter, epilogue, output);
    divide((tiles, LEAST_TILES_OF_PART), filter.blocks(), executor, |tiles, blocks| {
        convolution.run(WinogradPart { tiles, blocks });
    });
}
