//! The weights of a direct convolution, in the order in which the product reads them.

use crate::aligned::AlignedBuffer;
use crate::{Geometry, Instructions};

/// Images with fewer channels than this number are copied with their padding, so that a run is a row of the filter. With
/// runs of a few numbers, looking up addresses would take longer than multiplying.
const FEW_CHANNELS: usize = 16;

/// The runs of consecutive numbers of which the inputs of an output consist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    /// A run is all channels of the pixel under one tap of the filter.
    Taps,
    /// A run is all channels of the pixels under one row of the filter.
    FilterRows,
}

/// Weights and bias of one direct convolution.
pub struct DirectFilter {
    pub(crate) geometry: Geometry,
    pub(crate) instructions: Instructions,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// The weights, `[blocks][side][side][inputs][columns]`. A block has as many output channels as the product has
    /// columns ([`Instructions::columns`]); the last block is filled up with zeros.
    pub(crate) weights: AlignedBuffer,
    /// The bias, `[blocks * columns]`: one number for each output channel, then zeros.
    pub(crate) bias: AlignedBuffer,
}

impl DirectFilter {
    /// Reorders `weights`, `[outputs, inputs, side, side]`, for the given instructions. `bias` is `[outputs]`.
    ///
    /// # Panics
    /// If the length of `weights` does not fit `bias`, `inputs` and `geometry`, if the side, the stride or a number of
    /// channels is zero, or if the processor lacks the instructions.
    pub fn new(weights: &[f32], bias: &[f32], inputs: usize, geometry: Geometry, instructions: Instructions) -> Self {
        let (outputs, side) = (geometry.check_filter(weights, bias, inputs), geometry.side);
        let taps = side * side;
        assert!(instructions.is_available(), "this processor lacks {instructions:?}");
        let columns = instructions.columns();
        let blocks = outputs.div_ceil(columns);
        let mut reordered = AlignedBuffer::zeroed(blocks * taps * inputs * columns);
        for (block, to) in reordered.chunks_exact_mut(taps * inputs * columns).enumerate() {
            for (row, to) in to.chunks_exact_mut(columns).enumerate() {
                let (tap, input) = (row / inputs, row % inputs);
                for (output, to) in (block * columns..outputs).zip(to) {
                    *to = weights[(output * inputs + input) * taps + tap];
                }
            }
        }
        let bias = AlignedBuffer::padded(bias, blocks * columns);
        Self { geometry, instructions, inputs, outputs, weights: reordered, bias }
    }

    /// Side, stride and padding of the convolution.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Number of output channels.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The runs of consecutive numbers of which the inputs of an output consist.
    pub(super) fn runs(&self) -> Runs {
        if self.inputs < FEW_CHANNELS { Runs::FilterRows } else { Runs::Taps }
    }

    /// Numbers of a block's weights.
    pub(super) fn block_length(&self) -> usize {
        self.weights.len() / self.blocks()
    }

    /// Number of blocks of output channels.
    pub(crate) fn blocks(&self) -> usize {
        self.bias.len() / self.instructions.columns()
    }
}
