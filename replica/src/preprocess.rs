//! Pixels → the model's input, as torchvision's evaluation transform does it: shorter side to 256 (bilinear,
//! antialiased), centre crop of 224, ImageNet's mean and standard deviation.
//!
//! Source: `torchvision.transforms._presets.ImageClassification`, with `Resize` and `CenterCrop` on PIL images.

use crate::decode::Pixels;
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

/// Sizes of the evaluation transform, pixels.
#[derive(Debug, Clone, Copy)]
pub struct Transform {
    /// The shorter side after resizing.
    pub resize: u32,
    /// Side of the centred square that the model sees.
    pub crop: u32,
}

impl Transform {
    /// What torchvision's ResNet weights were evaluated with.
    pub const IMAGENET: Self = Self { resize: 256, crop: 224 };

    /// Numbers of one picture: three for each pixel.
    pub fn input_length(self) -> usize {
        3 * self.crop as usize * self.crop as usize
    }
}

/// Per channel, of pixels scaled to 0..1.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STANDARD_DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// Resizes and crops: `crop * crop` RGB pixels, 8 bits a channel, row by row. Only the region that the crop needs is
/// resampled.
///
/// # Panics
/// If `pixels.rgb` is not `3 * width * height` bytes, or either side is zero; no decoder returns such.
pub fn crop(pixels: &Pixels, transform: Transform) -> Vec<u8> {
    // Typed: the untyped call compiles the resizer for every kind of pixel, which takes a minute.
    let source = TypedImageRef::<U8x3>::from_buffer(pixels.width, pixels.height, &pixels.rgb)
        .expect("three bytes for every pixel");
    let mut rgb = vec![0; 3 * transform.crop as usize * transform.crop as usize];
    let mut cropped =
        TypedImage::<U8x3>::from_buffer(transform.crop, transform.crop, &mut rgb).expect("three bytes for every pixel");
    let window = Window::of(pixels.width, pixels.height, transform);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).crop(
        window.left,
        window.top,
        window.width,
        window.height,
    );
    Resizer::new().resize_typed(&source, &mut cropped, &options).expect("the window lies within the picture");
    rgb
}

/// Normalises interleaved 8-bit RGB into interleaved `f32`, in the same order.
pub fn normalise(rgb: &[u8]) -> Vec<f32> {
    let scale = std::array::from_fn::<f32, 3, _>(|c| 1.0 / (255.0 * STANDARD_DEVIATION[c]));
    let shift = std::array::from_fn::<f32, 3, _>(|c| MEAN[c] / STANDARD_DEVIATION[c]);
    rgb.chunks_exact(3)
        .flat_map(|pixel| std::array::from_fn::<_, 3, _>(|c| f32::from(pixel[c]) * scale[c] - shift[c]))
        .collect()
}

/// The part of the source picture, in its own pixels, that becomes the crop.
#[derive(Debug, PartialEq)]
struct Window {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Window {
    fn of(width: u32, height: u32, Transform { resize, crop }: Transform) -> Self {
        // torchvision truncates the longer side: 640x480 becomes int(256 * 640 / 480) = 341 by 256.
        let longer = |long: u32, short: u32| (f64::from(resize) * f64::from(long) / f64::from(short)).trunc();
        let (resized_width, resized_height) = if width <= height {
            (f64::from(resize), longer(height, width))
        } else {
            (longer(width, height), f64::from(resize))
        };
        // ... and rounds the crop's offset half to even, as Python does.
        let offset = |resized: f64| ((resized - f64::from(crop)) / 2.0).round_ties_even();
        let (across, down) = (f64::from(width) / resized_width, f64::from(height) / resized_height);
        Self {
            left: offset(resized_width) * across,
            top: offset(resized_height) * down,
            width: f64::from(crop) * across,
            height: f64::from(crop) * down,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_where_torchvision_crops() {
        let scale = 480.0 / 256.0;
        let across = 640.0 / 341.0;
        // (341 - 224) / 2 = 58.5, rounded to even: 58.
        let landscape = Window { left: 58.0 * across, top: 16.0 * scale, width: 224.0 * across, height: 224.0 * scale };
        assert_eq!(Window::of(640, 480, Transform::IMAGENET), landscape);
        let square = Window { left: 1.0, top: 1.0, width: 14.0, height: 14.0 };
        assert_eq!(Window::of(16, 16, Transform::IMAGENET), square);
    }

    #[test]
    fn any_size_fills_the_crop() {
        for (width, height) in [(1, 1), (1, 5000), (5000, 1), (223, 225), (2, 3)] {
            let pixels = Pixels { width, height, rgb: vec![9; 3 * (width * height) as usize] };
            assert_eq!(crop(&pixels, Transform::IMAGENET), vec![9; 3 * 224 * 224], "{width}x{height}");
        }
    }

    #[test]
    fn normalised_mean_is_zero() {
        let mean: Vec<u8> = MEAN.iter().map(|m| (m * 255.0) as u8).collect();
        for value in normalise(&mean) {
            assert!(value.abs() < 0.02, "{value}");
        }
        assert!((normalise(&[255, 0, 0])[0] - (1.0 - 0.485) / 0.229).abs() < 1e-5);
    }
}
