//! Convolutions of any side, stride and padding with the matrix unit of newer x86 processors (AMX), which multiplies tiles of
//! `bf16` and adds in `f32`, sixteen times as fast as vectors of `f32` do.
//!
//! A number is split into two of `bf16`, `x = high + low` with `|low| ≤ 2⁻⁸ |x|`, which is right to 2⁻¹⁶; a product is
//! `high · high' + high · low' + low · high'`, three tiles' work, and what is left out is again 2⁻¹⁶ of it at most. Compare
//! G. Henry, P. T. P. Tang and A. Heinecke, Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision
//! Computations, arXiv:1904.06376, section 2.

mod filter;
mod layout;
mod registers;
mod split;

use crate::aligned::Aligned;
use crate::division::{check, cut, divide};
use crate::instructions::Work;
use crate::product::Ahead;
use crate::vector::Vector;
use crate::{Activation, Instructions, Shape, Spread};
use layout::Layout;
use registers::{COLUMNS, ROWS, Session, Sums, TILES};
use std::cell::RefCell;
use std::ops::Range;

pub use filter::Filter;
pub use registers::Registers;

/// Bytes of split images that are worked on at a time: they are read once for every block of output channels.
const BLOCK_BYTES: usize = 1 << 20;

/// Convolves `input` into `output`: `output = activation(input * filter + bias)`.
///
/// # Panics
/// When a slice has another length than the shape, the filter's channels and [`crate::direct::Geometry::output`] say.
pub fn convolve(
    input: &[f32],
    shape: Shape,
    filter: &Filter,
    activation: Activation<'_>,
    output: &mut [f32],
    spread: &dyn Spread,
) {
    let outputs = filter.geometry.output(shape);
    check((input, shape, filter.inputs), (output, outputs, filter.outputs), activation);
    if outputs.pixels() == 0 {
        return;
    }
    let layout = Layout::new(filter.inputs, filter.geometry, shape);
    let job = Job { input, outputs, layout, filter, activation, output: output.as_mut_ptr() };
    divide(outputs.images, filter.blocks(), spread, |images, blocks| job.run(images, blocks));
}

/// A convolution whose sizes have been checked.
struct Job<'a> {
    input: &'a [f32],
    outputs: Shape,
    layout: Layout,
    filter: &'a Filter,
    activation: Activation<'a>,
    output: *mut f32,
}

// SAFETY: parts that run at the same time write to different images or channels of `output`; see `Job::run`.
unsafe impl Sync for Job<'_> {}

thread_local! {
    /// Split images.
    static SCRATCH: RefCell<Aligned> = RefCell::new(Aligned::zeroed(0));
}

impl Job<'_> {
    /// Computes these images and blocks of channels. Parts that run at the same time share no images or no blocks.
    fn run(&self, images: Range<usize>, blocks: Range<usize>) {
        let length = self.layout.image_bytes / size_of::<f32>();
        let at_once = (BLOCK_BYTES / self.layout.image_bytes).clamp(1, images.len());
        let session = &self.filter.registers.session();
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < at_once * length {
                *scratch = Aligned::zeroed(at_once * length);
            }
            for first in images.clone().step_by(at_once) {
                let images = first..images.end.min(first + at_once);
                let split = &mut scratch[..images.len() * length];
                Instructions::best().perform(Images { job: self, session, split, images, blocks: blocks.clone() });
            }
        });
    }
}

/// Images, room for them split, and the channels that are wanted of them.
struct Images<'a> {
    job: &'a Job<'a>,
    session: &'a Session,
    split: &'a mut [f32],
    images: Range<usize>,
    blocks: Range<usize>,
}

impl Work for Images<'_> {
    #[inline(always)]
    unsafe fn perform<V: Vector>(self) {
        let Self { job: &Job { ref layout, input, filter, outputs, .. }, session, images, blocks, split } = self;
        for (image, to) in images.clone().zip(split.chunks_exact_mut(layout.image_bytes / size_of::<f32>())) {
            layout.fill(input, image, to);
        }
        let tiles = layout.positions(outputs).div_ceil(ROWS);
        let groups = tiles.div_ceil(TILES);
        let block_length = filter.block_length();
        let mut sums = Sums::default();
        for block in blocks {
            let weights = filter.weights.as_ptr().wrapping_add(block * block_length);
            let next = Ahead { start: weights.wrapping_add(block_length), length: block_length };
            for (index, image) in images.clone().enumerate() {
                let pixels = split.as_ptr().cast::<u8>().wrapping_add(index * layout.image_bytes);
                for group in 0..groups {
                    // Groups of like size: five tiles are three and two.
                    let tiles = cut(tiles, groups, group);
                    let ahead = next.part(index * groups + group, images.len() * groups);
                    // SAFETY: the layout has room for whole tiles; there are `blocks` blocks; the output has these pixels.
                    unsafe {
                        let pixels = pixels.add(tiles.start * ROWS * layout.step);
                        session.multiply(layout, pixels, tiles.len(), weights, ahead, &mut sums);
                        let positions = tiles.start * ROWS..tiles.end * ROWS;
                        self.job.store::<V>(&sums, image, positions, block * COLUMNS);
                    }
                }
            }
        }
    }
}

impl Job<'_> {
    /// Finishes the sums of some positions of an image, for a block of channels that begins with `channel`.
    ///
    /// # Safety
    /// As for [`Vector`]; no other part has these images and channels.
    #[inline(always)]
    unsafe fn store<V: Vector>(&self, sums: &Sums, image: usize, positions: Range<usize>, channel: usize) {
        let Self { ref layout, filter, outputs, activation, output, .. } = *self;
        let count = (filter.outputs - channel).min(COLUMNS);
        let (mut y, mut x) = (positions.start / layout.pitch, positions.start % layout.pitch);
        for row in sums.rows().take(positions.len()) {
            if x < outputs.width && y < outputs.height {
                let at = ((image * outputs.height + y) * outputs.width + x) * filter.outputs + channel;
                for lane in (0..count).step_by(V::LANES) {
                    // SAFETY: the caller's; a row of sums and the bias have whole blocks.
                    unsafe {
                        let sum = V::load(row.as_ptr().add(lane));
                        let sum = sum.add(V::load(filter.bias.as_ptr().add(channel + lane)));
                        activation.store(sum, output, at + lane, (count - lane).min(V::LANES));
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
