//! 3×3 convolutions of stride 1, and 3×3 and 7×7 convolutions of stride 2, by Winograd's minimal filtering.
//!
//! For each pair of input and output channel, a tile of `m` × `m` outputs of a 3×3 filter takes `(m + 2)²`
//! multiplications instead of `9 m²`: a quarter of them for `m = 4`, four ninths for `m = 2`. With a stride of 2 it
//! takes `(2 m + 1)²`: nine sixteenths for `m = 4`, 25 of 36 for `m = 2`. A tile of 4×4 outputs of a 7×7 filter of
//! stride 2 takes 169 instead of 784.
//!
//! Source: A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks (2015), arXiv:1509.09308, section 4.

mod convolution;
mod filter;
mod grid;
mod pooled;
mod transform;

use crate::aligned::AlignedBuffer;
use crate::partition::{check_lengths, divide, part_range, run_once_each};
use crate::{BatchShape, Epilogue, Executor, Nonlinearity, pool};
use convolution::{TileSource, WinogradConvolution, WinogradPart};
use filter::PHASES;
use grid::TileGrid;
use pooled::PooledConvolution;
use std::cell::Cell;

pub use filter::WinogradFilter;
pub use transform::TileSize;

/// The least number of tiles of a part. A part with fewer tiles would read all weights for little work, so output
/// channels are divided among the parts instead of tiles.
const LEAST_TILES_OF_PART: usize = 32;

/// Convolves `input` into `output`: `output = epilogue(input * filter + bias)`. `input` has the shape `shape` and the
/// filter's input channels, and `output` has the shape of [`crate::Geometry::output`] with the filter's output
/// channels.
///
/// # Panics
/// If the length of a slice does not fit its shape and channels.
pub fn convolve(
    input: &[f32],
    shape: BatchShape,
    filter: &WinogradFilter,
    epilogue: Epilogue<'_>,
    output: &mut [f32],
    executor: &dyn Executor,
) {
    let outputs = filter.geometry.output(shape);
    check_lengths((input, shape, filter.inputs), (output, outputs, filter.outputs), epilogue);
    if outputs.pixels() == 0 {
        return;
    }
    let grid = TileGrid::new(outputs, filter.scheme.tile_side());
    with_source(input, shape, filter, |input, shape, source| {
        let shapes = (shape, outputs, source);
        let convolution = WinogradConvolution::new(input, shapes, grid, filter, epilogue, output);
        divide((grid.tiles(), LEAST_TILES_OF_PART), filter.blocks(), executor, |tiles, blocks| {
            convolution.run(WinogradPart { tiles, blocks });
        });
    });
}

/// Convolves `input`, applies `nonlinearity` and pools the result as [`pool::max`] does. `output` has the shape of
/// [`pool::max_output`] for the shape of the convolution's output. Rows are pooled while they are in a near cache, and
/// the result of the convolution is not kept.
///
/// # Panics
/// If the length of a slice does not fit its shape and channels, the executor does not run each part once, or the
/// processor lacks the instructions of the filter.
pub fn convolve_and_pool(
    input: &[f32],
    shape: BatchShape,
    filter: &WinogradFilter,
    nonlinearity: Nonlinearity,
    output: &mut [f32],
    executor: &dyn Executor,
) {
    let convolved = filter.geometry.output(shape);
    let pooled = pool::max_output(convolved);
    let epilogue = Epilogue { residual: None, nonlinearity };
    check_lengths((input, shape, filter.inputs), (output, pooled, filter.outputs), epilogue);
    if pooled.pixels() == 0 {
        return;
    }
    with_source(input, shape, filter, |input, shape, source| {
        let one = BatchShape { images: 1, ..shape };
        let pooling = PooledConvolution {
            input,
            image_length: input.len() / shape.images,
            shapes: (one, BatchShape { images: 1, ..convolved }, source),
            filter,
            epilogue,
            rows: pooled.height,
            row_length: pooled.width * filter.outputs,
            output: output.as_mut_ptr(),
        };
        let rows = pooled.images * pooled.height;
        let parts = executor.parts().clamp(1, rows);
        run_once_each(parts, executor, |part| pooling.run(part_range(rows, parts, part)));
    });
}

/// Calls `work` with the images that are transformed, their shape and the place of a tile's inputs in them: with
/// `input`, or with a copy of its phases.
fn with_source(
    input: &[f32],
    shape: BatchShape,
    filter: &WinogradFilter,
    work: impl FnOnce(&[f32], BatchShape, TileSource),
) {
    if filter.copies_images() {
        // Not borrowed while `work` runs: an executor may compute another convolution on this thread meanwhile.
        let mut copy = PHASES_OF_IMAGES.take().unwrap_or_else(|| AlignedBuffer::zeroed(0));
        let shape = copy_phases(input, shape, filter, &mut copy);
        work(&copy[..shape.numbers(filter.depth)], shape, TileSource::Pixels);
        return PHASES_OF_IMAGES.set(Some(copy));
    }
    let source = if filter.geometry.stride == 2 { TileSource::Phases } else { TileSource::Pixels };
    work(input, shape, source);
}

thread_local! {
    /// Memory for the phases of images. It is kept between calls, because mapping and zeroing it takes as long as
    /// filling it.
    static PHASES_OF_IMAGES: Cell<Option<AlignedBuffer>> = const { Cell::new(None) };
}

/// Copies images so that the four phases of a pixel lie side by side, and returns the shape of the copies. A pixel of a
/// copy has as many numbers as a transformed input has channels.
fn copy_phases(input: &[f32], shape: BatchShape, filter: &WinogradFilter, copy: &mut AlignedBuffer) -> BatchShape {
    let BatchShape { images, height, width } = shape;
    let (inputs, depth) = (filter.inputs, filter.depth);
    let copied = BatchShape { images, height: height.div_ceil(2), width: width.div_ceil(2) };
    let length = copied.numbers(depth);
    if copy.len() < length {
        *copy = AlignedBuffer::zeroed(length);
    }
    let rows = copy[..length].chunks_exact_mut(copied.width * depth);
    for (row, to) in rows.enumerate() {
        let (image, y) = (row / copied.height, row % copied.height * 2);
        let line = |y: usize| {
            let inside = y < height;
            inside.then(|| &input[(image * height + y) * width * inputs..][..width * inputs])
        };
        let lines = [line(y), line(y + 1)];
        // A constant number of channels, that of colours, lets the compiler copy without loops.
        match inputs {
            3 => copy_lines(lines, 3, to, depth),
            _ => copy_lines(lines, inputs, to, depth),
        }
    }
    copied
}

/// Copies the even and the odd line of a row of phases. A line outside the image is `None`.
#[inline(always)]
fn copy_lines([even, odd]: [Option<&[f32]>; 2], inputs: usize, to: &mut [f32], depth: usize) {
    for (x, to) in to.chunks_exact_mut(depth).enumerate() {
        for (phase, (down, across)) in PHASES.into_iter().enumerate() {
            let line = if down == 0 { even } else { odd };
            let to = &mut to[phase * inputs..][..inputs];
            match line.and_then(|line| line.get((2 * x + across) * inputs..(2 * x + across + 1) * inputs)) {
                Some(from) => to.copy_from_slice(from),
                None => to.fill(0.0),
            }
        }
        to[4 * inputs..].fill(0.0);
    }
}
