//! Computes one part of a Winograd convolution on one thread: transforms tiles of inputs, multiplies them by the
//! weights, and transforms the products back.

use super::filter::{PHASES, Scheme, WinogradFilter};
use super::grid::{CLASSES, Members, Span, Tile, TileGrid, class};
use super::transform::{F2, F2With2Taps, F4, F4With2Taps, F4With4Taps, TileSize, WinogradTransform};
use crate::aligned::AlignedBuffer;
use crate::cache::second_level_bytes;
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

/// The part of the second-level cache that transformed inputs may fill, as a divisor. The rest is for products and for
/// weights that are prefetched.
const CACHE_DIVISOR: usize = 2;

/// Largest number of tiles that are computed together if the filter has more than [`LONG_FILTER`] numbers. The weights
/// are read once for all tiles that are computed together, so more tiles take fewer reads of memory.
const TILES_AT_ONCE_OF_LONG_FILTER: usize = 96;

/// Numbers of transformed weights (4 MiB) beyond which a filter is long.
const LONG_FILTER: usize = 1 << 20;

/// The arguments of [`super::convolve`], after their lengths were checked.
pub(crate) struct WinogradConvolution<'a> {
    input: &'a [f32],
    /// The shape of the images in `input`.
    shape: BatchShape,
    /// The shape of the images in `output`.
    outputs: BatchShape,
    /// Where the inputs of a tile are.
    source: TileSource,
    grid: TileGrid,
    filter: &'a WinogradFilter,
    epilogue: Epilogue<'a>,
    output: *mut f32,
    /// The row of outputs with which `output` begins.
    first_row: usize,
}

// SAFETY: parts that are computed concurrently write to different tiles or channels of `output`; see `WinogradPart`.
unsafe impl Sync for WinogradConvolution<'_> {}

/// Where the inputs of a tile are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TileSource {
    /// In neighbouring pixels of an image.
    Pixels,
    /// In every second pixel of an image, for each of the [`PHASES`].
    Phases,
}

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
    /// Number of blocks of output channels that are computed together.
    blocks_at_once: usize,
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
        (shape, outputs, source): (BatchShape, BatchShape, TileSource),
        grid: TileGrid,
        filter: &'a WinogradFilter,
        epilogue: Epilogue<'a>,
        output: &'a mut [f32],
    ) -> Self {
        let output = output.as_mut_ptr();
        Self { input, shape, outputs, source, grid, filter, epilogue, output, first_row: 0 }
    }

    /// The same convolution, with an output that begins with row `first_row`. Only parts with later rows of one image
    /// may be computed.
    pub(crate) fn with_first_row(self, first_row: usize) -> Self {
        Self { first_row, ..self }
    }

    /// Computes the outputs of `part`.
    pub(crate) fn run(&self, part: WinogradPart) {
        SCRATCH.with_borrow_mut(|scratch| {
            let instructions = self.filter.instructions;
            match self.filter.scheme {
                Scheme::Unstrided(TileSize::Two) => {
                    instructions.dispatch(PartTask::<F2, 4, 2, 3>::new(self, part, scratch));
                }
                Scheme::Unstrided(TileSize::Four) => {
                    instructions.dispatch(PartTask::<F4, 6, 4, 3>::new(self, part, scratch));
                }
                Scheme::Strided3Two => {
                    instructions.dispatch(PartTask::<F2With2Taps, 3, 2, 2>::new(self, part, scratch));
                }
                Scheme::Strided3Four => {
                    instructions.dispatch(PartTask::<F4With2Taps, 5, 4, 2>::new(self, part, scratch));
                }
                Scheme::Strided7 => {
                    instructions.dispatch(PartTask::<F4With4Taps, 7, 4, 4>::new(self, part, scratch));
                }
            }
        });
    }

    /// Computes the outputs of `part` with the transforms `T`.
    ///
    /// # Safety
    /// The conditions of [`Vector`] hold.
    #[inline(always)]
    unsafe fn compute<V: Vector, T: WinogradTransform<N, M, R>, const N: usize, const M: usize, const R: usize>(
        &self,
        part: WinogradPart,
        scratch: &mut AlignedBuffer,
    ) {
        let columns = 2 * V::LANES;
        let sizes = self.scratch_sizes::<V>(&part, N * N);
        let zeros = self.filter.depth.next_multiple_of(GAP);
        let length = zeros + N * N * (sizes.input_plane + sizes.product_plane);
        if scratch.len() < length {
            *scratch = AlignedBuffer::zeroed(length);
        }
        let (zeros, scratch) = scratch.split_at_mut(zeros);
        // An earlier convolution may have used this memory for something else.
        zeros.fill(0.0);
        let (transformed, products) = scratch.split_at_mut(N * N * sizes.input_plane);
        let (transformed, products) = (transformed.as_mut_ptr(), products.as_mut_ptr());
        let mut members = Members::default();
        for first in part.tiles.clone().step_by(sizes.tiles_at_once) {
            let tiles = first..part.tiles.end.min(first + sizes.tiles_at_once);
            members.fill(tiles.map(|tile| self.grid.tile(tile)), transformed, sizes.input_row);
            // SAFETY: every plane has room for `tiles_at_once` rows of all input channels, and of the columns of
            // `blocks_at_once` blocks. The blocks are blocks of the filter.
            unsafe {
                let (input_row, plane) = (sizes.input_row, sizes.input_plane);
                let (convolution, zeros, whole) = (self, &*zeros, members.whole);
                let tiles = &members.tiles[..whole];
                V::run_apart(TransformTiles::<T, N, M, R, true> {
                    convolution,
                    tiles,
                    zeros,
                    to: transformed,
                    input_row,
                    plane,
                    transform: PhantomData,
                });
                V::run_apart(TransformTiles::<T, N, M, R, false> {
                    convolution,
                    tiles: &members.tiles[whole..],
                    zeros,
                    to: transformed.add(whole * input_row),
                    input_row,
                    plane,
                    transform: PhantomData,
                });
                for start in part.blocks.clone().step_by(sizes.blocks_at_once) {
                    let blocks = start..part.blocks.end.min(start + sizes.blocks_at_once);
                    for element in 0..N * N {
                        let starts = &members.starts[class((element / N, element % N), T::SPARE)];
                        self.multiply_element::<V>((element, N), &blocks, &sizes, starts, products);
                    }
                    let outputs = start * columns..self.filter.outputs.min(blocks.end * columns);
                    let whole = if outputs.len().is_multiple_of(V::LANES) { members.whole } else { 0 };
                    let (row, plane) = (sizes.product_row, sizes.product_plane);
                    V::run_apart(TransformTilesBack::<T, N, M, R, true> {
                        convolution,
                        tiles: &members.tiles[..whole],
                        places: &members.places[..whole],
                        from: products,
                        row,
                        plane,
                        outputs: outputs.clone(),
                        transform: PhantomData,
                    });
                    V::run_apart(TransformTilesBack::<T, N, M, R, false> {
                        convolution,
                        tiles: &members.tiles[whole..],
                        places: &members.places[whole..],
                        from: products,
                        row,
                        plane,
                        outputs,
                        transform: PhantomData,
                    });
                }
            }
        }
    }

    /// The sizes of scratch memory for `part`, with tiles of `elements` elements.
    #[inline(always)]
    fn scratch_sizes<V: Vector>(&self, part: &WinogradPart, elements: usize) -> ScratchSizes {
        // Rows consist of whole vectors, so that loads and stores of scratch memory need no count.
        let input_row = self.filter.depth.next_multiple_of(V::LANES) + GAP;
        let fitting = second_level_bytes() / CACHE_DIVISOR / (elements * input_row * size_of::<f32>());
        let is_long = self.filter.weights.len() > LONG_FILTER;
        let most = if is_long { TILES_AT_ONCE_OF_LONG_FILTER } else { fitting.max(V::ROWS) };
        // Rounds have nearly equal sizes. A small last round would read all weights for few tiles.
        let rounds = part.tiles.len().div_ceil(most);
        let tiles_at_once = part.tiles.len().div_ceil(rounds).next_multiple_of(V::ROWS).min(part.tiles.len());
        // Inputs that fit the cache are read from there for each block. Otherwise they are read once for all blocks.
        let blocks_at_once = if tiles_at_once <= CACHE_DIVISOR * fitting { 1 } else { part.blocks.len() };
        let product_row = blocks_at_once * 2 * V::LANES + if blocks_at_once > 1 { GAP } else { 0 };
        ScratchSizes {
            tiles_at_once,
            blocks_at_once,
            input_row,
            input_plane: tiles_at_once * input_row + GAP,
            product_row,
            product_plane: tiles_at_once * product_row + GAP,
        }
    }

    /// Multiplies one element of the transformed tiles at `starts` by its weights, for `blocks` of output channels.
    ///
    /// # Safety
    /// The conditions of [`Vector`] hold. `starts` has the addresses of transformed tiles, whose planes `sizes`
    /// describes, and `products` has the planes of products that `sizes` describes.
    #[inline(always)]
    unsafe fn multiply_element<V: Vector>(
        &self,
        (element, side): (usize, usize),
        blocks: &Range<usize>,
        sizes: &ScratchSizes,
        starts: &[*const f32],
        products: *mut f32,
    ) {
        if starts.is_empty() {
            return;
        }
        let (columns, elements) = (2 * V::LANES, side * side);
        let length = self.filter.depth * columns;
        let channels = self.filter.element_channels((element / side, element % side));
        let rows = Rows {
            starts: starts.as_ptr(),
            pitch: 0,
            offset: element * sizes.input_plane + channels.start,
            runs: 1,
            run_length: channels.len(),
            at_once: usize::MAX,
        };
        for (index, block) in blocks.clone().enumerate() {
            // The weights of the next product: of the next block if blocks are computed together, or of the next
            // element.
            let (ahead, wraps) = if index + 1 < blocks.len() { (elements, false) } else { (1, blocks.len() > 1) };
            // SAFETY: guaranteed by the caller.
            unsafe {
                let weights = self.filter.weights.as_ptr().add((block * elements + element) * length);
                let next = match wraps {
                    true => weights.wrapping_sub((blocks.len() - 1) * elements * length).wrapping_add(length),
                    false => weights.wrapping_add(ahead * length),
                };
                let prefetch = Prefetch { start: next, length };
                let start = products.add(element * sizes.product_plane + index * columns);
                let sink = StoredSums { start, stride: sizes.product_row };
                multiply::<V, _>(rows, starts.len(), weights.add(channels.start * columns), prefetch, &sink);
            }
        }
    }

    /// Reads the inputs of a tile and writes its `N * N` transformed elements, which lie `plane` numbers apart. `zeros`
    /// has a zero for each input channel. If `IS_WHOLE`, the tile is not short.
    ///
    /// # Safety
    /// The conditions of [`Vector`] hold. `to` has room for a row of whole vectors in each of `N * N` planes.
    #[inline(always)]
    unsafe fn transform<
        V: Vector,
        T: WinogradTransform<N, M, R>,
        const N: usize,
        const M: usize,
        const R: usize,
        const IS_WHOLE: bool,
    >(
        &self,
        tile: Tile,
        zeros: &[f32],
        to: *mut f32,
        plane: usize,
    ) {
        let short = (!IS_WHOLE && tile.down.is_short, !IS_WHOLE && tile.across.is_short);
        // SAFETY: guaranteed by the caller; an address is that of a pixel within the image or of the zeros.
        unsafe {
            match self.source {
                TileSource::Pixels => {
                    let inputs = self.filter.depth;
                    let addresses = self.addresses::<N, R>(tile, 1, (0, 0), (inputs, zeros));
                    transform_pixels::<V, T, N, M, R>(&addresses, inputs, to, plane, short);
                }
                TileSource::Phases => {
                    let inputs = self.filter.inputs;
                    for (index, phase) in PHASES.into_iter().enumerate() {
                        let addresses = self.addresses::<N, R>(tile, 2, phase, (inputs, zeros));
                        transform_pixels::<V, T, N, M, R>(&addresses, inputs, to.add(index * inputs), plane, short);
                    }
                }
            }
        }
    }

    /// The addresses of the `N * N` inputs of a tile, which are `stride` pixels apart, or of `zeros` where they are
    /// padding. `(row, column)` is the phase of the inputs. A pixel has `inputs` channels.
    #[inline(always)]
    fn addresses<const N: usize, const R: usize>(
        &self,
        tile: Tile,
        stride: usize,
        (row, column): (usize, usize),
        (inputs, zeros): (usize, &[f32]),
    ) -> [[*const f32; N]; N] {
        let BatchShape { height, width, .. } = self.shape;
        let mut addresses = [[zeros.as_ptr(); N]; N];
        // The inputs begin `R / 2` rows and columns before the outputs. Rows and columns before the image are padding;
        // their numbers wrap around to numbers that are neither a row nor a column.
        let first = |start: usize, phase: usize| start.wrapping_sub(R / 2).wrapping_mul(stride).wrapping_add(phase);
        let (top, left) = (first(tile.down.start, row), first(tile.across.start, column));
        for down in 0..N {
            let y = top.wrapping_add(down * stride);
            if y >= height {
                continue;
            }
            let line = self.input.as_ptr().wrapping_add((tile.image * height + y) * width * inputs);
            for across in 0..N {
                let x = left.wrapping_add(across * stride);
                if x < width {
                    addresses[down][across] = line.wrapping_add(x * inputs);
                }
            }
        }
        addresses
    }

    /// Reads the `N * N` products of a tile, which lie `plane` numbers apart, and writes its outputs that lie within
    /// the image, for the output channels `outputs`. `from` has an address for each class of elements. If `IS_WHOLE`,
    /// the tile is not short and the outputs have whole vectors of channels.
    ///
    /// # Safety
    /// The conditions of [`Vector`] hold. `from` is valid for a row of whole vectors in each of `N * N` planes, and no
    /// other part computes this tile and these channels.
    #[inline(always)]
    unsafe fn transform_back<
        V: Vector,
        T: WinogradTransform<N, M, R>,
        const N: usize,
        const M: usize,
        const R: usize,
        const IS_WHOLE: bool,
    >(
        &self,
        tile: Tile,
        (from, plane): ([*const f32; CLASSES], usize),
        outputs: Range<usize>,
    ) {
        let BatchShape { height, width, .. } = self.outputs;
        let Tile { image, down: Span { start: top, .. }, across: Span { start: left, .. } } = tile;
        let (short_down, short_across) = (!IS_WHOLE && tile.down.is_short, !IS_WHOLE && tile.across.is_short);
        let (rows, columns) = if IS_WHOLE { (M, M) } else { (tile.down.length, tile.across.length) };
        // SAFETY: only outputs within the image are written, and only their channels; the residual is as long as the
        // output.
        unsafe {
            let zero = V::splat(0.0);
            for channel in outputs.clone().step_by(V::LANES) {
                let from = from.map(|from| from.wrapping_add(channel - outputs.start));
                let mut half = [[zero; N]; M];
                for across in 0..N {
                    let mut column = [zero; N];
                    for down in 0..N {
                        let class = if IS_WHOLE { 0 } else { class((down, across), T::SPARE) };
                        column[down] = V::load(from[class].add((down * N + across) * plane));
                    }
                    let column = if short_down { T::short_output(column) } else { T::output(column) };
                    for down in 0..M {
                        half[down][across] = column[down];
                    }
                }
                let bias = V::load(self.filter.bias.as_ptr().add(channel));
                let first = ((image * height + top - self.first_row) * width + left) * self.filter.outputs + channel;
                let (line, pixel) = (width * self.filter.outputs, self.filter.outputs);
                let count = if IS_WHOLE { V::LANES } else { (outputs.end - channel).min(V::LANES) };
                for down in 0..rows {
                    let mut sums = if short_across { T::short_output(half[down]) } else { T::output(half[down]) };
                    for across in 0..M {
                        sums[across] = sums[across].add(bias);
                    }
                    let at = first + down * line;
                    if IS_WHOLE {
                        self.epilogue.store_pixels(sums, self.output, at, pixel);
                        continue;
                    }
                    for across in 0..columns {
                        self.epilogue.store(sums[across], self.output, at + across * pixel, count);
                    }
                }
            }
        }
    }
}

/// Transforms all channels of a tile. `addresses` has the addresses of its pixels, row by row.
///
/// # Safety
/// The conditions of [`Vector`] hold. Each address has `inputs` numbers, and `to` has room for whole vectors of them in
/// each of `N * N` planes, which lie `plane` numbers apart.
#[inline(always)]
unsafe fn transform_pixels<V: Vector, T: WinogradTransform<N, M, R>, const N: usize, const M: usize, const R: usize>(
    addresses: &[[*const f32; N]; N],
    inputs: usize,
    to: *mut f32,
    plane: usize,
    short: (bool, bool),
) {
    let whole = inputs / V::LANES * V::LANES;
    // SAFETY: guaranteed by the caller.
    unsafe {
        for channel in (0..whole).step_by(V::LANES) {
            let load = |pixel: *const f32| V::load(pixel.add(channel));
            transform_vector::<V, T, N, M, R>(addresses, load, to.add(channel), plane, short);
        }
        if whole < inputs {
            let load = |pixel: *const f32| V::load_some(pixel.add(whole), inputs - whole);
            transform_vector::<V, T, N, M, R>(addresses, load, to.add(whole), plane, short);
        }
    }
}

/// Transforms one vector of channels of a tile. `load` reads the vector of the pixel at an address.
///
/// # Safety
/// The conditions of [`Vector`] hold. `load` accepts all addresses, and `to` has room for a vector in each of `N * N`
/// planes, which lie `plane` numbers apart.
#[inline(always)]
unsafe fn transform_vector<V: Vector, T: WinogradTransform<N, M, R>, const N: usize, const M: usize, const R: usize>(
    addresses: &[[*const f32; N]; N],
    load: impl Fn(*const f32) -> V,
    to: *mut f32,
    plane: usize,
    short: (bool, bool),
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let zero = V::splat(0.0);
        let mut rows = [[zero; N]; N];
        for across in 0..N {
            let mut column = [zero; N];
            for down in 0..N {
                column[down] = load(addresses[down][across]);
            }
            let column = if short.0 { T::short_input(column) } else { T::input(column) };
            for down in 0..N {
                rows[down][across] = column[down];
            }
        }
        for down in 0..N {
            let row = if short.1 { T::short_input(rows[down]) } else { T::input(rows[down]) };
            for across in 0..N {
                row[across].store(to.add((down * N + across) * plane));
            }
        }
    }
}

/// A part of a convolution, with the transforms of its filter's tile size.
struct PartTask<'a, T, const N: usize, const M: usize, const R: usize> {
    convolution: &'a WinogradConvolution<'a>,
    part: WinogradPart,
    scratch: &'a mut AlignedBuffer,
    transform: PhantomData<T>,
}

impl<'a, T, const N: usize, const M: usize, const R: usize> PartTask<'a, T, N, M, R> {
    fn new(convolution: &'a WinogradConvolution<'a>, part: WinogradPart, scratch: &'a mut AlignedBuffer) -> Self {
        Self { convolution, part, scratch, transform: PhantomData }
    }
}

impl<T: WinogradTransform<N, M, R>, const N: usize, const M: usize, const R: usize> VectorTask
    for PartTask<'_, T, N, M, R>
{
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: guaranteed by the caller.
        unsafe { self.convolution.compute::<V, T, N, M, R>(self.part, self.scratch) }
    }
}

/// Transforms the inputs of tiles, which are not short if `IS_WHOLE`.
struct TransformTiles<'a, T, const N: usize, const M: usize, const R: usize, const IS_WHOLE: bool> {
    convolution: &'a WinogradConvolution<'a>,
    tiles: &'a [Tile],
    zeros: &'a [f32],
    /// The first element of the first tile.
    to: *mut f32,
    /// Distance between two tiles.
    input_row: usize,
    /// Distance between two elements.
    plane: usize,
    transform: PhantomData<T>,
}

impl<T: WinogradTransform<N, M, R>, const N: usize, const M: usize, const R: usize, const IS_WHOLE: bool> VectorTask
    for TransformTiles<'_, T, N, M, R, IS_WHOLE>
{
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for (index, tile) in self.tiles.iter().enumerate() {
            // SAFETY: guaranteed by the maker of the task.
            unsafe {
                let to = self.to.add(index * self.input_row);
                self.convolution.transform::<V, T, N, M, R, IS_WHOLE>(*tile, self.zeros, to, self.plane);
            }
        }
    }
}

/// Transforms the products of tiles back. If `IS_WHOLE`, the tiles are not short and `outputs` has whole vectors.
struct TransformTilesBack<'a, T, const N: usize, const M: usize, const R: usize, const IS_WHOLE: bool> {
    convolution: &'a WinogradConvolution<'a>,
    tiles: &'a [Tile],
    /// The places of the tiles among the tiles of each class of elements.
    places: &'a [[usize; CLASSES]],
    /// The first product.
    from: *const f32,
    /// Distance between two tiles.
    row: usize,
    /// Distance between two elements.
    plane: usize,
    /// The output channels.
    outputs: Range<usize>,
    transform: PhantomData<T>,
}

impl<T: WinogradTransform<N, M, R>, const N: usize, const M: usize, const R: usize, const IS_WHOLE: bool> VectorTask
    for TransformTilesBack<'_, T, N, M, R, IS_WHOLE>
{
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { convolution, tiles, places, from, row, plane, outputs, .. } = self;
        for (tile, places) in tiles.iter().zip(places) {
            let from = places.map(|place| from.wrapping_add(place * row));
            // SAFETY: guaranteed by the maker of the task.
            unsafe {
                convolution.transform_back::<V, T, N, M, R, IS_WHOLE>(*tile, (from, plane), outputs.clone());
            }
        }
    }
}

/// Keeps the sums of a product as they are.
struct StoredSums {
    /// The first sum of the first row.
    start: *mut f32,
    stride: usize,
}

impl Sink for StoredSums {
    const HAS_ALL_ROWS: bool = true;

    #[inline(always)]
    fn memory(&self, row: usize) -> *mut f32 {
        self.start.wrapping_add(row * self.stride)
    }

    #[inline(always)]
    fn stride(&self) -> usize {
        self.stride
    }

    #[inline(always)]
    unsafe fn finish<V: Vector>(&self, _rows: Range<usize>) {}
}
