//! Reads `config.json`, which transformers and timm write beside weights: the name of the network, the names of the
//! classes, and timm's transform. Refuses what the engine would compute otherwise.

use super::architecture::StridePlace;
use super::description::Description;
use super::preprocessor_file::{channels, side};
use crate::labels::ModelLabels;
use crate::transform::{Interpolation, ResizeMode, TransformValues};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// transformers' classes whose networks the engine computes.
const CLASSES: [&str; 2] = ["ResNetForImageClassification", "TimmWrapperForImageClassification"];

/// timm's names of the mean of all pixels, with which residual networks pool.
const MEAN_POOLING: [&str; 3] = ["avg", "fast", "fastavg"];

/// Arguments of a timm model that do not change its inference.
const HARMLESS_ARGUMENTS: [&str; 7] =
    ["num_classes", "in_chans", "drop_rate", "drop_path_rate", "drop_block_rate", "img_size", "pretrained"];

/// The parts of `config.json` that matter here. Other keys are ignored.
#[derive(Debug, Deserialize)]
struct ConfigFile {
    // transformers
    architectures: Option<Vec<String>>,
    id2label: Option<BTreeMap<String, String>>,
    num_labels: Option<usize>,
    hidden_act: Option<String>,
    downsample_in_bottleneck: Option<bool>,
    downsample_in_first_stage: Option<bool>,
    // timm
    architecture: Option<String>,
    num_classes: Option<usize>,
    label_names: Option<Vec<String>>,
    global_pool: Option<String>,
    model_args: Option<Map<String, Value>>,
    pretrained_cfg: Option<PretrainedConfig>,
    /// timm's transform in the files of its older versions, which have no `pretrained_cfg`.
    #[serde(flatten)]
    older: PretrainedConfig,
}

/// timm's transform.
#[derive(Debug, Deserialize)]
struct PretrainedConfig {
    input_size: Option<Vec<u32>>,
    interpolation: Option<String>,
    crop_pct: Option<f64>,
    crop_mode: Option<String>,
    mean: Option<Value>,
    std: Option<Value>,
}

/// The kind of the network that `config.json` belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NetworkKind {
    /// Weights of a residual network, whose layers the engine knows.
    Residual,
    /// An ONNX network, which has its own layers.
    Onnx,
}

/// Reads the contents of a file that messages call `source`. Beside an ONNX network, only the names and number of the
/// classes and the transform count: every other property is in the network.
///
/// # Errors
/// If the contents are malformed, or describe a transform or a residual network that is not supported. The message lacks
/// `source`.
pub(super) fn parse(bytes: &[u8], source: &str, network: NetworkKind) -> Result<Description, String> {
    let config: ConfigFile = serde_json::from_slice(bytes).map_err(|error| format!("malformed: {error}"))?;
    if network == NetworkKind::Residual {
        config.check_network()?;
    }
    let in_timm = config.architecture.is_some();
    let transform = match (config.pretrained_cfg, in_timm) {
        (Some(timm), _) => timm.transform()?,
        (None, true) => config.older.transform()?,
        (None, false) => TransformValues::default(),
    };
    let names = config.id2label.map(in_class_order).transpose()?.or(config.label_names);
    let stride = config.downsample_in_bottleneck.map(|first| match first {
        true => StridePlace::First,
        false => StridePlace::Second,
    });
    let is_residual = network == NetworkKind::Residual;
    Ok(Description {
        transform: vec![(source.to_owned(), transform)],
        labels: names.map(|names| ModelLabels { source: source.to_owned(), names }),
        classes: config.num_classes.or(config.num_labels),
        architecture: config.architecture.filter(|_| is_residual),
        stride: stride.filter(|_| is_residual),
    })
}

impl ConfigFile {
    /// Checks that the engine computes the network as the file describes it.
    ///
    /// # Errors
    /// If it does not: the key and its value.
    fn check_network(&self) -> Result<(), String> {
        if let Some(classes) = &self.architectures
            && !classes.iter().any(|class| CLASSES.contains(&class.as_str()))
        {
            return Err(format!(
                "architectures is {}, but only {} can be computed from weights; export another network as ONNX or \
                 TorchScript (see \"Your own model\" in the README)",
                classes.join(", "),
                CLASSES.join(" and ")
            ));
        }
        if let Some(act) = self.hidden_act.as_deref().filter(|act| *act != "relu") {
            return Err(format!("hidden_act is {act}, but only relu is supported"));
        }
        if self.downsample_in_first_stage == Some(true) {
            return Err("downsample_in_first_stage is true, which is not supported".into());
        }
        if let Some(pool) = self.global_pool.as_deref().filter(|pool| !MEAN_POOLING.contains(pool)) {
            return Err(format!("global_pool is {pool}, but only avg is supported"));
        }
        let is_harmless = |name: &str, value: &Value| match name {
            "global_pool" => value.as_str().is_some_and(|pool| MEAN_POOLING.contains(&pool)),
            name => HARMLESS_ARGUMENTS.contains(&name),
        };
        let mut arguments = self.model_args.iter().flatten();
        if let Some((name, value)) = arguments.find(|(name, value)| !is_harmless(name, value)) {
            return Err(format!(
                "model_args has {name} = {value}, which may change the network, so it is not supported"
            ));
        }
        Ok(())
    }
}

/// The names of `id2label`, whose keys must be the numbers from 0.
fn in_class_order(labels: BTreeMap<String, String>) -> Result<Vec<String>, String> {
    let count = labels.len();
    let mut names = vec![None; count];
    for (key, name) in labels {
        let place = key.parse().ok().and_then(|index: usize| names.get_mut(index));
        *place.ok_or_else(|| {
            format!("id2label has {count} names, so its keys must be 0 to {}, not {key:?}", count - 1)
        })? = Some(name);
    }
    names.into_iter().collect::<Option<_>>().ok_or_else(|| "id2label has the same class twice".into())
}

impl PretrainedConfig {
    /// The values of timm's `create_transform` for evaluation. Missing values are timm's defaults
    /// (`timm/data/config.py`).
    fn transform(self) -> Result<TransformValues, String> {
        let crop = match self.input_size.as_deref() {
            None => 224,
            Some(&[3, height, width]) if height == width => side("input_size", height)?,
            Some(other) => return Err(format!("input_size is {other:?}, but must be [3, side, side]")),
        };
        let crop_pct = self.crop_pct.unwrap_or(0.875);
        if !(crop_pct > 0.0 && crop_pct <= 1.0) {
            return Err(format!("crop_pct is {crop_pct}, but must be above 0 and at most 1"));
        }
        let resize_mode = match self.crop_mode.as_deref().unwrap_or("center") {
            "center" => ResizeMode::ShorterSide,
            "squash" => ResizeMode::BothSides,
            other => return Err(format!("crop_mode is {other}, but only center and squash are supported")),
        };
        let interpolation = self.interpolation.as_deref().unwrap_or("bicubic");
        Ok(TransformValues {
            resize: Some(side("input_size / crop_pct", (f64::from(crop) / crop_pct).floor() as u32)?),
            resize_mode: Some(resize_mode),
            crop: Some(crop),
            crop_offset: None,
            interpolation: Some(Interpolation::named(interpolation).ok_or_else(|| {
                format!("interpolation is {interpolation}, but only nearest, bilinear and bicubic are supported")
            })?),
            mean: self.mean.map(|mean| channels("mean", &mean)).transpose()?,
            std: self.std.map(|std| channels("std", &std)).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(text.as_bytes(), "config.json", NetworkKind::Residual)
            .map_or_else(|message| message, |found| format!("{found:?}"))
    }

    #[test]
    fn transformers_names_classes_and_the_place_of_the_stride() {
        let text = r#"{"architectures": ["ResNetForImageClassification"], "model_type": "resnet", "hidden_act": "relu",
            "id2label": {"10": "k", "0": "a", "1": "b", "2": "c", "3": "d", "4": "e", "5": "f", "6": "g", "7": "h",
            "8": "i", "9": "j"}, "downsample_in_bottleneck": true, "downsample_in_first_stage": false}"#;
        let found = parse(text.as_bytes(), "config.json", NetworkKind::Residual).expect("well formed");
        assert_eq!(found.labels.expect("names").names.concat(), "abcdefghijk");
        assert_eq!((found.stride, found.architecture), (Some(StridePlace::First), None));
        assert_eq!(found.transform[0].1, TransformValues::default());
    }

    #[test]
    fn timm_names_the_network_and_the_transform() {
        let text = r#"{"architecture": "resnet50", "num_classes": 2, "label_names": ["cat", "dog"],
            "model_args": {"num_classes": 2, "global_pool": "avg"}, "pretrained_cfg": {
            "input_size": [3, 176, 176], "test_input_size": [3, 224, 224], "crop_pct": 0.875, "crop_mode": "center",
            "interpolation": "bicubic", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}}"#;
        let found = parse(text.as_bytes(), "config.json", NetworkKind::Residual).expect("well formed");
        assert_eq!((found.classes, found.architecture.as_deref()), (Some(2), Some("resnet50")));
        let expected = TransformValues {
            resize: Some(201),
            resize_mode: Some(ResizeMode::ShorterSide),
            crop: Some(176),
            crop_offset: None,
            interpolation: Some(Interpolation::Bicubic),
            mean: Some([0.5; 3]),
            std: Some([0.25; 3]),
        };
        assert_eq!(found.transform[0].1, expected);
        let older = r#"{"architecture": "resnet18", "input_size": [3, 224, 224], "crop_pct": 0.95,
            "interpolation": "bilinear"}"#;
        let older =
            parse(older.as_bytes(), "config.json", NetworkKind::Residual).expect("well formed").transform.remove(0).1;
        assert_eq!((older.resize, older.interpolation), (Some(235), Some(Interpolation::Bilinear)));
        let without =
            parse(br#"{"architecture": "resnet18"}"#, "config.json", NetworkKind::Residual).expect("well formed");
        assert_eq!(without.transform[0].1.interpolation, Some(Interpolation::Bicubic), "timm's default");
    }

    #[test]
    fn beside_an_onnx_network_only_classes_and_transform_count() {
        let onnx = |text: &str| parse(text.as_bytes(), "config.json", NetworkKind::Onnx);
        let vit = onnx(
            r#"{"architectures": ["ViTForImageClassification"], "hidden_act": "gelu", "num_labels": 2,
            "id2label": {"0": "cat", "1": "dog"}, "downsample_in_bottleneck": true, "downsample_in_first_stage": true}"#,
        )
        .expect("every ONNX network is supported");
        assert_eq!((vit.labels.expect("names").names, vit.classes), (vec!["cat".into(), "dog".into()], Some(2)));
        assert_eq!((vit.stride, vit.architecture), (None, None));
        let timm = onnx(
            r#"{"architecture": "convnext_tiny", "num_classes": 3, "global_pool": "max", "model_args": {"depth": 9},
            "pretrained_cfg": {"input_size": [3, 176, 176]}}"#,
        )
        .expect("every ONNX network is supported");
        assert_eq!((timm.classes, timm.architecture, timm.transform[0].1.crop), (Some(3), None, Some(176)));
        assert!(onnx(r#"{"id2label": {"1": "a"}}"#).expect_err("malformed").contains("id2label"));
    }

    #[test]
    fn unsupported_and_malformed_values_are_refused_with_their_keys() {
        for (text, expected) in [
            ("{", "malformed"),
            ("[]", "malformed"),
            (r#"{"num_labels": -1}"#, "malformed"),
            (r#"{"architectures": ["ViTForImageClassification"]}"#, "architectures is ViTForImageClassification"),
            (r#"{"architectures": ["ResNetModel"]}"#, "architectures is ResNetModel"),
            (r#"{"hidden_act": "gelu"}"#, "hidden_act is gelu"),
            (r#"{"downsample_in_first_stage": true}"#, "downsample_in_first_stage"),
            (r#"{"global_pool": "catavgmax"}"#, "global_pool is catavgmax"),
            (r#"{"model_args": {"act_layer": "silu"}}"#, "act_layer"),
            (r#"{"model_args": {"num_classes": 2, "global_pool": "max"}}"#, "global_pool"),
            (r#"{"id2label": {"0": "a", "2": "b"}}"#, "0 to 1, not \"2\""),
            (r#"{"id2label": {"0": "a", "00": "b"}}"#, "twice"),
            (r#"{"id2label": {"one": "a"}}"#, "not \"one\""),
            (r#"{"pretrained_cfg": {"input_size": [1, 224, 224]}}"#, "input_size"),
            (r#"{"pretrained_cfg": {"input_size": [3, 224, 192]}}"#, "input_size"),
            (r#"{"pretrained_cfg": {"input_size": [3, 0, 0]}}"#, "input_size"),
            (r#"{"pretrained_cfg": {"crop_pct": 0}}"#, "crop_pct"),
            (r#"{"pretrained_cfg": {"crop_pct": 1e-9}}"#, "crop_pct"),
            (r#"{"pretrained_cfg": {"crop_mode": "border"}}"#, "crop_mode is border"),
            (r#"{"pretrained_cfg": {"interpolation": "lanczos"}}"#, "interpolation is lanczos"),
            (r#"{"pretrained_cfg": {"mean": [0.5, 0.5]}}"#, "mean"),
            (r#"{"pretrained_cfg": {"std": [0.5, 0, 0.5]}}"#, "std"),
        ] {
            assert!(refused(text).contains(expected), "{text}: {}", refused(text));
        }
    }
}
