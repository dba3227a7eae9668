//! The transformed weights of a convolution, in the order in which the product reads them.

use super::transform::{F2, F2With2Taps, F4, F4With2Taps, F4With4Taps, TileSize, WinogradTransform};
use crate::aligned::AlignedBuffer;
use crate::instructions::VectorTask;
use crate::vector::Vector;
use crate::{Geometry, Instructions};
use std::marker::PhantomData;
use std::ops::Range;

/// Images with fewer channels than this number are copied before they are transformed if the stride is 2, so that the
/// channels of a vector are the four phases of a few channels.
const FEW_CHANNELS: usize = 16;

/// Largest number of transformed weights (4 MiB) with which 3×3 filters of stride 2 have tiles of 4×4 outputs. Reading
/// more weights takes longer than the multiplications that larger tiles save.
const MOST_WEIGHTS_OF_FOUR: usize = 1 << 20;

/// The algorithm of a filter: F(M, R) with `R` taps in each dimension.
///
/// A convolution of stride 2 is the sum of four convolutions of stride 1, one for each phase of the image: the pixels
/// with even or odd rows, and even or odd columns. Their filters have half as many taps, rounded up for odd phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// 3×3 taps and stride 1, with tiles of the given size.
    Unstrided(TileSize),
    /// 3×3 taps and stride 2: F(2, 2) of the phases.
    Strided3Two,
    /// 3×3 taps and stride 2: F(4, 2) of the phases.
    Strided3Four,
    /// 7×7 taps and stride 2: F(4, 4) of the phases.
    Strided7,
}

impl Scheme {
    /// Side of a tile of outputs, in pixels.
    pub(crate) fn tile_side(self) -> usize {
        match self {
            Self::Unstrided(tile) => tile.outputs(),
            Self::Strided3Two => 2,
            Self::Strided3Four => 4,
            Self::Strided7 => 4,
        }
    }

    /// Number of taps in each dimension, `R`.
    pub(crate) fn taps(self) -> usize {
        match self {
            Self::Unstrided(_) => 3,
            Self::Strided3Two | Self::Strided3Four => 2,
            Self::Strided7 => 4,
        }
    }
}

/// Transformed weights and the bias of one Winograd convolution.
pub struct WinogradFilter {
    pub(crate) scheme: Scheme,
    pub(crate) geometry: Geometry,
    pub(crate) instructions: Instructions,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Number of channels of a transformed input: the input channels, or those of all four phases.
    pub(crate) depth: usize,
    /// The transformed weights, `[blocks][tile elements][depth][columns]`. A block has as many output channels as the
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
        let geometry = Geometry { side: 3, stride: 1, padding: 1 };
        geometry.check_filter(weights, bias, inputs);
        Self::transformed(weights, bias, (inputs, inputs), geometry, Scheme::Unstrided(tile), instructions)
    }

    /// Whether [`Self::strided`] has the geometry: stride 2, and side 3 with padding 1 or side 7 with padding 3.
    pub fn has_strided(geometry: Geometry) -> bool {
        matches!(geometry, Geometry { side: 3, stride: 2, padding: 1 } | Geometry { side: 7, stride: 2, padding: 3 })
    }

    /// Transforms `weights`, `[outputs, inputs, side, side]`, of a convolution of stride 2 for the given instructions.
    /// `bias` is `[outputs]`.
    ///
    /// # Panics
    /// As [`Self::new`], or if the algorithm lacks the geometry; see [`Self::has_strided`].
    pub fn strided(
        weights: &[f32],
        bias: &[f32],
        inputs: usize,
        geometry: Geometry,
        instructions: Instructions,
    ) -> Self {
        assert!(Self::has_strided(geometry), "Winograd's filtering has no {geometry:?}");
        let scheme = match geometry.side {
            7 => Scheme::Strided7,
            _ if 9 * weights.len() <= MOST_WEIGHTS_OF_FOUR => Scheme::Strided3Four,
            _ => Scheme::Strided3Two,
        };
        let outputs = geometry.check_filter(weights, bias, inputs);
        // Whole vectors of any instructions, so that copies of images with few channels are read without a count.
        let depth = if inputs < FEW_CHANNELS { (4 * inputs).next_multiple_of(16) } else { 4 * inputs };
        let (side, taps) = (geometry.side, scheme.taps());
        let mut phases = vec![0.0; outputs * depth * taps * taps];
        for (output, channel) in (0..outputs).flat_map(|output| (0..4 * inputs).map(move |channel| (output, channel))) {
            let (phase, input) = (PHASES[channel / inputs], channel % inputs);
            let from = &weights[(output * inputs + input) * side * side..][..side * side];
            let to = &mut phases[(output * depth + channel) * taps * taps..][..taps * taps];
            for (down, across) in (0..taps * taps).map(|tap| (tap / taps, tap % taps)) {
                // Tap 0 of an even phase lies before the first tap of the filter: 0 - 1 wraps around.
                let (row, column) = ((2 * down + phase.0).wrapping_sub(1), (2 * across + phase.1).wrapping_sub(1));
                if row < side && column < side {
                    to[down * taps + across] = from[row * side + column];
                }
            }
        }
        Self::transformed(&phases, bias, (inputs, depth), geometry, scheme, instructions)
    }

    fn transformed(
        weights: &[f32],
        bias: &[f32],
        (inputs, depth): (usize, usize),
        geometry: Geometry,
        scheme: Scheme,
        instructions: Instructions,
    ) -> Self {
        assert!(instructions.is_available(), "this processor lacks {instructions:?}");
        let outputs = bias.len();
        let columns = instructions.columns();
        let blocks = outputs.div_ceil(columns);
        let side = scheme.tile_side() + scheme.taps() - 1;
        let mut transformed = AlignedBuffer::zeroed(side * side * blocks * depth * columns);
        let (from, to) = (weights, &mut *transformed);
        match scheme {
            Scheme::Unstrided(TileSize::Two) => {
                instructions.dispatch(TransformFilter::<F2, 4, 2, 3>::new(from, to, depth, outputs));
            }
            Scheme::Unstrided(TileSize::Four) => {
                instructions.dispatch(TransformFilter::<F4, 6, 4, 3>::new(from, to, depth, outputs));
            }
            Scheme::Strided3Two => {
                instructions.dispatch(TransformFilter::<F2With2Taps, 3, 2, 2>::new(from, to, depth, outputs));
            }
            Scheme::Strided3Four => {
                instructions.dispatch(TransformFilter::<F4With2Taps, 5, 4, 2>::new(from, to, depth, outputs));
            }
            Scheme::Strided7 => {
                instructions.dispatch(TransformFilter::<F4With4Taps, 7, 4, 4>::new(from, to, depth, outputs));
            }
        }
        let bias = AlignedBuffer::padded(bias, blocks * columns);
        Self { scheme, geometry, instructions, inputs, outputs, depth, weights: transformed, bias }
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
    pub(crate) fn blocks(&self) -> usize {
        self.bias.len() / self.instructions.columns()
    }

    /// Whether images are copied before they are transformed; see [`FEW_CHANNELS`].
    pub(crate) fn copies_images(&self) -> bool {
        self.geometry.stride == 2 && self.inputs < FEW_CHANNELS
    }

    /// The transformed channels whose weights for an element of a tile are not all zero. Tap 0 of an even phase is
    /// zero, and element 0 is the value of a polynomial at 0, which is tap 0.
    pub(crate) fn element_channels(&self, (down, across): (usize, usize)) -> Range<usize> {
        if self.geometry.stride == 1 {
            return 0..self.inputs;
        }
        let phases = match (down, across) {
            (0, 0) => 1..2,
            (0, _) => 0..2,
            (_, 0) => 1..3,
            _ => 0..4,
        };
        phases.start * self.inputs..phases.end * self.inputs
    }
}

/// The phases of an image under a stride of 2: whether its rows and its columns are the odd ones. Phases with odd rows
/// are neighbours in this order, and so are phases with odd columns.
pub(crate) const PHASES: [(usize, usize); 4] = [(1, 0), (1, 1), (0, 1), (0, 0)];

/// Transforms weights and writes them in the order of [`WinogradFilter::weights`].
struct TransformFilter<'a, T, const N: usize, const M: usize, const R: usize> {
    from: &'a [f32],
    to: &'a mut [f32],
    inputs: usize,
    outputs: usize,
    transform: PhantomData<T>,
}

impl<'a, T, const N: usize, const M: usize, const R: usize> TransformFilter<'a, T, N, M, R> {
    fn new(from: &'a [f32], to: &'a mut [f32], inputs: usize, outputs: usize) -> Self {
        Self { from, to, inputs, outputs, transform: PhantomData }
    }
}

impl<T: WinogradTransform<N, M, R>, const N: usize, const M: usize, const R: usize> VectorTask
    for TransformFilter<'_, T, N, M, R>
{
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { from, to, inputs, outputs, .. } = self;
        // Number of vectors of output channels. A block has two vectors. Channels beyond the last output channel have
        // weights of zero.
        let vectors = outputs.div_ceil(2 * V::LANES) * 2;
        for (vector, input) in (0..vectors).flat_map(|vector| (0..inputs).map(move |input| (vector, input))) {
            let mut taps = [[[0.0; 16]; R]; R];
            for (lane, output) in (vector * V::LANES..outputs).take(V::LANES).enumerate() {
                let weights = &from[R * R * (output * inputs + input)..][..R * R];
                weights.iter().zip(taps.as_flattened_mut()).for_each(|(weight, tap)| tap[lane] = *weight);
            }
            // Distance between the weights of two tile elements.
            let plane = 2 * inputs * V::LANES;
            let place = vector / 2 * N * N * plane + (input * 2 + vector % 2) * V::LANES;
            assert!(place + (N * N - 1) * plane + V::LANES <= to.len(), "`to` has a plane for every tile element");
            // SAFETY: guaranteed by the caller; a tap has room for the longest vector, and `to` has room for a vector
            // of every tile element, as the assertion above has checked.
            unsafe {
                let mut columns = [[V::splat(0.0); R]; N];
                for across in 0..R {
                    let column = T::filter(std::array::from_fn(|down| V::load(taps[down][across].as_ptr())));
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
