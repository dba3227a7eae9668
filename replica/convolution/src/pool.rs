//! The two poolings of a residual network.

use crate::instructions::Work;
use crate::vector::Vector;
use crate::{Instructions, Shape};

/// Sizes of what [`max`] gives: half, rounded up.
pub fn max_output(input: Shape) -> Shape {
    Shape { height: input.height.div_ceil(2), width: input.width.div_ceil(2), ..input }
}

/// The largest of every 3×3 pixels, at every second pixel, as if one row and column of the least number were around each
/// picture.
///
/// # Panics
/// When a slice has another length than the shape and `channels` say.
pub fn max(input: &[f32], shape: Shape, channels: usize, output: &mut [f32], instructions: Instructions) {
    assert_eq!(input.len(), shape.pixels() * channels, "input of {shape:?} with {channels} channels");
    assert_eq!(output.len(), max_output(shape).pixels() * channels, "output of {shape:?} with {channels} channels");
    instructions.perform(Max { input, shape, channels, output });
}

struct Max<'a> {
    input: &'a [f32],
    shape: Shape,
    channels: usize,
    output: &'a mut [f32],
}

impl Work for Max<'_> {
    #[inline(always)]
    unsafe fn perform<V: Vector>(self) {
        let Self { input, shape: Shape { height, width, .. }, channels, output } = self;
        let (rows, columns) = (height.div_ceil(2), width.div_ceil(2));
        // Rows or columns around the centre that there are.
        let around = |centre: usize, length: usize| centre.saturating_sub(1)..length.min(centre + 2);
        for (pixel, output) in output.chunks_exact_mut(channels).enumerate() {
            let (image, y, x) = (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
            for channel in (0..channels).step_by(V::LANES) {
                let count = (channels - channel).min(V::LANES);
                // SAFETY: the caller's; each pixel lies within its image, and of each only its channels are used.
                unsafe {
                    let mut largest = V::splat(f32::NEG_INFINITY);
                    for row in around(2 * y, height) {
                        for column in around(2 * x, width) {
                            let at = ((image * height + row) * width + column) * channels + channel;
                            let from = input.as_ptr().add(at);
                            let value = if count == V::LANES { V::load(from) } else { V::load_some(from, count) };
                            largest = largest.max(value);
                        }
                    }
                    largest.store_some(output.as_mut_ptr().add(channel), count);
                }
            }
        }
    }
}

/// The mean of all pixels of each picture: `output` is `[images, channels]`.
///
/// # Panics
/// When a slice has another length than the shape and `channels` say, or a picture has no pixels.
pub fn average(input: &[f32], shape: Shape, channels: usize, output: &mut [f32]) {
    let pixels = shape.height * shape.width;
    assert!(pixels > 0 && channels > 0, "a mean is of something");
    assert_eq!(input.len(), shape.pixels() * channels, "input of {shape:?} with {channels} channels");
    assert_eq!(output.len(), shape.images * channels, "a mean for every channel of every picture");
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
    fn the_largest_neighbour_wins() {
        for instructions in Instructions::available() {
            // Two pictures of 3 by 4, five channels: pixel by pixel 0, 1, 2, ... and all negative in the second.
            let shape = Shape { images: 2, height: 3, width: 4 };
            let sign = |pixel: usize| if pixel < 12 { 1.0 } else { -1.0 };
            let input: Vec<f32> =
                (0..24).flat_map(|pixel| (0..5).map(move |c| sign(pixel) * (pixel % 12 + 100 * c) as f32)).collect();
            let mut output = vec![f32::NAN; 2 * 4 * 5];
            max(&input, shape, 5, &mut output, instructions);
            let first: Vec<f32> = output.iter().step_by(5).copied().collect();
            // Of row 0 and 1, columns 0 and 1: pixel 5; of the columns 1 to 3: 7; of the rows 1 and 2: 9 and 11.
            assert_eq!(first, [5.0, 7.0, 9.0, 11.0, 0.0, -1.0, -4.0, -5.0], "{instructions:?}");
            assert_eq!(output[4], 405.0, "{instructions:?}");
        }
    }

    #[test]
    fn a_mean_is_of_its_own_picture_and_channel() {
        let shape = Shape { images: 2, height: 1, width: 2 };
        let mut output = [0.0; 4];
        average(&[1.0, 10.0, 3.0, 30.0, 5.0, 50.0, 6.0, 60.0], shape, 2, &mut output);
        assert_eq!(output, [2.0, 20.0, 5.5, 55.0]);
    }
}
