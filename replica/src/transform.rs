//! The parameters of the transform from pixels to a model's input, with torchvision's names. They come from flags and
//! from the metadata of a weights file. `preprocess` applies them.

use std::collections::HashMap;

/// The checked parameters of the transform, which is torchvision's `transforms._presets.ImageClassification`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transform {
    /// The shorter side of the image after resizing, in pixels.
    pub resize: u32,
    /// The side of the centred square that the model gets, in pixels. Where the square is larger than the image, it is
    /// black.
    pub crop: u32,
    /// The filter for resizing.
    pub interpolation: Interpolation,
    /// The means of red, green and blue, whose levels are scaled to 0..1.
    pub mean: [f32; 3],
    /// The standard deviations of red, green and blue, whose levels are scaled to 0..1.
    pub std: [f32; 3],
}

/// A filter for resizing, with torchvision's name. All filters except `nearest` are antialiased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Interpolation {
    /// The value of the nearest pixel
    Nearest,
    /// A triangle filter
    Bilinear,
    /// A cubic filter with the parameter a = -0.5, as in Pillow
    Bicubic,
}

/// The flags that override the metadata of a weights file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TransformFlags {
    /// Shorter side of an image after resizing, in pixels; by default from the weights' metadata, or else 256
    #[arg(long, env = "ROUNDHOUSE_RESIZE", value_parser = side)]
    pub resize: Option<u32>,
    /// Side of the centred square that the model gets, in pixels; by default from the weights' metadata, or else 224
    #[arg(long, env = "ROUNDHOUSE_CROP", value_parser = side)]
    pub crop: Option<u32>,
    /// Filter for resizing; by default from the weights' metadata, or else bilinear
    #[arg(long, env = "ROUNDHOUSE_INTERPOLATION")]
    pub interpolation: Option<Interpolation>,
    /// Means of red, green and blue, scaled to 0..1; by default from the weights' metadata, or else 0.485,0.456,0.406
    #[arg(long, env = "ROUNDHOUSE_MEAN", value_parser = mean)]
    pub mean: Option<[f32; 3]>,
    /// Standard deviations of red, green and blue, scaled to 0..1; by default from the weights' metadata, or else
    /// 0.229,0.224,0.225
    #[arg(long, env = "ROUNDHOUSE_STD", value_parser = std)]
    pub std: Option<[f32; 3]>,
}

/// A malformed value in the metadata of a weights file.
#[derive(Debug, thiserror::Error)]
#[error("the metadata of the weights file has {key} = {value:?}: {reason}")]
pub struct Error {
    /// The key of the value: `resize`, `input_size`, `interpolation`, `mean` or `std`.
    key: &'static str,
    value: String,
    reason: String,
}

impl Transform {
    /// The transform with which torchvision evaluates its ResNet weights.
    pub const IMAGENET: Self = Self {
        resize: 256,
        crop: 224,
        interpolation: Interpolation::Bilinear,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };

    /// The number of elements of the model's input for one image: three for each pixel.
    pub fn input_length(&self) -> usize {
        3 * self.crop as usize * self.crop as usize
    }

    /// The values in the syntax of the metadata of a weights file.
    pub fn metadata(&self) -> HashMap<String, String> {
        let three = |numbers: [f32; 3]| numbers.map(|number| number.to_string()).join(",");
        let interpolation = match self.interpolation {
            Interpolation::Nearest => "nearest",
            Interpolation::Bilinear => "bilinear",
            Interpolation::Bicubic => "bicubic",
        };
        HashMap::from(
            [
                ("resize", self.resize.to_string()),
                ("input_size", self.crop.to_string()),
                ("interpolation", interpolation.to_owned()),
                ("mean", three(self.mean)),
                ("std", three(self.std)),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        )
    }

    /// Takes each value from its flag, or else from the metadata, or else from [`Transform::IMAGENET`]. The keys of the
    /// metadata are `resize`, `input_size` (the crop), `interpolation`, `mean` and `std`. Their values have the syntax
    /// of the flags.
    ///
    /// # Errors
    /// If a value in the metadata is malformed, even if a flag overrides the value.
    pub fn from(flags: &TransformFlags, metadata: &HashMap<String, String>) -> Result<Self, Error> {
        fn read<T>(
            metadata: &HashMap<String, String>,
            key: &'static str,
            parse: impl Fn(&str) -> Result<T, String>,
        ) -> Result<Option<T>, Error> {
            let parsed = metadata
                .get(key)
                .map(|value| parse(value.trim()).map_err(|reason| Error { key, value: value.clone(), reason }));
            parsed.transpose()
        }
        let interpolation = |name: &str| {
            clap::ValueEnum::from_str(name, false).map_err(|_| "it must be nearest, bilinear or bicubic".to_owned())
        };
        Ok(Self {
            resize: flags.resize.or(read(metadata, "resize", side)?).unwrap_or(Self::IMAGENET.resize),
            crop: flags.crop.or(read(metadata, "input_size", side)?).unwrap_or(Self::IMAGENET.crop),
            interpolation: flags
                .interpolation
                .or(read(metadata, "interpolation", interpolation)?)
                .unwrap_or(Self::IMAGENET.interpolation),
            mean: flags.mean.or(read(metadata, "mean", mean)?).unwrap_or(Self::IMAGENET.mean),
            std: flags.std.or(read(metadata, "std", std)?).unwrap_or(Self::IMAGENET.std),
        })
    }
}

/// Parses a side in pixels.
fn side(text: &str) -> Result<u32, String> {
    let side = text.parse().ok().filter(|side| (1..=4096).contains(side));
    side.ok_or_else(|| "it must be a whole number of pixels from 1 to 4096".into())
}

/// Parses the means of the channels: three finite numbers.
fn mean(text: &str) -> Result<[f32; 3], String> {
    channels(text).filter(|mean| mean.iter().all(|channel| channel.is_finite())).ok_or_else(|| THREE_NUMBERS.into())
}

/// Parses the standard deviations of the channels: three positive numbers.
fn std(text: &str) -> Result<[f32; 3], String> {
    let std = channels(text).filter(|std| std.iter().all(|channel| channel.is_normal() && *channel > 0.0));
    std.ok_or_else(|| format!("{THREE_NUMBERS}, all above zero"))
}

/// The error for a value that is not a list of three numbers.
const THREE_NUMBERS: &str = "it must be three numbers, separated by commas";

/// Parses three numbers, one each for red, green and blue.
fn channels(text: &str) -> Option<[f32; 3]> {
    let numbers: Result<Vec<f32>, _> = text.split(',').map(|number| number.trim().parse()).collect();
    numbers.ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        transform: TransformFlags,
    }

    fn flags(line: &str) -> Result<TransformFlags, clap::Error> {
        Command::try_parse_from(line.split(' ')).map(|command| command.transform)
    }

    fn metadata(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn flags_win_over_metadata_and_metadata_over_imagenet() {
        let none = Transform::from(&TransformFlags::default(), &HashMap::new()).expect("no value is given");
        assert_eq!(none, Transform::IMAGENET);
        let file = metadata(&[
            ("resize", "235"),
            ("input_size", "299"),
            ("interpolation", "bicubic"),
            ("mean", "0.5, 0.5, 0.5"),
            ("std", "0.25,0.5,1"),
            ("labels", "cat\ndog"),
        ]);
        let mixed = flags("replica --resize 342 --std 1,1,2 --interpolation nearest").expect("well formed");
        let expected = Transform {
            resize: 342,
            crop: 299,
            interpolation: Interpolation::Nearest,
            mean: [0.5; 3],
            std: [1.0, 1.0, 2.0],
        };
        assert_eq!(Transform::from(&mixed, &file).expect("well formed"), expected);
    }

    #[test]
    fn a_malformed_value_is_refused_with_its_key() {
        for (key, value) in [
            ("resize", "0"),
            ("resize", "4097"),
            ("input_size", "224x224"),
            ("input_size", "-1"),
            ("interpolation", "lanczos"),
            ("mean", "0.5"),
            ("mean", "0.5,0.5,nan"),
            ("mean", "1,2,3,4"),
            ("std", "0.2,0,0.2"),
            ("std", "0.2,inf,0.2"),
            ("std", "0.2,-1,0.2"),
            ("std", "1e-44,1,1"),
        ] {
            let refused =
                Transform::from(&TransformFlags::default(), &metadata(&[(key, value)])).expect_err(value).to_string();
            assert!(refused.contains(key) && refused.contains(value), "{refused}");
            let flag = if key == "input_size" { "crop" } else { key };
            assert!(flags(&format!("replica --{flag}={value}")).is_err(), "--{flag}={value}");
        }
    }
}
