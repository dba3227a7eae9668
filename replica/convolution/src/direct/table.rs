//! The addresses of the inputs of some rows of outputs.

use super::filter::{DirectFilter, Runs};
use crate::aligned::AlignedBuffer;
use crate::cache::second_level_bytes;
use crate::product::{Rows, rows_at_once};
use crate::{BatchShape, Geometry};
use std::ops::Range;

/// The part of the second-level cache that the inputs of a table may fill, as a divisor. They are read once for each
/// block of output channels.
const CACHE_DIVISOR: usize = 2;

/// For each run of the filter, the addresses of the inputs of some output pixels.
pub(super) struct AddressTable {
    /// The addresses, `[runs][pixels]`.
    addresses: Vec<*const f32>,
    /// Number of output pixels.
    pixels: usize,
    runs: usize,
    run_length: usize,
    at_once: usize,
    /// Zeros for padding, or copies of image rows with their padding.
    scratch: AlignedBuffer,
}

impl Default for AddressTable {
    fn default() -> Self {
        let scratch = AlignedBuffer::zeroed(0);
        Self { addresses: Vec::new(), pixels: 0, runs: 0, run_length: 0, at_once: 1, scratch }
    }
}

impl AddressTable {
    /// Fills the table for rows of outputs from the start of `rows` on, as many as fit the cache. The rows of all images
    /// are numbered one after the other. Returns the first row for which there is no room.
    ///
    /// `input` must have the length that `shape` and `filter` demand. Its addresses must not be used after it is freed.
    pub(super) fn fill(
        &mut self,
        input: &[f32],
        shape: BatchShape,
        filter: &DirectFilter,
        outputs: BatchShape,
        rows: Range<usize>,
    ) -> usize {
        let Geometry { side, stride, .. } = filter.geometry;
        // Neighbouring rows of outputs share inputs if the stride is less than the side.
        let row_bytes = stride.min(side) * shape.width * filter.inputs * size_of::<f32>();
        let fitting = (second_level_bytes() / CACHE_DIVISOR / row_bytes.max(1)).max(1);
        // Rounds have nearly equal sizes. A small last round would read all weights for few pixels.
        let rounds = rows.len().div_ceil(fitting);
        let mut end = rows.start + rows.len().div_ceil(rounds);
        let source = Source { input, shape, filter, outputs };
        self.at_once = rows_at_once(stride * filter.inputs);
        (self.runs, self.run_length) = match filter.runs() {
            Runs::Taps => (side * side, filter.inputs),
            Runs::FilterRows => (side, side * filter.inputs),
        };
        match filter.runs() {
            Runs::Taps => {
                self.resize((end - rows.start) * outputs.width);
                self.fill_with_taps(source, rows.start..end);
            }
            Runs::FilterRows => {
                // The copied rows belong to one image.
                end = end.min((rows.start / outputs.height + 1) * outputs.height);
                self.resize((end - rows.start) * outputs.width);
                self.fill_with_rows(source, rows.start..end);
            }
        }
        end
    }

    /// Makes room for the addresses of the runs of `pixels` output pixels.
    fn resize(&mut self, pixels: usize) {
        let length = self.runs.checked_mul(pixels).expect("the table is smaller than the address space");
        self.pixels = pixels;
        self.addresses.resize(length, std::ptr::null());
    }

    /// The inputs of all pixels of the table.
    pub(super) fn rows(&self) -> Rows {
        Rows {
            starts: self.addresses.as_ptr(),
            pitch: self.pixels,
            offset: 0,
            runs: self.runs,
            run_length: self.run_length,
            at_once: self.at_once,
        }
    }

    /// Addresses of pixels of the images, or of zeros where a tap is over padding.
    fn fill_with_taps(&mut self, source: Source<'_>, rows: Range<usize>) {
        let Source { input, shape: BatchShape { height, width, .. }, filter, outputs } = source;
        let Geometry { side, stride, padding } = filter.geometry;
        if self.scratch.len() < filter.inputs {
            self.scratch = AlignedBuffer::zeroed(filter.inputs);
        }
        self.scratch[..filter.inputs].fill(0.0);
        let zeros = self.scratch.as_ptr();
        let lines = self.addresses.chunks_exact_mut(outputs.width);
        let taps = (0..side * side).flat_map(|tap| rows.clone().map(move |row| (tap / side, tap % side, row)));
        for ((down, across, row), line) in taps.zip(lines) {
            let (image, top) = (row / outputs.height, row % outputs.height * stride + down);
            // A number below the padding wraps around to one that is no row or column.
            let y = top.wrapping_sub(padding);
            if y >= height {
                line.fill(zeros);
                continue;
            }
            let start = (image * height + y) * width;
            for (column, address) in line.iter_mut().enumerate() {
                let x = (column * stride + across).wrapping_sub(padding);
                *address = match x < width {
                    true => input[(start + x) * filter.inputs..][..filter.inputs].as_ptr(),
                    false => zeros,
                };
            }
        }
    }

    /// Copies the image rows under `rows` with their padding, and takes addresses in the copies.
    fn fill_with_rows(&mut self, source: Source<'_>, rows: Range<usize>) {
        let Source { input, shape: BatchShape { height, width, .. }, filter, outputs } = source;
        let Geometry { side, stride, padding } = filter.geometry;
        let (image, first) = (rows.start / outputs.height, rows.start % outputs.height * stride);
        // The rows and columns of the padded image that any window covers.
        let copied = (rows.len() - 1) * stride + side;
        let length = ((outputs.width - 1) * stride + side).checked_mul(filter.inputs);
        let length = length.expect("a copied row is smaller than the address space");
        let needed = copied.checked_mul(length).expect("the copy is smaller than the address space");
        if self.scratch.len() < needed {
            self.scratch = AlignedBuffer::zeroed(needed);
        }
        for (down, to) in self.scratch.chunks_exact_mut(length).take(copied).enumerate() {
            let y = (first + down).wrapping_sub(padding);
            if y >= height {
                to.fill(0.0);
                continue;
            }
            let from = &input[(image * height + y) * width * filter.inputs..][..width * filter.inputs];
            let left = padding.saturating_mul(filter.inputs).min(length);
            let middle = from.len().min(length - left);
            to[..left].fill(0.0);
            to[left..left + middle].copy_from_slice(&from[..middle]);
            to[left + middle..].fill(0.0);
        }
        let lines = self.addresses.chunks_exact_mut(outputs.width);
        let runs = (0..side).flat_map(|down| (0..rows.len()).map(move |row| row * stride + down));
        let step = stride * filter.inputs;
        assert!((outputs.width - 1) * step + self.run_length <= length, "the last run ends within a row");
        for (row, line) in runs.zip(lines) {
            let start = self.scratch[row * length..][..length].as_ptr();
            for (column, address) in line.iter_mut().enumerate() {
                *address = start.wrapping_add(column * step);
            }
        }
    }
}

/// The images and the filter for which a table is filled.
#[derive(Clone, Copy)]
struct Source<'a> {
    input: &'a [f32],
    shape: BatchShape,
    filter: &'a DirectFilter,
    outputs: BatchShape,
}
