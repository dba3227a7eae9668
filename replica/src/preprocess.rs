//! Pixels → the model's input: resize the shorter side, crop the centre, normalise. The pixels are what torchvision
//! makes of PIL images, to within two levels.
//!
//! Source: `torchvision.transforms._presets.ImageClassification`, with `Resize` and `CenterCrop` on PIL images.

use crate::decode::Pixels;
use crate::transform::{Interpolation, Transform};
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

/// Resizes, crops and normalises: `crop * crop` pixels row by row, red, green and blue of each together.
///
/// # Panics
/// As [`crop`].
pub fn input(pixels: &Pixels, transform: &Transform) -> Vec<f32> {
    normalise(&crop(pixels, transform), transform)
}

/// Resizes and crops: `crop * crop` RGB pixels, 8 bits a channel, row by row. Only the region that the crop needs is
/// resampled.
///
/// # Panics
/// If `pixels.rgb` is not `3 * width * height` bytes, or either side is zero; no decoder returns such.
pub fn crop(pixels: &Pixels, transform: &Transform) -> Vec<u8> {
    let (across, down) = axes(pixels.width, pixels.height, transform);
    let side = transform.crop as usize;
    if (across.taken, down.taken) == (side, side) {
        return resampled(pixels, &across, &down, transform.interpolation);
    }
    let part = resampled(pixels, &across, &down, transform.interpolation);
    let mut rgb = vec![0; 3 * side * side];
    let rows = rgb.chunks_exact_mut(3 * side).skip(down.before);
    for (row, part) in rows.zip(part.chunks_exact(3 * across.taken)) {
        row[3 * across.before..][..part.len()].copy_from_slice(part);
    }
    rgb
}

/// Normalises interleaved 8-bit RGB into interleaved `f32`, in the same order, with torchvision's roundings.
pub fn normalise(rgb: &[u8], transform: &Transform) -> Vec<f32> {
    let level =
        |level: usize, channel: usize| (level as f32 / 255.0 - transform.mean[channel]) / transform.std[channel];
    let table: [[f32; 256]; 3] = std::array::from_fn(|channel| std::array::from_fn(|value| level(value, channel)));
    let pixel =
        |pixel: &[u8; 3]| std::array::from_fn::<f32, 3, _>(|channel| table[channel][usize::from(pixel[channel])]);
    rgb.as_chunks::<3>().0.iter().flat_map(pixel).collect()
}

fn resampled(pixels: &Pixels, across: &Axis, down: &Axis, interpolation: Interpolation) -> Vec<u8> {
    let size = (across.taken, down.taken);
    let region = (across.from, down.from, across.length, down.length);
    match interpolation {
        Interpolation::Nearest => nearest(pixels, across, down),
        Interpolation::Bilinear => convolved(pixels, size, region, FilterType::Bilinear).rgb,
        Interpolation::Bicubic => {
            // Pillow goes across first, and overshoots are clipped between the passes; the resizer goes down first.
            // Only rows within reach of the filter are worth going across.
            let reach = 2.0 * (down.length / down.taken as f64).max(1.0) + 1.0;
            let first = (down.from - reach).floor().max(0.0);
            let last = (down.from + down.length + reach).ceil().min(pixels.height.into());
            let rows = (last - first) as usize;
            let strip = (across.from, first, across.length, last - first);
            let wide = convolved(pixels, (across.taken, rows), strip, FilterType::CatmullRom);
            let region = (0.0, down.from - first, across.taken as f64, down.length);
            convolved(&wide, size, region, FilterType::CatmullRom).rgb
        }
    }
}

/// The region (left, top, width, height), brought to the size (width, height).
fn convolved(pixels: &Pixels, size: (usize, usize), region: (f64, f64, f64, f64), filter: FilterType) -> Pixels {
    // Typed: the untyped call compiles the resizer for every kind of pixel, which takes a minute.
    let source = TypedImageRef::<U8x3>::from_buffer(pixels.width, pixels.height, &pixels.rgb)
        .expect("three bytes for every pixel");
    let (width, height) = (size.0 as u32, size.1 as u32);
    let mut rgb = vec![0; 3 * size.0 * size.1];
    let mut part = TypedImage::<U8x3>::from_buffer(width, height, &mut rgb).expect("three bytes for every pixel");
    let options =
        ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).crop(region.0, region.1, region.2, region.3);
    Resizer::new().resize_typed(&source, &mut part, &options).expect("the region lies within the picture");
    Pixels { width, height, rgb }
}

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

/// One direction: which stretch of the picture becomes which stretch of the crop.
#[derive(Debug, PartialEq)]
struct Axis {
    /// Where the stretch begins in the picture, in its own pixels.
    from: f64,
    /// How much of the picture it is.
    length: f64,
    /// Black pixels of the crop before it.
    before: usize,
    /// Pixels of the crop that it becomes.
    taken: usize,
}

impl Axis {
    /// The pixel of a picture of `side` that each pixel of the crop is, in Pillow's arithmetic: sums, not products.
    fn nearest(&self, side: usize) -> Vec<usize> {
        let step = self.length / self.taken as f64;
        let skipped = (self.from / step).round() as usize;
        let mut at = 0.5 * step;
        for _ in 0..skipped {
            at += step;
        }
        (0..self.taken)
            .map(|_| {
                let pixel = (at as usize).min(side - 1);
                at += step;
                pixel
            })
            .collect()
    }
}

fn axes(width: u32, height: u32, transform: &Transform) -> (Axis, Axis) {
    // torchvision truncates the longer side: 640x480 becomes int(256 * 640 / 480) = 341 by 256.
    let resize = f64::from(transform.resize);
    let longer = |long: u32, short: u32| (resize * f64::from(long) / f64::from(short)).trunc();
    let resized = match width <= height {
        true => (resize, longer(height, width)),
        false => (longer(width, height), resize),
    };
    let crop = f64::from(transform.crop);
    let axis = |side: u32, resized: f64| {
        if resized <= crop {
            let before = ((crop - resized) / 2.0).floor() as usize;
            return Axis { from: 0.0, length: f64::from(side), before, taken: resized as usize };
        }
        // ... and rounds the crop's offset half to even, as Python does.
        let offset = ((resized - crop) / 2.0).round_ties_even();
        let scale = f64::from(side) / resized;
        Axis { from: offset * scale, length: crop * scale, before: 0, taken: transform.crop as usize }
    };
    (axis(width, resized.0), axis(height, resized.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_where_torchvision_crops() {
        let window = |from, length| Axis { from, length, before: 0, taken: 224 };
        // (341 - 224) / 2 = 58.5, rounded to even: 58.
        let (across, down) = (640.0 / 341.0, 480.0 / 256.0);
        let landscape = (window(58.0 * across, 224.0 * across), window(16.0 * down, 224.0 * down));
        assert_eq!(axes(640, 480, &Transform::IMAGENET), landscape);
        assert_eq!(axes(16, 16, &Transform::IMAGENET), (window(1.0, 14.0), window(1.0, 14.0)));
    }

    #[test]
    fn a_crop_beyond_the_picture_is_black_around_it() {
        let transform = Transform { resize: 2, crop: 5, ..Transform::IMAGENET };
        let pixels = Pixels { width: 4, height: 2, rgb: vec![9; 24] };
        let rows: Vec<Vec<u8>> =
            crop(&pixels, &transform).chunks(15).map(|row| row.iter().step_by(3).copied().collect()).collect();
        // Three rows to add, one of them before; one column, none before.
        assert_eq!(rows, [[0, 0, 0, 0, 0], [9, 9, 9, 9, 0], [9, 9, 9, 9, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]);
    }

    #[test]
    fn any_size_fills_the_crop() {
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
    fn each_channel_has_its_own_mean_and_deviation() {
        let transform = Transform { mean: [0.0, 0.5, 1.0], std: [1.0, 0.5, 2.0], ..Transform::IMAGENET };
        assert_eq!(normalise(&[255, 255, 255, 0, 0, 0], &transform), [1.0, 1.0, 0.0, 0.0, -1.0, -0.5]);
    }
}
