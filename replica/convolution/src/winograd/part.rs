//! A part of a convolution, on one thread: transform tiles, multiply, transform back.

use super::filter::Filter;
use super::tile::{self, Tile, Transform};
use crate::aligned::Aligned;
use crate::instructions::Work;
use crate::product::{Ahead, Rows, Sink, multiply};
use crate::vector::Vector;
use crate::{Activation, Shape};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

/// Numbers of a cache line.
const GAP: usize = 16;

/// Tiles that are worked on at a time: two groups of rows, whose transforms a second-level cache holds.
const TILES: usize = 28;

/// The same where the weights are longer than [`LONG`] and would otherwise be read again too often.
const TILES_OF_LONG: usize = 96;

/// Numbers of weights.
const LONG: usize = 1 << 20;

/// A convolution whose sizes have been checked.
pub(crate) struct Job<'a> {
    input: &'a [f32],
    shape: Shape,
    tiles_down: usize,
    tiles_across: usize,
    filter: &'a Filter,
    activation: Activation<'a>,
    output: *mut f32,
}

// SAFETY: parts that run at the same time write to different tiles or channels of `output`; see `Part`.
unsafe impl Sync for Job<'_> {}

/// Which outputs: these tiles (of all images, row by row), and these blocks of output channels. Parts of one job that
/// run at the same time share neither tiles nor blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) tiles: Range<usize>,
    pub(crate) blocks: Range<usize>,
}

thread_local! {
    /// Transformed tiles: kept, since asking the system for a megabyte costs as much as filling it.
    static SCRATCH: RefCell<Aligned> = RefCell::new(Aligned::zeroed(0));
}

impl<'a> Job<'a> {
    /// The lengths are as `convolve` demands.
    pub(crate) fn new(
        input: &'a [f32],
        shape: Shape,
        (tiles_down, tiles_across): (usize, usize),
        filter: &'a Filter,
        activation: Activation<'a>,
        output: &'a mut [f32],
    ) -> Self {
        let output = output.as_mut_ptr();
        Self { input, shape, tiles_down, tiles_across, filter, activation, output }
    }

    pub(crate) fn run(&self, part: Part) {
        SCRATCH.with_borrow_mut(|scratch| {
            let instructions = self.filter.instructions;
            match self.filter.tile {
                Tile::Two => {
                    instructions.perform(With::<tile::Two, 4, 2> { job: self, part, scratch, tile: PhantomData })
                }
                Tile::Four => {
                    instructions.perform(With::<tile::Four, 6, 4> { job: self, part, scratch, tile: PhantomData })
                }
            }
        });
    }

    /// # Safety
    /// As for [`Vector`].
    #[inline(always)]
    unsafe fn compute<V: Vector, T: Transform<N, M>, const N: usize, const M: usize>(
        &self,
        part: Part,
        scratch: &mut Aligned,
    ) {
        let columns = 2 * V::LANES;
        let (inputs, blocks) = (self.filter.inputs, part.blocks.len());
        let outputs = part.blocks.start * columns..self.filter.outputs.min(part.blocks.end * columns);
        // Rows of whole vectors, so that every load and store of scratch is one; and a cache line more, since rows at a
        // distance of a power of two would all fall into the same few sets of the nearest cache.
        let row_in = inputs.next_multiple_of(V::LANES) + GAP;
        let row_out = blocks * columns + GAP;
        let at_once = if self.filter.weights.len() > LONG { TILES_OF_LONG } else { TILES }.min(part.tiles.len());
        let rounds = part.tiles.len().div_ceil(at_once);
        let at_once = part.tiles.len().div_ceil(rounds);
        let (plane_in, plane_out) = (at_once * row_in + GAP, at_once * row_out + GAP);
        let length = N * N * (plane_in + plane_out);
        if scratch.len() < length {
            *scratch = Aligned::zeroed(length);
        }
        let (transformed, products) = scratch.split_at_mut(N * N * plane_in);
        let (transformed, products) = (transformed.as_mut_ptr(), products.as_mut_ptr());
        let mut first = part.tiles.start;
        while first < part.tiles.end {
            let count = at_once.min(part.tiles.end - first);
            // SAFETY: `count` is at most `at_once`, for which there is room in every plane; the weights have
            // as many blocks as the filter, of which `part.blocks` is a range.
            unsafe {
                for index in 0..count {
                    self.transform::<V, T, N, M>(first + index, transformed.add(index * row_in), plane_in);
                }
                for element in 0..N * N {
                    let tiles = Rows {
                        start: transformed.add(element * plane_in),
                        stride: row_in,
                        runs: 1,
                        run: inputs,
                        run_stride: 0,
                    };
                    for block in 0..blocks {
                        let index = element * self.filter.blocks() + part.blocks.start + block;
                        let weights = self.filter.weights.as_ptr().add(index * inputs * columns);
                        let sink = Plain { to: products.add(element * plane_out + block * columns), stride: row_out };
                        let length = inputs * columns;
                        let ahead = Ahead { start: weights.wrapping_add(length), length };
                        multiply::<V>(tiles, count, weights, ahead, &sink);
                    }
                }
                for index in 0..count {
                    let products = products.add(index * row_out);
                    self.transform_back::<V, T, N, M>(first + index, (products, plane_out), outputs.clone());
                }
            }
            first += count;
        }
    }

    /// Image, and row and column of the first output.
    #[inline(always)]
    fn place(&self, tile: usize, side: usize) -> (usize, usize, usize) {
        let (row, column) = (tile / self.tiles_across, tile % self.tiles_across);
        (row / self.tiles_down, row % self.tiles_down * side, column * side)
    }

    /// Reads the inputs of a tile and writes its `N * N` transformed elements, `plane` numbers apart.
    #[inline(always)]
    unsafe fn transform<V: Vector, T: Transform<N, M>, const N: usize, const M: usize>(
        &self,
        tile: usize,
        to: *mut f32,
        plane: usize,
    ) {
        let Shape { height, width, .. } = self.shape;
        let inputs = self.filter.inputs;
        let (image, top, left) = self.place(tile, M);
        // The first row and column of the inputs lie one before the outputs: -1 is the padding.
        let inside = top > 0 && left > 0 && top + N <= height + 1 && left + N <= width + 1;
        // SAFETY: pixels are read only where they lie within the image, and of each only its channels.
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
                            // Wraps around for -1, which is then no row or column.
                            let (y, x) = ((top + down).wrapping_sub(1), (left + across).wrapping_sub(1));
                            if y < height && x < width {
                                let pixel = pixels.add((y * width + x) * inputs + channel);
                                *value = match inputs - channel {
                                    left if left < V::LANES => V::load_some(pixel, left),
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

    /// Reads a tile's `N * N` products and writes those of its outputs that lie within the image.
    #[inline(always)]
    unsafe fn transform_back<V: Vector, T: Transform<N, M>, const N: usize, const M: usize>(
        &self,
        tile: usize,
        (from, plane): (*const f32, usize),
        outputs: Range<usize>,
    ) {
        let Shape { height, width, .. } = self.shape;
        let (image, top, left) = self.place(tile, M);
        let (rows, columns) = ((height - top).min(M), (width - left).min(M));
        // SAFETY: outputs are written only where they lie within the image, and of each only its channels; the residual
        // has the size of the output; no other part has these tiles and channels.
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
                        self.activation.store(sum.add(bias), self.output, at, (outputs.end - channel).min(V::LANES));
                    }
                }
            }
        }
    }
}

/// A part with a tile of its filter.
struct With<'a, T, const N: usize, const M: usize> {
    job: &'a Job<'a>,
    part: Part,
    scratch: &'a mut Aligned,
    tile: PhantomData<T>,
}

impl<T: Transform<N, M>, const N: usize, const M: usize> Work for With<'_, T, N, M> {
    #[inline(always)]
    unsafe fn perform<V: Vector>(self) {
        // SAFETY: the caller's.
        unsafe { self.job.compute::<V, T, N, M>(self.part, self.scratch) }
    }
}

/// Keeps sums as they are.
struct Plain {
    to: *mut f32,
    stride: usize,
}

impl<V: Vector> Sink<V> for Plain {
    #[inline(always)]
    unsafe fn put(&self, row: usize, [left, right]: [V; 2]) {
        // SAFETY: the caller's: there is room for every row.
        unsafe {
            let to = self.to.add(row * self.stride);
            left.store(to);
            right.store(to.add(V::LANES));
        }
    }
}
