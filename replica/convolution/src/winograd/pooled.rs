//! A Winograd convolution whose rows are pooled while they are in a near cache.

use super::convolution::{TileSource, WinogradConvolution, WinogradPart};
use super::filter::WinogradFilter;
use super::grid::TileGrid;
use crate::aligned::AlignedBuffer;
use crate::pool::MaxPool;
use crate::{BatchShape, Epilogue};
use std::cell::RefCell;
use std::ops::Range;

/// The arguments of [`super::convolve_and_pool`], after their lengths were checked.
pub(super) struct PooledConvolution<'a> {
    pub(super) input: &'a [f32],
    /// Numbers of an image in `input`.
    pub(super) image_length: usize,
    /// The shapes of one image and of its convolution, and where the inputs of a tile are.
    pub(super) shapes: (BatchShape, BatchShape, TileSource),
    pub(super) filter: &'a WinogradFilter,
    pub(super) epilogue: Epilogue<'a>,
    /// Rows of a pooled image.
    pub(super) rows: usize,
    /// Numbers of a row of a pooled image.
    pub(super) row_length: usize,
    pub(super) output: *mut f32,
}

// SAFETY: concurrent calls of `run` write to different rows of `output`.
unsafe impl Sync for PooledConvolution<'_> {}

thread_local! {
    /// Memory for rows of the convolution. It is kept between calls, because mapping and zeroing it takes as long as
    /// filling it.
    static ROWS: RefCell<AlignedBuffer> = RefCell::new(AlignedBuffer::zeroed(0));
}

impl PooledConvolution<'_> {
    /// Computes some pooled rows. The rows of all images are numbered one after the other. Concurrent calls share no
    /// rows.
    pub(super) fn run(&self, rows: Range<usize>) {
        let mut next = rows.start;
        while next < rows.end {
            let image = next / self.rows;
            let end = rows.end.min((image + 1) * self.rows);
            ROWS.with_borrow_mut(|memory| {
                self.run_image(image, next - image * self.rows..end - image * self.rows, memory);
            });
            next = end;
        }
    }

    /// Computes some pooled rows of an image. A row of tiles is convolved, and then all rows are pooled whose windows
    /// it completes.
    fn run_image(&self, image: usize, pooled: Range<usize>, memory: &mut AlignedBuffer) {
        let Self { shapes: (shape, outputs, source), filter, epilogue, .. } = *self;
        let grid = TileGrid::new(outputs, filter.scheme.tile_side());
        let line = outputs.width * filter.outputs;
        // A window has three rows, and a row of tiles may begin with the last of them.
        let kept = 2;
        let length = (kept + filter.scheme.tile_side()) * line;
        if memory.len() < length {
            *memory = AlignedBuffer::zeroed(length);
        }
        let memory = &mut memory[..length];
        let input = &self.input[image * self.image_length..][..self.image_length];
        let first_needed = |row: usize| (2 * row).saturating_sub(1);
        let mut tile_row = (0..).find(|row| grid.rows(*row).end > first_needed(pooled.start)).unwrap_or(0);
        // The convolved row with which the memory begins.
        let mut base = grid.rows(tile_row).start;
        let mut next = pooled.start;
        while next < pooled.end {
            let convolved = grid.rows(tile_row);
            let convolution = WinogradConvolution::new(input, (shape, outputs, source), grid, filter, epilogue, memory);
            let tiles = tile_row * grid.across()..(tile_row + 1) * grid.across();
            convolution.with_first_row(base).run(WinogradPart { tiles, blocks: 0..filter.blocks() });
            // A window ends with row `2 * row + 1`, or with the last row of the image.
            let complete = if convolved.end == outputs.height { pooled.end } else { convolved.end / 2 };
            let complete = complete.clamp(next, pooled.end);
            let start = (image * self.rows + next) * self.row_length;
            // SAFETY: no other part writes these rows, which lie within the output.
            let output =
                unsafe { std::slice::from_raw_parts_mut(self.output.add(start), (complete - next) * self.row_length) };
            filter.instructions.dispatch(MaxPool {
                input: memory,
                shape: outputs,
                channels: filter.outputs,
                first_input_row: base,
                first_output_row: next,
                output,
            });
            next = complete;
            let keep = first_needed(next).clamp(base, convolved.end);
            memory.copy_within((keep - base) * line..(convolved.end - base) * line, 0);
            (base, tile_row) = (keep, tile_row + 1);
        }
    }
}
