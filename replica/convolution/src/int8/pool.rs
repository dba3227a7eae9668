//! The two poolings of a residual network, on levels.

use super::dot::DotVector;
use super::instructions::DotTask;
use super::{Int8Instructions, padded};
use crate::BatchShape;
use crate::pool::max_output;

/// Number of channels that are pooled together: the bytes of the longest vector.
const BLOCK: usize = 64;

/// Max pooling with 3×3 windows, stride 2 and padding 1. `input` is `[images, height, width, padded(channels)]`; `output`
/// has the shape of [`max_output`] and as many channels. Pixels outside the image are ignored.
///
/// # Panics
/// If the length of a slice does not fit its shape and `channels`, or the processor lacks the instructions.
pub fn max(input: &[u8], shape: BatchShape, channels: usize, output: &mut [u8], instructions: Int8Instructions) {
    let bytes = padded(channels);
    assert_eq!(input.len(), shape.numbers(bytes), "bytes of the input of {shape:?} with {channels} channels");
    let pooled = max_output(shape);
    assert_eq!(output.len(), pooled.numbers(bytes), "bytes of the output of {pooled:?} with {channels} channels");
    if !output.is_empty() {
        instructions.dispatch(MaxPool { input, shape, bytes, output });
    }
}

/// The arguments of [`max`], after their lengths were checked.
struct MaxPool<'a> {
    input: &'a [u8],
    shape: BatchShape,
    bytes: usize,
    output: &'a mut [u8],
}

impl DotTask for MaxPool<'_> {
    #[inline(always)]
    unsafe fn run<V: DotVector>(self) {
        let Self { input, shape: BatchShape { height, width, .. }, bytes, output } = self;
        let (rows, columns) = (height.div_ceil(2), width.div_ceil(2));
        // The rows or columns of a window that lie inside the image.
        let window = |centre: usize, length: usize| centre.saturating_sub(1)..length.min(centre + 2);
        for (pixel, output) in output.chunks_exact_mut(bytes).enumerate() {
            let (image, y, x) = (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
            let rows = window(2 * y, height);
            let first = |row: usize, column: usize| ((image * height + row) * width + column) * bytes;
            for (block, output) in output.chunks_mut(BLOCK).enumerate() {
                // The levels so far are not in memory: each window would wait for the store of the one before.
                let mut largest = [0; BLOCK];
                for row in rows.clone() {
                    for column in window(2 * x, width) {
                        let levels = &input[first(row, column) + block * BLOCK..];
                        match levels.first_chunk::<BLOCK>() {
                            Some(levels) if output.len() == BLOCK => raise(&mut largest, levels),
                            _ => raise(&mut largest, &levels[..output.len()]),
                        }
                    }
                }
                output.copy_from_slice(&largest[..output.len()]);
            }
        }
    }
}

/// Raises each level to at least the other.
#[inline(always)]
fn raise(largest: &mut [u8; BLOCK], levels: &[u8]) {
    largest.iter_mut().zip(levels).for_each(|(largest, level)| *largest = (*largest).max(*level));
}

/// The sum of all pixels of each channel, `[images, channels]`. `input` is `[images, height, width, padded(channels)]`.
///
/// # Panics
/// If the length of the input does not fit, or an image has more than 2^24 pixels, whose sum could exceed 32 bits.
pub fn sums(input: &[u8], shape: BatchShape, channels: usize) -> Vec<u32> {
    let (bytes, pixels) = (padded(channels), BatchShape { images: 1, ..shape }.pixels());
    assert_eq!(input.len(), shape.numbers(bytes), "bytes of the input of {shape:?} with {channels} channels");
    assert!(pixels <= 1 << 24, "the sum of {pixels} levels may exceed 32 bits");
    let mut sums = vec![0; BatchShape { height: 1, width: 1, ..shape }.numbers(channels)];
    for (image, sums) in input.chunks_exact((pixels * bytes).max(1)).zip(sums.chunks_exact_mut(channels.max(1))) {
        for pixel in image.chunks_exact(bytes) {
            sums.iter_mut().zip(pixel).for_each(|(sum, level)| *sum += u32::from(*level));
        }
    }
    sums
}
