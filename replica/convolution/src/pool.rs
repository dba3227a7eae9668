//! The two poolings of a residual network.

use crate::instructions::VectorTask;
use crate::vector::Vector;
use crate::{BatchShape, Instructions};

/// The shape of the output of [`max`]: half the height and width of `input`, rounded up.
pub fn max_output(input: BatchShape) -> BatchShape {
    BatchShape { height: input.height.div_ceil(2), width: input.width.div_ceil(2), ..input }
}

/// Max pooling with 3×3 windows, stride 2 and padding 1. `input` is `[images, height, width, channels]`; `output` has
/// the shape of [`max_output`] and as many channels. Pixels outside the image are ignored. The largest number of a
/// window with NaN is NaN.
///
/// # Panics
/// If the length of a slice does not fit its shape and `channels`, there are no channels, or the processor lacks the
/// instructions.
pub fn max(input: &[f32], shape: BatchShape, channels: usize, output: &mut [f32], instructions: Instructions) {
    assert_eq!(input.len(), shape.numbers(channels), "length of the input of {shape:?} with {channels} channels");
    assert!(channels > 0, "a pooling needs at least one channel");
    let pooled = max_output(shape);
    assert_eq!(output.len(), pooled.numbers(channels), "length of the output of {pooled:?} with {channels} channels");
    instructions.dispatch(MaxPool { input, shape, channels, first_input_row: 0, first_output_row: 0, output });
}

/// Pools rows of images. The slices have been checked to have all rows that are read or written.
pub(crate) struct MaxPool<'a> {
    pub(crate) input: &'a [f32],
    pub(crate) shape: BatchShape,
    pub(crate) channels: usize,
    /// The row of images with which `input` begins. Other rows than 0 are for one image.
    pub(crate) first_input_row: usize,
    /// The row of pooled images with which `output` begins.
    pub(crate) first_output_row: usize,
    pub(crate) output: &'a mut [f32],
}

impl VectorTask for MaxPool<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self {
            input,
            shape: BatchShape { height, width, .. },
            channels,
            first_input_row,
            first_output_row,
            output,
        } = self;
        let (rows, columns) = (height.div_ceil(2), width.div_ceil(2));
        // The rows or columns of a window that lie inside the image.
        let window = |centre: usize, length: usize| centre.saturating_sub(1)..length.min(centre + 2);
        for (pixel, output) in output.chunks_exact_mut(channels).enumerate() {
            let row = pixel / columns + first_output_row;
            let (image, y, x) = (row / rows, row % rows, pixel % columns);
            for channel in (0..channels).step_by(V::LANES) {
                let count = (channels - channel).min(V::LANES);
                // SAFETY: guaranteed by the caller; each pixel lies within its image, and only its channels are read.
                unsafe {
                    let mut largest = V::splat(f32::NEG_INFINITY);
                    for row in window(2 * y, height) {
                        for column in window(2 * x, width) {
                            let at = ((image * height + row - first_input_row) * width + column) * channels + channel;
                            let from = input.as_ptr().add(at);
                            let value = if count == V::LANES { V::load(from) } else { V::load_some(from, count) };
                            largest = largest.max_or_nan(value);
                        }
                    }
                    let to = output.as_mut_ptr().add(channel);
                    if count == V::LANES { largest.store(to) } else { largest.store_some(to, count) }
                }
            }
        }
    }
}

/// Global average pooling: the mean of each channel over all pixels of an image. `input` is
/// `[images, height, width, channels]`, and `output` is `[images, channels]`.
///
/// # Panics
/// If the length of a slice does not fit its shape and `channels`, or an image has no pixels or no channels.
pub fn average(input: &[f32], shape: BatchShape, channels: usize, output: &mut [f32]) {
    let pixels = BatchShape { images: 1, ..shape }.pixels();
    assert!(pixels > 0 && channels > 0, "a mean needs at least one pixel and one channel");
    assert_eq!(input.len(), shape.numbers(channels), "length of the input of {shape:?} with {channels} channels");
    assert_eq!(
        output.len(),
        BatchShape { height: 1, width: 1, ..shape }.numbers(channels),
        "number of means of {shape:?} with {channels} channels"
    );
    for (image, means) in input.chunks_exact(pixels * channels).zip(output.chunks_exact_mut(channels)) {
        means.fill(0.0);
        for pixel in image.chunks_exact(channels) {
            means.iter_mut().zip(pixel).for_each(|(sum, number)| *sum += number);
        }
        means.iter_mut().for_each(|sum| *sum /= pixels as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_pooling_takes_the_largest_of_each_window() {
        for instructions in Instructions::available() {
            // Two images of 3 by 4 pixels with five channels. In the first channel, the pixels of the first image are
            // 0, 1, 2, …, and those of the second are 0, -1, -2, …. Each further channel adds 100 to all magnitudes.
            let shape = BatchShape { images: 2, height: 3, width: 4 };
            let sign = |pixel: usize| if pixel < 12 { 1.0 } else { -1.0 };
            let input: Vec<f32> =
                (0..24).flat_map(|pixel| (0..5).map(move |c| sign(pixel) * (pixel % 12 + 100 * c) as f32)).collect();
            let mut output = vec![f32::NAN; 2 * 4 * 5];
            max(&input, shape, 5, &mut output, instructions);
            let first: Vec<f32> = output.iter().step_by(5).copied().collect();
            // The windows of rows 0 and 1 are columns 0 and 1, and columns 1 to 3. In the first image their largest
            // pixels are 5 and 7. Those of the windows of rows 1 and 2 are 9 and 11.
            assert_eq!(first, [5.0, 7.0, 9.0, 11.0, 0.0, -1.0, -4.0, -5.0], "{instructions:?}");
            assert_eq!(output[4], 405.0, "{instructions:?}");
        }
    }

    #[test]
    fn a_window_with_nan_gives_nan() {
        for instructions in Instructions::available() {
            // NaN is the first, a middle and the last pixel of windows, in vectors of channels and in single channels.
            for (place, channel) in (0..9).flat_map(|place| (0..35).map(move |channel| (place, channel))) {
                let mut input = vec![1.0; 9 * 35];
                input[place * 35 + channel] = -f32::NAN;
                let mut output = vec![0.0; 4 * 35];
                max(&input, BatchShape { images: 1, height: 3, width: 3 }, 35, &mut output, instructions);
                for (index, found) in output.iter().enumerate() {
                    let (row, column) = (index / 35 / 2, index / 35 % 2);
                    let near = (place / 3).abs_diff(2 * row) <= 1 && (place % 3).abs_diff(2 * column) <= 1;
                    let expected = near && index % 35 == channel;
                    assert_eq!(found.is_nan(), expected, "{instructions:?}: {index} with NaN at {place}, {channel}");
                }
            }
        }
    }

    #[test]
    fn infinities_are_numbers() {
        for instructions in Instructions::available() {
            let mut output = [0.0; 2];
            let input = [f32::NEG_INFINITY, f32::INFINITY, f32::NEG_INFINITY, 1.0];
            max(&input, BatchShape { images: 1, height: 1, width: 2 }, 2, &mut output, instructions);
            assert_eq!(output, [f32::NEG_INFINITY, f32::INFINITY], "{instructions:?}");
        }
    }

    #[test]
    #[should_panic(expected = "larger than the memory")]
    fn a_shape_whose_size_wraps_around_panics() {
        // 2⁶³ × 2 wraps around to 0, the length of the slices.
        let shape = BatchShape { images: 1 << 63, height: 2, width: 1 };
        max(&[], shape, 1, &mut [], Instructions::Portable);
    }

    #[test]
    #[should_panic(expected = "at least one channel")]
    fn a_pooling_without_channels_panics() {
        max(&[], BatchShape { images: 1, height: 2, width: 2 }, 0, &mut [], Instructions::Portable);
    }

    #[test]
    fn average_pooling_keeps_images_and_channels_apart() {
        let shape = BatchShape { images: 2, height: 1, width: 2 };
        let mut output = [0.0; 4];
        average(&[1.0, 10.0, 3.0, 30.0, 5.0, 50.0, 6.0, 60.0], shape, 2, &mut output);
        assert_eq!(output, [2.0, 20.0, 5.5, 55.0]);
    }
}
