//! What to send.

use crate::payload::Form;
use crate::shapes::Style;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Sides longer than this make files that no server takes.
const MAX_SIDE: u32 = 8192;

/// Flags of a run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of pictures, at any depth, and labels.csv beside them, if any; without it, generated labelled ones
    #[arg(long)]
    pub pictures: Option<PathBuf>,
    /// How many pictures to generate
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub generate: u64,
    /// How generated ones look
    #[command(flatten)]
    pub style: StyleArgs,
    /// What a body looks like
    #[arg(long, value_enum, default_value_t = Form::Raw)]
    pub form: Form,
}

/// Flags of `loadgen pictures`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  loadgen pictures pictures/ --count 24 --seed 7 --size 224")]
pub struct WriteArgs {
    /// Folder to write; labels.csv is put beside the pictures
    pub folder: PathBuf,
    /// How many
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=99_999))]
    pub count: u64,
    /// Which series
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How they look
    #[command(flatten)]
    pub style: StyleArgs,
}

/// How generated pictures look.
#[derive(Debug, clap::Args)]
pub struct StyleArgs {
    /// Pixels of a generated picture's shorter side, or a range of them
    #[arg(long, default_value = "180-480", value_parser = side)]
    size: RangeInclusive<u32>,
    /// JPEG quality of generated pictures, or a range of it
    #[arg(long, default_value = "45-95", value_parser = quality)]
    quality: RangeInclusive<u32>,
}

impl StyleArgs {
    /// For drawing.
    pub fn style(&self) -> Style {
        let quality = |value: &u32| u8::try_from(*value).expect("at most 100");
        Style { short_side: self.size.clone(), quality: quality(self.quality.start())..=quality(self.quality.end()) }
    }
}

fn side(text: &str) -> Result<RangeInclusive<u32>, String> {
    range(text, 16..=MAX_SIDE)
}

fn quality(text: &str) -> Result<RangeInclusive<u32>, String> {
    range(text, 1..=100)
}

/// `A` or `A-B` within bounds.
fn range(text: &str, bounds: RangeInclusive<u32>) -> Result<RangeInclusive<u32>, String> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.trim().parse().ok().filter(|number| bounds.contains(number));
    match (number(low), number(high)) {
        (Some(low), Some(high)) if low <= high => Ok(low..=high),
        _ => Err(format!("write a number between {} and {}, or two, as in 64-128", bounds.start(), bounds.end())),
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
