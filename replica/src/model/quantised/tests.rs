//! Compares the bundled network in 8-bit integers with f32, and refuses damaged files.

use super::file::Error;
use super::{Agreement, Int8Model, Int8Network, QuantisedFile};
use crate::model::choice::difference;
use crate::model::{
    Calibration, Device, Input, KernelChoice, Model, ModelFactory, ModelFile, ModelSource, Precision, Setup,
    WeightsSource, warm_up,
};
use crate::transform::Transform;
use convolution::int8::Int8Instructions;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

/// A small picture, so that the tests take little time.
const SIDE: usize = 64;

/// The bundled network, calibrated with the first images of [`images`], and its logits in f32.
struct Calibrated {
    file: QuantisedFile,
    images: Vec<Input>,
    logits: Vec<Vec<f32>>,
}

/// Smooth pictures, whose activations are more like those of photographs than noise is: every second synthetic number
/// is the sum of two waves.
fn images(count: usize) -> Vec<Input> {
    let noise = warm_up::images(count, SIDE);
    let wave = |image: usize, index: usize| {
        let (pixel, channel) = (index / 3, index % 3);
        let (x, y) = ((pixel % SIDE) as f32, (pixel / SIDE) as f32);
        (x * 0.1 * (image + 1) as f32 + channel as f32).sin() + (y * 0.07 * (image + 2) as f32).cos()
    };
    let smooth = |(image, noise): (usize, Input)| {
        noise.iter().enumerate().map(|(index, noise)| wave(image, index) + 0.1 * noise).collect()
    };
    noise.into_iter().enumerate().map(smooth).collect()
}

/// The calibration is done once for all tests.
static CALIBRATED: LazyLock<Calibrated> = LazyLock::new(|| {
    let ModelFile::Weights(weights, architecture) = ModelFile::open(&ModelSource::Bundled).expect("bundled") else {
        panic!("the bundled model has f32 weights");
    };
    let transform = Transform { crop: SIDE as u32, ..Transform::IMAGENET };
    let mut calibration = Calibration::new(weights, architecture, transform).expect("the weights fit");
    let images = images(6);
    let logits: Vec<Vec<f32>> =
        images.iter().map(|image| calibration.observe(image).expect("libtorch computes the network")).collect();
    let mut file = calibration.quantise().expect("the network can be computed");
    file.agreement = Agreement { agreeing: 995, pictures: 1000 };
    Calibrated { file, images, logits }
});

/// A path in a folder that is removed with the first value.
fn path() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("int8.safetensors");
    (folder, path)
}

#[test]
fn logits_in_integers_are_near_those_in_f32_and_equal_with_all_instructions() {
    let Calibrated { file, images, logits } = &*CALIBRATED;
    let mut first: Option<Vec<Vec<f32>>> = None;
    for instructions in Int8Instructions::available() {
        let network = Arc::new(Int8Network::new(&file.network, instructions));
        for threads in [1, 3] {
            let mut model = Int8Model::new(network.clone(), SIDE, threads).expect("the system starts threads");
            let together = model.logits(images).expect("the engine computes the network");
            let difference = difference(&together, logits);
            assert!(difference > 1e-4, "integers of 8 bits round: {difference}");
            assert!(difference < 0.05, "{instructions:?}: {difference}");
            let alone: Vec<Vec<f32>> = images
                .iter()
                .map(|image| model.logits(std::slice::from_ref(image)).expect("computed").concat())
                .collect();
            assert_eq!(together, alone, "{instructions:?}: a batch changes nothing");
            let first = first.get_or_insert_with(|| together.clone());
            assert_eq!(&together, first, "{instructions:?} with {threads} threads");
            assert_eq!(model.logits(&[]).expect("no images"), Vec::<Vec<f32>>::new());
        }
    }
}

#[test]
fn a_written_file_is_read_with_equal_logits_agreement_and_metadata() {
    let Calibrated { file, images, .. } = &*CALIBRATED;
    let (_folder, path) = path();
    file.write(&path).expect("the file can be written");
    let read = QuantisedFile::open(&path).expect("the file is sound").expect("the file is quantised");
    assert_eq!(read.agreement, file.agreement);
    assert_eq!((&*read.architecture, &*read.metadata["input_size"]), ("resnet18", "64"));
    assert_eq!(read.metadata["labels"].lines().count(), 12);
    assert_eq!(read.metadata["std"], "0.229,0.224,0.225");
    let logits = |file: &QuantisedFile| file.model(SIDE, 1).expect("a model").logits(images).expect("computed");
    assert_eq!(logits(&read), logits(file));
    read.verify(0.995).expect("the agreement is exactly high enough");
    let refused = read.verify(0.9951).expect_err("the agreement is too low").to_string();
    assert!(refused.contains("99.50 % (995 of 1000 pictures)") && refused.contains("--min-agreement"), "{refused}");
}

#[test]
fn a_file_has_one_line_for_the_name_of_each_class() {
    let calibrate = |last: &str| {
        let ModelFile::Weights(mut weights, architecture) = ModelFile::open(&ModelSource::Bundled).expect("bundled")
        else {
            panic!("the bundled model has f32 weights");
        };
        let labels = weights.description.labels.as_mut().expect("the bundled model has names");
        labels.names[0] = "two\nlines".into();
        labels.names[11] = last.into();
        let transform = Transform { crop: SIDE as u32, ..Transform::IMAGENET };
        let mut calibration = Calibration::new(weights, architecture, transform)?;
        calibration.observe(&images(1)[0])?;
        Ok::<_, crate::model::Error>(calibration.quantise()?)
    };
    let names = calibrate("last").expect("names that a file can have").description.labels.expect("names").names;
    assert_eq!((names.len(), &*names[0], &*names[11]), (12, "two lines", "last"));
    let refused = calibrate("").expect_err("refused").to_string();
    assert!(refused.contains("the last class has an empty name"), "{refused}");
}

#[test]
fn precision_and_file_must_fit_each_other() {
    let setup =
        |precision| Setup { kernel: KernelChoice::Auto, device: Device::Cpu, precision, threads: 1, max_batch: 1 };
    let (_folder, path) = path();
    CALIBRATED.file.write(&path).expect("the file can be written");
    let quantised = || ModelFile::open(&ModelSource::Weights(WeightsSource::file(&path))).expect("the file is sound");
    let bundled = ModelFile::open(&ModelSource::Bundled).expect("bundled");
    let error = |file, setup| ModelFactory::new(file, SIDE, setup).err().expect("refused").to_string();
    assert!(error(bundled, setup(Precision::Int8)).contains("replica quantize --weights"));
    assert!(error(quantised(), setup(Precision::F32)).contains("give --precision int8"));
    assert!(error(quantised(), Setup { device: Device::Auto, ..setup(Precision::Bf16) }).contains("--precision int8"));
    if Int8Instructions::best() == Int8Instructions::Portable {
        assert!(error(quantised(), setup(Precision::Int8)).contains("AVX-512-VNNI"));
        return;
    }
    let factory = ModelFactory::new(quantised(), SIDE, setup(Precision::Int8)).expect("the file fits");
    assert_eq!(factory.classes(), 12);
    let logits = factory.model().expect("a model").logits(&CALIBRATED.images).expect("computed");
    let expected = CALIBRATED.file.model(SIDE, 1).expect("a model").logits(&CALIBRATED.images).expect("computed");
    assert_eq!(logits, expected);
}

#[test]
fn flags_and_files_that_contradict_the_network_are_refused() {
    let (folder, path) = path();
    CALIBRATED.file.write(&path).expect("the file can be written");
    let file = || WeightsSource::file(&path);
    let named = |name: &str| WeightsSource { architecture: name.parse().ok(), ..file() };
    ModelFile::open(&ModelSource::Weights(named("resnet18"))).expect("the network is a resnet18");
    let open = |source: ModelSource| ModelFile::open(&source).err().map(|error| error.to_string());
    let key = WeightsSource { key: Some("ema".into()), ..file() };
    for (source, expected) in [(named("resnet50"), "leave out --architecture resnet50"), (key, "--weights-key ema")] {
        let directory = WeightsSource { path: folder.path().to_owned(), ..source.clone() };
        for source in [ModelSource::Weights(source), ModelSource::Directory(directory)] {
            let refused = open(source).expect(expected);
            assert!(refused.contains(expected) && refused.contains("int8.safetensors"), "{refused}");
        }
    }
    for (config, expected) in [
        (r#"{"architecture": "resnet18", "num_classes": 12}"#, None),
        (r#"{"architecture": "resnet50"}"#, Some("the network is resnet50")),
        (r#"{"num_classes": 11}"#, Some("says 11 classes, but the weights have 12")),
    ] {
        std::fs::write(folder.path().join("config.json"), config).expect("written");
        let refused = open(ModelSource::Directory(WeightsSource::file(folder.path())));
        assert_eq!(refused.is_some(), expected.is_some(), "{config}: {refused:?}");
        assert!(refused.unwrap_or_default().contains(expected.unwrap_or_default()), "{config}");
    }
}

/// Tensors by name: type, shape and bytes.
type Tensors = HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// The error of opening and verifying the calibrated file after `change`.
fn refused(change: impl Fn(&mut Tensors, &mut HashMap<String, String>)) -> Error {
    let (_folder, path) = path();
    CALIBRATED.file.write(&path).expect("the file can be written");
    let bytes = std::fs::read(&path).expect("the file can be read");
    let file = SafeTensors::deserialize(&bytes).expect("the file is sound");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("the file is sound");
    let mut metadata = header.metadata().clone().expect("the file has metadata");
    let mut tensors: Tensors = file
        .iter()
        .map(|(name, view)| (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect();
    change(&mut tensors, &mut metadata);
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).expect("the bytes are those of the shape"))
    });
    std::fs::write(&path, serialize(views, Some(metadata)).expect("the tensors can be serialised")).expect("written");
    let opened = QuantisedFile::open(&path).map(|file| file.expect("the file is quantised"));
    opened.and_then(|file| file.verify(0.99)).expect_err("the file is refused")
}

#[test]
fn damaged_files_are_refused_with_what_is_wrong() {
    fn numbers(tensors: &mut Tensors, name: &str, numbers: &[f32]) {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        tensors.insert(name.into(), (Dtype::F32, vec![numbers.len()], bytes));
    }
    type Change = fn(&mut Tensors, &mut HashMap<String, String>);
    let changes: [(&str, Change); 15] = [
        ("block.1.last.bias is missing", |tensors, _| drop(tensors.remove("block.1.last.bias"))),
        ("stem.weight is missing", |tensors, _| drop(tensors.remove("stem.weight"))),
        ("no tensor block.0.last.weight", |tensors, _| drop(tensors.remove("block.0.last.weight"))),
        ("shortcut of block.2", |tensors, _| drop(tensors.remove("block.2.shortcut.weight"))),
        ("must be i8", |tensors, _| {
            let (dtype, ..) = tensors.get_mut("head.weight").expect("a tensor");
            *dtype = Dtype::U8;
        }),
        ("must be i8", |tensors, _| {
            let (_, shape, _) = tensors.get_mut("block.0.first.0.weight").expect("a tensor");
            *shape = vec![64, 9, 8, 8];
        }),
        ("the stem must be", |tensors, _| {
            let (_, shape, bytes) = tensors.get_mut("stem.weight").expect("a tensor");
            *shape = vec![shape[0], shape[1], 1, 1];
            bytes.truncate(shape[0] * shape[1]);
        }),
        ("not above zero", |tensors, _| numbers(tensors, "block.0.last.output_scale", &[0.0])),
        ("not finite", |tensors, _| numbers(tensors, "block.0.last.output_scale", &[f32::NAN])),
        ("must be 1 or 2", |tensors, _| numbers(tensors, "stem.stride", &[1e9])),
        ("another shape", |tensors, _| numbers(tensors, "block.2.first.0.stride", &[1.0])),
        ("picture.scale", |tensors, _| numbers(tensors, "picture.scale", &[1.0, -1.0, 1.0])),
        ("no calibration_pictures", |_, metadata| drop(metadata.remove("calibration_pictures"))),
        ("more agree", |_, metadata| drop(metadata.insert("calibration_agreeing".into(), "1001".into()))),
        ("input_size", |_, metadata| drop(metadata.insert("input_size".into(), "999999999".into()))),
    ];
    for (reason, change) in changes {
        let error = refused(change);
        let message = error.to_string();
        assert!(matches!(error, Error::Malformed { .. }), "{reason}: {error:?}");
        assert!(message.contains(reason) && message.contains("replica quantize"), "{reason}: {message}");
    }
}

#[test]
fn a_changed_weight_changes_the_logits_that_the_file_records() {
    let error = refused(|tensors, _| {
        let (_, _, bytes) = tensors.get_mut("block.7.last.weight").expect("a tensor");
        bytes.iter_mut().take(4608).for_each(|byte| *byte = 127);
    });
    assert!(matches!(error, Error::Differs { .. }), "{error:?}");
}

#[test]
fn other_files_are_left_to_the_reader_of_f32_weights() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let long_header = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    let quantised_pth = br#"........{"__metadata__":{"precision":"int8"}}"#;
    for (name, bytes) in [
        ("empty.safetensors", &b""[..]),
        ("short.safetensors", b"1234"),
        ("long.safetensors", &long_header),
        ("text.safetensors", b"\x02\0\0\0\0\0\0\0{}"),
        ("weights.pth", quantised_pth),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("the file can be written");
        assert!(QuantisedFile::open(&path).expect("no quantised file").is_none(), "{name}");
    }
    let capital = folder.path().join("INT8.SafeTensors");
    CALIBRATED.file.write(&capital).expect("the file can be written");
    assert!(QuantisedFile::open(&capital).expect("a sound file").is_some(), "the ending may have capital letters");
    assert!(QuantisedFile::open(&folder.path().join("missing.safetensors")).expect("no file").is_none());
}
