//! Convolutions of any side, stride and padding on the matrix unit of newer x86 processors (AMX). The unit multiplies
//! tiles of `bf16` and adds in `f32`, sixteen times as fast as vectors of `f32`.
//!
//! A number `x` is split into two numbers of `bf16`, `x ≈ high + low` with `|low| ≤ 2⁻⁸ |x|`. The sum differs from `x`
//! by at most `2⁻¹⁶ |x|`. A product is computed as `high · high' + high · low' + low · high'`, which is three products
//! of tiles. The term that is left out, `low · low'`, is at most 2⁻¹⁶ of the product. Compare G. Henry, P. T. P. Tang
//! and A. Heinecke, Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations (2019),
//! arXiv:1904.06376, section 2.

mod filter;
mod image_layout;
mod split;
mod tile_unit;

use crate::aligned::AlignedBuffer;
use crate::instructions::VectorTask;
use crate::partition::{check_lengths, divide, part_range};
use crate::product::Prefetch;
use crate::vector::Vector;
use crate::{BatchShape, Epilogue, Executor, Instructions};
use image_layout::ImageLayout;
use std::cell::RefCell;
use std::ops::Range;
use tile_unit::{COLUMNS, ROWS, Sums, TILES, TileSession};

pub use filter::AmxFilter;
pub use tile_unit::TileUnit;

/// Bytes of split images that are convolved together. They are read once for each block of output channels, so they
/// should fit the second-level cache.
const BLOCK_BYTES: usize = 1 << 20;

/// Convolves `input` into `output`: `output = epilogue(input * filter + bias)`. `input` is `[images, height, width,
/// inputs]`, and `output` has the shape of [`crate::Geometry::output`] with the filter's output channels.
///
/// # Panics
/// If the length of a slice does not fit its shape and channels.
pub fn convolve(
    input: &[f32],
    shape: BatchShape,
    filter: &AmxFilter,
    epilogue: Epilogue<'_>,
    output: &mut [f32],
    executor: &dyn Executor,
) {
    let outputs = filter.geometry.output(shape);
    check_lengths((input, shape, filter.inputs), (output, outputs, filter.outputs), epilogue);
    if outputs.pixels() == 0 {
        return;
    }
    let layout = ImageLayout::new(filter.inputs, filter.geometry, shape);
    let convolution = AmxConvolution { input, outputs, layout, filter, epilogue, output: output.as_mut_ptr() };
    divide((outputs.images, 1), filter.blocks(), executor, |images, blocks| convolution.run(images, blocks));
}

/// The arguments of [`convolve`], after their lengths were checked, and the layout of the split images.
struct AmxConvolution<'a> {
    input: &'a [f32],
    outputs: BatchShape,
    layout: ImageLayout,
    filter: &'a AmxFilter,
    epilogue: Epilogue<'a>,
    output: *mut f32,
}

// SAFETY: concurrent calls of `run` write to different images or channels of `output`.
unsafe impl Sync for AmxConvolution<'_> {}

thread_local! {
    /// Memory for split images. It is kept between calls, because mapping and zeroing a megabyte takes as long as
    /// filling it.
    static SCRATCH: RefCell<AlignedBuffer> = RefCell::new(AlignedBuffer::zeroed(0));
}

impl AmxConvolution<'_> {
    /// Computes blocks of output channels of some images. Concurrent calls share no images, or share no blocks.
    fn run(&self, images: Range<usize>, blocks: Range<usize>) {
        let length = self.layout.image_bytes / size_of::<f32>();
        let at_once = (BLOCK_BYTES / self.layout.image_bytes).clamp(1, images.len());
        let session = &self.filter.unit.session();
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < at_once * length {
                *scratch = AlignedBuffer::zeroed(at_once * length);
            }
            for first in images.clone().step_by(at_once) {
                let images = first..images.end.min(first + at_once);
                let split = &mut scratch[..images.len() * length];
                let blocks = blocks.clone();
                Instructions::best().dispatch(SplitImages { convolution: self, session, split, images, blocks });
            }
        });
    }

    /// Adds the bias to the sums of some positions of an image, applies the epilogue and stores the outputs of up to
    /// [`COLUMNS`] output channels, the first of which is `channel`.
    ///
    /// # Safety
    /// The conditions of [`Vector`] hold. No other part computes this image and these channels.
    #[inline(always)]
    unsafe fn store<V: Vector>(&self, sums: &Sums, image: usize, positions: Range<usize>, channel: usize) {
        let Self { ref layout, filter, outputs, epilogue, output, .. } = *self;
        let count = (filter.outputs - channel).min(COLUMNS);
        let (mut y, mut x) = (positions.start / layout.pitch, positions.start % layout.pitch);
        for row in sums.rows().take(positions.len()) {
            if x < outputs.width && y < outputs.height {
                let at = ((image * outputs.height + y) * outputs.width + x) * filter.outputs + channel;
                for lane in (0..count).step_by(V::LANES) {
                    // SAFETY: guaranteed by the caller; a row of sums and the bias have whole blocks of columns.
                    unsafe {
                        let sum = V::load(row.as_ptr().add(lane));
                        let sum = sum.add(V::load(filter.bias.as_ptr().add(channel + lane)));
                        epilogue.store(sum, output, at + lane, (count - lane).min(V::LANES));
                    }
                }
            }
            x += 1;
            if x == layout.pitch {
                (y, x) = (y + 1, 0);
            }
        }
    }
}

/// Images, memory for their split numbers, and the blocks of output channels that are computed from them.
struct SplitImages<'a> {
    convolution: &'a AmxConvolution<'a>,
    session: &'a TileSession,
    split: &'a mut [f32],
    images: Range<usize>,
    blocks: Range<usize>,
}

impl VectorTask for SplitImages<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { convolution, session, images, blocks, split } = self;
        let &AmxConvolution { ref layout, input, filter, outputs, .. } = convolution;
        for (image, to) in images.clone().zip(split.chunks_exact_mut(layout.image_bytes / size_of::<f32>())) {
            layout.fill(input, image, to);
        }
        let tiles = layout.positions(outputs).div_ceil(ROWS);
        let groups = tiles.div_ceil(TILES);
        let block_length = filter.block_length();
        let mut sums = Sums::default();
        for block in blocks {
            let weights = filter.weights.as_ptr().wrapping_add(block * block_length);
            let next = Prefetch { start: weights.wrapping_add(block_length), length: block_length };
            for (index, image) in images.clone().enumerate() {
                let pixels = split.as_ptr().cast::<u8>().wrapping_add(index * layout.image_bytes);
                for group in 0..groups {
                    // Groups have nearly equal sizes: five tiles make groups of three and two, not of four and one.
                    let tiles = part_range(tiles, groups, group);
                    let prefetch = next.part(index * groups + group, images.len() * groups);
                    // SAFETY: the layout has room for whole tiles, `block` is a block of the filter, and the output has
                    // all pixels that are stored.
                    unsafe {
                        let pixels = pixels.add(tiles.start * ROWS * layout.step);
                        session.multiply(layout, pixels, tiles.len(), weights, prefetch, &mut sums);
                        let positions = tiles.start * ROWS..tiles.end * ROWS;
                        convolution.store::<V>(&sums, image, positions, block * COLUMNS);
                    }
                }
            }
        }
    }
}
