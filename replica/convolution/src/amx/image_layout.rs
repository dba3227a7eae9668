//! The memory layout of images that are split into `bf16` for the matrix unit.
//!
//! A tile has [`ROWS`] rows of [`DEPTH`] numbers at equal distances in memory, and a row of a tile belongs to one
//! output. So the inputs of neighbouring outputs must lie at equal distances, for any stride of the filter, also across
//! the end of an image row. Then each tap of the filter is an offset in memory, and the image need not be copied for
//! each tap.

use super::split::split;
use super::tile_unit::{DEPTH, ROWS};
use crate::batch_shape::product;
use crate::{BatchShape, Geometry};

/// Bytes of a `bf16`.
const SIZE: usize = size_of::<u16>();

/// The meaning of the [`DEPTH`] numbers in a row of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TileRow {
    /// [`DEPTH`] channels of one pixel.
    Channels,
    /// Neighbouring pixels of one image row, for images with few channels: a row of the tile holds a whole row of the
    /// filter. The field is the number of channels of a pixel, rounded up to a power of two.
    Pixels(usize),
}

impl TileRow {
    /// The kind of row for a convolution with `inputs` input channels: pixels if a row of the filter fits, otherwise
    /// channels.
    pub(super) fn of(inputs: usize, geometry: Geometry) -> Self {
        let channels = inputs.next_power_of_two();
        if geometry.side * channels <= DEPTH { Self::Pixels(channels) } else { Self::Channels }
    }

    /// The taps of a filter in the order in which a product reads them, [`DEPTH`] for each step. `None` stands for the
    /// numbers in a row of a tile that belong to no tap.
    pub(super) fn taps(self, inputs: usize, geometry: Geometry) -> impl Iterator<Item = Option<Tap>> {
        let side = geometry.side;
        let steps = match self {
            Self::Channels => inputs.div_ceil(DEPTH) * side * side,
            Self::Pixels(_) => side,
        };
        (0..steps * DEPTH).map(move |index| {
            let (step, place) = (index / DEPTH, index % DEPTH);
            let (row, column, channel) = match self {
                Self::Channels => (step / side % side, step % side, step / (side * side) * DEPTH + place),
                Self::Pixels(channels) => (step, place / channels, place % channels),
            };
            (column < side && channel < inputs).then_some(Tap { row, column, channel })
        })
    }
}

/// The place of a weight in the filter of one output channel: row, column and input channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tap {
    pub(super) row: usize,
    pub(super) column: usize,
    pub(super) channel: usize,
}

/// The layout of split images of one shape.
///
/// A split image has two halves of equal size: the high parts of all numbers, then the low parts. Each half consists of
/// planes. With stride `s`, plane `(i, j)` has the pixels of the padded image whose row is `i` and whose column is `j`
/// modulo `s` (the polyphase components of the image). The filter moves by `s` pixels between neighbouring outputs, so
/// the inputs of these outputs are neighbours within one plane. Each block of [`DEPTH`] channels has a set of planes.
/// With [`TileRow::Pixels`] only rows are distributed over planes, and a plane's row has all pixels of an image row.
///
/// A *position* is the place of an output in a plane. The positions of an image are numbered row by row,
/// [`Self::pitch`] to a row. The last positions of a row belong to no output.
#[derive(Debug)]
pub(super) struct ImageLayout {
    inputs: usize,
    geometry: Geometry,
    shape: BatchShape,
    tile_row: TileRow,
    /// Number of values of `i`, and of `j`, for which there is a plane: the stride, or the filter's side if that is
    /// less.
    phases: usize,
    /// Number of rows of a plane.
    rows: usize,
    /// Number of positions in a row of a plane.
    pub(super) pitch: usize,
    /// Bytes from a position to the next.
    pub(super) step: usize,
    /// Bytes from a high part to its low part.
    pub(super) low: usize,
    /// Bytes of both halves of a split image.
    pub(super) image_bytes: usize,
    /// For each step into the depth of the product, the bytes from a position to the numbers that the step reads.
    pub(super) offsets: Vec<usize>,
}

impl ImageLayout {
    /// The layout of images of `shape` with `inputs` channels, for filters of `geometry`.
    pub(super) fn new(inputs: usize, geometry: Geometry, shape: BatchShape) -> Self {
        let Geometry { side, stride, .. } = geometry;
        let outputs = geometry.output(shape);
        let tile_row = TileRow::of(inputs, geometry);
        let phases = stride.min(side);
        let rows = outputs.height + (side - 1) / stride;
        let (columns, step) = match tile_row {
            TileRow::Channels => ((side - 1) / stride, DEPTH * SIZE),
            TileRow::Pixels(channels) => ((DEPTH / channels - 1) / stride, bytes([stride, channels, SIZE])),
        };
        let pitch = outputs.width + columns;
        let plane = bytes([rows, pitch, step]);
        // Bytes from a position to a block of channels of the pixel that is `row` rows and `column` columns further on
        // in the padded image.
        let offset = |block: usize, row: usize, column: usize| {
            let index = match tile_row {
                TileRow::Channels => (block * phases + row % stride) * phases + column % stride,
                TileRow::Pixels(_) => row % stride,
            };
            index * plane + (row / stride * pitch + column / stride) * step
        };
        let (planes, offsets) = match tile_row {
            TileRow::Channels => {
                let blocks = inputs.div_ceil(DEPTH);
                let step_offset = |step: usize| offset(step / (side * side), step / side % side, step % side);
                (blocks * phases * phases, (0..blocks * side * side).map(step_offset).collect())
            }
            TileRow::Pixels(_) => (phases, (0..side).map(|row| offset(0, row, 0)).collect()),
        };
        // A tile may begin at the last position, and then it reads past the end of the planes.
        let past = bytes([ROWS, step]) + DEPTH * SIZE;
        let low = bytes([planes, plane]).saturating_add(past).checked_next_multiple_of(64);
        let low = low.expect("a split image is smaller than the address space");
        let image_bytes = bytes([2, low]);
        Self { inputs, geometry, shape, tile_row, phases, rows, pitch, step, low, image_bytes, offsets }
    }

    /// Number of positions from the first output to the last.
    pub(super) fn positions(&self, outputs: BatchShape) -> usize {
        (outputs.height - 1) * self.pitch + outputs.width
    }

    /// Splits image `image` of `input` into `to`, which has at least [`Self::image_bytes`] bytes.
    #[inline(always)]
    pub(super) fn fill(&self, input: &[f32], image: usize, to: &mut [f32]) {
        let length = self.shape.height * self.shape.width * self.inputs;
        let pixels = &input[image * length..][..length];
        // SAFETY: an `f32` has the size of two `u16` and at least their alignment. Any bits are valid in both types.
        let to = unsafe { std::slice::from_raw_parts_mut(to.as_mut_ptr().cast::<u16>(), to.len() * 2) };
        let (high, low) = to[..self.image_bytes / SIZE].split_at_mut(self.low / SIZE);
        match self.tile_row {
            TileRow::Channels => self.fill_channels(pixels, high, low),
            TileRow::Pixels(channels) => self.fill_pixels(pixels, channels, high, low),
        }
    }

    /// The row of the image that is row `position` of a plane with phase `phase`, for an image with `length` rows; or
    /// the column, if the arguments are those of columns. `None` if the row or column is padding.
    #[inline(always)]
    fn source(&self, position: usize, phase: usize, length: usize) -> Option<usize> {
        let Geometry { stride, padding, .. } = self.geometry;
        (position * stride + phase).checked_sub(padding).filter(|&source| source < length)
    }

    /// Fills the planes of [`TileRow::Channels`].
    #[inline(always)]
    fn fill_channels(&self, pixels: &[f32], high: &mut [u16], low: &mut [u16]) {
        let BatchShape { height, width, .. } = self.shape;
        let mut places = high.chunks_exact_mut(DEPTH).zip(low.chunks_exact_mut(DEPTH));
        for first in (0..self.inputs).step_by(DEPTH) {
            let count = (self.inputs - first).min(DEPTH);
            for (down, across) in (0..self.phases).flat_map(|down| (0..self.phases).map(move |across| (down, across))) {
                for row in 0..self.rows {
                    let y = self.source(row, down, height);
                    for (column, (high, low)) in places.by_ref().take(self.pitch).enumerate() {
                        match y.and_then(|y| Some((y, self.source(column, across, width)?))) {
                            Some((y, x)) => {
                                let from = &pixels[(y * width + x) * self.inputs + first..][..count];
                                split_into(from, high, low);
                            }
                            None => {
                                high.fill(0);
                                low.fill(0);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Fills the planes of [`TileRow::Pixels`].
    #[inline(always)]
    fn fill_pixels(&self, pixels: &[f32], channels: usize, high: &mut [u16], low: &mut [u16]) {
        let BatchShape { height, width, .. } = self.shape;
        let Geometry { stride, padding, .. } = self.geometry;
        let numbers = width * self.inputs;
        // A whole row is split at once: the compiler splits consecutive numbers with vector instructions.
        let (mut high_row, mut low_row) = (vec![0; numbers], vec![0; numbers]);
        // The length of a row of the plane, which has `stride` pixels for each position.
        let length = self.pitch * stride * channels;
        let first = padding.saturating_mul(channels).min(length);
        let mut rows = high.chunks_exact_mut(length).zip(low.chunks_exact_mut(length));
        for down in 0..self.phases {
            for (row, (high, low)) in rows.by_ref().take(self.rows).enumerate() {
                high.fill(0);
                low.fill(0);
                let Some(y) = self.source(row, down, height) else { continue };
                split_into(&pixels[y * numbers..][..numbers], &mut high_row, &mut low_row);
                for (from, to) in [(&high_row, high), (&low_row, low)] {
                    let pixels = to[first..].chunks_exact_mut(channels);
                    for (from, to) in from.chunks_exact(self.inputs).zip(pixels) {
                        to[..from.len()].copy_from_slice(from);
                    }
                }
            }
        }
    }
}

/// The product of `factors`.
///
/// # Panics
/// If it does not fit the address space. A product that wraps around would make a tile read past the end of an image.
fn bytes<const N: usize>(factors: [usize; N]) -> usize {
    let bytes = product(factors).filter(|bytes| isize::try_from(*bytes).is_ok());
    bytes.expect("a split image is smaller than the address space")
}

/// Splits `from` into `high` and `low`, which are at least as long. Their remaining numbers become zero.
#[inline(always)]
fn split_into(from: &[f32], high: &mut [u16], low: &mut [u16]) {
    let (high, more_high) = high.split_at_mut(from.len());
    let (low, more_low) = low.split_at_mut(from.len());
    let (numbers, few) = from.as_chunks::<DEPTH>();
    let ((highs, few_high), (lows, few_low)) = (high.as_chunks_mut::<DEPTH>(), low.as_chunks_mut::<DEPTH>());
    for ((numbers, high), low) in numbers.iter().zip(highs).zip(lows) {
        for index in 0..DEPTH {
            [high[index], low[index]] = split(numbers[index]);
        }
    }
    for ((number, high), low) in few.iter().zip(few_high).zip(few_low) {
        [*high, *low] = split(*number);
    }
    more_high.fill(0);
    more_low.fill(0);
}
