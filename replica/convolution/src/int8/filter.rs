//! The weights of a convolution in the order in which `convolve` reads them.

use super::{Bytes, Int8Instructions, padded};
use crate::aligned::AlignedBuffer;
use crate::batch_shape::product;
use crate::{BatchShape, Geometry};

/// A filter, and what turns its sums into levels.
pub struct Int8Filter {
    /// The weights, `[block of output channels][row][group of four bytes of the row's pixels][output channel][byte]`.
    /// Outputs and bytes that only fill a block or a group have zero weights.
    pub(super) weights: Bytes,
    /// The factor of each output channel, padded with zeros to whole blocks.
    pub(super) scale: AlignedBuffer,
    /// The term of each output channel, padded with zeros to whole blocks.
    pub(super) bias: AlignedBuffer,
    /// As many zeros as a pixel of the input has bytes: what pixels outside the image hold.
    pub(super) zeros: Bytes,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) geometry: Geometry,
    pub(super) instructions: Int8Instructions,
}

impl Int8Filter {
    /// Packs `weights`, `[outputs, inputs, side, side]`. An output level is the sum of all products of weights and
    /// levels, times its `scale`, plus its `bias`.
    ///
    /// # Panics
    /// If the lengths do not fit, the filter has no side or stride, or a sum of products could exceed an `i32`: with more
    /// than 65,000 products.
    pub fn new(
        weights: &[i8],
        (scale, bias): (&[f32], &[f32]),
        inputs: usize,
        geometry: Geometry,
        instructions: Int8Instructions,
    ) -> Self {
        let Geometry { side, stride, .. } = geometry;
        let outputs = bias.len();
        let expected = product([outputs, inputs, side, side]);
        assert_eq!(
            Some(weights.len()),
            expected,
            "number of weights for {outputs} x {inputs} channels of {geometry:?}"
        );
        let taps = side * side;
        assert_eq!(scale.len(), outputs, "one scale for each output channel");
        assert!(side > 0 && stride > 0, "a filter has a side and a stride: {geometry:?}");
        assert!(inputs * taps <= 65_000, "the sum of {inputs} × {taps} products may exceed 32 bits");
        let block = instructions.block();
        let pixel = pixel_bytes(inputs, geometry);
        let (blocks, groups) = (outputs.div_ceil(block), padded(side * pixel) / 4);
        let mut packed = Bytes::zeroed(blocks * side * groups * block * 4);
        for (index, &weight) in weights.iter().enumerate() {
            let (tap, input, output) = (index % taps, index / taps % inputs, index / (taps * inputs));
            let (row, byte) = (tap / side, tap % side * pixel + input);
            let group = ((output / block * side + row) * groups + byte / 4) * block + output % block;
            packed[group * 4 + byte % 4] = weight as u8;
        }
        Self {
            weights: packed,
            scale: AlignedBuffer::padded(scale, blocks * block),
            bias: AlignedBuffer::padded(bias, blocks * block),
            zeros: Bytes::zeroed(padded(inputs)),
            inputs,
            outputs,
            geometry,
            instructions,
        }
    }

    /// Number of output channels.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Side, stride and padding.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Bytes of the input of `shape`. A filter without padding reads the pixels of a row without gaps, as many bytes as
    /// input channels each, and then [`Int8Filter::bytes_after_the_last_pixel`]. Other filters read [`padded`] bytes
    /// for each pixel.
    ///
    /// # Panics
    /// If the number does not fit a `usize`.
    pub fn input_bytes(&self, shape: BatchShape) -> usize {
        shape.numbers(self.pixel_bytes()) + self.bytes_after_the_last_pixel()
    }

    /// Number of bytes that the filter reads after the last pixel of its input, at most three. Their levels have no
    /// effect.
    pub fn bytes_after_the_last_pixel(&self) -> usize {
        let row = self.geometry.side * self.pixel_bytes();
        padded(row) - row
    }

    /// Bytes of a pixel of the input.
    pub(super) fn pixel_bytes(&self) -> usize {
        pixel_bytes(self.inputs, self.geometry)
    }

    /// Number of blocks of output channels.
    pub(super) fn blocks(&self) -> usize {
        self.outputs.div_ceil(self.instructions.block())
    }

    /// Bytes of the weights of one block.
    pub(super) fn block_bytes(&self) -> usize {
        self.weights.len() / self.blocks().max(1)
    }
}

/// Bytes of a pixel of the input. The rows of a filter without padding are runs of memory, which need no padded pixels:
/// those of three channels would take a third more products.
fn pixel_bytes(inputs: usize, geometry: Geometry) -> usize {
    match geometry {
        Geometry { side: 2.., padding: 0, .. } => inputs,
        _ => padded(inputs),
    }
}
