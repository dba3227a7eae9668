//! The weights of a convolution, split and laid out as the tiles are read.

use super::layout::{Number, Run};
use super::registers::{COLUMNS, DEPTH, Registers};
use super::split::split;
use crate::aligned::Aligned;
use crate::direct::Geometry;

/// Weights and bias of one convolution.
pub struct Filter {
    pub(super) geometry: Geometry,
    pub(super) registers: Registers,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// `[blocks of columns][steps into the depth][high, low][pairs of numbers][columns][2]` of `bf16`, two in each number here:
    /// output channels in blocks of as many columns as a tile has, the last one filled up with zeros.
    pub(super) weights: Aligned,
    /// One for each output channel, filled up with zeros like the weights.
    pub(super) bias: Aligned,
    /// Steps into the depth.
    steps: usize,
}

impl Filter {
    /// Splits and lays out `weights`, `[outputs, inputs, side, side]`.
    ///
    /// # Panics
    /// When there are not as many weights as that, a channel count, the side or the stride is zero, or the processor lacks
    /// the registers.
    pub fn new(weights: &[f32], bias: &[f32], inputs: usize, geometry: Geometry, registers: Registers) -> Self {
        let (outputs, Geometry { side, stride, .. }) = (bias.len(), geometry);
        assert!(inputs > 0 && outputs > 0 && side > 0 && stride > 0, "a convolution has channels, a side and a stride");
        let taps = side * side;
        assert_eq!(weights.len(), taps * outputs * inputs, "weights for {outputs} x {inputs} channels of {geometry:?}");
        assert!(registers.is_available(), "this processor lacks {registers:?}");
        let blocks = outputs.div_ceil(COLUMNS);
        let place = |Number { down, across, channel }| (channel * side + down) * side + across;
        let run = Run::of(inputs, geometry);
        let places: Vec<_> = run.numbers(inputs, geometry).map(|number| number.map(place)).collect();
        let steps = places.len() / DEPTH;
        let mut laid_out = Aligned::zeroed(blocks * steps * DEPTH * COLUMNS);
        let of_blocks = weights.chunks(COLUMNS * taps * inputs);
        for (weights, to) in of_blocks.zip(laid_out.chunks_exact_mut(steps * DEPTH * COLUMNS)) {
            for (places, to) in places.chunks_exact(DEPTH).zip(to.chunks_exact_mut(DEPTH * COLUMNS)) {
                let (high, low) = to.split_at_mut(DEPTH / 2 * COLUMNS);
                for (column, weights) in weights.chunks_exact(taps * inputs).enumerate() {
                    let mut numbers = [0.0; DEPTH];
                    for (number, place) in numbers.iter_mut().zip(places) {
                        *number = place.map_or(0.0, |place| weights[place]);
                    }
                    let parts = numbers.map(split);
                    for (pair, &[first, second]) in parts.as_chunks().0.iter().enumerate() {
                        let index = pair * COLUMNS + column;
                        [high[index], low[index]] = [0, 1].map(|part| together(first[part], second[part]));
                    }
                }
            }
        }
        let bias = Aligned::filled_up(bias, blocks * COLUMNS);
        Self { geometry, registers, inputs, outputs, weights: laid_out, bias, steps }
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
    pub(super) fn blocks(&self) -> usize {
        self.bias.len() / COLUMNS
    }

    /// Numbers of a block's weights, two of `bf16` in each.
    pub(super) fn block_length(&self) -> usize {
        self.steps * DEPTH * COLUMNS
    }
}

/// Two of `bf16` in the memory of one number, the first at the lower address.
fn together(first: u16, second: u16) -> f32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    f32::from_ne_bytes([a, b, c, d])
}
