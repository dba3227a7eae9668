//! Where the numbers of split images lie: so that the rows of a tile, which are outputs next to each other, are at equal
//! distances, whatever the filter's stride, and go on from one row of the picture to the next.

use super::registers::{DEPTH, ROWS};
use super::split::split;
use crate::Shape;
use crate::direct::Geometry;

/// Bytes of a number.
const SIZE: usize = size_of::<u16>();

/// What a row of a tile, [`DEPTH`] numbers, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    /// So many channels of one pixel.
    Channels,
    /// Pixels next to each other, each of this many channels: of pictures with few, a filter's whole row fits.
    Pixels(usize),
}

impl Run {
    /// For a convolution of so many channels.
    pub(super) fn of(inputs: usize, geometry: Geometry) -> Self {
        let channels = inputs.next_power_of_two();
        if geometry.side * channels <= DEPTH { Self::Pixels(channels) } else { Self::Channels }
    }

    /// For every number of a depth of tiles, in their order: its place in the filter and its channel, `None` where there is
    /// nothing but room.
    pub(super) fn numbers(self, inputs: usize, geometry: Geometry) -> impl Iterator<Item = Option<Number>> {
        let side = geometry.side;
        let deep = match self {
            Self::Channels => inputs.div_ceil(DEPTH) * side * side,
            Self::Pixels(_) => side,
        };
        (0..deep * DEPTH).map(move |index| {
            let (step, place) = (index / DEPTH, index % DEPTH);
            let (down, across, channel) = match self {
                Self::Channels => (step / side % side, step % side, step / (side * side) * DEPTH + place),
                Self::Pixels(channels) => (step, place / channels, place % channels),
            };
            (across < side && channel < inputs).then_some(Number { down, across, channel })
        })
    }
}

/// A number of a filter: row, column, input channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) down: usize,
    pub(super) across: usize,
    pub(super) channel: usize,
}

/// Split images of one shape. An image is its high parts and then its low parts; either is made of planes: the padded picture
/// in as many as the filter's stride has places, since from output to output the filter moves by as much, and that for
/// each block of channels.
#[derive(Debug)]
pub(super) struct Layout {
    inputs: usize,
    geometry: Geometry,
    shape: Shape,
    run: Run,
    /// Planes for one block: rows and columns of the picture that begin at different places of the stride.
    phases: usize,
    /// Rows of a plane.
    rows: usize,
    /// Positions in a row of a plane: an output of the picture's next row is so many further on.
    pub(super) pitch: usize,
    /// Bytes from position to position.
    pub(super) step: usize,
    /// Bytes to the low parts.
    pub(super) low: usize,
    pub(super) image_bytes: usize,
    /// For each step into the depth, bytes from an output's position to its numbers.
    pub(super) offsets: Vec<usize>,
}

impl Layout {
    pub(super) fn new(inputs: usize, geometry: Geometry, shape: Shape) -> Self {
        let Geometry { side, stride, .. } = geometry;
        let outputs = geometry.output(shape);
        let run = Run::of(inputs, geometry);
        let phases = stride.min(side);
        let rows = outputs.height + (side - 1) / stride;
        let (columns, step) = match run {
            Run::Channels => ((side - 1) / stride, DEPTH * SIZE),
            Run::Pixels(channels) => ((DEPTH / channels - 1) / stride, stride * channels * SIZE),
        };
        let pitch = outputs.width + columns;
        let plane = rows * pitch * step;
        let (planes, offsets) = match run {
            Run::Channels => {
                let blocks = inputs.div_ceil(DEPTH);
                let offset = |block: usize, down: usize, across: usize| {
                    let plane_index = (block * phases + down % stride) * phases + across % stride;
                    plane_index * plane + (down / stride * pitch + across / stride) * step
                };
                let taps = (0..side).flat_map(|down| (0..side).map(move |across| (down, across)));
                let taps: Vec<_> = taps.collect();
                let offsets =
                    (0..blocks).flat_map(|block| taps.iter().map(move |&(down, across)| (block, down, across)));
                (blocks * phases * phases, offsets.map(|(block, down, across)| offset(block, down, across)).collect())
            }
            Run::Pixels(_) => {
                let offset = |down: usize| down % stride * plane + down / stride * pitch * step;
                (phases, (0..side).map(offset).collect())
            }
        };
        // A tile may begin at the last position.
        let low = (planes * plane + ROWS * step + DEPTH * SIZE).next_multiple_of(64);
        Self { inputs, geometry, shape, run, phases, rows, pitch, step, low, image_bytes: 2 * low, offsets }
    }

    /// Positions from the first output to the last.
    pub(super) fn positions(&self, outputs: Shape) -> usize {
        (outputs.height - 1) * self.pitch + outputs.width
    }

    /// Splits an image of `input`.
    #[inline(always)]
    pub(super) fn fill(&self, input: &[f32], image: usize, to: &mut [f32]) {
        let length = self.shape.height * self.shape.width * self.inputs;
        let picture = &input[image * length..][..length];
        // SAFETY: numbers of four bytes are pairs of two; any bits are both.
        let to = unsafe { std::slice::from_raw_parts_mut(to.as_mut_ptr().cast::<u16>(), to.len() * 2) };
        let (high, low) = to[..self.image_bytes / SIZE].split_at_mut(self.low / SIZE);
        match self.run {
            Run::Channels => self.fill_channels(picture, high, low),
            Run::Pixels(channels) => self.fill_pixels(picture, channels, high, low),
        }
    }

    /// The row or column of the picture at `position` of a plane that begins at `phase`.
    #[inline(always)]
    fn source(&self, position: usize, phase: usize, length: usize) -> Option<usize> {
        let Geometry { stride, padding, .. } = self.geometry;
        (position * stride + phase).checked_sub(padding).filter(|&source| source < length)
    }

    #[inline(always)]
    fn fill_channels(&self, picture: &[f32], high: &mut [u16], low: &mut [u16]) {
        let Shape { height, width, .. } = self.shape;
        let mut places = high.chunks_exact_mut(DEPTH).zip(low.chunks_exact_mut(DEPTH));
        for first in (0..self.inputs).step_by(DEPTH) {
            let count = (self.inputs - first).min(DEPTH);
            for (down, across) in (0..self.phases).flat_map(|down| (0..self.phases).map(move |across| (down, across))) {
                for row in 0..self.rows {
                    let y = self.source(row, down, height);
                    for (column, (high, low)) in places.by_ref().take(self.pitch).enumerate() {
                        match y.and_then(|y| Some((y, self.source(column, across, width)?))) {
                            Some((y, x)) => {
                                let from = &picture[(y * width + x) * self.inputs + first..][..count];
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

    #[inline(always)]
    fn fill_pixels(&self, picture: &[f32], channels: usize, high: &mut [u16], low: &mut [u16]) {
        let Shape { height, width, .. } = self.shape;
        let Geometry { stride, padding, .. } = self.geometry;
        let numbers = width * self.inputs;
        // Numbers next to each other are split many at a time.
        let (mut high_row, mut low_row) = (vec![0; numbers], vec![0; numbers]);
        // Every pixel of a row, since a run takes those next to each other.
        let length = self.pitch * stride * channels;
        let first = (padding * channels).min(length);
        let mut rows = high.chunks_exact_mut(length).zip(low.chunks_exact_mut(length));
        for down in 0..self.phases {
            for (row, (high, low)) in rows.by_ref().take(self.rows).enumerate() {
                high.fill(0);
                low.fill(0);
                let Some(y) = self.source(row, down, height) else { continue };
                split_into(&picture[y * numbers..][..numbers], &mut high_row, &mut low_row);
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

/// Splits numbers; what there is more room for becomes zero.
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
