//! Compares the networks of every engine with tch's residual networks of equal weights, and single layers with
//! libtorch's convolution.

use super::folded::FoldedConvolution;
use super::fused::{Algorithm, FusedEngine, FusedModel, Layer, MatrixUnit, NetworkPlan, PackedFilter};
use super::libtorch::{LibtorchModel, MemoryFormat, TensorOptions};
use super::network::Network;
use super::weights::{self, Weights};
use super::*;
use ::convolution::amx::TileUnit;
use ::convolution::{Geometry, Instructions, Nonlinearity};
use proptest::prelude::*;
use safetensors::{Dtype, tensor::TensorView};
use std::sync::Arc;
use tch::nn::{self, ModuleT};
use tch::{Kind, Tensor, no_grad, vision};

/// tch's network with random weights, and these weights as a safetensors file. The batch normalisations of the network
/// are not the identity, so that folding them is tested.
fn reference(architecture: Architecture, classes: i64) -> (nn::VarStore, Box<dyn ModuleT>, Vec<u8>) {
    tch::manual_seed(3);
    let store = nn::VarStore::new(tch::Device::Cpu);
    let root = store.root();
    let model: Box<dyn ModuleT> = match architecture {
        Architecture::RESNET_18 => Box::new(vision::resnet::resnet18(&root, classes)),
        Architecture::RESNET_34 => Box::new(vision::resnet::resnet34(&root, classes)),
        _ => Box::new(vision::resnet::resnet50(&root, classes)),
    };
    let mut stored = Vec::new();
    for (name, mut variable) in store.variables() {
        if name.contains("running_mean") || name.contains("bn") && name.ends_with("bias") {
            no_grad(|| variable.copy_(&(Tensor::randn_like(&variable) * 0.1)));
        } else if name.contains("running_var") {
            no_grad(|| variable.copy_(&(Tensor::rand_like(&variable) + 0.5)));
        }
        let mut bytes = vec![0; variable.numel() * 4];
        variable.contiguous().copy_data_u8(&mut bytes, variable.numel());
        stored.push((name, variable.size().iter().map(|&side| side as usize).collect::<Vec<_>>(), bytes));
    }
    let views = stored.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("the tensor has four bytes for each number"))
    });
    let file = safetensors::serialize(views, None).expect("the tensors can be serialised");
    (store, model, file)
}

fn weights(file: &[u8]) -> Weights {
    Weights::from_safetensors(&[file], "reference", None).expect("the reference is a safetensors file")
}

/// The logits of tch's network.
fn logits(theirs: &dyn ModuleT, images: &[Input], side: i64) -> Vec<Vec<f32>> {
    let row = |image: &Input| {
        let input = Tensor::from_slice(image).view([1, side, side, 3]).permute([0, 3, 1, 2]);
        Vec::try_from(no_grad(|| theirs.forward_t(&input, false).view([-1]))).expect("the tensor has one dimension")
    };
    images.iter().map(row).collect()
}

#[test]
fn every_engine_computes_the_network_of_every_architecture() {
    for (architecture, side) in
        [(Architecture::RESNET_18, 224), (Architecture::RESNET_34, 97), (Architecture::RESNET_50, 64)]
    {
        let (_store, theirs, file) = reference(architecture, 7);
        let weights = weights(&file);
        assert_eq!(Architecture::recognise(&weights).expect("a residual network"), architecture);
        let network = Network::fold(weights, architecture).expect("the file has every tensor");
        let images = warm_up::images(3, side);
        let expected = logits(&*theirs, &images, side as i64);
        let check = |name: &str, model: &mut dyn Model| {
            let found = model.logits(&images).expect("the engine computes the network");
            let difference = choice::difference(&found, &expected);
            assert!(difference < 2e-5, "{architecture} {name}: {difference:e}");
            // The last layer makes the logits of the embedding.
            let outputs = model.logits_and_embeddings(&images).expect("the engine gives embeddings");
            let head = &network.head;
            let of_embedding = |(_, embedding): &Outputs| -> Vec<f32> {
                let rows = head.weights.chunks_exact(head.inputs).zip(&head.bias);
                rows.map(|(row, bias)| bias + row.iter().zip(embedding).map(|(a, b)| a * b).sum::<f32>()).collect()
            };
            let difference = choice::difference(&outputs.iter().map(of_embedding).collect::<Vec<_>>(), &found);
            assert!(difference < 1e-5, "{architecture} {name}: {difference:e}");
            assert_eq!(outputs.into_iter().map(|(logits, _)| logits).collect::<Vec<_>>(), found);
        };
        for format in [MemoryFormat::ChannelsLast, MemoryFormat::OneDnn] {
            let options = TensorOptions { format, ..TensorOptions::CPU_F32 };
            check(
                &format!("{format:?}"),
                &mut LibtorchModel::new(&network, options, side).expect("libtorch has memory"),
            );
        }
        let amx = if TileUnit::Amx.is_available() { MatrixUnit::Use } else { MatrixUnit::Avoid };
        for (candidate, matrix_unit) in [(0, MatrixUnit::Avoid), (1, MatrixUnit::Avoid), (1, amx)] {
            let layer = |layer: &FoldedConvolution| {
                let algorithms = Algorithm::candidates(layer, 8, matrix_unit);
                let algorithm = algorithms[candidate % algorithms.len()];
                Layer::Fixed(PackedFilter::new(layer, algorithm, Instructions::best()))
            };
            for (threads, batched_from) in [(1, 0), (2, 3)] {
                let plan = Arc::new(NetworkPlan { network: network.each_ref().map(layer), batched_from });
                let name = format!("{candidate} {matrix_unit:?} {threads}");
                let model = FusedModel::new(plan, side, threads);
                check(&name, &mut model.expect("the system starts threads"));
            }
        }
    }
}

#[test]
fn the_engine_of_every_kernel_flag_classifies_like_the_reference() {
    let (_store, theirs, file) = reference(Architecture::RESNET_18, 5);
    let images = warm_up::images(2, 64);
    let expected = logits(&*theirs, &images, 64);
    for kernel in [KernelChoice::Auto, KernelChoice::Libtorch, KernelChoice::Winograd] {
        let setup = Setup { kernel, device: Device::Cpu, precision: Precision::F32, threads: 1, max_batch: 2 };
        let factory = ModelFactory::new(ModelFile::Weights(weights(&file), Architecture::RESNET_18), 64, setup)
            .expect("an engine computes the network");
        assert_eq!(factory.classes(), 5);
        let found = factory.model().expect("there is memory").logits(&images).expect("the engine computes the network");
        assert!(choice::difference(&found, &expected) < 2e-5, "{kernel:?}");
    }
}

#[test]
fn bf16_is_less_exact_than_f32() {
    let (_store, theirs, file) = reference(Architecture::RESNET_18, 5);
    let images = warm_up::images(2, 64);
    let setup =
        Setup { kernel: KernelChoice::Auto, device: Device::Cpu, precision: Precision::Bf16, threads: 1, max_batch: 2 };
    let factory = ModelFactory::new(ModelFile::Weights(weights(&file), Architecture::RESNET_18), 64, setup)
        .expect("an engine computes the network");
    let found = factory.model().expect("there is memory").logits(&images).expect("the engine computes the network");
    let difference = choice::difference(&found, &logits(&*theirs, &images, 64));
    assert!((1e-5..0.1).contains(&difference), "{difference}");
}

/// Computes one layer by every algorithm, and compares the results with libtorch's convolution.
fn check_layer(images: usize, side: usize, layer: &FoldedConvolution, threads: usize) -> Result<(), TestCaseError> {
    let outputs = layer.bias.len();
    let input = tch_numbers(&[images, side, side, layer.inputs]);
    let dense = |numbers: &[f32], shape: [usize; 4]| {
        Tensor::from_slice(numbers).view(shape.map(|length| length as i64)).permute([0, 3, 1, 2])
    };
    let Geometry { side: filter, stride, padding } = layer.geometry;
    let weights = Tensor::from_slice(&layer.weights).view([outputs, layer.inputs, filter, filter].map(|n| n as i64));
    let bias = Tensor::from_slice(&layer.bias);
    let expected = dense(&input, [images, side, side, layer.inputs])
        .conv2d(&weights, Some(&bias), [stride as i64; 2], [padding as i64; 2], [1, 1], 1)
        .relu();
    let expected: Vec<f32> =
        Vec::try_from(expected.permute([0, 2, 3, 1]).contiguous().view([-1])).expect("the tensor has one dimension");
    let amx = TileUnit::Amx.is_available().then_some(Algorithm::Amx);
    let candidates = Algorithm::candidates(layer, 8, MatrixUnit::Avoid);
    for algorithm in candidates.iter().chain(&[Algorithm::Direct]).chain(&amx) {
        for instructions in Instructions::available() {
            let mut engine = FusedEngine::new(threads).expect("the system starts threads");
            let input = engine.activations(images, side, layer.inputs, &input);
            let filter = PackedFilter::new(layer, *algorithm, instructions);
            let found = engine.convolve_with(&filter, &input, None, Nonlinearity::Relu).into_numbers();
            let difference = choice::difference(&[found], std::slice::from_ref(&expected));
            prop_assert!(difference < 2e-5, "{algorithm:?} {instructions:?}: {difference:e}");
        }
    }
    Ok(())
}

/// Normally distributed random numbers.
fn tch_numbers(shape: &[usize]) -> Vec<f32> {
    let length: usize = shape.iter().product();
    Vec::try_from(Tensor::randn([length as i64], (Kind::Float, tch::Device::Cpu)))
        .expect("the tensor has one dimension")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn layers_agree_with_libtorch(
        images in prop::sample::select(vec![1_usize, 2, 3, 8, 31, 32]),
        side in 1..24_usize,
        (filter, stride) in prop::sample::select(vec![(3_usize, 1_usize), (3, 1), (3, 2), (1, 1), (1, 2), (7, 2)]),
        (inputs, outputs) in (1..34_usize, 1..40_usize),
        threads in 1..4_usize,
    ) {
        let weights = tch_numbers(&[outputs, inputs, filter, filter]);
        let geometry = Geometry { side: filter, stride, padding: filter / 2 };
        let layer = FoldedConvolution { weights, bias: tch_numbers(&[outputs]), inputs, groups: 1, geometry };
        check_layer(images, side, &layer, threads)?;
    }
}

/// The error message when a ResNet-18 is built from the file with some tensors changed. For the name of a tensor,
/// `change` returns its new shape, `None` to keep the tensor, or an empty shape to remove it.
fn message(file: &[u8], change: &dyn Fn(&str) -> Option<Vec<usize>>) -> String {
    let parsed = safetensors::SafeTensors::deserialize(file).expect("the reference is a safetensors file");
    let views: Vec<_> = parsed
        .iter()
        .filter_map(|(name, view)| match change(name) {
            Some(shape) if shape.is_empty() => None,
            Some(shape) => Some((
                name,
                TensorView::new(Dtype::F32, shape, view.data()).expect("the new shape has the old number of elements"),
            )),
            None => Some((name, view)),
        })
        .collect();
    let changed = safetensors::serialize(views, None).expect("the tensors can be serialised");
    Network::fold(weights(&changed), Architecture::RESNET_18).expect_err("refused").to_string()
}

/// The tensors of a small network with bottleneck blocks whose 3×3 convolutions have groups, and those of a network with
/// equal logits that has no groups: its weights between groups are zero.
fn grouped_and_dense(groups: usize) -> [Vec<(String, Tensor)>; 2] {
    let inner = [16, 24, 32, 40];
    let outputs = [32, 48, 64, 80];
    let [mut grouped, mut dense] = [Vec::new(), Vec::new()];
    tch::manual_seed(4);
    let mut add = |name: &str, shape: [usize; 4], groups: usize, norm: &str| {
        let [rows, columns, side, _] = shape;
        let shape = [rows, columns / groups, side, side].map(|length| length as i64);
        let weights = Tensor::randn(shape, (Kind::Float, tch::Device::Cpu)) / ((columns / groups * side) as f64).sqrt();
        let zero =
            Tensor::zeros([rows, columns, side, side].map(|length| length as i64), (Kind::Float, weights.device()));
        for group in 0..groups {
            let (rows, columns) = ((rows / groups) as i64, (columns / groups) as i64);
            let mut block = zero.narrow(0, group as i64 * rows, rows).narrow(1, group as i64 * columns, columns);
            block.copy_(&weights.narrow(0, group as i64 * rows, rows));
        }
        grouped.push((format!("{name}.weight"), weights));
        dense.push((format!("{name}.weight"), zero));
        for (parameter, start) in [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)] {
            let numbers = Tensor::rand([rows as i64], (Kind::Float, tch::Device::Cpu)) * 0.2 + start;
            grouped.push((format!("{norm}.{parameter}"), numbers.shallow_clone()));
            dense.push((format!("{norm}.{parameter}"), numbers));
        }
    };
    add("conv1", [12, 3, 7, 7], 1, "bn1");
    let mut inputs = 12;
    for stage in 0..4 {
        for index in 0..=(stage % 2) {
            let block = format!("layer{}.{index}", stage + 1);
            add(&format!("{block}.conv1"), [inner[stage], inputs, 1, 1], 1, &format!("{block}.bn1"));
            add(&format!("{block}.conv2"), [inner[stage], inner[stage], 3, 3], groups, &format!("{block}.bn2"));
            add(&format!("{block}.conv3"), [outputs[stage], inner[stage], 1, 1], 1, &format!("{block}.bn3"));
            if index == 0 {
                let shortcut = format!("{block}.downsample");
                add(&format!("{shortcut}.0"), [outputs[stage], inputs, 1, 1], 1, &format!("{shortcut}.1"));
            }
            inputs = outputs[stage];
        }
    }
    for (name, shape) in [("fc.weight", &[5, 80][..]), ("fc.bias", &[5])] {
        let numbers = Tensor::randn(shape, (Kind::Float, tch::Device::Cpu));
        grouped.push((name.into(), numbers.shallow_clone()));
        dense.push((name.into(), numbers));
    }
    [grouped, dense]
}

/// The contents of a safetensors file with `tensors`.
fn serialized(tensors: &[(String, Tensor)]) -> Vec<u8> {
    let stored: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| {
            let mut bytes = vec![0; tensor.numel() * 4];
            tensor.contiguous().copy_data_u8(&mut bytes, tensor.numel());
            (name, tensor.size().iter().map(|&side| side as usize).collect::<Vec<_>>(), bytes)
        })
        .collect();
    let views = stored.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("the tensor has four bytes for each number"))
    });
    safetensors::serialize(views, None).expect("the tensors can be serialised")
}

#[test]
fn convolutions_with_groups_are_those_of_a_network_with_zeros_between_the_groups() {
    let images = warm_up::images(2, 64);
    let setup =
        Setup { kernel: KernelChoice::Auto, device: Device::Cpu, precision: Precision::F32, threads: 1, max_batch: 2 };
    for groups in [2, 8] {
        let [grouped, dense] = grouped_and_dense(groups).map(|tensors| serialized(&tensors));
        let dense = weights(&dense);
        let architecture = Architecture::recognise(&dense).expect("a residual network");
        assert_eq!((architecture.groups, architecture.name().as_str()), (1, "resnet-1-2-1-2"));
        let dense = Network::fold(dense, architecture).expect("the file has every tensor");
        let expected = LibtorchModel::new(&dense, TensorOptions::CPU_F32, 64).expect("libtorch has memory");
        let expected = { expected }.logits(&images).expect("libtorch computes the network");
        let architecture = Architecture::recognise(&weights(&grouped)).expect("a residual network");
        assert_eq!((architecture.groups, architecture.name().as_str()), (groups, "resnext-1-2-1-2"));
        let network = Network::fold(weights(&grouped), architecture).expect("the file has every tensor");
        for format in [MemoryFormat::WeightsAsStored, MemoryFormat::ChannelsLast, MemoryFormat::OneDnn] {
            let options = TensorOptions { format, ..TensorOptions::CPU_F32 };
            let mut model = LibtorchModel::new(&network, options, 64).expect("libtorch has memory");
            let found = model.logits(&images).expect("libtorch computes the network");
            let difference = choice::difference(&found, &expected);
            assert!(difference < 2e-5, "{groups} groups, {format:?}: {difference:e}");
        }
        let file = || ModelFile::Weights(weights(&grouped), architecture);
        let factory = ModelFactory::new(file(), 64, setup).expect("libtorch computes the network");
        let found = factory.model().expect("there is memory").logits(&images).expect("libtorch computes the network");
        assert!(choice::difference(&found, &expected) < 2e-5);
        let own = Setup { kernel: KernelChoice::Winograd, ..setup };
        let refused = ModelFactory::new(file(), 64, own).err().expect("only libtorch computes groups").to_string();
        assert!(refused.contains("--kernel auto"), "{refused}");
    }
}

#[test]
fn a_stage_has_less_blocks_than_a_hostile_index_says() {
    let indices = ["layer1.0.z", "layer1.999.z", "layer2.1000.z", "layer3.3.z", "layer3.1100.z"].map(str::to_owned);
    let names = (0..1200).map(|index| format!("t{index}")).chain(indices);
    let views = names.map(|name| (name, TensorView::new(Dtype::F32, vec![0], &[]).expect("no numbers")));
    let weights = weights(&safetensors::serialize(views, None).expect("the tensors can be serialised"));
    assert_eq!([1, 2, 3].map(|stage| weights.blocks(stage)), [1000, 0, 4]);
}

#[test]
fn extra_tensors_are_left_out_beside_the_network_and_refused_within_it() {
    let (_store, _model, file) = reference(Architecture::RESNET_18, 2);
    let with = |name: &str| {
        let parsed = safetensors::SafeTensors::deserialize(&file).expect("the reference is a safetensors file");
        let extra = [0; 4];
        let extra = TensorView::new(Dtype::F32, vec![1], &extra).expect("four bytes for a number");
        let views = parsed.iter().map(|(name, view)| (name.to_owned(), view)).chain([(name.to_owned(), extra)]);
        let changed = safetensors::serialize(views, None).expect("the tensors can be serialised");
        Network::fold(weights(&changed), Architecture::RESNET_18).map_err(|error| error.to_string())
    };
    for name in ["fc2.weight", "aux.0.bias", "projector.weight"] {
        assert!(with(name).is_ok(), "{name}");
    }
    for name in ["layer1.0.se.fc1.weight", "conv1.bias", "fc.scale", "bn1.scale"] {
        let refused = with(name).expect_err("another network");
        assert!(refused.contains(&format!("tensor {name} has no place in a resnet18")), "{refused}");
    }
}

#[test]
fn the_files_of_a_directory_must_describe_the_network_of_its_weights() {
    let (_store, theirs, file) = reference(Architecture::RESNET_18, 7);
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &[u8]| std::fs::write(directory.path().join(name), text).expect("writable");
    write("model.safetensors", &file);
    let open = || ModelFile::open(&ModelSource::Directory(WeightsSource::file(directory.path())));
    write("labels.txt", b"a\nb\nc\nd\ne\nf\ng\n");
    for (config, expected) in [
        (r#"{"architecture": "resnet34"}"#, "the network is resnet34, but the weights are those of a resnet18"),
        (r#"{"architecture": "resnetblur18"}"#, "the network is resnetblur18"),
        (r#"{"num_labels": 8}"#, "8 classes, but the weights have 7"),
    ] {
        write("config.json", config.as_bytes());
        let refused = open().err().expect(config).to_string();
        assert!(refused.contains(expected), "{refused}");
    }
    write("config.json", br#"{"architecture": "resnet18", "num_classes": 7, "label_names": ["x"]}"#);
    let opened = open().expect("the files agree");
    let labels = opened.description().labels.expect("the directory has names");
    assert!(labels.source.ends_with("labels.txt") && labels.names.len() == 7, "{labels:?}");
    let setup = Setup {
        kernel: KernelChoice::Libtorch,
        device: Device::Cpu,
        precision: Precision::F32,
        threads: 1,
        max_batch: 1,
    };
    let images = warm_up::images(1, 64);
    let model = ModelFactory::new(opened, 64, setup).expect("libtorch computes the network").model();
    let found = model.expect("there is memory").logits(&images).expect("libtorch computes the network");
    assert!(choice::difference(&found, &logits(&*theirs, &images, 64)) < 2e-5);
}

#[test]
fn an_error_about_a_file_names_the_tensor() {
    let (_store, _model, file) = reference(Architecture::RESNET_18, 7);
    let missing = message(&file, &|name| (name == "layer3.1.bn2.weight").then(Vec::new));
    assert!(missing.contains("lack layer3.1.bn2.weight;"), "{missing}");
    let misshaped = message(&file, &|name| (name == "fc.weight").then(|| vec![512, 7]));
    assert!(misshaped.contains("fc.weight has shape [512, 7], but a resnet18 needs [n, 512]"), "{misshaped}");
}

#[test]
fn the_weights_of_a_larger_network_are_refused() {
    let (_store, _model, file) = reference(Architecture::RESNET_34, 2);
    let refused = Network::fold(weights(&file), Architecture::RESNET_18).expect_err("refused").to_string();
    assert!(refused.contains("layer1.2.bn1.bias has no place in a resnet18"), "{refused}");
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let (_store, _model, mut file) = reference(Architecture::RESNET_18, 2);
    // The last four bytes of a safetensors file are the last number of a tensor.
    let end = file.len() - 4;
    file[end..].copy_from_slice(&f32::NAN.to_le_bytes());
    let refused = Network::fold(weights(&file), Architecture::RESNET_18).expect_err("refused").to_string();
    assert!(refused.contains("has NaN at index"), "{refused}");
}

#[test]
fn damaged_files_are_refused() {
    let (_store, _model, file) = reference(Architecture::RESNET_18, 2);
    for bytes in [&b""[..], b"hello", &file[..file.len() / 2], &file[..4]] {
        assert!(Weights::from_safetensors(&[bytes], "file", None).is_err());
    }
    assert!(matches!(Weights::open(&["no/such.safetensors".into()], None), Err(weights::Error::Read { .. })));
    let zip = tempfile::Builder::new().suffix(".zip").tempfile().expect("a file");
    assert!(matches!(Weights::open(&[zip.path().to_owned()], None), Err(weights::Error::Malformed { .. })));
}
