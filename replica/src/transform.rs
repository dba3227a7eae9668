//! The parameters of the transform from pixels to a model's input, with torchvision's names. They come from flags, from
//! the files of a model's directory and from the metadata of a weights file. `preprocess` applies them.

use crate::model::Description;
use std::collections::HashMap;
use std::fmt;

/// The checked parameters of the transform. By default it is torchvision's `transforms._presets.ImageClassification`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transform {
    /// The side or sides of the image after resizing, in pixels.
    pub resize: u32,
    /// The sides that `resize` is for.
    pub resize_mode: ResizeMode,
    /// The side of the centred square that the model gets, in pixels. Where the square is larger than the image, it is
    /// black.
    pub crop: u32,
    /// The rounding of the square's position.
    pub crop_offset: CropOffset,
    /// The filter for resizing.
    pub interpolation: Interpolation,
    /// The means of red, green and blue, whose levels are scaled to 0..1.
    pub mean: [f32; 3],
    /// The standard deviations of red, green and blue, whose levels are scaled to 0..1.
    pub std: [f32; 3],
}

/// The sides of an image that resizing sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ResizeMode {
    /// The shorter side; the longer one keeps the ratio of the sides
    ShorterSide,
    /// Both sides, so that the image becomes a square and may be distorted
    BothSides,
}

/// The rounding of the position of the centred square, if the pixels around it cannot be shared equally.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CropOffset {
    /// Half of the pixels, rounded to the nearest integer, ties to even: torchvision and timm.
    Nearest,
    /// Half of the pixels, rounded down: transformers.
    Down,
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

/// The flags that override the files of a model.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TransformFlags {
    /// Shorter side of an image after resizing, in pixels; by default from the model's files, or else 256
    #[arg(long, env = "ROUNDHOUSE_RESIZE", value_parser = side)]
    pub resize: Option<u32>,
    /// Sides that --resize is for; by default from the model's files, or else shorter-side
    #[arg(long, env = "ROUNDHOUSE_RESIZE_MODE")]
    pub resize_mode: Option<ResizeMode>,
    /// Side of the centred square that the model gets, in pixels; by default from the model's files, or else 224
    #[arg(long, env = "ROUNDHOUSE_CROP", value_parser = side)]
    pub crop: Option<u32>,
    /// Filter for resizing; by default from the model's files, or else bilinear
    #[arg(long, env = "ROUNDHOUSE_INTERPOLATION")]
    pub interpolation: Option<Interpolation>,
    /// Means of red, green and blue, scaled to 0..1; by default from the model's files, or else 0.485,0.456,0.406
    #[arg(long, env = "ROUNDHOUSE_MEAN", value_parser = mean)]
    pub mean: Option<[f32; 3]>,
    /// Standard deviations of red, green and blue, scaled to 0..1; by default from the model's files, or else
    /// 0.229,0.224,0.225
    #[arg(long, env = "ROUNDHOUSE_STD", value_parser = std)]
    pub std: Option<[f32; 3]>,
}

/// Some of the parameters of a transform, from one source.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TransformValues {
    /// See [`Transform::resize`].
    pub resize: Option<u32>,
    /// See [`Transform::resize_mode`].
    pub resize_mode: Option<ResizeMode>,
    /// See [`Transform::crop`].
    pub crop: Option<u32>,
    /// See [`Transform::crop_offset`].
    pub crop_offset: Option<CropOffset>,
    /// See [`Transform::interpolation`].
    pub interpolation: Option<Interpolation>,
    /// See [`Transform::mean`].
    pub mean: Option<[f32; 3]>,
    /// See [`Transform::std`].
    pub std: Option<[f32; 3]>,
}

/// A malformed value of a parameter.
#[derive(Debug, thiserror::Error)]
#[error("{key} = {value:?}: {reason}")]
pub struct Error {
    /// The key of the value, such as `resize`, `input_size` or `image_mean`.
    pub key: &'static str,
    /// The value as it was found.
    pub value: String,
    /// What the value must be.
    pub reason: String,
}

impl From<&TransformFlags> for TransformValues {
    fn from(flags: &TransformFlags) -> Self {
        let &TransformFlags { resize, resize_mode, crop, interpolation, mean, std } = flags;
        Self { resize, resize_mode, crop, crop_offset: None, interpolation, mean, std }
    }
}

impl TransformValues {
    /// The values in the metadata of a weights file. The keys are `resize`, `resize_mode`, `input_size` (the crop),
    /// `crop_offset` (`nearest` or `down`), `interpolation`, `mean` and `std`. The values have the syntax of the flags.
    ///
    /// # Errors
    /// If a value is malformed.
    pub fn from_metadata(metadata: &HashMap<String, String>) -> Result<Self, Error> {
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
        Ok(Self {
            resize: read(metadata, "resize", side)?,
            resize_mode: read(metadata, "resize_mode", |name| {
                clap::ValueEnum::from_str(name, false).map_err(|_| "it must be shorter-side or both-sides".to_owned())
            })?,
            crop_offset: read(metadata, "crop_offset", |name| match name {
                "nearest" => Ok(CropOffset::Nearest),
                "down" => Ok(CropOffset::Down),
                _ => Err("it must be nearest or down".to_owned()),
            })?,
            crop: read(metadata, "input_size", side)?,
            interpolation: read(metadata, "interpolation", |name| {
                Interpolation::named(name).ok_or_else(|| "it must be nearest, bilinear or bicubic".to_owned())
            })?,
            mean: read(metadata, "mean", mean)?,
            std: read(metadata, "std", std)?,
        })
    }
}

impl Interpolation {
    /// The filter that torchvision, timm and Pillow call `name`, if it is supported.
    pub fn named(name: &str) -> Option<Self> {
        clap::ValueEnum::from_str(name, false).ok()
    }
}

impl Transform {
    /// The transform with which torchvision evaluates its ResNet weights.
    pub const IMAGENET: Self = Self {
        resize: 256,
        resize_mode: ResizeMode::ShorterSide,
        crop: 224,
        crop_offset: CropOffset::Nearest,
        interpolation: Interpolation::Bilinear,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };

    /// The number of elements of the model's input for one image: three for each pixel.
    pub fn input_length(&self) -> usize {
        3 * self.crop as usize * self.crop as usize
    }

    /// The parameters as metadata of a weights file, which [`TransformValues::from_metadata`] reads.
    pub fn metadata(&self) -> HashMap<String, String> {
        let three = |numbers: [f32; 3]| numbers.map(|number| number.to_string()).join(",");
        let resize_mode = match self.resize_mode {
            ResizeMode::ShorterSide => "shorter-side",
            ResizeMode::BothSides => "both-sides",
        };
        let crop_offset = match self.crop_offset {
            CropOffset::Nearest => "nearest",
            CropOffset::Down => "down",
        };
        let interpolation = match self.interpolation {
            Interpolation::Nearest => "nearest",
            Interpolation::Bilinear => "bilinear",
            Interpolation::Bicubic => "bicubic",
        };
        let values = [
            ("resize", self.resize.to_string()),
            ("resize_mode", resize_mode.to_owned()),
            ("input_size", self.crop.to_string()),
            ("crop_offset", crop_offset.to_owned()),
            ("interpolation", interpolation.to_owned()),
            ("mean", three(self.mean)),
            ("std", three(self.std)),
        ];
        HashMap::from(values.map(|(key, value)| (key.to_owned(), value)))
    }

    /// The largest absolute value of a number in the model's input that a picture can have.
    pub fn largest_input(&self) -> f32 {
        let of_channel = |(mean, std): (&f32, &f32)| mean.abs().max((1.0 - mean).abs()) / std;
        self.mean.iter().zip(&self.std).map(of_channel).fold(0.0, f32::max)
    }

    /// The transform of a model with this `description`; `flags` win. Also returns a description of the transform, in
    /// which each parameter has the name of its source.
    pub fn of_model(flags: &TransformFlags, description: &Description) -> (Self, String) {
        let flags = [("flag", TransformValues::from(flags))];
        let files = description.transform.iter().map(|(source, values)| (source.as_str(), values.clone()));
        Self::resolve(&flags.into_iter().chain(files).collect::<Vec<_>>())
    }

    /// Takes each parameter from the first of the named sources that has it, or else from [`Transform::IMAGENET`]. Also
    /// returns a description, in which each parameter has the name of its source.
    pub fn resolve(sources: &[(&str, TransformValues)]) -> (Self, String) {
        let mut parts = Vec::new();
        let default = Self::IMAGENET;
        let transform = Self {
            resize: first(sources, |values| values.resize, default.resize, "resize", &mut parts),
            resize_mode: first(sources, |values| values.resize_mode, default.resize_mode, "resize_mode", &mut parts),
            crop: first(sources, |values| values.crop, default.crop, "crop", &mut parts),
            crop_offset: first(sources, |values| values.crop_offset, default.crop_offset, "crop_offset", &mut parts),
            interpolation: first(
                sources,
                |values| values.interpolation,
                default.interpolation,
                "interpolation",
                &mut parts,
            ),
            mean: first(sources, |values| values.mean, default.mean, "mean", &mut parts),
            std: first(sources, |values| values.std, default.std, "std", &mut parts),
        };
        (transform, parts.join(", "))
    }
}

/// The value of the first source that has it, or else `default`. Describes the value in `parts`.
fn first<T: fmt::Debug>(
    sources: &[(&str, TransformValues)],
    value: impl Fn(&TransformValues) -> Option<T>,
    default: T,
    name: &str,
    parts: &mut Vec<String>,
) -> T {
    let found = sources.iter().find_map(|(source, values)| Some((*source, value(values)?)));
    let (source, value) = found.unwrap_or(("default", default));
    parts.push(format!("{name} {value:?} ({source})"));
    value
}

/// The largest side of a resized image or of a model's input, in pixels.
pub const MAX_SIDE: u32 = 4096;

/// Parses a side in pixels.
fn side(text: &str) -> Result<u32, String> {
    let side = text.parse().ok().filter(|side| (1..=MAX_SIDE).contains(side));
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

    fn resolve(flags: &TransformFlags, file: &HashMap<String, String>) -> (Transform, String) {
        let file = TransformValues::from_metadata(file).expect("well formed");
        Transform::resolve(&[("flag", flags.into()), ("file", file)])
    }

    #[test]
    fn flags_win_over_files_and_files_over_imagenet() {
        assert_eq!(resolve(&TransformFlags::default(), &HashMap::new()).0, Transform::IMAGENET);
        let file = metadata(&[
            ("resize", "235"),
            ("input_size", "299"),
            ("interpolation", "bicubic"),
            ("mean", "0.5, 0.5, 0.5"),
            ("std", "0.25,0.5,1"),
            ("labels", "cat\ndog"),
        ]);
        let mixed = flags("replica --resize 342 --std 1,1,2 --interpolation nearest --resize-mode both-sides")
            .expect("well formed");
        let expected = Transform {
            resize: 342,
            resize_mode: ResizeMode::BothSides,
            crop: 299,
            crop_offset: CropOffset::Nearest,
            interpolation: Interpolation::Nearest,
            mean: [0.5; 3],
            std: [1.0, 1.0, 2.0],
        };
        let (found, description) = resolve(&mixed, &file);
        assert_eq!(found, expected);
        for part in ["resize 342 (flag)", "crop 299 (file)", "crop_offset Nearest (default)"] {
            assert!(description.contains(part), "{description}");
        }
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
            let refused = TransformValues::from_metadata(&metadata(&[(key, value)])).expect_err(value).to_string();
            assert!(refused.contains(key) && refused.contains(value), "{refused}");
            let flag = if key == "input_size" { "crop" } else { key };
            assert!(flags(&format!("replica --{flag}={value}")).is_err(), "--{flag}={value}");
        }
    }
}
