//! The weights of a convolution, laid out as the product reads them.

use crate::aligned::Aligned;
use crate::{Instructions, Shape};

/// How a filter moves over a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Rows and columns of the filter.
    pub side: usize,
    /// Pixels from output to output.
    pub stride: usize,
    /// Rows and columns of zeros on each side.
    pub padding: usize,
}

impl Geometry {
    /// Sizes of what a convolution of `input` gives.
    pub fn output(self, input: Shape) -> Shape {
        let along = |length: usize| match (length + 2 * self.padding).checked_sub(self.side) {
            Some(room) if length > 0 => room / self.stride + 1,
            _ => 0,
        };
        Shape { images: input.images, height: along(input.height), width: along(input.width) }
    }
}

/// Weights and bias of one convolution.
pub struct Filter {
    pub(crate) geometry: Geometry,
    pub(crate) instructions: Instructions,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// `[blocks of columns][side][side][inputs][columns]`: output channels in blocks of as many columns as the product computes
    /// together, the last one filled up with zeros.
    pub(crate) weights: Aligned,
    /// One for each output channel, filled up with zeros like the weights.
    pub(crate) bias: Aligned,
}

impl Filter {
    /// Lays out `weights`, `[outputs, inputs, side, side]`, for the given instructions.
    ///
    /// # Panics
    /// When there are not as many weights as that, a channel count, the side or the stride is zero, or the processor lacks
    /// the instructions.
    pub fn new(weights: &[f32], bias: &[f32], inputs: usize, geometry: Geometry, instructions: Instructions) -> Self {
        let (outputs, Geometry { side, stride, .. }) = (bias.len(), geometry);
        assert!(inputs > 0 && outputs > 0 && side > 0 && stride > 0, "a convolution has channels, a side and a stride");
        let taps = side * side;
        assert_eq!(weights.len(), taps * outputs * inputs, "weights for {outputs} x {inputs} channels of {geometry:?}");
        assert!(instructions.is_available(), "this processor lacks {instructions:?}");
        let columns = instructions.columns();
        let blocks = outputs.div_ceil(columns);
        let mut laid_out = Aligned::zeroed(blocks * taps * inputs * columns);
        for (block, to) in laid_out.chunks_exact_mut(taps * inputs * columns).enumerate() {
            for (row, to) in to.chunks_exact_mut(columns).enumerate() {
                let (tap, input) = (row / inputs, row % inputs);
                for (output, to) in (block * columns..outputs).zip(to) {
                    *to = weights[(output * inputs + input) * taps + tap];
                }
            }
        }
        let bias = Aligned::filled_up(bias, blocks * columns);
        Self { geometry, instructions, inputs, outputs, weights: laid_out, bias }
    }

    /// How it moves.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Output channels.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Blocks of output channels.
    pub(crate) fn blocks(&self) -> usize {
        self.bias.len() / self.instructions.columns()
    }
}
