//! Flags that choose the images, and how requests carry them.

use crate::drawing::ImageStyle;
use crate::labels::LabelSource;
use crate::payload::BodyFormat;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Largest value of `--size`: the length of a generated image's shorter side, in pixels. Such an image has more pixels
/// than a replica accepts by default (50 million).
const MAX_SIDE: u32 = 8192;

/// Flags of `loadgen run` that choose the images.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of images, read with its subfolders; the file labels.csv in it, with rows file,label, gives the labels.
    /// Without --pictures, labelled images are drawn
    #[arg(long = "pictures", value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
    /// Take the names of the subfolders of --pictures for the labels, as in cat/1.jpg, and not its labels.csv
    #[arg(long, requires = "folder")]
    pub labels_from_folders: bool,
    /// Number of images to draw, without --pictures
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub generate: u64,
    /// Size and quality of generated images
    #[command(flatten)]
    pub style: StyleArgs,
    /// Format of each request's body; raw by default, and oip-json with --target-kind oip or --tensor
    #[arg(long = "form", value_name = "FORMAT", value_enum)]
    pub body_format: Option<BodyFormat>,
}

impl Args {
    /// The source of the labels of a folder's images.
    pub fn label_source(&self) -> LabelSource {
        if self.labels_from_folders { LabelSource::Subfolders } else { LabelSource::File }
    }
}

/// Flags of `loadgen pictures`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  loadgen pictures pictures/ --count 24 --seed 7 --size 224")]
pub struct WriteArgs {
    /// Folder to write the images and their labels.csv to
    pub folder: PathBuf,
    /// Number of images to write
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
    /// Length of a generated image's shorter side in pixels: a number, or a range such as 64-128
    #[arg(long, default_value = "180-480", value_parser = side)]
    size: RangeInclusive<u32>,
    /// JPEG quality of generated images, 1 to 100: a number, or a range such as 45-95
    #[arg(long, default_value = "45-95", value_parser = quality)]
    quality: RangeInclusive<u32>,
}

impl StyleArgs {
    /// The ranges in the form that drawing takes.
    pub fn style(&self) -> ImageStyle {
        let quality = |value: &u32| u8::try_from(*value).expect("the parser of --quality accepts 100 at most");
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
        _ => {
            let (low, high) = (bounds.start(), bounds.end());
            Err(format!("write a number between {low} and {high}, or a range such as {low}-{high}"))
        }
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
