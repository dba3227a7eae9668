//! Converts pixels to the model's input: resizes the image, crops the centre, and normalises. The levels of the cropped
//! pixels, 0 to 255, differ from torchvision's by at most two.
//!
//! Source: `torchvision.transforms._presets.ImageClassification`, with `Resize` and `CenterCrop` on PIL images.

use crate::decode::Pixels;
use crate::transform::{CropOffset, Interpolation, ResizeMode, Transform};
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

/// Resizes, crops and normalises an image. Returns `[crop, crop, 3]`, channels innermost.
///
/// # Panics
/// If `pixels.rgb` has another length than `3 * width * height` bytes, or either side is zero. No decoder returns such
/// pixels.
pub fn input(pixels: &Pixels, transform: &Transform) -> Vec<f32> {
    normalise(&crop(pixels, transform), transform)
}

/// Resizes and crops an image. Returns `[crop, crop, 3]`, 8 bits for each channel. Only the region that the crop shows
/// is resampled.
///
/// # Panics
/// If `pixels.rgb` has another length than `3 * width * height` bytes, or either side is zero. No decoder returns such
/// pixels.
pub fn crop(pixels: &Pixels, transform: &Transform) -> Vec<u8> {
    let (across, down) = axes(pixels.width, pixels.height, transform);
    let side = transform.crop as usize;
    if (across.crop_length, down.crop_length) == (side, side) {
        return resampled(pixels, &across, &down, transform.interpolation);
    }
    let part = resampled(pixels, &across, &down, transform.interpolation);
    let mut rgb = vec![0; 3 * side * side];
    let rows = rgb.chunks_exact_mut(3 * side).skip(down.crop_start);
    for (row, part) in rows.zip(part.chunks_exact(3 * across.crop_length)) {
        row[3 * across.crop_start..][..part.len()].copy_from_slice(part);
    }
    rgb
}

/// Normalises RGB pixels of 8 bits for each channel, with torchvision's roundings. Each level becomes
/// `(level / 255 − mean) / std`. The order does not change.
pub fn normalise(rgb: &[u8], transform: &Transform) -> Vec<f32> {
    let level =
        |level: usize, channel: usize| (level as f32 / 255.0 - transform.mean[channel]) / transform.std[channel];
    let table: [[f32; 256]; 3] = std::array::from_fn(|channel| std::array::from_fn(|value| level(value, channel)));
    let pixel =
        |pixel: &[u8; 3]| std::array::from_fn::<f32, 3, _>(|channel| table[channel][usize::from(pixel[channel])]);
    rgb.as_chunks::<3>().0.iter().flat_map(pixel).collect()
}

/// Resamples the region that the crop shows to the size that the region has in the crop.
fn resampled(pixels: &Pixels, across: &Axis, down: &Axis, interpolation: Interpolation) -> Vec<u8> {
    let size = (across.crop_length, down.crop_length);
    let region = (across.image_start, down.image_start, across.image_length, down.image_length);
    match interpolation {
        Interpolation::Nearest => nearest(pixels, across, down),
        Interpolation::Bilinear => convolved(pixels, size, region, FilterType::Bilinear).rgb,
        Interpolation::Bicubic => {
            // Pillow resamples across before down, and clips overshoots in between. The crate resamples down before
            // across, so one call would give other pixels. The first call computes only the rows that the filter of the
            // second call reads.
            let reach = 2.0 * (down.image_length / down.crop_length as f64).max(1.0) + 1.0;
            let first = (down.image_start - reach).floor().max(0.0);
            let last = (down.image_start + down.image_length + reach).ceil().min(pixels.height.into());
            let rows = (last - first) as usize;
            let strip = (across.image_start, first, across.image_length, last - first);
            let wide = convolved(pixels, (across.crop_length, rows), strip, FilterType::CatmullRom);
            let region = (0.0, down.image_start - first, across.crop_length as f64, down.image_length);
            convolved(&wide, size, region, FilterType::CatmullRom).rgb
        }
    }
}

/// Resamples `region` (left, top, width, height) to `size` (width, height) with a convolution filter.
fn convolved(pixels: &Pixels, size: (usize, usize), region: (f64, f64, f64, f64), filter: FilterType) -> Pixels {
    // The crate's untyped call would compile the resizer for every pixel type, which takes a minute.
    let source = TypedImageRef::<U8x3>::from_buffer(pixels.width, pixels.height, &pixels.rgb)
        .expect("three bytes for every pixel");
    let (width, height) = (size.0 as u32, size.1 as u32);
    let mut rgb = vec![0; 3 * size.0 * size.1];
    let mut part = TypedImage::<U8x3>::from_buffer(width, height, &mut rgb).expect("three bytes for every pixel");
    let options =
        ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).crop(region.0, region.1, region.2, region.3);
    Resizer::new().resize_typed(&source, &mut part, &options).expect("the region is inside the image");
    Pixels { width, height, rgb }
}

/// Resamples with Pillow's filter `nearest`.
fn nearest(pixels: &Pixels, across: &Axis, down: &Axis) -> Vec<u8> {
    let columns = across.nearest(pixels.width as usize);
    let rows = down.nearest(pixels.height as usize);
    let mut rgb = Vec::with_capacity(3 * columns.len() * rows.len());
    for y in rows {
        let row = &pixels.rgb[3 * pixels.width as usize * y..];
        for &x in &columns {
            rgb.extend_from_slice(&row[3 * x..3 * x + 3]);
        }
    }
    rgb
}

/// One dimension of the transform: an interval of the image, and the interval of the crop that it becomes.
#[derive(Debug, PartialEq)]
struct Axis {
    /// The start of the interval in the image, in the image's pixels.
    image_start: f64,
    /// The length of the interval in the image, in the image's pixels.
    image_length: f64,
    /// The number of black pixels in the crop before the interval.
    crop_start: usize,
    /// The length of the interval in the crop, in the crop's pixels.
    crop_length: usize,
    /// The number of the image's pixels for one pixel of the resized image.
    step: f64,
    /// The number of the resized image's pixels before the interval.
    offset: u64,
}

impl Axis {
    /// For each pixel of the interval in the crop, the index of the nearest pixel of an image whose side is `side`.
    fn nearest(&self, side: usize) -> Vec<usize> {
        let step = self.step;
        let mut at = add_times(0.5 * step, step, self.offset);
        (0..self.crop_length)
            .map(|_| {
                let pixel = (at as usize).min(side - 1);
                at += step;
                pixel
            })
            .collect()
    }
}

/// The sum that `count` additions of `step` to `start` give with the roundings of each addition, as Pillow adds. A product
/// would be rounded differently, and would select other pixels. Takes some hundred additions at most. Both numbers are
/// above zero.
///
/// The doubles between two powers of two have equal distances. There every addition adds the same number, except for the
/// first one: if `step` ends in half a distance, it is rounded to the even neighbour, and later sums are even already. So
/// the additions up to the next power of two are one product, which is exact.
fn add_times(start: f64, step: f64, mut count: u64) -> f64 {
    let next_power = |at: f64| f64::from_bits(((at.to_bits() >> 52) + 1) << 52);
    let mut at = start;
    while count > 0 {
        let first = at + step;
        let (second, third) = (first + step, first + step + step);
        let end = next_power(at);
        // One addition fewer than fit, because the quotient is rounded.
        let fitting = if third < end { ((end - second) / (third - second)) as u64 } else { 0 };
        if fitting < 2 || count < 3 {
            at = first;
            count -= 1;
        } else {
            let times = (fitting - 1).min(count - 2);
            at = second + times as f64 * (third - second);
            count -= 2 + times;
        }
    }
    at
}

/// The two dimensions of the transform for an image of `width` by `height` pixels: horizontal, then vertical.
fn axes(width: u32, height: u32, transform: &Transform) -> (Axis, Axis) {
    // torchvision truncates the longer side: the sides of 640x480 become int(256 * 640 / 480) = 341 and 256.
    let resize = f64::from(transform.resize);
    let longer = |long: u32, short: u32| (resize * f64::from(long) / f64::from(short)).trunc();
    let resized = match transform.resize_mode {
        ResizeMode::BothSides => (resize, resize),
        ResizeMode::ShorterSide if width <= height => (resize, longer(height, width)),
        ResizeMode::ShorterSide => (longer(width, height), resize),
    };
    let crop = f64::from(transform.crop);
    let axis = |side: u32, resized: f64| {
        if resized <= crop {
            let crop_start = ((crop - resized) / 2.0).floor() as usize;
            let (crop_length, image_length) = (resized as usize, f64::from(side));
            let step = image_length / resized;
            return Axis { image_start: 0.0, image_length, crop_start, crop_length, step, offset: 0 };
        }
        // torchvision rounds the offset of the crop with Python's `round`, which rounds ties to even.
        let offset = (resized - crop) / 2.0;
        let offset = match transform.crop_offset {
            CropOffset::Nearest => offset.round_ties_even(),
            CropOffset::Down => offset.floor(),
        };
        let step = f64::from(side) / resized;
        let (image_start, image_length, crop_length) = (offset * step, crop * step, transform.crop as usize);
        Axis { image_start, image_length, crop_start: 0, crop_length, step, offset: offset as u64 }
    };
    (axis(width, resized.0), axis(height, resized.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_crop_has_the_position_that_torchvision_chooses() {
        let window = |step: f64, offset: u64| {
            let (image_start, image_length) = (offset as f64 * step, 224.0 * step);
            Axis { image_start, image_length, crop_start: 0, crop_length: 224, step, offset }
        };
        // (341 - 224) / 2 = 58.5 is rounded to the even number 58.
        let landscape = (window(640.0 / 341.0, 58), window(480.0 / 256.0, 16));
        assert_eq!(axes(640, 480, &Transform::IMAGENET), landscape);
        assert_eq!(axes(16, 16, &Transform::IMAGENET), (window(1.0 / 16.0, 16), window(1.0 / 16.0, 16)));
        // (343 - 224) / 2 = 59.5 is rounded to 60 by torchvision, and to 59 by transformers.
        for (crop_offset, left) in [(CropOffset::Nearest, 60), (CropOffset::Down, 59)] {
            let landscape = (window(644.0 / 343.0, left), window(480.0 / 256.0, 16));
            assert_eq!(axes(644, 480, &Transform { crop_offset, ..Transform::IMAGENET }), landscape);
        }
        let squashed = Transform { resize_mode: ResizeMode::BothSides, ..Transform::IMAGENET };
        assert_eq!(axes(512, 768, &squashed), (window(2.0, 16), window(3.0, 16)));
    }

    proptest! {
        #[test]
        fn many_additions_at_once_give_the_same_sum(step in 1e-7..3e5_f64, count in 0..200_000_u64, bits in 0..60_u32) {
            // Steps with few bits are those that end in half a distance between doubles.
            let step = f64::from_bits(step.to_bits() >> bits.min(52) << bits.min(52));
            let one_by_one = (0..count).fold(0.5 * step, |at, _| at + step);
            prop_assert_eq!(add_times(0.5 * step, step, count).to_bits(), one_by_one.to_bits());
        }
    }

    #[test]
    fn the_nearest_pixels_of_a_very_wide_image_are_found_at_once() {
        let transform = Transform { interpolation: Interpolation::Nearest, ..Transform::IMAGENET };
        // The resized image would have 256 * 50,000,000 columns, and the crop begins after 6.4e9 of them.
        let (across, _) = axes(50_000_000, 1, &transform);
        let start = std::time::Instant::now();
        let columns = across.nearest(50_000_000);
        assert!(start.elapsed().as_millis() < 50, "{:?}", start.elapsed());
        assert_eq!((columns.len(), columns[0]), (224, 24_999_999));
    }

    #[test]
    fn nearest_pixels_in_the_middle_between_two_are_those_of_pillow() {
        // Each row has the size of the image, the transform, a pixel of the crop, and the pixel that Pillow 13.0 takes.
        for ((width, height), (resize, crop), (is_across, at), expected) in [
            ((4, 3), (8, 6), (true, 5), 2),
            ((38, 27), (5, 3), (true, 1), 19),
            ((15, 2), (33, 22), (false, 10), 0),
            ((1028, 32), (33, 30), (false, 14), 15),
        ] {
            let (across, down) = axes(width, height, &Transform { resize, crop, ..Transform::IMAGENET });
            let found = if is_across { across.nearest(width as usize) } else { down.nearest(height as usize) };
            assert_eq!(found[at], expected, "{width}x{height} {resize} {crop}");
        }
    }

    #[test]
    fn a_crop_larger_than_the_image_has_a_black_border() {
        let transform = Transform { resize: 2, crop: 5, ..Transform::IMAGENET };
        let pixels = Pixels { width: 4, height: 2, rgb: vec![9; 24] };
        let rows: Vec<Vec<u8>> =
            crop(&pixels, &transform).chunks(15).map(|row| row.iter().step_by(3).copied().collect()).collect();
        // The image becomes 4x2. The other three rows are black, one of them above the image. The last column is black.
        assert_eq!(rows, [[0, 0, 0, 0, 0], [9, 9, 9, 9, 0], [9, 9, 9, 9, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]);
    }

    #[test]
    fn the_crop_has_the_pixels_of_the_whole_resized_image() {
        for (width, height) in [(640, 480), (481, 643), (300, 225), (200, 1000), (97, 53)] {
            let level = |index: u32| {
                let (pixel, channel) = (index / 3, index % 3);
                let (x, y) = (pixel % width, pixel / width);
                ((x / 9 + y / 7) % 2 * 255 + x * channel) as u8
            };
            let pixels = Pixels { width, height, rgb: (0..3 * width * height).map(level).collect() };
            for resize_mode in [ResizeMode::ShorterSide, ResizeMode::BothSides] {
                for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic] {
                    let transform =
                        Transform { resize: 213, resize_mode, crop: 192, interpolation, ..Transform::IMAGENET };
                    let (across, down) = axes(width, height, &transform);
                    let whole = |axis: &Axis, side: u32| {
                        let length = (f64::from(side) * axis.crop_length as f64 / axis.image_length).round() as usize;
                        let (image_length, crop_length) = (f64::from(side), length);
                        let step = image_length / length as f64;
                        Axis { image_start: 0.0, image_length, crop_start: 0, crop_length, step, offset: 0 }
                    };
                    let (wide, high) = (whole(&across, width), whole(&down, height));
                    let resized = resampled(&pixels, &wide, &high, interpolation);
                    let start = |axis: &Axis| (axis.image_start * 192.0 / axis.image_length).round() as usize;
                    let rows = resized.chunks_exact(3 * wide.crop_length).skip(start(&down)).take(192);
                    let expected = rows.flat_map(|row| &row[3 * start(&across)..][..3 * 192]);
                    let found = crop(&pixels, &transform);
                    let largest = found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).max();
                    assert!(largest <= Some(1), "{width}x{height} {resize_mode:?} {interpolation:?}: {largest:?}");
                }
            }
        }
    }

    #[test]
    fn an_image_of_any_size_fills_the_crop() {
        for interpolation in [Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic] {
            for (width, height) in [(1, 1), (1, 5000), (5000, 1), (223, 225), (2, 3), (224, 224), (65_535, 1)] {
                let pixels = Pixels { width, height, rgb: vec![9; 3 * (width * height) as usize] };
                let transform = Transform { interpolation, ..Transform::IMAGENET };
                let found = crop(&pixels, &transform);
                assert_eq!(found, vec![9; 3 * 224 * 224], "{width}x{height} {interpolation:?}");
            }
        }
    }

    #[test]
    fn each_channel_has_its_own_mean_and_standard_deviation() {
        let transform = Transform { mean: [0.0, 0.5, 1.0], std: [1.0, 0.5, 2.0], ..Transform::IMAGENET };
        assert_eq!(normalise(&[255, 255, 255, 0, 0, 0], &transform), [1.0, 1.0, 0.0, 0.0, -1.0, -0.5]);
    }
}
