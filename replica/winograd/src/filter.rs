//! The weights of a convolution, transformed once and laid out as the product reads them.

use crate::aligned::Aligned;
use crate::instructions::Instructions;
use crate::tile::Tile;

/// Transformed weights and the bias of one convolution.
pub struct Filter {
    pub(crate) tile: Tile,
    pub(crate) instructions: Instructions,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// `[tile elements][blocks of columns][inputs][columns]`: output channels in blocks of as many columns as the product
    /// computes together, the last one filled up with zeros.
    pub(crate) weights: Aligned,
    /// One for each output channel, filled up with zeros like the weights.
    pub(crate) bias: Aligned,
}

impl Filter {
    /// Transforms `weights`, `[outputs, inputs, 3, 3]`, for the given instructions.
    ///
    /// # Panics
    /// When there are not `9 * outputs * inputs` weights, a channel count is zero, or the processor lacks the
    /// instructions.
    pub fn new(weights: &[f32], bias: &[f32], inputs: usize, tile: Tile, instructions: Instructions) -> Self {
        let outputs = bias.len();
        assert!(inputs > 0 && outputs > 0, "a convolution has channels");
        assert_eq!(weights.len(), 9 * outputs * inputs, "3x3 weights for {outputs} x {inputs} channels");
        assert!(instructions.is_available(), "this processor lacks {instructions:?}");
        let (side, columns) = (tile.inputs(), instructions.columns());
        let blocks = outputs.div_ceil(columns);
        let mut transformed = Aligned::zeroed(side * side * blocks * inputs * columns);
        for output in 0..outputs {
            let (block, column) = (output / columns, output % columns);
            for input in 0..inputs {
                let weights = &weights[9 * (output * inputs + input)..][..9];
                for element in 0..side * side {
                    let (down, across) = (tile.filter(element / side), tile.filter(element % side));
                    // In f64: this is done once, and every product inherits its error.
                    let mut sum = 0.0;
                    for (index, weight) in weights.iter().enumerate() {
                        sum += f64::from(down[index / 3]) * f64::from(across[index % 3]) * f64::from(*weight);
                    }
                    transformed[((element * blocks + block) * inputs + input) * columns + column] = sum as f32;
                }
            }
        }
        let mut padded = Aligned::zeroed(blocks * columns);
        padded[..outputs].copy_from_slice(bias);
        Self { tile, instructions, inputs, outputs, weights: transformed, bias: padded }
    }

    /// Output channels, filled up to whole blocks.
    pub(crate) fn padded_outputs(&self) -> usize {
        self.bias.len()
    }
}
