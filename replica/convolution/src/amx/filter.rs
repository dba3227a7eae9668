//! The weights of a convolution on the matrix unit, split into `bf16`, in the order in which the unit reads tiles.

use super::image_layout::{Tap, TileRow};
use super::split::split;
use super::tile_unit::{COLUMNS, DEPTH, TileUnit};
use crate::Geometry;
use crate::aligned::AlignedBuffer;

/// Weights and bias of one convolution on the matrix unit.
pub struct AmxFilter {
    pub(super) geometry: Geometry,
    pub(super) unit: TileUnit,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// The weights, `[blocks][steps][high, low][pairs][columns][2]` of `bf16`, two of which are stored in each `f32`. A
    /// block has [`COLUMNS`] output channels; the last block is filled up with zeros. A step has [`DEPTH`] numbers of
    /// the depth of the product, which are [`DEPTH`] / 2 pairs.
    pub(super) weights: AlignedBuffer,
    /// The bias, `[blocks * columns]`: one number for each output channel, then zeros.
    pub(super) bias: AlignedBuffer,
    /// Number of steps in the depth of the product.
    steps: usize,
}

impl AmxFilter {
    /// Splits and reorders `weights`, `[outputs, inputs, side, side]`. `bias` is `[outputs]`.
    ///
    /// # Panics
    /// If the length of `weights` does not fit `bias`, `inputs` and `geometry`, if the side, the stride or a number of
    /// channels is zero, or if the processor lacks the unit.
    pub fn new(weights: &[f32], bias: &[f32], inputs: usize, geometry: Geometry, unit: TileUnit) -> Self {
        let (outputs, side) = (geometry.check_filter(weights, bias, inputs), geometry.side);
        let taps = side * side;
        assert!(unit.is_available(), "this processor lacks {unit:?}");
        let blocks = outputs.div_ceil(COLUMNS);
        let index_of = |Tap { row, column, channel }| (channel * side + row) * side + column;
        let tile_row = TileRow::of(inputs, geometry);
        let indices: Vec<_> = tile_row.taps(inputs, geometry).map(|tap| tap.map(index_of)).collect();
        let steps = indices.len() / DEPTH;
        let mut reordered = AlignedBuffer::zeroed(blocks * steps * DEPTH * COLUMNS);
        let block_weights = weights.chunks(COLUMNS * taps * inputs);
        for (weights, to) in block_weights.zip(reordered.chunks_exact_mut(steps * DEPTH * COLUMNS)) {
            for (indices, to) in indices.chunks_exact(DEPTH).zip(to.chunks_exact_mut(DEPTH * COLUMNS)) {
                fill_step(weights, taps * inputs, indices, to);
            }
        }
        let bias = AlignedBuffer::padded(bias, blocks * COLUMNS);
        Self { geometry, unit, inputs, outputs, weights: reordered, bias, steps }
    }

    /// Side, stride and padding of the convolution.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Number of output channels.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Number of blocks of output channels.
    pub(super) fn blocks(&self) -> usize {
        self.bias.len() / COLUMNS
    }

    /// The length of a block's weights in `f32`, each of which holds two `bf16`.
    pub(super) fn block_length(&self) -> usize {
        self.steps * DEPTH * COLUMNS
    }
}

/// Writes one step of a block: for each output channel the [`DEPTH`] weights at `indices`, and zero where an index is
/// `None`. An output channel has `channel_length` weights.
fn fill_step(weights: &[f32], channel_length: usize, indices: &[Option<usize>], to: &mut [f32]) {
    let (high, low) = to.split_at_mut(DEPTH / 2 * COLUMNS);
    for (column, weights) in weights.chunks_exact(channel_length).enumerate() {
        let mut numbers = [0.0; DEPTH];
        for (number, index) in numbers.iter_mut().zip(indices) {
            *number = index.map_or(0.0, |index| weights[index]);
        }
        let parts = numbers.map(split);
        for (pair, &[first, second]) in parts.as_chunks().0.iter().enumerate() {
            let index = pair * COLUMNS + column;
            [high[index], low[index]] = [0, 1].map(|part| pack(first[part], second[part]));
        }
    }
}

/// Two numbers of `bf16` in the memory of one `f32`, the first at the lower address.
fn pack(first: u16, second: u16) -> f32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    f32::from_ne_bytes([a, b, c, d])
}
