//! Convolutions of any side, stride and padding, by their definition: every output is a product of as many rows as the
//! filter has, each of consecutive numbers.

mod filter;

use crate::aligned::Aligned;
use crate::division::{check, divide};
use crate::instructions::Work;
use crate::product::{Ahead, Rows, Sink, multiply};
use crate::vector::Vector;
use crate::{Activation, Shape, Spread};
use std::cell::RefCell;
use std::ops::Range;

pub use filter::{Filter, Geometry};

/// Bytes of padded images that are worked on at a time: they are read once for every block of output channels.
const BLOCK_BYTES: usize = 1 << 20;

/// Convolves `input` into `output`: `output = activation(input * filter + bias)`.
///
/// # Panics
/// When a slice has another length than the shape, the filter's channels and [`Geometry::output`] say.
pub fn convolve(
    input: &[f32],
    shape: Shape,
    filter: &Filter,
    activation: Activation<'_>,
    output: &mut [f32],
    spread: &dyn Spread,
) {
    let geometry = filter.geometry;
    let outputs = geometry.output(shape);
    check((input, shape, filter.inputs), (output, outputs, filter.outputs), activation);
    if outputs.pixels() == 0 {
        return;
    }
    // Each pixel by itself: then rows and images do not matter.
    let (shape, outputs) = match geometry {
        Geometry { side: 1, stride: 1, padding: 0 } => {
            let flat = Shape { images: 1, height: 1, width: shape.pixels() };
            (flat, flat)
        }
        _ => (shape, outputs),
    };
    let job = Job { input, shape, outputs, filter, activation, output: output.as_mut_ptr() };
    divide(outputs.images, filter.blocks(), spread, |images, blocks| job.run(Part { images, blocks }));
}

/// A convolution whose sizes have been checked.
struct Job<'a> {
    input: &'a [f32],
    shape: Shape,
    outputs: Shape,
    filter: &'a Filter,
    activation: Activation<'a>,
    output: *mut f32,
}

// SAFETY: parts that run at the same time write to different images or channels of `output`; see `Part`.
unsafe impl Sync for Job<'_> {}

/// Which outputs. Parts of one job that run at the same time share no images or no blocks of channels.
struct Part {
    images: Range<usize>,
    blocks: Range<usize>,
}

thread_local! {
    /// Padded images.
    static SCRATCH: RefCell<Aligned> = RefCell::new(Aligned::zeroed(0));
}

impl Job<'_> {
    fn run(&self, part: Part) {
        let Geometry { padding, .. } = self.filter.geometry;
        if padding == 0 {
            let input = &self.input[part.images.start * self.image_length()..];
            return self.multiply(input, (self.shape.height, self.shape.width), part.images, part.blocks);
        }
        let (height, width) = (self.shape.height + 2 * padding, self.shape.width + 2 * padding);
        let length = height * width * self.filter.inputs;
        let at_once = (BLOCK_BYTES / (length * size_of::<f32>())).clamp(1, part.images.len());
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < at_once * length {
                *scratch = Aligned::zeroed(at_once * length);
            }
            let mut first = part.images.start;
            while first < part.images.end {
                let images = first..part.images.end.min(first + at_once);
                for (image, padded) in images.clone().zip(scratch.chunks_exact_mut(length)) {
                    self.pad(image, width, padded);
                }
                first = images.end;
                self.multiply(scratch, (height, width), images, part.blocks.clone());
            }
        });
    }

    /// Numbers of one image.
    fn image_length(&self) -> usize {
        self.shape.height * self.shape.width * self.filter.inputs
    }

    /// Copies an image into the middle of zeros.
    fn pad(&self, image: usize, padded_width: usize, padded: &mut [f32]) {
        let Filter { inputs, geometry: Geometry { padding, .. }, .. } = *self.filter;
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

    /// Multiplies `images`, which `input` holds at the given height and width.
    fn multiply(&self, input: &[f32], (height, width): (usize, usize), images: Range<usize>, blocks: Range<usize>) {
        assert!(input.len() >= images.len() * height * width * self.filter.inputs, "all images are there");
        self.filter.instructions.perform(Images { job: self, input, height, width, images, blocks });
    }
}

/// Images, padded, and the channels that are wanted of them.
struct Images<'a> {
    job: &'a Job<'a>,
    input: &'a [f32],
    height: usize,
    width: usize,
    images: Range<usize>,
    blocks: Range<usize>,
}

impl Work for Images<'_> {
    #[inline(always)]
    unsafe fn perform<V: Vector>(self) {
        let Job { filter, outputs, activation, output, .. } = *self.job;
        let Geometry { side, stride, .. } = filter.geometry;
        let (row, columns) = (self.width * filter.inputs, 2 * V::LANES);
        let block_length = side * side * filter.inputs * columns;
        for block in self.blocks {
            for (index, image) in self.images.clone().enumerate() {
                for y in 0..outputs.height {
                    // SAFETY: windows lie within the image, as `Geometry::output` counts them; there are `blocks` blocks; and an
                    // output row begins at `at`.
                    unsafe {
                        let window = (index * self.height + y * stride) * row;
                        let rows = Rows {
                            start: self.input.as_ptr().add(window),
                            stride: stride * filter.inputs,
                            runs: side,
                            run: side * filter.inputs,
                            run_stride: row,
                        };
                        let channel = block * columns;
                        let bias = filter.bias.as_ptr().add(channel);
                        let sink = Finished {
                            bias: [V::load(bias), V::load(bias.add(V::LANES))],
                            activation,
                            output,
                            at: (image * outputs.height + y) * outputs.width * filter.outputs + channel,
                            stride: filter.outputs,
                            count: filter.outputs - channel,
                        };
                        let weights = filter.weights.as_ptr().add(block * block_length);
                        let next = Ahead { start: weights.wrapping_add(block_length), length: block_length };
                        let ahead = next.part(index * outputs.height + y, self.images.len() * outputs.height);
                        multiply::<V>(rows, outputs.width, weights, ahead, &sink);
                    }
                }
            }
        }
    }
}

/// Adds the bias and whatever else belongs to the convolution, and stores.
struct Finished<'a, V> {
    bias: [V; 2],
    activation: Activation<'a>,
    output: *mut f32,
    /// Index of the first row's first channel.
    at: usize,
    /// From row to row.
    stride: usize,
    /// Channels that there are, from the first one on.
    count: usize,
}

impl<V: Vector> Sink<V> for Finished<'_, V> {
    #[inline(always)]
    unsafe fn put(&self, row: usize, [left, right]: [V; 2]) {
        let at = self.at + row * self.stride;
        // SAFETY: the caller's; no other part has these images and channels.
        unsafe {
            self.activation.store(left.add(self.bias[0]), self.output, at, self.count.min(V::LANES));
            if self.count > V::LANES {
                let count = (self.count - V::LANES).min(V::LANES);
                self.activation.store(right.add(self.bias[1]), self.output, at + V::LANES, count);
            }
        }
    }
}
