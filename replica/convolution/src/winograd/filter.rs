//! The transformed weights of a convolution, in the order in which the product reads them.

use super::transform::{F2, F4, TileSize, WinogradTransform};
use crate::aligned::AlignedBuffer;
use crate::instructions::VectorTask;
use crate::vector::Vector;
use crate::{Geometry, Instructions};
use std::marker::PhantomData;

/// Transformed weights and the bias of one Winograd convolution.
pub struct WinogradFilter {
    pub(crate) tile: TileSize,
    pub(crate) instructions: Instructions,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// The transformed weights, `[blocks][tile elements][inputs][columns]`. A block has as many output channels as the
    /// product has columns ([`Instructions::columns`]); the last block is filled up with zeros.
    pub(crate) weights: AlignedBuffer,
    /// The bias, `[blocks * columns]`: one number for each output channel, then zeros.
    pub(crate) bias: AlignedBuffer,
}

impl WinogradFilter {
    /// Transforms `weights`, `[outputs, inputs, 3, 3]`, for the given instructions. `bias` is `[outputs]`.
    ///
    /// # Panics
    /// If the length of `weights` does not fit `bias` and `inputs`, if a number of channels is zero, or if the
    /// processor lacks the instructions.
    pub fn new(weights: &[f32], bias: &[f32], inputs: usize, tile: TileSize, instructions: Instructions) -> Self {
        let outputs = Geometry { side: 3, stride: 1, padding: 1 }.check_filter(weights, bias, inputs);
        assert!(instructions.is_available(), "this processor lacks {instructions:?}");
        let columns = instructions.columns();
        let blocks = outputs.div_ceil(columns);
        let mut transformed = AlignedBuffer::zeroed(tile.inputs() * tile.inputs() * blocks * inputs * columns);
        let (from, to) = (weights, &mut *transformed);
        match tile {
            TileSize::Two => instructions.dispatch(TransformFilter::<F2, 4, 2>::new(from, to, inputs, outputs)),
            TileSize::Four => instructions.dispatch(TransformFilter::<F4, 6, 4>::new(from, to, inputs, outputs)),
        }
        let bias = AlignedBuffer::padded(bias, blocks * columns);
        Self { tile, instructions, inputs, outputs, weights: transformed, bias }
    }

    /// Number of output channels.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Number of blocks of output channels.
    pub(crate) fn blocks(&self) -> usize {
        self.bias.len() / self.instructions.columns()
    }
}

/// Transforms weights and writes them in the order of [`WinogradFilter::weights`].
struct TransformFilter<'a, T, const N: usize, const M: usize> {
    from: &'a [f32],
    to: &'a mut [f32],
    inputs: usize,
    outputs: usize,
    transform: PhantomData<T>,
}

impl<'a, T, const N: usize, const M: usize> TransformFilter<'a, T, N, M> {
    fn new(from: &'a [f32], to: &'a mut [f32], inputs: usize, outputs: usize) -> Self {
        Self { from, to, inputs, outputs, transform: PhantomData }
    }
}

impl<T: WinogradTransform<N, M>, const N: usize, const M: usize> VectorTask for TransformFilter<'_, T, N, M> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { from, to, inputs, outputs, .. } = self;
        // Number of vectors of output channels. A block has two vectors. Channels beyond the last output channel have
        // weights of zero.
        let vectors = outputs.div_ceil(2 * V::LANES) * 2;
        for (vector, input) in (0..vectors).flat_map(|vector| (0..inputs).map(move |input| (vector, input))) {
            let mut taps = [[0.0; 16]; 9];
            for (lane, output) in (vector * V::LANES..outputs).take(V::LANES).enumerate() {
                let weights = &from[9 * (output * inputs + input)..][..9];
                weights.iter().zip(&mut taps).for_each(|(weight, tap)| tap[lane] = *weight);
            }
            // Distance between the weights of two tile elements.
            let plane = 2 * inputs * V::LANES;
            let place = vector / 2 * N * N * plane + (input * 2 + vector % 2) * V::LANES;
            assert!(place + (N * N - 1) * plane + V::LANES <= to.len(), "`to` has a plane for every tile element");
            // SAFETY: guaranteed by the caller; a tap has room for the longest vector, and `to` has room for a vector
            // of every tile element, as the assertion above has checked.
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
