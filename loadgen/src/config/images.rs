//! Flags that choose the images, and how requests carry them.

use crate::drawing::ImageStyle;
use crate::payload::BodyFormat;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Longest side of a generated image, in pixels. No server takes larger files.
const MAX_SIDE: u32 = 8192;

/// Flags of `loadgen run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of images, read at any depth; labels.csv in it (file,label) gives the labels. Without it, labelled images
    /// are generated
    #[arg(long = "pictures", value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
    /// Number of images to generate
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub generate: u64,
    /// Size and quality of generated images
    #[command(flatten)]
    pub style: StyleArgs,
    /// Format of the requests' bodies
    #[arg(long = "form", value_name = "FORMAT", value_enum, default_value_t = BodyFormat::Raw)]
    pub body_format: BodyFormat,
}

/// Flags of `loadgen pictures`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  loadgen pictures pictures/ --count 24 --seed 7 --size 224")]
pub struct WriteArgs {
    /// Folder to write the images and their labels.csv to
    pub folder: PathBuf,
    /// Number of images
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=99_999))]
    pub count: u64,
    /// Seed: the same seed gives the same images
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Size and quality of the images
    #[command(flatten)]
    pub style: StyleArgs,
}

/// Flags for the size and the quality of generated images.
#[derive(Debug, clap::Args)]
pub struct StyleArgs {
    /// Length of a generated image's shorter side in pixels, or a range of it
    #[arg(long, default_value = "180-480", value_parser = side)]
    size: RangeInclusive<u32>,
    /// JPEG quality of generated images, or a range of it
    #[arg(long, default_value = "45-95", value_parser = quality)]
    quality: RangeInclusive<u32>,
}

impl StyleArgs {
    /// The ranges in the form that drawing needs.
    pub fn style(&self) -> ImageStyle {
        let quality = |value: &u32| u8::try_from(*value).expect("at most 100");
        ImageStyle {
            short_side: self.size.clone(),
            quality: quality(self.quality.start())..=quality(self.quality.end()),
        }
    }
}

fn side(text: &str) -> Result<RangeInclusive<u32>, String> {
    range(text, 16..=MAX_SIDE)
}

fn quality(text: &str) -> Result<RangeInclusive<u32>, String> {
    range(text, 1..=100)
}

/// Parses a range of numbers within `bounds`: `A-B`, or `A` for a single number.
fn range(text: &str, bounds: RangeInclusive<u32>) -> Result<RangeInclusive<u32>, String> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.trim().parse().ok().filter(|number| bounds.contains(number));
    match (number(low), number(high)) {
        (Some(low), Some(high)) if low <= high => Ok(low..=high),
        _ => Err(format!("write a number between {} and {}, or a range, as in 64-128", bounds.start(), bounds.end())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_one_number_or_two() {
        assert_eq!(range("64", 1..=100), Ok(64..=64));
        assert_eq!(range("1-100", 1..=100), Ok(1..=100));
        for bad in ["", "-", "0", "101", "9-3", "a-b", "3-", "-3", "1-2-3"] {
            assert!(range(bad, 1..=100).expect_err(bad).contains("between 1 and 100"));
        }
    }
}
