//! A part of a convolution, on one thread: transform tiles, multiply, transform back.

use crate::aligned::Aligned;
use crate::convolution::{Activation, Shape};
use crate::filter::Filter;
use crate::instructions::Instructions;
use crate::product::multiply;
use crate::tile::{self, Tile, Transform};
use crate::vector::{self, Vector};
use std::cell::RefCell;
use std::ops::Range;
use std::ptr;

/// Numbers between the planes of two elements, so that they do not all fall into the same set of a cache.
const PLANE_GAP: usize = 16;

/// Bytes of transformed tiles that are worked on at a time: about what a core's second-level cache holds.
const BLOCK_BYTES: usize = 1 << 20;

/// Tiles that are worked on at a time at least, so that the weights are not read for too few.
const LEAST_TILES: usize = 96;

/// A convolution whose sizes have been checked.
pub(crate) struct Job<'a> {
    input: &'a [f32],
    shape: Shape,
    tiles_down: usize,
    tiles_across: usize,
    filter: &'a Filter,
    residual: Option<&'a [f32]>,
    rectify: bool,
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
        Activation { residual, rectify }: Activation<'a>,
        output: &'a mut [f32],
    ) -> Self {
        let output = output.as_mut_ptr();
        Self { input, shape, tiles_down, tiles_across, filter, residual, rectify, output }
    }

    pub(crate) fn run(&self, part: Part) {
        SCRATCH.with_borrow_mut(|scratch| self.run_in(part, scratch));
    }

    fn run_in(&self, part: Part, scratch: &mut Aligned) {
        // SAFETY: a filter is only made for instructions that the processor has.
        unsafe {
            match (self.filter.instructions, self.filter.tile) {
                (Instructions::Portable, Tile::Two) => self.compute::<vector::Four, tile::Two, 4, 2>(part, scratch),
                (Instructions::Portable, Tile::Four) => self.compute::<vector::Four, tile::Four, 6, 4>(part, scratch),
                #[cfg(target_arch = "x86_64")]
                (Instructions::Avx2, Tile::Two) => self.avx2_two(part, scratch),
                #[cfg(target_arch = "x86_64")]
                (Instructions::Avx2, Tile::Four) => self.avx2_four(part, scratch),
                #[cfg(target_arch = "x86_64")]
                (Instructions::Avx512, Tile::Two) => self.avx512_two(part, scratch),
                #[cfg(target_arch = "x86_64")]
                (Instructions::Avx512, Tile::Four) => self.avx512_four(part, scratch),
                #[cfg(not(target_arch = "x86_64"))]
                (Instructions::Avx2 | Instructions::Avx512, _) => unreachable!("no filter is made for these here"),
            }
        }
    }

    /// Everything below is inlined here and so compiled with these instructions.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2_two(&self, part: Part, scratch: &mut Aligned) {
        // SAFETY: the caller's.
        unsafe { self.compute::<std::arch::x86_64::__m256, tile::Two, 4, 2>(part, scratch) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2_four(&self, part: Part, scratch: &mut Aligned) {
        // SAFETY: the caller's.
        unsafe { self.compute::<std::arch::x86_64::__m256, tile::Four, 6, 4>(part, scratch) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512_two(&self, part: Part, scratch: &mut Aligned) {
        // SAFETY: the caller's.
        unsafe { self.compute::<std::arch::x86_64::__m512, tile::Two, 4, 2>(part, scratch) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512_four(&self, part: Part, scratch: &mut Aligned) {
        // SAFETY: the caller's.
        unsafe { self.compute::<std::arch::x86_64::__m512, tile::Four, 6, 4>(part, scratch) }
    }

    /// # Safety
    /// As for [`Vector`].
    #[inline(always)]
    unsafe fn compute<V: Vector, T: Transform<N, M>, const N: usize, const M: usize>(&self, part: Part, scratch: &mut Aligned) {
        let columns = 2 * V::LANES;
        let (inputs, blocks) = (self.filter.inputs, part.blocks.len());
        let outputs = part.blocks.start * columns..self.filter.outputs.min(part.blocks.end * columns);
        // Rows of whole vectors, so that every load and store of scratch is one.
        let row_in = inputs.next_multiple_of(V::LANES);
        let row_out = blocks * columns;
        let tile_bytes = N * N * (row_in + row_out) * size_of::<f32>();
        let at_once = (BLOCK_BYTES / tile_bytes).max(LEAST_TILES).min(part.tiles.len());
        let rounds = part.tiles.len().div_ceil(at_once);
        let at_once = part.tiles.len().div_ceil(rounds);
        let (plane_in, plane_out) = (at_once * row_in + PLANE_GAP, at_once * row_out + PLANE_GAP);
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
            // `padded_outputs` columns, of which `part.blocks` is a range.
            unsafe {
                for index in 0..count {
                    self.transform::<V, T, N, M>(first + index, transformed.add(index * row_in), plane_in);
                }
                for element in 0..N * N {
                    let weights = (element * self.filter.padded_outputs() + part.blocks.start * columns) * inputs;
                    multiply::<V>(
                        (count, inputs, blocks),
                        (transformed.add(element * plane_in), row_in),
                        self.filter.weights.as_ptr().add(weights),
                        (products.add(element * plane_out), row_out),
                    );
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
        let residual = self.residual.map_or(ptr::null(), <[f32]>::as_ptr);
        // SAFETY: outputs are written only where they lie within the image, and of each only its channels; the residual
        // has the size of the output.
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
                        let at = ((image * height + top + down) * width + left + across) * self.filter.outputs + channel;
                        self.finish(sum.add(bias), residual, at, (outputs.end - channel).min(V::LANES));
                    }
                }
            }
        }
    }

    /// Adds, rectifies and stores `count` outputs.
    #[inline(always)]
    unsafe fn finish<V: Vector>(&self, mut sum: V, residual: *const f32, at: usize, count: usize) {
        // SAFETY: the caller's.
        unsafe {
            if !residual.is_null() {
                let residual = residual.add(at);
                sum = sum.add(if count == V::LANES { V::load(residual) } else { V::load_some(residual, count) });
            }
            if self.rectify {
                sum = sum.max(V::splat(0.0));
            }
            let to = self.output.add(at);
            if count == V::LANES { sum.store(to) } else { sum.store_some(to, count) }
        }
    }
}
