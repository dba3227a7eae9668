//! Computes one part of a Winograd convolution on one thread: transforms tiles of inputs, multiplies them by the
//! weights, and transforms the products back.

use super::filter::WinogradFilter;
use super::transform::{F2, F4, TileSize, WinogradTransform};
use crate::aligned::AlignedBuffer;
use crate::instructions::VectorTask;
use crate::product::{Prefetch, Rows, Sink, multiply};
use crate::vector::Vector;
use crate::{BatchShape, Epilogue};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

/// The gap between rows and between planes of scratch memory, in numbers: a cache line. Without a gap, rows at a
/// distance of a power of two would compete for the same few sets of the first-level cache.
const GAP: usize = 16;

/// Largest number of tiles that are computed together, which are two groups of rows of a product with AVX-512. Their
/// transforms fit the second-level cache.
const TILES_AT_ONCE: usize = 28;

/// Largest number of tiles that are computed together if the filter has more than [`LONG_FILTER`] numbers. The weights
/// are read once for all tiles that are computed together, so more tiles take fewer reads of memory.
const TILES_AT_ONCE_OF_LONG_FILTER: usize = 96;

/// Numbers of transformed weights (4 MiB) beyond which a filter is long.
const LONG_FILTER: usize = 1 << 20;

/// The arguments of [`super::convolve`], after their lengths were checked.
pub(crate) struct WinogradConvolution<'a> {
    input: &'a [f32],
    shape: BatchShape,
    tiles_down: usize,
    tiles_across: usize,
    filter: &'a WinogradFilter,
    epilogue: Epilogue<'a>,
    output: *mut f32,
}

// SAFETY: parts that are computed concurrently write to different tiles or channels of `output`; see `WinogradPart`.
unsafe impl Sync for WinogradConvolution<'_> {}

/// The outputs that one thread computes: tiles, numbered row by row through all images, and blocks of output channels.
/// Parts that are computed concurrently share no tiles, or share no blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WinogradPart {
    pub(crate) tiles: Range<usize>,
    pub(crate) blocks: Range<usize>,
}

/// The sizes of one thread's scratch memory, in numbers. It holds `N * N` planes of transformed inputs, then `N * N`
/// planes of products. A plane has a row for each of the tiles that are computed together.
struct ScratchSizes {
    /// Number of tiles that are computed together.
    tiles_at_once: usize,
    /// Distance between two tiles in a plane of transformed inputs.
    input_row: usize,
    /// Distance between two planes of transformed inputs.
    input_plane: usize,
    /// Distance between two tiles in a plane of products.
    product_row: usize,
    /// Distance between two planes of products.
    product_plane: usize,
}

thread_local! {
    /// Memory for transformed inputs and products. It is kept between calls, because mapping and zeroing a megabyte
    /// takes as long as filling it.
    static SCRATCH: RefCell<AlignedBuffer> = RefCell::new(AlignedBuffer::zeroed(0));
}

impl<'a> WinogradConvolution<'a> {
    /// A convolution whose lengths [`super::convolve`] has checked.
    pub(crate) fn new(
        input: &'a [f32],
        shape: BatchShape,
        (tiles_down, tiles_across): (usize, usize),
        filter: &'a WinogradFilter,
        epilogue: Epilogue<'a>,
        output: &'a mut [f32],
    ) -> Self {
        let output = output.as_mut_ptr();
        Self { input, shape, tiles_down, tiles_across, filter, epilogue, output }
    }

    /// Computes the outputs of `part`.
    pub(crate) fn run(&self, part: WinogradPart) {
        SCRATCH.with_borrow_mut(|scratch| {
            let instructions = self.filter.instructions;
            match self.filter.tile {
                TileSize::Two => instructions.dispatch(PartTask::<F2, 4, 2>::new(self, part, scratch)),
                TileSize::Four => instructions.dispatch(PartTask::<F4, 6, 4>::new(self, part, scratch)),
            }
        });
    }

    /// Computes the outputs of `part` with the transforms `T`.
    ///
    /// # Safety
    /// The conditions of [`Vector`] hold.
    #[inline(always)]
    unsafe fn compute<V: Vector, T: WinogradTransform<N, M>, const N: usize, const M: usize>(
        &self,
        part: WinogradPart,
        scratch: &mut AlignedBuffer,
    ) {
        let columns = 2 * V::LANES;
        let outputs = part.blocks.start * columns..self.filter.outputs.min(part.blocks.end * columns);
        let sizes = self.scratch_sizes::<V>(&part);
        let length = N * N * (sizes.input_plane + sizes.product_plane);
        if scratch.len() < length {
            *scratch = AlignedBuffer::zeroed(length);
        }
        let (transformed, products) = scratch.split_at_mut(N * N * sizes.input_plane);
        let (transformed, products) = (transformed.as_mut_ptr(), products.as_mut_ptr());
        let mut first = part.tiles.start;
        while first < part.tiles.end {
            let count = sizes.tiles_at_once.min(part.tiles.end - first);
            // SAFETY: every plane has room for `tiles_at_once` rows, and `count` is at most that. `part.blocks` is a
            // range of the blocks of the filter.
            unsafe {
                for index in 0..count {
                    let to = transformed.add(index * sizes.input_row);
                    self.transform::<V, T, N, M>(first + index, to, sizes.input_plane);
                }
                for element in 0..N * N {
                    self.multiply_element::<V>(element, count, &part.blocks, &sizes, transformed, products);
                }
                for index in 0..count {
                    let products = products.add(index * sizes.product_row);
                    let from = (products.cast_const(), sizes.product_plane);
                    self.transform_back::<V, T, N, M>(first + index, from, outputs.clone());
                }
            }
            first += count;
        }
    }

    /// The sizes of scratch memory for `part`.
    #[inline(always)]
    fn scratch_sizes<V: Vector>(&self, part: &WinogradPart) -> ScratchSizes {
        // Rows consist of whole vectors, so that loads and stores of scratch memory need no count.
        let input_row = self.filter.inputs.next_multiple_of(V::LANES) + GAP;
        let product_row = part.blocks.len() * 2 * V::LANES + GAP;
        let is_long = self.filter.weights.len() > LONG_FILTER;
        let most = if is_long { TILES_AT_ONCE_OF_LONG_FILTER } else { TILES_AT_ONCE }.min(part.tiles.len());
        // Rounds have nearly equal sizes. A small last round would read all weights for few tiles.
        let rounds = part.tiles.len().div_ceil(most);
        let tiles_at_once = part.tiles.len().div_ceil(rounds);
        ScratchSizes {
            tiles_at_once,
            input_row,
            input_plane: tiles_at_once * input_row + GAP,
            product_row,
            product_plane: tiles_at_once * product_row + GAP,
        }
    }

    /// Multiplies one tile element of `count` transformed tiles by its weights, for `blocks` of output channels.
    ///
    /// # Safety
    /// The conditions of [`Vector`] hold. `transformed` and `products` have the planes that `sizes` describes, with at
    /// least `count` rows each.
    #[inline(always)]
    unsafe fn multiply_element<V: Vector>(
        &self,
        element: usize,
        count: usize,
        blocks: &Range<usize>,
        sizes: &ScratchSizes,
        transformed: *const f32,
        products: *mut f32,
    ) {
        let (inputs, columns) = (self.filter.inputs, 2 * V::LANES);
        // SAFETY: guaranteed by the caller.
        unsafe {
            let tiles = Rows {
                start: transformed.add(element * sizes.input_plane),
                stride: sizes.input_row,
                runs: 1,
                run_length: inputs,
                run_stride: 0,
            };
            for block in 0..blocks.len() {
                let index = element * self.filter.blocks() + blocks.start + block;
                let weights = self.filter.weights.as_ptr().add(index * inputs * columns);
                let to = products.add(element * sizes.product_plane + block * columns);
                let sink = StoreSums { to, stride: sizes.product_row };
                let length = inputs * columns;
                let prefetch = Prefetch { start: weights.wrapping_add(length), length };
                multiply::<V>(tiles, count, weights, prefetch, &sink);
            }
        }
    }

    /// The position of a tile of `side` × `side` outputs: its image, and the row and column of its first output.
    #[inline(always)]
    fn position(&self, tile: usize, side: usize) -> (usize, usize, usize) {
        let (row, column) = (tile / self.tiles_across, tile % self.tiles_across);
        (row / self.tiles_down, row % self.tiles_down * side, column * side)
    }

    /// Reads the inputs of a tile and writes its `N * N` transformed elements, which lie `plane` numbers apart.
    ///
    /// # Safety
    /// The conditions of [`Vector`] hold. `to` has room for a row of whole vectors in each of `N * N` planes.
    #[inline(always)]
    unsafe fn transform<V: Vector, T: WinogradTransform<N, M>, const N: usize, const M: usize>(
        &self,
        tile: usize,
        to: *mut f32,
        plane: usize,
    ) {
        let BatchShape { height, width, .. } = self.shape;
        let inputs = self.filter.inputs;
        let (image, top, left) = self.position(tile, M);
        // The inputs begin one row and one column before the outputs. Row -1 and column -1 are padding.
        let inside = top > 0 && left > 0 && top + N <= height + 1 && left + N <= width + 1;
        // SAFETY: only pixels within the image are read, and only their channels.
        unsafe {
            let zero = V::splat(0.0);
            let pixels = self.input.as_ptr().add(image * height * width * inputs);
            for channel in (0..inputs).step_by(V::LANES) {
                let mut rows = [[zero; N]; N];
                for across in 0..N {
                    let mut column = [zero; N];
                    if inside && channel + V::LANES <= inputs {
                        let start = pixels.add(((top - 1) * width + left + across - 1) * inputs + channel);
                        for (down, value) in column.iter_mut().enumerate() {
                            *value = V::load(start.add(down * width * inputs));
                        }
                    } else {
                        for (down, value) in column.iter_mut().enumerate() {
                            // -1 wraps around to a number that is neither a row nor a column.
                            let (y, x) = ((top + down).wrapping_sub(1), (left + across).wrapping_sub(1));
                            if y < height && x < width {
                                let pixel = pixels.add((y * width + x) * inputs + channel);
                                *value = match inputs - channel {
                                    rest if rest < V::LANES => V::load_some(pixel, rest),
                                    _ => V::load(pixel),
                                };
                            }
                        }
                    }
                    let column = T::input(column);
                    for down in 0..N {
                        rows[down][across] = column[down];
                    }
                }
                for (down, row) in rows.into_iter().enumerate() {
                    for (across, value) in T::input(row).into_iter().enumerate() {
                        value.store(to.add((down * N + across) * plane + channel));
                    }
                }
            }
        }
    }

    /// Reads the `N * N` products of a tile, which lie `plane` numbers apart, and writes its outputs that lie within
    /// the image, for the output channels `outputs`.
    ///
    /// # Safety
    /// The conditions of [`Vector`] hold. `from` is valid for a row of whole vectors in each of `N * N` planes, and no
    /// other part computes this tile and these channels.
    #[inline(always)]
    unsafe fn transform_back<V: Vector, T: WinogradTransform<N, M>, const N: usize, const M: usize>(
        &self,
        tile: usize,
        (from, plane): (*const f32, usize),
        outputs: Range<usize>,
    ) {
        let BatchShape { height, width, .. } = self.shape;
        let (image, top, left) = self.position(tile, M);
        let (rows, columns) = ((height - top).min(M), (width - left).min(M));
        // SAFETY: only outputs within the image are written, and only their channels; the residual is as long as the
        // output.
        unsafe {
            let zero = V::splat(0.0);
            for channel in outputs.clone().step_by(V::LANES) {
                let mut half = [[zero; N]; M];
                for across in 0..N {
                    let mut column = [zero; N];
                    for (down, value) in column.iter_mut().enumerate() {
                        *value = V::load(from.add((down * N + across) * plane + channel - outputs.start));
                    }
                    let column = T::output(column);
                    for down in 0..M {
                        half[down][across] = column[down];
                    }
                }
                let bias = V::load(self.filter.bias.as_ptr().add(channel));
                for (down, row) in half.into_iter().enumerate().take(rows) {
                    for (across, sum) in T::output(row).into_iter().enumerate().take(columns) {
                        let at =
                            ((image * height + top + down) * width + left + across) * self.filter.outputs + channel;
                        self.epilogue.store(sum.add(bias), self.output, at, (outputs.end - channel).min(V::LANES));
                    }
                }
            }
        }
    }
}

/// A part of a convolution, with the transforms of its filter's tile size.
struct PartTask<'a, T, const N: usize, const M: usize> {
    convolution: &'a WinogradConvolution<'a>,
    part: WinogradPart,
    scratch: &'a mut AlignedBuffer,
    transform: PhantomData<T>,
}

impl<'a, T, const N: usize, const M: usize> PartTask<'a, T, N, M> {
    fn new(convolution: &'a WinogradConvolution<'a>, part: WinogradPart, scratch: &'a mut AlignedBuffer) -> Self {
        Self { convolution, part, scratch, transform: PhantomData }
    }
}

impl<T: WinogradTransform<N, M>, const N: usize, const M: usize> VectorTask for PartTask<'_, T, N, M> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: guaranteed by the caller.
        unsafe { self.convolution.compute::<V, T, N, M>(self.part, self.scratch) }
    }
}

/// Stores the sums of a product as they are.
struct StoreSums {
    to: *mut f32,
    /// Distance between two rows, in numbers.
    stride: usize,
}

impl<V: Vector> Sink<V> for StoreSums {
    #[inline(always)]
    unsafe fn put(&self, row: usize, [left, right]: [V; 2]) {
        // SAFETY: guaranteed by the caller, who has made the sink with room for every row.
        unsafe {
            let to = self.to.add(row * self.stride);
            left.store(to);
            right.store(to.add(V::LANES));
        }
    }
}
