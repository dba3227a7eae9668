//! The weights of a convolution, transformed once and laid out as the product reads them.

use super::tile::{self, Tile, Transform};
use crate::Instructions;
use crate::aligned::Aligned;
use crate::instructions::Work;
use crate::vector::Vector;
use std::marker::PhantomData;

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
        let columns = instructions.columns();
        let blocks = outputs.div_ceil(columns);
        let mut transformed = Aligned::zeroed(tile.inputs() * tile.inputs() * blocks * inputs * columns);
        let (from, to) = (weights, &mut *transformed);
        match tile {
            Tile::Two => {
                instructions.perform(Layout::<tile::Two, 4, 2> { from, to, inputs, outputs, tile: PhantomData })
            }
            Tile::Four => {
                instructions.perform(Layout::<tile::Four, 6, 4> { from, to, inputs, outputs, tile: PhantomData })
            }
        }
        let bias = Aligned::filled_up(bias, blocks * columns);
        Self { tile, instructions, inputs, outputs, weights: transformed, bias }
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

/// Transforms weights and lays them out.
struct Layout<'a, T, const N: usize, const M: usize> {
    from: &'a [f32],
    to: &'a mut [f32],
    inputs: usize,
    outputs: usize,
    tile: PhantomData<T>,
}

impl<T: Transform<N, M>, const N: usize, const M: usize> Work for Layout<'_, T, N, M> {
    #[inline(always)]
    unsafe fn perform<V: Vector>(self) {
        let Self { from, to, inputs, outputs, .. } = self;
        // Whole vectors, of which a block of columns is two; those that are not there are transformed zeros.
        let vectors = outputs.div_ceil(2 * V::LANES) * 2;
        for (vector, input) in (0..vectors).flat_map(|vector| (0..inputs).map(move |input| (vector, input))) {
            let mut taps = [[0.0; 16]; 9];
            for (lane, output) in (vector * V::LANES..outputs).take(V::LANES).enumerate() {
                let weights = &from[9 * (output * inputs + input)..][..9];
                weights.iter().zip(&mut taps).for_each(|(weight, tap)| tap[lane] = *weight);
            }
            let place = ((vector / 2 * inputs + input) * 2 + vector % 2) * V::LANES;
            let plane = vectors * inputs * V::LANES;
            assert!(place + (N * N - 1) * plane + V::LANES <= to.len(), "every element has a plane");
            // SAFETY: the caller's; a tap has room for the longest vector, and `to` for every element, as was just asked.
            unsafe {
                let tap = |down: usize, across: usize| V::load(taps[3 * down + across].as_ptr());
                let mut columns = [[V::splat(0.0); 3]; N];
                for across in 0..3 {
                    let column = T::filter([tap(0, across), tap(1, across), tap(2, across)]);
                    column.into_iter().zip(&mut columns).for_each(|(value, row)| row[across] = value);
                }
                for (down, row) in columns.into_iter().enumerate() {
                    for (across, value) in T::filter(row).into_iter().enumerate() {
                        value.store(to.as_mut_ptr().add(place + (down * N + across) * plane));
                    }
                }
            }
        }
    }
}
