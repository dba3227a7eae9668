//! Convolutions of any side, stride and padding by their definition. The inputs of an output are as many runs of
//! consecutive numbers as the filter has rows: a run has all channels of the pixels under one row of the filter.

mod filter;

use crate::aligned::AlignedBuffer;
use crate::instructions::VectorTask;
use crate::partition::{check_lengths, divide};
use crate::product::{Prefetch, Rows, Sink, multiply};
use crate::vector::Vector;
use crate::{BatchShape, Epilogue, Executor, Geometry};
use std::cell::RefCell;
use std::ops::Range;

pub use filter::DirectFilter;

/// Bytes of padded images that are convolved together. They are read once for each block of output channels, so they
/// should fit the second-level cache.
const BLOCK_BYTES: usize = 1 << 20;

/// Convolves `input` into `output`: `output = epilogue(input * filter + bias)`. `input` is `[images, height, width,
/// inputs]`, and `output` has the shape of [`Geometry::output`] with the filter's output channels.
///
/// # Panics
/// If the length of a slice does not fit its shape and channels.
pub fn convolve(
    input: &[f32],
    shape: BatchShape,
    filter: &DirectFilter,
    epilogue: Epilogue<'_>,
    output: &mut [f32],
    executor: &dyn Executor,
) {
    let geometry = filter.geometry;
    let outputs = geometry.output(shape);
    check_lengths((input, shape, filter.inputs), (output, outputs, filter.outputs), epilogue);
    if outputs.pixels() == 0 {
        return;
    }
    // A 1×1 filter of stride 1 uses each pixel by itself, so all pixels of the batch can be one long row.
    let (shape, outputs) = match geometry {
        Geometry { side: 1, stride: 1, padding: 0 } => {
            let flat = BatchShape { images: 1, height: 1, width: shape.pixels() };
            (flat, flat)
        }
        _ => (shape, outputs),
    };
    let convolution = DirectConvolution { input, shape, outputs, filter, epilogue, output: output.as_mut_ptr() };
    divide(outputs.images, filter.blocks(), executor, |images, blocks| convolution.run(images, blocks));
}

/// The arguments of [`convolve`], after their lengths were checked.
struct DirectConvolution<'a> {
    input: &'a [f32],
    shape: BatchShape,
    outputs: BatchShape,
    filter: &'a DirectFilter,
    epilogue: Epilogue<'a>,
    output: *mut f32,
}

// SAFETY: concurrent calls of `run` write to different images or channels of `output`.
unsafe impl Sync for DirectConvolution<'_> {}

thread_local! {
    /// Memory for padded images. It is kept between calls, because mapping and zeroing a megabyte takes as long as
    /// filling it.
    static SCRATCH: RefCell<AlignedBuffer> = RefCell::new(AlignedBuffer::zeroed(0));
}

impl DirectConvolution<'_> {
    /// Computes blocks of output channels of some images. Concurrent calls share no images, or share no blocks.
    fn run(&self, images: Range<usize>, blocks: Range<usize>) {
        let Geometry { padding, .. } = self.filter.geometry;
        if padding == 0 {
            let input = &self.input[images.start * self.image_length()..];
            return self.multiply(input, (self.shape.height, self.shape.width), images, blocks);
        }
        let (height, width) = (self.shape.height + 2 * padding, self.shape.width + 2 * padding);
        let length = height * width * self.filter.inputs;
        let at_once = (BLOCK_BYTES / (length * size_of::<f32>())).clamp(1, images.len());
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < at_once * length {
                *scratch = AlignedBuffer::zeroed(at_once * length);
            }
            for first in images.clone().step_by(at_once) {
                let images = first..images.end.min(first + at_once);
                for (image, padded) in images.clone().zip(scratch.chunks_exact_mut(length)) {
                    self.pad(image, width, padded);
                }
                self.multiply(scratch, (height, width), images, blocks.clone());
            }
        });
    }

    /// The length of one input image in numbers, without padding.
    fn image_length(&self) -> usize {
        self.shape.height * self.shape.width * self.filter.inputs
    }

    /// Copies image `image` into the middle of `padded` and fills the border with zeros.
    fn pad(&self, image: usize, padded_width: usize, padded: &mut [f32]) {
        let DirectFilter { inputs, geometry: Geometry { padding, .. }, .. } = *self.filter;
        let row = self.shape.width * inputs;
        let pixels = &self.input[image * self.image_length()..][..self.image_length()];
        let (edge, side) = (padding * padded_width * inputs, padding * inputs);
        padded[..edge].fill(0.0);
        let rows = padded[edge..].chunks_exact_mut(padded_width * inputs);
        for (from, to) in pixels.chunks_exact(row).zip(rows) {
            to[..side].fill(0.0);
            to[side..side + row].copy_from_slice(from);
            to[side + row..].fill(0.0);
        }
        padded[edge + self.shape.height * padded_width * inputs..].fill(0.0);
    }

    /// Computes `blocks` of output channels of `images`. `input` holds these images with their padding, each of the
    /// given height and width.
    fn multiply(&self, input: &[f32], (height, width): (usize, usize), images: Range<usize>, blocks: Range<usize>) {
        assert!(input.len() >= images.len() * height * width * self.filter.inputs, "the input holds all images");
        let task = PaddedImages { convolution: self, input, height, width, images, blocks };
        self.filter.instructions.dispatch(task);
    }
}

/// Padded images, and the blocks of output channels that are computed from them.
struct PaddedImages<'a> {
    convolution: &'a DirectConvolution<'a>,
    input: &'a [f32],
    height: usize,
    width: usize,
    images: Range<usize>,
    blocks: Range<usize>,
}

impl VectorTask for PaddedImages<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let DirectConvolution { filter, outputs, epilogue, output, .. } = *self.convolution;
        let Geometry { side, stride, .. } = filter.geometry;
        let (row, columns) = (self.width * filter.inputs, 2 * V::LANES);
        let block_length = side * side * filter.inputs * columns;
        for block in self.blocks {
            for (index, image) in self.images.clone().enumerate() {
                for y in 0..outputs.height {
                    // SAFETY: `Geometry::output` counts only windows that lie within the padded image; `block` is a
                    // block of the filter; `at` is the start of an output row.
                    unsafe {
                        let window = (index * self.height + y * stride) * row;
                        let rows = Rows {
                            start: self.input.as_ptr().add(window),
                            stride: stride * filter.inputs,
                            runs: side,
                            run_length: side * filter.inputs,
                            run_stride: row,
                        };
                        let channel = block * columns;
                        let bias = filter.bias.as_ptr().add(channel);
                        let sink = EpilogueSink {
                            bias: [V::load(bias), V::load(bias.add(V::LANES))],
                            epilogue,
                            output,
                            at: (image * outputs.height + y) * outputs.width * filter.outputs + channel,
                            stride: filter.outputs,
                            count: filter.outputs - channel,
                        };
                        let weights = filter.weights.as_ptr().add(block * block_length);
                        let next = Prefetch { start: weights.wrapping_add(block_length), length: block_length };
                        let prefetch = next.part(index * outputs.height + y, self.images.len() * outputs.height);
                        multiply::<V>(rows, outputs.width, weights, prefetch, &sink);
                    }
                }
            }
        }
    }
}

/// Adds the bias to sums, applies the epilogue and stores the outputs.
struct EpilogueSink<'a, V> {
    /// The biases of the two vectors of output channels.
    bias: [V; 2],
    epilogue: Epilogue<'a>,
    output: *mut f32,
    /// Index in `output` of the first output of the first row.
    at: usize,
    /// Distance from an output pixel to the next, in numbers.
    stride: usize,
    /// Number of output channels from the first lane on. Lanes beyond them are not stored.
    count: usize,
}

impl<V: Vector> Sink<V> for EpilogueSink<'_, V> {
    #[inline(always)]
    unsafe fn put(&self, row: usize, [left, right]: [V; 2]) {
        let at = self.at + row * self.stride;
        // SAFETY: guaranteed by the caller; no other part computes these images and channels.
        unsafe {
            self.epilogue.store(left.add(self.bias[0]), self.output, at, self.count.min(V::LANES));
            if self.count > V::LANES {
                let count = (self.count - V::LANES).min(V::LANES);
                self.epilogue.store(right.add(self.bias[1]), self.output, at + V::LANES, count);
            }
        }
    }
}
