use super::*;
use crate::model::stored_tensor::Storage;

// torch has written these files; see `tests/data/make.py`.
const ORDERED: &[u8] = include_bytes!("../../../tests/data/ordered.pth");
const PLAIN: &[u8] = include_bytes!("../../../tests/data/plain.pth");
const LEGACY: &[u8] = include_bytes!("../../../tests/data/legacy.pth");
const LEGACY_4: &[u8] = include_bytes!("../../../tests/data/legacy-4.pth");
const PROTOCOL_4: &[u8] = include_bytes!("../../../tests/data/protocol-4.pth");
const PROTOCOL_5: &[u8] = include_bytes!("../../../tests/data/protocol-5.pth");
const LONG_NAME: &[u8] = include_bytes!("../../../tests/data/name-of-21-characters.pth");
const CHECKPOINT: &[u8] = include_bytes!("../../../tests/data/checkpoint.pth");
const CHECKPOINT_LEGACY: &[u8] = include_bytes!("../../../tests/data/checkpoint-legacy.pth");
const MODULE: &[u8] = include_bytes!("../../../tests/data/module.pth");
const MODULE_WITHIN: &[u8] = include_bytes!("../../../tests/data/module-within.pth");

/// A tensor of the file: its name after `layer1.0.`, its shape and its numbers.
fn tensors(file: &[u8], key: Option<&str>) -> Vec<(String, StoredTensor)> {
    let (_, tensors) = read(file, key).expect("the file has weights");
    let short = |(name, tensor): (String, StoredTensor)| (name.replace("layer1.0.", ""), tensor);
    tensors.into_iter().map(short).collect()
}

fn stored(shape: &[usize], numbers: &[f32]) -> StoredTensor {
    StoredTensor { shape: shape.to_vec(), numbers: Ok(numbers.to_vec()) }
}

#[test]
fn every_format_that_torch_writes_is_read() {
    for (name, file) in [
        ("OrderedDict", ORDERED),
        ("dict", PLAIN),
        ("older format", LEGACY),
        ("older format, protocol 4", LEGACY_4),
        ("protocol 4", PROTOCOL_4),
        ("protocol 5", PROTOCOL_5),
        ("file name of 21 characters", LONG_NAME),
        ("checkpoint", CHECKPOINT),
        ("checkpoint in the older format", CHECKPOINT_LEGACY),
    ] {
        let expected = [
            ("single", stored(&[2, 2], &[1.0, -2.5, 3.25, 0.0])),
            ("half", stored(&[2], &[0.5, -0.25])),
            ("bfloat", stored(&[2], &[2.0, -8.0])),
            ("double", stored(&[2], &[0.5, 4.0])),
            ("counter", StoredTensor { shape: vec![], numbers: Err("Long".into()) }),
            ("tail", stored(&[2], &[4.0, 5.0])),
            ("strided", stored(&[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0])),
            ("parameter", stored(&[1], &[7.0])),
            ("again", stored(&[6], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])),
        ];
        assert_eq!(tensors(file, None), expected.map(|(name, tensor)| (name.to_owned(), tensor)), "{name}");
    }
}

#[test]
fn a_moving_average_is_read_only_if_it_is_named() {
    let averaged = tensors(CHECKPOINT, Some("ema"));
    assert_eq!(averaged[0].1, stored(&[2, 2], &[2.0, -1.5, 4.25, 1.0]));
    let (chosen, _) = read(CHECKPOINT, None).expect("the file has weights");
    assert_eq!((chosen.place.as_str(), chosen.others), ("state_dict", vec!["ema.module".to_owned()]));
}

#[test]
fn other_files_are_refused_with_a_hint() {
    for (file, expected) in [
        (MODULE, "class torch.nn.modules.linear.Linear"),
        (MODULE_WITHIN, "class torch.nn.modules.linear.Linear"),
        (b"hello", "neither the zip format"),
        (b"PK", "damaged zip file"),
        (b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.", "neither the zip format"),
    ] {
        let refused = read(file, None).expect_err("refused").to_string();
        assert!(refused.contains(expected), "{refused}");
    }
}

#[test]
fn damaged_files_do_not_panic() {
    for file in [ORDERED, LEGACY, CHECKPOINT_LEGACY] {
        for length in 0..file.len() {
            let _result_or_error = read(&file[..length], None);
        }
        for index in 0..file.len() {
            let mut damaged = file.to_vec();
            damaged[index] ^= 0x5a;
            let _result_or_error = read(&damaged, None);
        }
    }
}

#[test]
fn a_small_file_does_not_become_a_large_model() {
    let class = Global { module: "torch", name: "FloatStorage" };
    let storage = Storage::new("0", class).expect("a class of torch");
    let numbers = [0; 100];
    let copy = |count: usize, strides: &[i64]| {
        let view = View::new(storage, 0, &[25], strides).expect("well formed");
        let views: Vec<(&str, &View<'_>)> = (0..count).map(|_| ("a", &view)).collect();
        copy_tensors(&views, |_| Some(&numbers[..]))
    };
    assert_eq!(copy(4, &[1]).expect("shared four times").len(), 4);
    assert!(copy(5, &[1]).is_err());
    assert!(copy(5, &[0]).expect_err("too large").to_string().contains("4 times"));
}

#[test]
fn dicts_within_dicts_are_searched_up_to_a_limit() {
    // `{"a": {"a": … {"layer1.0.x": 1}}}` has no tensors, and neither a circle nor many dicts take long.
    let inner = [b"}X\x01\x00\x00\x00a".repeat(50_000), b"N".to_vec(), b"s".repeat(50_000), b".".to_vec()].concat();
    let many = [b"}(".to_vec(), b"X\x01\x00\x00\x00a}".repeat(50_000), b"u.".to_vec()].concat();
    let circle = b"}q\x00X\x01\x00\x00\x00ah\x00s.".to_vec();
    for program in [inner, many, circle] {
        let pickle = Pickle::read(&program).expect("well formed");
        assert!(views(&pickle, None).expect_err("no tensors").to_string().contains("no tensors with names"));
    }
}
