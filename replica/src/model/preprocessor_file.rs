//! Reads `preprocessor_config.json`, in which transformers describes a transform. Missing values are those of
//! transformers' image processor of the same name.

use super::description::Description;
use crate::transform::{CropOffset, Interpolation, MAX_SIDE, ResizeMode, TransformValues};
use serde::Deserialize;
use serde_json::Value;

/// The parts of `preprocessor_config.json` that matter here. Other keys are ignored.
#[derive(Debug, Deserialize)]
struct PreprocessorFile {
    image_processor_type: Option<String>,
    /// The name of `image_processor_type` in older files.
    feature_extractor_type: Option<String>,
    do_resize: Option<bool>,
    size: Option<Value>,
    resample: Option<u8>,
    do_center_crop: Option<bool>,
    crop_size: Option<Value>,
    crop_pct: Option<f64>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    /// EfficientNet's offset of the levels.
    rescale_offset: Option<bool>,
    do_normalize: Option<bool>,
    image_mean: Option<Value>,
    image_std: Option<Value>,
    do_pad: Option<bool>,
}

/// The rules of an image processor.
struct Processor {
    /// The beginning of its name; the end is `ImageProcessor`, `FeatureExtractor` or `ImageProcessorFast`.
    name: &'static str,
    default_size: Size,
    /// Pillow's number of the filter.
    default_resample: u8,
    default_center_crop: bool,
    default_mean: [f32; 3],
    default_std: [f32; 3],
}

/// A size after resizing.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Size {
    /// The shorter side.
    Shortest(u32),
    /// Both sides.
    Square(u32),
}

const HALF: [f32; 3] = [0.5; 3];
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// The image processors of classifiers, with the defaults of transformers 5.
#[rustfmt::skip]
const PROCESSORS: [Processor; 4] = [
    Processor { name: "ConvNext", default_size: Size::Shortest(384), default_resample: 3, default_center_crop: false,
        default_mean: HALF, default_std: HALF },
    Processor { name: "ViT", default_size: Size::Square(224), default_resample: 2, default_center_crop: false,
        default_mean: HALF, default_std: HALF },
    Processor { name: "Bit", default_size: Size::Shortest(224), default_resample: 3, default_center_crop: true,
        default_mean: CLIP_MEAN, default_std: CLIP_STD },
    Processor { name: "CLIP", default_size: Size::Shortest(224), default_resample: 3, default_center_crop: true,
        default_mean: CLIP_MEAN, default_std: CLIP_STD },
];

/// From this shorter side on, ConvNext's processor resizes both sides and does not crop.
const CONVNEXT_SQUARE: u32 = 384;

/// Reads the contents of a file that messages call `source`.
///
/// # Errors
/// If the contents are malformed, or describe a transform that is not supported. The message lacks `source`.
pub(super) fn parse(bytes: &[u8], source: &str) -> Result<Description, String> {
    let file: PreprocessorFile = serde_json::from_slice(bytes).map_err(|error| format!("malformed: {error}"))?;
    let name = file.image_processor_type.as_deref().or(file.feature_extractor_type.as_deref());
    let name = name.ok_or("image_processor_type is missing")?;
    let stem = ["ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor"]
        .into_iter()
        .find_map(|end| name.strip_suffix(end));
    let processor = PROCESSORS.iter().find(|processor| Some(processor.name) == stem).ok_or_else(|| {
        let known = PROCESSORS.map(|processor| processor.name).join(", ");
        format!(
            "image_processor_type is {name}, but only the image processors of {known} are supported; remove the file \
             and give --resize, --crop, --interpolation, --mean and --std"
        )
    })?;
    Ok(Description { transform: vec![(source.to_owned(), file.transform(processor)?)], ..Description::default() })
}

impl PreprocessorFile {
    fn transform(&self, processor: &Processor) -> Result<TransformValues, String> {
        for (key, is_set) in [("do_pad", self.do_pad), ("rescale_offset", self.rescale_offset)] {
            if is_set == Some(true) {
                return Err(format!("{key} is true, which is not supported"));
            }
        }
        if self.do_resize == Some(false) {
            return Err("do_resize is false, but pictures of any size must get the size of the model's input".into());
        }
        let square = processor.default_size == Size::Square(224);
        let size = self.size.as_ref().map_or(Ok(processor.default_size), |value| size("size", value, square))?;
        let (resize, resize_mode, input) = match (processor.name, size) {
            ("ConvNext", Size::Square(_)) => return Err("size must have shortest_edge for ConvNext".into()),
            ("ConvNext", Size::Shortest(edge)) if edge < CONVNEXT_SQUARE => {
                let share = self.crop_pct.unwrap_or(224.0 / 256.0);
                if !(share > 0.0 && share <= 1.0) {
                    return Err(format!("crop_pct is {share}, but must be above 0 and at most 1"));
                }
                let resize = side("size / crop_pct", (f64::from(edge) / share) as u32)?;
                (resize, ResizeMode::ShorterSide, Some(edge))
            }
            ("ConvNext", Size::Shortest(edge)) => (edge, ResizeMode::BothSides, Some(edge)),
            (_, Size::Shortest(edge)) => (edge, ResizeMode::ShorterSide, None),
            (_, Size::Square(edge)) => (edge, ResizeMode::BothSides, Some(edge)),
        };
        let crops = self.do_center_crop.unwrap_or(processor.default_center_crop);
        let crop = match (crops, &self.crop_size, input) {
            (true, Some(value), _) => size_of_crop(value)?,
            (true, None, _) => 224,
            (false, _, Some(input)) => input,
            (false, _, None) => {
                return Err(
                    "size has only shortest_edge and do_center_crop is false, so the model's input would not be \
                            a square"
                        .into(),
                );
            }
        };
        if input.is_some_and(|input| input != crop && resize_mode == ResizeMode::ShorterSide) {
            return Err("crop_size and crop_pct both crop the picture, which is not supported".into());
        }
        let (mean, std) = self.normalisation(processor)?;
        Ok(TransformValues {
            resize: Some(resize),
            resize_mode: Some(resize_mode),
            crop: Some(crop),
            crop_offset: Some(CropOffset::Down),
            interpolation: Some(interpolation(self.resample.unwrap_or(processor.default_resample))?),
            mean: Some(mean),
            std: Some(std),
        })
    }

    /// The means and standard deviations of levels that are scaled to 0..1. transformers multiplies each level of 0 to
    /// 255 by `rescale_factor`, so another factor than 1/255 changes them by that ratio.
    fn normalisation(&self, processor: &Processor) -> Result<([f32; 3], [f32; 3]), String> {
        let (mean, std) = match self.do_normalize {
            Some(false) => ([0.0; 3], [1.0; 3]),
            _ => (
                self.image_mean.as_ref().map_or(Ok(processor.default_mean), |mean| channels("image_mean", mean))?,
                self.image_std.as_ref().map_or(Ok(processor.default_std), |std| channels("image_std", std))?,
            ),
        };
        let factor = match self.do_rescale {
            Some(false) => 1.0,
            _ => self.rescale_factor.unwrap_or(1.0 / 255.0),
        };
        let scale = (255.0 * factor) as f32;
        // The usual factor has 16 digits, so that its product with 255 is not always 1.
        let scale = if (scale - 1.0).abs() < 1e-6 { 1.0 } else { scale };
        if !(scale.is_normal() && scale > 0.0) {
            return Err(format!("rescale_factor is {factor}, but must be above 0"));
        }
        Ok((mean.map(|mean| mean / scale), std.map(|std| std / scale)))
    }
}

/// The filter with Pillow's number.
fn interpolation(resample: u8) -> Result<Interpolation, String> {
    match resample {
        0 => Ok(Interpolation::Nearest),
        2 => Ok(Interpolation::Bilinear),
        3 => Ok(Interpolation::Bicubic),
        other => Err(format!("resample is {other}, but only 0 (nearest), 2 (bilinear) and 3 (bicubic) are supported")),
    }
}

/// A size: an integer, `{"shortest_edge": n}` or `{"height": n, "width": n}`. `square` tells what an integer means.
fn size(key: &str, value: &Value, square: bool) -> Result<Size, String> {
    let length = |value: &Value| value.as_u64().and_then(|side| u32::try_from(side).ok());
    let sides = [&value["height"], &value["width"], &value["shortest_edge"]].map(length);
    let found = match (length(value), sides) {
        (Some(both), _) if square => Size::Square(both),
        (Some(edge), _) => Size::Shortest(edge),
        (None, [Some(height), Some(width), _]) if height == width => Size::Square(height),
        (None, [None, None, Some(edge)]) if value["longest_edge"].is_null() => Size::Shortest(edge),
        _ => return Err(format!("{key} is {value}, but must be shortest_edge alone, or equal height and width")),
    };
    let (Size::Shortest(length) | Size::Square(length)) = found;
    side(key, length)?;
    Ok(found)
}

/// The side of a square crop.
fn size_of_crop(value: &Value) -> Result<u32, String> {
    match size("crop_size", value, true)? {
        Size::Square(side) | Size::Shortest(side) => Ok(side),
    }
}

/// Checks a side in pixels.
pub(super) fn side(key: &str, side: u32) -> Result<u32, String> {
    match (1..=MAX_SIDE).contains(&side) {
        true => Ok(side),
        false => Err(format!("{key} is {side}, but must be 1 to {MAX_SIDE} pixels")),
    }
}

/// The means or standard deviations of the channels: three numbers, or one for all. Standard deviations have a key that
/// ends with `std`, and are above zero.
pub(super) fn channels(key: &str, value: &Value) -> Result<[f32; 3], String> {
    let numbers: Option<Vec<f32>> = match value {
        Value::Array(numbers) => numbers.iter().map(|number| number.as_f64().map(|number| number as f32)).collect(),
        one => one.as_f64().map(|one| vec![one as f32; 3]),
    };
    let is_valid = |number: &f32| number.is_finite() && (!key.ends_with("std") || number.is_normal() && *number > 0.0);
    let numbers = numbers.and_then(|numbers| numbers.try_into().ok()).filter(|all: &[f32; 3]| all.iter().all(is_valid));
    numbers.ok_or_else(|| format!("{key} is {value}, but must be three numbers, for std all above zero"))
}

#[cfg(test)]
mod tests;
