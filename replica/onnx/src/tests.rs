//! Files made of protobuf messages, which ONNX Runtime computes.

use crate::protobuf::*;
use crate::{Error, File};
use bytes::Bytes;
use prost::Message;
use std::path::{Path, PathBuf};

/// The side of the images in pixels.
const SIDE: usize = 4;

/// The weights `[3, 2]` of the network, one row for each channel.
const WEIGHTS: [f32; 6] = [1.0, 10.0, 2.0, 20.0, 4.0, 40.0];

fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> Node {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Node { operator: operator.into(), inputs: owned(inputs), outputs: owned(outputs), ..Node::default() }
}

/// A tensor with its lengths; -1 stands for any length.
fn value(name: &str, element: i32, lengths: &[i64]) -> Value {
    let dimension = |&length: &i64| match length {
        -1 => Dimension { name: Some("n".into()), ..Dimension::default() },
        _ => Dimension { length: Some(length), ..Dimension::default() },
    };
    let shape = Some(Shape { dimensions: lengths.iter().map(dimension).collect() });
    Value { name: name.into(), of: Some(Type { tensor: Some(TensorType { element, shape }) }) }
}

fn bytes(numbers: &[f32]) -> Bytes {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn entry(key: &str, value: &str) -> Entry {
    Entry { key: key.into(), value: value.into() }
}

/// The mean of each channel, multiplied by [`WEIGHTS`]: two classes.
fn network() -> Model {
    let weights =
        Tensor { shape: vec![3, 2], element: FLOAT32, name: "w".into(), numbers: bytes(&WEIGHTS), ..Tensor::default() };
    let graph = Graph {
        name: "means".into(),
        nodes: vec![
            node("GlobalAveragePool", &["x"], &["mean"]),
            node("Flatten", &["mean"], &["flat"]),
            node("MatMul", &["flat", "w"], &["y"]),
        ],
        initializers: vec![weights],
        inputs: vec![value("x", FLOAT32, &[-1, 3, SIDE as i64, SIDE as i64])],
        outputs: vec![value("y", FLOAT32, &[-1, 2])],
        ..Graph::default()
    };
    let operator_sets = vec![OperatorSet { domain: String::new(), version: 17 }];
    Model { ir_version: 8, graph: Some(graph), operator_sets, ..Model::default() }
}

/// The network after `change`.
fn changed(change: impl FnOnce(&mut Graph)) -> Model {
    let mut model = network();
    change(model.graph.as_mut().expect("the network has a graph"));
    model
}

/// A folder with a file of the network.
struct Saved {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Saved {
    fn new(model: &Model) -> Self {
        Self::bytes(&model.encode_to_vec())
    }

    fn bytes(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("means.onnx");
        std::fs::write(&path, bytes).expect("written");
        Self { folder, path }
    }

    /// The logits of images whose channels have one value each.
    fn logits(&self, images: &[[f32; 3]]) -> Result<Vec<Vec<f32>>, String> {
        let images: Vec<Vec<f32>> = images.iter().map(|channels| channels.repeat(SIDE * SIDE)).collect();
        let session = File::open(&self.path).and_then(|file| file.session(SIDE, 1));
        session.map_err(|error| error.to_string())?.logits(&images)
    }

    fn refusal(&self) -> String {
        match self.logits(&[[1.0; 3], [2.0; 3]]) {
            Ok(logits) => panic!("the network should be refused, but gives {logits:?}"),
            Err(refusal) => refusal,
        }
    }
}

fn check(model: &Model, images: &[[f32; 3]], expected: &[&[f32]]) {
    let rows = Saved::new(model).logits(images).expect("a classifier");
    assert_eq!(rows.len(), expected.len(), "{rows:?}");
    for (row, expected) in rows.iter().zip(expected) {
        assert_eq!(row.len(), expected.len(), "{rows:?}");
        assert!(row.iter().zip(*expected).all(|(one, other)| (one - other).abs() < 1e-4), "{rows:?}");
    }
}

#[test]
fn a_network_gives_a_row_for_each_image() {
    let images = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.5], [-1.0, 0.0, 1.0]];
    let expected: [&[f32]; 3] = [&[1.0, 10.0], &[4.0, 40.0], &[3.0, 30.0]];
    check(&network(), &images, &expected);
    check(&network(), &images[..1], &expected[..1]);
    for batch in [1, 2, 3, 5] {
        let fixed = changed(|graph| graph.inputs[0] = value("x", FLOAT32, &[batch, 3, 4, 4]));
        check(&fixed, &images, &expected);
    }
    // Any size, and no shape at all.
    check(&changed(|graph| graph.inputs[0] = value("x", FLOAT32, &[-1, 3, -1, -1])), &images, &expected);
    let shapeless = |graph: &mut Graph| {
        graph.inputs[0].of.as_mut().expect("a type").tensor.as_mut().expect("a tensor").shape = None;
    };
    check(&changed(shapeless), &images, &expected);
    // In old files, initializers are inputs as well.
    let mut old = changed(|graph| graph.inputs.push(value("w", FLOAT32, &[3, 2])));
    old.ir_version = 3;
    check(&old, &images, &expected);
}

#[test]
fn a_network_that_ends_with_a_convolution_or_a_softmax_classifies() {
    let pooled = changed(|graph| {
        graph.nodes.truncate(1);
        graph.outputs[0] = value("mean", FLOAT32, &[-1, 3, 1, 1]);
    });
    check(&pooled, &[[1.0, 2.0, 3.0]], &[&[1.0, 2.0, 3.0]]);
    let softmax = changed(|graph| {
        graph.nodes.push(node("Softmax", &["y"], &["p"]));
        graph.outputs[0] = value("p", FLOAT32, &[-1, 2]);
    });
    // Probabilities 1/(1 + e^0.9) and 1/(1 + e^-0.9), and 0 for the second class.
    check(&softmax, &[[0.1, 0.0, 0.0]], &[&[-1.241_153, -0.341_153]]);
    check(&softmax, &[[-100.0, 0.0, 0.0]], &[&[0.0, f32::MIN_POSITIVE.ln()]]);
}

#[test]
fn metadata_and_fixed_sizes_are_read_from_the_file() {
    let mut model = network();
    model.metadata = vec![entry("labels", "cat\ndog"), entry("mean", "0,0,0")];
    let saved = Saved::new(&model);
    let file = File::open(&saved.path).expect("a classifier");
    assert_eq!(file.metadata()["labels"], "cat\ndog");
    assert_eq!((file.side(), file.fixed_batch()), (Some(SIDE), None));
    let refused = file.session(8, 1).err().expect("another side").to_string();
    assert!(refused.contains("4x4 pixels") && refused.contains("--crop 4"), "{refused}");
}

#[test]
fn a_network_with_other_inputs_or_outputs_is_refused_with_a_reason() {
    let input = |element, lengths: &[i64]| changed(|graph| graph.inputs[0] = value("x", element, lengths));
    for (model, expected) in [
        (changed(|graph| graph.inputs.clear()), "has no input"),
        (changed(|graph| graph.inputs.push(value("mask", FLOAT32, &[1]))), "2 inputs (x, mask)"),
        (changed(|graph| graph.outputs.push(value("flat", FLOAT32, &[-1, 3]))), "2 outputs (y, flat)"),
        (changed(|graph| graph.outputs.clear()), "has no output"),
        (changed(|graph| graph.inputs[0].of = None), "x is no tensor"),
        (input(10, &[-1, 3, 4, 4]), "elements of float16"),
        (input(2, &[-1, 3, 4, 4]), "elements of uint8"),
        (input(7, &[-1, 3, 4, 4]), "elements of int64"),
        (input(99, &[-1, 3, 4, 4]), "elements of type 99"),
        (input(FLOAT32, &[-1, 4, 4, 3]), "[n, 4, 4, 3]; its channels are last"),
        (input(FLOAT32, &[-1, 1, 4, 4]), "3 channels"),
        (input(FLOAT32, &[-1, 3, 4, 5]), "square"),
        (input(FLOAT32, &[3, 4, 4]), "[n, 3, side, side]"),
        (input(FLOAT32, &[65, 3, 4, 4]), "1 to 64"),
        (input(FLOAT32, &[0, 3, 4, 4]), "1 to 64"),
        (input(FLOAT32, &[-1, 3, i64::MAX, i64::MAX]), "1 to 4096 pixels"),
        (changed(|graph| graph.outputs[0] = value("y", 10, &[-1, 2])), "output y has elements of float16"),
    ] {
        let refused = Saved::new(&model).refusal();
        assert!(refused.contains(expected) && refused.contains("means.onnx"), "{expected}: {refused}");
    }
}

#[test]
fn a_network_that_cannot_be_computed_is_refused_with_a_reason() {
    let mut future = network();
    future.operator_sets[0].version = 9999;
    let mut newer = network();
    newer.ir_version = 9999;
    for (model, expected) in [
        (changed(|graph| graph.nodes[1].operator = "NoSuchOperator".into()), "NoSuchOperator"),
        (changed(|graph| graph.nodes[1].domain = "com.example".into()), "com.example"),
        (changed(|graph| graph.nodes[1].inputs[0] = "y".into()), "acyclic"),
        (changed(|graph| graph.nodes[1].inputs[0] = "missing".into()), "missing"),
        (changed(|graph| graph.nodes.remove(0).inputs.clear()), "mean"),
        (changed(|graph| graph.initializers[0].shape = vec![3, 1 << 60]), "w"),
        (changed(|graph| graph.initializers[0].shape = vec![3, -2]), "dimensions"),
        (changed(|graph| graph.initializers[0].numbers = bytes(&WEIGHTS[..5])), "w"),
        (changed(|graph| graph.initializers[0].element = 99), "w"),
        (changed(|graph| graph.outputs[0].name = "nowhere".into()), "nowhere"),
        (future, "9999"),
        (newer, "9999"),
    ] {
        let refused = Saved::new(&model).refusal();
        assert!(refused.contains(expected) && refused.lines().count() == 1, "{expected}: {refused}");
    }
}

#[test]
fn a_network_without_a_row_of_logits_for_each_image_is_refused() {
    let images = changed(|graph| {
        graph.nodes = vec![node("Relu", &["x"], &["y"])];
        graph.outputs[0] = value("y", FLOAT32, &[-1, 3, 4, 4]);
    });
    let sums = changed(|graph| {
        graph.nodes.push(node("ReduceSum", &["y"], &["sum"]));
        graph.outputs[0] = value("sum", FLOAT32, &[1, 1]);
    });
    for (model, shape) in [(images, "[2, 3, 4, 4]"), (sums, "[1, 1]")] {
        let refused = Saved::new(&model).refusal();
        assert!(refused.contains("[2, classes]") && refused.contains(shape), "{refused}");
    }
}

/// The network with its weights in the file `location`.
fn external(location: &str, offset: usize) -> Model {
    changed(|graph| {
        let entries = vec![entry("location", location), entry("offset", &offset.to_string()), entry("length", "24")];
        graph.initializers[0] =
            Tensor { numbers: Bytes::new(), external: entries, location: 1, ..graph.initializers[0].clone() };
    })
}

#[test]
fn weights_are_read_from_files_beside_the_network() {
    for (name, offset) in [("means.onnx.data", 0), ("weights/data", 8)] {
        let saved = Saved::new(&external(name, offset));
        let path = saved.folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("the file is in a folder")).expect("created");
        std::fs::write(&path, [vec![0; offset], bytes(&WEIGHTS).to_vec()].concat()).expect("written");
        assert_eq!(saved.logits(&[[1.0, 0.0, 0.5]]), Ok(vec![vec![3.0, 30.0]]));
        std::fs::write(&path, vec![0; offset + 23]).expect("written");
        let refused = saved.refusal();
        assert!(refused.contains("means.onnx"), "{refused}");
        std::fs::remove_file(&path).expect("removed");
        let refused = saved.refusal();
        assert!(refused.contains(name) && refused.contains("No such file"), "{refused}");
    }
}

#[test]
fn no_name_of_a_file_of_weights_leads_out_of_the_folder() {
    for name in ["/etc/hostname", "../means.data", "a/../../means.data", "", ".", "./..", "//etc/hostname"] {
        let saved = Saved::new(&external(name, 0));
        let refused = File::open(&saved.path).err().expect(name).to_string();
        assert!(refused.contains("no name of a file in the folder"), "{name}: {refused}");
    }
    // A folder, which is no regular file.
    let saved = Saved::new(&external("folder", 0));
    std::fs::create_dir(saved.folder.path().join("folder")).expect("created");
    assert!(saved.refusal().contains("regular file"), "{}", saved.refusal());
    let many = changed(|graph| {
        let other = |index: usize| Tensor {
            name: format!("w{index}"),
            external: vec![entry("location", &format!("{index}.data"))],
            ..Tensor::default()
        };
        graph.initializers.extend((0..65).map(other));
    });
    assert!(Saved::new(&many).refusal().contains("64 other files"));
}

#[test]
fn only_weights_of_the_main_graph_may_be_in_another_file() {
    let outside = Tensor { external: vec![entry("location", "/etc/hostname")], ..Tensor::default() };
    let constant = Attribute { name: "value".into(), tensor: Some(outside.clone()), ..Attribute::default() };
    let with = |attribute: Attribute| Node { attributes: vec![attribute], ..node("Constant", &[], &["c"]) };
    let inner = Graph { initializers: vec![outside.clone()], ..Graph::default() };
    let sparse = SparseTensor { indices: Some(outside.clone()), ..SparseTensor::default() };
    let branch = Attribute { name: "then_branch".into(), graph: Some(inner.clone()), ..Attribute::default() };
    let mut function = network();
    function.functions = vec![Function { nodes: vec![with(constant.clone())], ..Function::default() }];
    let mut training = network();
    training.training = vec![Training { algorithm: Some(inner), ..Training::default() }];
    for model in [
        changed(|graph| graph.nodes.push(with(constant.clone()))),
        changed(|graph| graph.nodes.push(with(branch))),
        changed(|graph| graph.sparse_initializers.push(sparse)),
        function,
        training,
    ] {
        let refused = Saved::new(&model).refusal();
        assert!(refused.contains("only weights may be in another file"), "{refused}");
    }
}

#[test]
fn a_missing_file_or_a_folder_is_refused_with_its_name() {
    let missing = File::open(Path::new("no/such.onnx")).err().expect("missing");
    assert!(matches!(missing, Error::Read { .. }) && missing.to_string().contains("no/such.onnx"), "{missing}");
    let folder = tempfile::tempdir().expect("a folder");
    let refused = File::open(folder.path()).err().expect("a folder").to_string();
    assert!(refused.contains("regular file"), "{refused}");
    let long = Saved::bytes(b"");
    std::fs::File::options()
        .write(true)
        .open(&long.path)
        .and_then(|file| file.set_len(3 << 30))
        .expect("a sparse file");
    assert!(long.refusal().contains("2 GiB"), "{}", long.refusal());
}

#[test]
fn damaged_files_are_refused_or_computed_but_never_end_the_process() {
    let whole = network().encode_to_vec();
    for length in 0..whole.len() {
        // A file that is cut between two fields may still be a network.
        let _ = Saved::bytes(&whole[..length]).logits(&[[1.0; 3]]);
    }
    assert!(Saved::bytes(b"").refusal().contains("no graph"));
    assert!(Saved::bytes(&whole[..whole.len() / 2]).refusal().contains("not an ONNX file"));
    for index in 0..whole.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[index] ^= mask;
            let _ = Saved::bytes(&damaged).logits(&[[1.0; 3]]);
        }
    }
}

#[test]
fn a_short_file_that_would_take_much_memory_is_refused() {
    let many = changed(|graph| graph.nodes = vec![Node::default(); 1_000_000]);
    assert!(Saved::new(&many).refusal().contains("more than a million parts"));
}

#[test]
fn graphs_inside_of_graphs_are_refused_beyond_a_depth() {
    let mut graph = network().graph.expect("a graph");
    for _ in 0..200 {
        let branch = Attribute { name: "body".into(), graph: Some(graph), ..Attribute::default() };
        let inside = Node { attributes: vec![branch], ..node("Loop", &[], &["y"]) };
        graph = Graph { nodes: vec![inside], ..Graph::default() };
    }
    let refused = Saved::new(&Model { graph: Some(graph), ..network() }).refusal();
    assert!(refused.contains("recursion limit"), "{refused}");
}
