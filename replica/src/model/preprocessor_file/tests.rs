use super::*;

fn values(text: &str) -> Result<TransformValues, String> {
    parse(text.as_bytes(), "preprocessor_config.json").map(|mut found| found.transform.remove(0).1)
}

#[test]
fn the_file_of_microsoft_resnet_50_is_that_of_an_older_version() {
    let text = r#"{"crop_pct": 0.875, "do_normalize": true, "do_resize": true, "resample": 3, "size": 224,
        "feature_extractor_type": "ConvNextFeatureExtractor", "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225]}"#;
    let expected = TransformValues {
        resize: Some(256),
        resize_mode: Some(ResizeMode::ShorterSide),
        crop: Some(224),
        crop_offset: Some(CropOffset::Down),
        interpolation: Some(Interpolation::Bicubic),
        mean: Some([0.485, 0.456, 0.406]),
        std: Some([0.229, 0.224, 0.225]),
    };
    assert_eq!(values(text), Ok(expected));
}

#[test]
fn every_form_of_a_size_is_read() {
    use ResizeMode::{BothSides, ShorterSide};
    for (processor, more, expected) in [
        ("ViTImageProcessor", r#""size": 300"#, (300, BothSides, 300)),
        ("ViTImageProcessorFast", r#""size": {"height": 300, "width": 300}"#, (300, BothSides, 300)),
        ("ViTImageProcessor", r#""do_resize": true"#, (224, BothSides, 224)),
        ("BitImageProcessor", r#""size": {"shortest_edge": 256}"#, (256, ShorterSide, 224)),
        ("BitImageProcessor", r#""size": 256, "crop_size": 240"#, (256, ShorterSide, 240)),
        ("CLIPImageProcessor", r#""size": {"height": 250, "width": 250}"#, (250, BothSides, 224)),
        ("ConvNextImageProcessor", r#""size": {"shortest_edge": 384}"#, (384, BothSides, 384)),
        ("ConvNextImageProcessor", r#""size": {"shortest_edge": 288}, "crop_pct": 0.95"#, (303, ShorterSide, 288)),
    ] {
        let found = values(&format!(r#"{{"image_processor_type": "{processor}", {more}}}"#)).expect(more);
        let (resize, mode, crop) = expected;
        assert_eq!((found.resize, found.resize_mode, found.crop), (Some(resize), Some(mode), Some(crop)), "{more}");
    }
}

#[test]
fn other_scales_of_levels_change_means_and_deviations() {
    for (more, mean, std) in [
        (r#""do_rescale": true"#, 0.5, 0.5),
        (r#""rescale_factor": 0.00392156862745098"#, 0.5, 0.5),
        (r#""do_rescale": false, "image_mean": 127.5, "image_std": [51, 51, 51]"#, 0.5, 0.2),
        (r#""rescale_factor": 0.00784313725490196, "image_mean": 1, "image_std": 1"#, 0.5, 0.5),
        (r#""do_normalize": false"#, 0.0, 1.0),
    ] {
        let found = values(&format!(r#"{{"image_processor_type": "ViTImageProcessor", {more}}}"#)).expect(more);
        assert_eq!((found.mean, found.std), (Some([mean; 3]), Some([std; 3])), "{more}");
    }
}

#[test]
fn unsupported_and_malformed_values_are_refused_with_their_keys() {
    for (text, expected) in [
        ("", "malformed"),
        ("{}", "image_processor_type is missing"),
        (r#"{"image_processor_type": "DetrImageProcessor"}"#, "DetrImageProcessor"),
        (r#"{"image_processor_type": "ViT"}"#, "image_processor_type is ViT"),
        (r#"{"image_processor_type": "ViTImageProcessor", "do_resize": false}"#, "do_resize"),
        (r#"{"image_processor_type": "ViTImageProcessor", "do_pad": true}"#, "do_pad"),
        (r#"{"image_processor_type": "ViTImageProcessor", "size": 0}"#, "size is 0"),
        (r#"{"image_processor_type": "ViTImageProcessor", "size": 5000}"#, "4096"),
        (r#"{"image_processor_type": "ViTImageProcessor", "size": -1}"#, "size is -1"),
        (r#"{"image_processor_type": "ViTImageProcessor", "size": {"height": 2, "width": 3}}"#, "equal height"),
        (r#"{"image_processor_type": "BitImageProcessor", "do_center_crop": false}"#, "would not be a square"),
        (
            r#"{"image_processor_type": "ConvNextImageProcessor", "size": 224, "do_center_crop": true, "crop_size": 200}"#,
            "both crop",
        ),
        (r#"{"image_processor_type": "ConvNextImageProcessor", "size": 224, "crop_pct": 2}"#, "crop_pct is 2"),
        (r#"{"image_processor_type": "ViTImageProcessor", "resample": 1}"#, "resample is 1"),
        (r#"{"image_processor_type": "ViTImageProcessor", "image_mean": [1, 2]}"#, "image_mean"),
        (r#"{"image_processor_type": "ViTImageProcessor", "image_std": 0}"#, "image_std"),
        (r#"{"image_processor_type": "ViTImageProcessor", "rescale_factor": 0}"#, "rescale_factor"),
    ] {
        let found = values(text).expect_err(text);
        assert!(found.contains(expected), "{text}: {found}");
    }
}
