//! Convolutions of any side, stride and padding by their definition. The inputs of an output are runs of consecutive
//! numbers, whose addresses are looked up in a table: one run for each tap of the filter, or one for each row of the
//! filter where the images have few channels. Because of the table, outputs of several image rows are computed
//! together, and padding is a run of zeros instead of a copy of the image. XNNPACK calls such a table an indirection
//! buffer.

mod filter;
mod table;

use crate::instructions::VectorTask;
use crate::partition::{check_lengths, divide};
use crate::product::{Prefetch, Rows, Sink, multiply};
use crate::vector::Vector;
use crate::{BatchShape, Epilogue, Executor};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use table::AddressTable;

pub use filter::DirectFilter;

/// The least number of output pixels of a part. A part with fewer would read all weights for little work, so output
/// channels are divided among the parts instead of pixels.
const LEAST_PIXELS_OF_PART: usize = 32;

/// Convolves `input` into `output`: `output = epilogue(input * filter + bias)`. `input` is `[images, height, width,
/// inputs]`, and `output` has the shape of [`crate::Geometry::output`] with the filter's output channels.
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
    let outputs = filter.geometry.output(shape);
    check_lengths((input, shape, filter.inputs), (output, outputs, filter.outputs), epilogue);
    if outputs.pixels() == 0 {
        return;
    }
    let convolution = DirectConvolution { input, shape, outputs, filter, epilogue, output: output.as_mut_ptr() };
    let least = LEAST_PIXELS_OF_PART.div_ceil(outputs.width);
    divide((outputs.images * outputs.height, least), filter.blocks(), executor, |rows, blocks| {
        convolution.run(rows, blocks);
    });
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

// SAFETY: concurrent calls of `run` write to different rows or channels of `output`.
unsafe impl Sync for DirectConvolution<'_> {}

thread_local! {
    /// Memory for addresses and padded rows. It is kept between calls, because mapping and zeroing it takes as long as
    /// filling it.
    static TABLE: RefCell<AddressTable> = RefCell::default();
}

impl DirectConvolution<'_> {
    /// Computes blocks of output channels of some rows of outputs. The rows of all images are numbered one after the
    /// other. Concurrent calls share no rows, or share no blocks.
    fn run(&self, rows: Range<usize>, blocks: Range<usize>) {
        TABLE.with_borrow_mut(|table| {
            self.filter.instructions.dispatch(RowsTask { convolution: self, table, rows, blocks });
        });
    }
}

/// Rows of outputs, and the blocks of output channels that are computed for them.
struct RowsTask<'a> {
    convolution: &'a DirectConvolution<'a>,
    table: &'a mut AddressTable,
    rows: Range<usize>,
    blocks: Range<usize>,
}

impl VectorTask for RowsTask<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { convolution, table, rows, blocks } = self;
        let DirectConvolution { input, shape, outputs, filter, .. } = *convolution;
        let mut first = rows.start;
        while first < rows.end {
            let end = table.fill(input, shape, filter, outputs, first..rows.end);
            for block in blocks.clone() {
                // SAFETY: guaranteed by the caller; the table has the addresses of these rows, `block` is a block of
                // the filter.
                unsafe { convolution.multiply::<V>(table.rows(), first..end, block) };
            }
            first = end;
        }
    }
}

impl DirectConvolution<'_> {
    /// Computes one block of output channels of the rows of outputs `rows`. `inputs` are the inputs of their pixels.
    ///
    /// # Safety
    /// The conditions of [`Vector`] hold. `inputs` has the inputs of each pixel, and `block` is a block of the filter.
    /// No other part computes these rows and this block.
    #[inline(always)]
    unsafe fn multiply<V: Vector>(&self, inputs: Rows, rows: Range<usize>, block: usize) {
        let Self { filter, outputs, epilogue, output, .. } = *self;
        let (columns, length) = (2 * V::LANES, filter.block_length());
        let channel = block * columns;
        let sink = EpilogueSink {
            sums: Cell::new(GroupSums([0.0; MOST_SUMS])),
            bias: filter.bias[channel..][..columns].as_ptr(),
            epilogue,
            output,
            at: rows.start * outputs.width * filter.outputs + channel,
            pixel_stride: filter.outputs,
            count: filter.outputs - channel,
            columns,
        };
        // SAFETY: guaranteed by the caller.
        unsafe {
            let weights = filter.weights.as_ptr().add(block * length);
            let prefetch = Prefetch { start: weights.wrapping_add(length), length };
            multiply::<V, _>(inputs, rows.len() * outputs.width, weights, prefetch, &sink);
        }
    }
}

/// The largest number of sums of a group of rows, with any instructions.
const MOST_SUMS: usize = 32 * 12;

/// Sums of a group of rows.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct GroupSums(#[expect(dead_code, reason = "used by its address only")] [f32; MOST_SUMS]);

/// Adds the bias to sums, applies the epilogue and stores the outputs.
struct EpilogueSink<'a> {
    /// The sums of the rows that are computed at present.
    sums: Cell<GroupSums>,
    /// The biases of the block of output channels.
    bias: *const f32,
    epilogue: Epilogue<'a>,
    output: *mut f32,
    /// Index in `output` of the first output of the first row.
    at: usize,
    /// Distance from an output pixel to the next, in numbers.
    pixel_stride: usize,
    /// Number of output channels from the first column on. Columns beyond them are not stored.
    count: usize,
    columns: usize,
}

impl Sink for EpilogueSink<'_> {
    const HAS_ALL_ROWS: bool = false;

    #[inline(always)]
    fn memory(&self, _row: usize) -> *mut f32 {
        self.sums.as_ptr().cast()
    }

    #[inline(always)]
    fn stride(&self) -> usize {
        self.columns
    }

    #[inline(always)]
    unsafe fn finish<V: Vector>(&self, rows: Range<usize>) {
        for first in (0..self.columns.min(self.count)).step_by(V::LANES) {
            let count = (self.count - first).min(V::LANES);
            // SAFETY: guaranteed by the caller; no other part computes these pixels and channels.
            unsafe {
                let bias = V::load(self.bias.add(first));
                for (index, row) in rows.clone().enumerate() {
                    let sum = V::load(self.memory(row).add(index * self.columns + first));
                    self.epilogue.store(sum.add(bias), self.output, self.at + row * self.pixel_stride + first, count);
                }
            }
        }
    }
}
