//! 3×3 convolutions of stride 1, padded with one row and column of zeros on each side, by Winograd's minimal filtering.
//!
//! A square of `m` × `m` outputs takes `(m + 2)²` multiplications for each pair of channels instead of `9 m²`: for `m` of 4
//! a quarter, for 2 four ninths.
//!
//! Source: A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308, section 4.

mod filter;
mod part;
mod tile;

use crate::division::{check, cut};
use crate::{Activation, Shape, Spread};
use part::{Job, Part};

pub use filter::Filter;
pub use tile::Tile;

/// Below this many tiles a part would transform little and read all weights for it: then channels are divided.
const TILES_WORTH_DIVIDING: usize = 32;

/// Convolves `input` into `output`: `output = activation(input * filter + bias)`.
///
/// # Panics
/// When a slice has another length than the shape and the filter's channels say.
pub fn convolve(
    input: &[f32],
    shape: Shape,
    filter: &Filter,
    activation: Activation<'_>,
    output: &mut [f32],
    spread: &dyn Spread,
) {
    check((input, shape, filter.inputs), (output, shape, filter.outputs), activation);
    let side = filter.tile.outputs();
    let (tiles_down, tiles_across) = (shape.height.div_ceil(side), shape.width.div_ceil(side));
    let tiles = shape.images * tiles_down * tiles_across;
    if tiles == 0 {
        return;
    }
    let job = Job::new(input, shape, (tiles_down, tiles_across), filter, activation, output);
    let blocks = filter.blocks();
    let (parts, by_tiles) = match spread.parts().max(1) {
        parts if tiles / parts >= TILES_WORTH_DIVIDING || blocks == 1 => (parts.min(tiles), true),
        parts => (parts.min(blocks), false),
    };
    spread.run(parts, &|index| {
        job.run(match by_tiles {
            true => Part { tiles: cut(tiles, parts, index), blocks: 0..blocks },
            false => Part { tiles: 0..tiles, blocks: cut(blocks, parts, index) },
        });
    });
}
