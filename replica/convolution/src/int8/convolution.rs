//! Checks the arguments of a convolution, divides it among threads, and walks over the tiles of each part.

use super::dot::{DotVector, MAX_ROWS};
use super::filter::Int8Filter;
use super::instructions::DotTask;
use super::padded;
use super::tile::{self, Tile};
use crate::partition::{part_range, run_once_each};
use crate::{BatchShape, Executor, Geometry};
use std::ops::Range;

/// Activations that are added to the output.
#[derive(Debug, Clone, Copy)]
pub struct Residual<'a> {
    /// The levels; a slice as long as the output.
    pub levels: &'a [u8],
    /// The factor of each level: the scale of the residual, divided by the scale of the output.
    pub factor: f32,
}

/// Convolves `input` into `output`. A level of the output is `sum × scale + bias`, plus `level × factor` of the
/// residual, clamped to 0..=255 and rounded to the nearest integer, ties to even. The sum is exact. Both products are
/// fused with their addition, and so rounded once. Pixels outside the image have the level 0. Since the clamp is also a
/// ReLU, there is no other nonlinearity.
///
/// `input` is `[images, height, width, bytes of a pixel]`; see [`Int8Filter::input_bytes`]. `output` has the shape of
/// [`Geometry::output`] with `padded(outputs)` bytes for each pixel; see [`padded`].
///
/// # Panics
/// If the length of a slice does not fit its shape and channels, the output has 2³² pixels or more, the executor does not
/// run each part once, or the processor lacks the instructions of the filter.
pub fn convolve(
    input: &[u8],
    shape: BatchShape,
    filter: &Int8Filter,
    residual: Option<Residual<'_>>,
    output: &mut [u8],
    executor: &dyn Executor,
) {
    let outputs = filter.geometry.output(shape);
    let (inputs, channels) = (filter.inputs, padded(filter.outputs));
    assert_eq!(input.len(), filter.input_bytes(shape), "bytes of the input of {shape:?} with {inputs} channels");
    assert_eq!(output.len(), outputs.numbers(channels), "bytes of the output of {outputs:?} with {channels} channels");
    if let Some(residual) = residual {
        assert_eq!(residual.levels.len(), output.len(), "the residual must be as long as the output");
    }
    if output.is_empty() {
        return;
    }
    // A 1×1 filter of stride 1 uses each pixel by itself, so all pixels of the batch can be one long row.
    let (shape, outputs) = match filter.geometry {
        Geometry { side: 1, stride: 1, padding: 0 } => {
            let flat = BatchShape { images: 1, height: 1, width: shape.pixels() };
            (flat, flat)
        }
        _ => (shape, outputs),
    };
    let convolution = Convolution { input, shape, outputs, filter, residual, output: output.as_mut_ptr() };
    let (pixels, blocks) = (outputs.pixels(), filter.blocks());
    // `part_range` multiplies two numbers up to this one.
    assert!(u32::try_from(pixels).is_ok(), "an output of {pixels} pixels; divide the batch");
    let parts = executor.parts().clamp(1, pixels);
    // Threads that compute different blocks share the reading of the weights. If the blocks cannot be divided evenly,
    // the pixels are.
    if blocks % parts == 0 {
        run_once_each(parts, executor, |index| convolution.run(0..pixels, part_range(blocks, parts, index)));
    } else {
        run_once_each(parts, executor, |index| convolution.run(part_range(pixels, parts, index), 0..blocks));
    }
}

/// The arguments of [`convolve`], after their lengths were checked.
struct Convolution<'a> {
    input: &'a [u8],
    shape: BatchShape,
    outputs: BatchShape,
    filter: &'a Int8Filter,
    residual: Option<Residual<'a>>,
    output: *mut u8,
}

// SAFETY: concurrent calls of `run` write to different pixels or channels of `output`; `run_once_each` sees to it.
unsafe impl Sync for Convolution<'_> {}

impl Convolution<'_> {
    /// Computes blocks of output channels of some output pixels, counted over the whole batch. Concurrent calls share
    /// no pixels, or share no blocks.
    fn run(&self, pixels: Range<usize>, blocks: Range<usize>) {
        if !pixels.is_empty() {
            self.filter.instructions.dispatch(Part { convolution: self, pixels, blocks });
        }
    }

    /// Finds the inputs of `rows` output pixels from `first` on. Writes the address of the first input of each pixel to
    /// `corners`. If a window reaches outside the image, also writes an address for each pixel and run of the filter to
    /// `addresses`. Without padding, a run is a row of the filter, whose inputs are consecutive. With padding, a run is
    /// one pixel, which is `zeros` outside the image. Returns whether all windows lie inside.
    #[inline(always)]
    fn point(
        &self,
        first: usize,
        rows: usize,
        offsets: &[usize],
        corners: &mut [*const u8; MAX_ROWS],
        addresses: &mut [*const u8],
    ) -> bool {
        let Geometry { side, stride, padding } = self.filter.geometry;
        let (BatchShape { height, width, .. }, bytes) = (self.shape, self.filter.pixel_bytes());
        let (mut x, line) = (first % self.outputs.width, first / self.outputs.width);
        let (mut y, mut image) = (line % self.outputs.height, line / self.outputs.height);
        let start = self.input.as_ptr();
        let mut windows = [(0, 0); MAX_ROWS];
        let mut are_inside = true;
        for (corner, window) in corners.iter_mut().zip(&mut windows).take(rows) {
            // Numbers may wrap outside the image, where they are not used.
            let (top, left) = ((y * stride).wrapping_sub(padding), (x * stride).wrapping_sub(padding));
            let line = (image * height).wrapping_add(top).wrapping_mul(width).wrapping_add(left).wrapping_mul(bytes);
            (*corner, *window) = (start.wrapping_add(line), (top, left));
            are_inside &= top < height && left < width;
            are_inside &= top.wrapping_add(side) <= height && left.wrapping_add(side) <= width;
            // A division for each pixel would take as long as the products of a 1×1 filter.
            x += 1;
            if x == self.outputs.width {
                (x, y) = (0, y + 1);
            }
            if y == self.outputs.height {
                (y, image) = (0, image + 1);
            }
        }
        if !are_inside {
            let per_row = if padding == 0 { 1 } else { side };
            let of_pixels = addresses.chunks_exact_mut(side * per_row).zip(corners).zip(windows).take(rows);
            for ((of_pixel, corner), (top, left)) in of_pixels {
                for (index, (address, offset)) in of_pixel.iter_mut().zip(offsets).enumerate() {
                    let (down, across) = (index / per_row, index % per_row);
                    let is_inside = top.wrapping_add(down) < height && left.wrapping_add(across) < width;
                    *address = if is_inside { corner.wrapping_add(*offset) } else { self.filter.zeros.as_ptr() };
                }
            }
        }
        are_inside
    }
}

/// A part of a convolution.
struct Part<'a> {
    convolution: &'a Convolution<'a>,
    pixels: Range<usize>,
    blocks: Range<usize>,
}

impl DotTask for Part<'_> {
    #[inline(always)]
    unsafe fn run<V: DotVector>(self) {
        let Convolution { filter, residual, output, .. } = *self.convolution;
        let Geometry { side, padding, .. } = filter.geometry;
        let bytes = filter.pixel_bytes();
        let (runs, run_bytes) = match padding {
            0 => (side, padded(side * bytes)),
            _ => (side * side, bytes),
        };
        // The distances of the runs from the first.
        let line = self.convolution.shape.width * bytes;
        let offset = |run: usize| run / (runs / side) * line + run % (runs / side) * bytes;
        let offsets: Vec<usize> = (0..runs).map(offset).collect();
        let mut addresses = vec![std::ptr::null(); runs * V::ROWS];
        let mut corners = [std::ptr::null(); MAX_ROWS];
        let (block, channels) = (V::LANES * V::VECTORS, padded(filter.outputs));
        let tiles = self.pixels.len().div_ceil(V::ROWS);
        for index in self.blocks {
            let channel = index * block;
            let weights = filter.weights[index * filter.block_bytes()..].as_ptr().cast::<i8>();
            for number in 0..tiles {
                let part = part_range(self.pixels.len(), tiles, number);
                let (first, rows) = (self.pixels.start + part.start, part.len());
                let are_inside = self.convolution.point(first, rows, &offsets, &mut corners, &mut addresses);
                let at = first * channels + channel;
                // SAFETY: `point` has found an address for each run and pixel, of as many bytes as a run has: without
                // padding, `Geometry::output` counts only windows that lie within the image, and the bytes with which a
                // run is padded lie within the input, as `Int8Filter::input_bytes` counts them. The weights, scales and
                // biases are padded to whole blocks. `at` is the block's first channel of the tile's first pixel. No
                // other part computes these pixels and channels.
                unsafe {
                    let tile = Tile {
                        corners,
                        offsets: offsets.as_ptr(),
                        addresses: if are_inside { std::ptr::null() } else { addresses.as_ptr() },
                        runs,
                        run_bytes,
                        weights,
                        scale: filter.scale.as_ptr().add(channel),
                        bias: filter.bias.as_ptr().add(channel),
                        residual: residual.map(|residual| (residual.levels.as_ptr().add(at), residual.factor)),
                        output: output.add(at),
                        stride: channels,
                        count: (channels - channel).min(block),
                    };
                    tile::compute::<V>(tile, rows);
                }
            }
        }
    }
}
