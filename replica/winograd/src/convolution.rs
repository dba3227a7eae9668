//! One convolution: checks the sizes and cuts the work into parts.

use crate::filter::Filter;
use crate::part::{Job, Part};
use crate::spread::Spread;

/// Below this many tiles a part would transform little and read all weights for it: then channels are divided.
const TILES_WORTH_DIVIDING: usize = 32;

/// Sizes of a batch of pictures, `[images, height, width]`, of as many channels as the filter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How many.
    pub images: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// What happens to a sum before it is stored.
#[derive(Debug, Clone, Copy)]
pub struct Activation<'a> {
    /// Added to the output, and of its size.
    pub residual: Option<&'a [f32]>,
    /// Negative numbers become zero, after the addition.
    pub rectify: bool,
}

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
    let pixels = shape.images * shape.height * shape.width;
    assert_eq!(input.len(), pixels * filter.inputs, "input of {shape:?} with {} channels", filter.inputs);
    assert_eq!(output.len(), pixels * filter.outputs, "output of {shape:?} with {} channels", filter.outputs);
    if let Some(residual) = activation.residual {
        assert_eq!(residual.len(), output.len(), "what is added has the size of the output");
    }
    let side = filter.tile.outputs();
    let (tiles_down, tiles_across) = (shape.height.div_ceil(side), shape.width.div_ceil(side));
    let tiles = shape.images * tiles_down * tiles_across;
    if tiles == 0 {
        return;
    }
    let job = Job::new(input, shape, (tiles_down, tiles_across), filter, activation, output);
    let blocks = filter.padded_outputs() / filter.instructions.columns();
    let (parts, by_tiles) = match spread.parts().max(1) {
        parts if tiles / parts >= TILES_WORTH_DIVIDING || blocks == 1 => (parts.min(tiles), true),
        parts => (parts.min(blocks), false),
    };
    let cut = |whole: usize, index: usize| whole * index / parts;
    spread.run(parts, &|index| {
        job.run(match by_tiles {
            true => Part { tiles: cut(tiles, index)..cut(tiles, index + 1), blocks: 0..blocks },
            false => Part { tiles: 0..tiles, blocks: cut(blocks, index)..cut(blocks, index + 1) },
        });
    });
}
