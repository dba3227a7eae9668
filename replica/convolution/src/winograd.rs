//! 3×3 convolutions of stride 1 and padding 1, by Winograd's minimal filtering.
//!
//! For each pair of input and output channel, a tile of `m` × `m` outputs takes `(m + 2)²` multiplications instead of
//! `9 m²`: a quarter of them for `m = 4`, four ninths for `m = 2`.
//!
//! Source: A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks (2015), arXiv:1509.09308, section 4.

mod convolution;
mod filter;
mod transform;

use crate::partition::{check_lengths, part_range};
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
    let blocks = filter.blocks();
    let (parts, by_tiles) = match executor.parts().max(1) {
        parts if tiles / parts >= LEAST_TILES_OF_PART || blocks == 1 => (parts.min(tiles), true),
        parts => (parts.min(blocks), false),
    };
    executor.run(parts, &|index| {
        convolution.run(match by_tiles {
            true => WinogradPart { tiles: part_range(tiles, parts, index), blocks: 0..blocks },
            false => WinogradPart { tiles: 0..tiles, blocks: part_range(blocks, parts, index) },
        });
    });
}
