//! Decoding and transforming, compared with what PIL and torchvision made of the same files (`data/make.py`).

use replica::decode::{Error, Limits, Pixels, decode};
use replica::preprocess::{Transform, crop};
use std::path::Path;

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn picture(name: &str) -> Pixels {
    decode(&file(name), Limits::default()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Largest and mean difference, levels of 255.
fn difference(ours: &[u8], theirs: &[u8]) -> (u8, f64) {
    assert_eq!(ours.len(), theirs.len());
    let differences = ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b));
    let sum: f64 = differences.clone().map(f64::from).sum();
    (differences.max().unwrap_or(0), sum / ours.len() as f64)
}

#[test]
fn the_transform_is_torchvisions() {
    let ours = crop(&picture("picture.png"), Transform::IMAGENET);
    let (largest, _) = difference(&ours, &picture("picture-224.png").rgb);
    assert!(largest <= 1, "enlarged: {largest} levels");

    // A JPEG also passes through two different decoders, which may round differently.
    let ours = crop(&picture("large.jpg"), Transform::IMAGENET);
    let (largest, mean) = difference(&ours, &picture("large-224.png").rgb);
    assert!(largest <= 4 && mean < 0.5, "reduced: {largest} levels at most, {mean:.3} on average");
}

#[test]
fn every_kind_of_file_becomes_rgb() {
    for name in ["grey.jpg", "cmyk.jpg", "progressive.jpg", "palette.png", "alpha.png", "lossless.webp"] {
        let pixels = picture(name);
        assert_eq!((pixels.width, pixels.height, pixels.rgb.len()), (120, 90, 3 * 120 * 90), "{name}");
    }
    let exact = |name: &str| picture(name).rgb;
    assert_eq!(exact("alpha.png"), exact("lossless.webp"), "both hold the same picture");
    let grey = picture("grey.jpg").rgb;
    assert!(grey.chunks_exact(3).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]));
}

#[test]
fn a_file_cut_short_is_an_error_wherever_it_is_cut() {
    for name in ["large.jpg", "progressive.jpg", "picture.png", "alpha.png", "lossless.webp"] {
        let whole = file(name);
        for percent in (0..100).step_by(3).chain([98, 99]) {
            let cut = &whole[..whole.len() * percent / 100];
            assert!(decode(cut, Limits::default()).is_err(), "{name} cut to {percent} %");
        }
    }
}

#[test]
fn bombs_are_refused_by_their_header() {
    for name in ["bomb.jpg", "bomb.png"] {
        match decode(&file(name), Limits::default()) {
            Err(Error::TooManyPixels { width: 20_000, height: 20_000, .. }) => {}
            other => panic!("{name}: {:?}", other.map(|pixels| (pixels.width, pixels.height))),
        }
    }
    // A canvas of 1x1 around a frame of 16383x16383.
    let canvas = [&b"VP8X\x0a\0\0\0"[..], &[0; 10]].concat();
    let frame = [&b"VP8 \x0a\0\0\0"[..], &[0x10, 0, 0, 0x9d, 0x01, 0x2a, 0xff, 0x3f, 0xff, 0x3f]].concat();
    let bomb = [&b"RIFF\x2e\0\0\0WEBP"[..], &canvas, &frame].concat();
    let refused = decode(&bomb, Limits::default());
    assert!(matches!(refused, Err(Error::TooManyPixels { width: 16383, height: 16383, .. })), "{refused:?}");
    // Few pixels, but eight bytes for each.
    let mut deep = Vec::new();
    let picture = image::ImageBuffer::<image::Rgba<u16>, _>::new(100, 100);
    picture.write_to(&mut std::io::Cursor::new(&mut deep), image::ImageFormat::Png).expect("a PNG");
    assert!(decode(&deep, Limits { max_pixels: 20_000 }).is_ok());
    assert!(matches!(decode(&deep, Limits { max_pixels: 19_999 }), Err(Error::TooManyPixels { .. })));
}

#[test]
fn what_is_no_picture_is_an_error() {
    for bytes in [&b""[..], b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x04\0\0\0WEBP", b"GIF89a"] {
        assert!(decode(bytes, Limits::default()).is_err(), "{bytes:?}");
    }
    // Every header byte of a small file, damaged in turn: an error or some picture, never a panic.
    for name in ["progressive.jpg", "palette.png", "lossless.webp"] {
        let whole = file(name);
        for index in 0..whole.len().min(700) {
            let mut damaged = whole.clone();
            damaged[index] ^= 0xff;
            let _either = decode(&damaged, Limits { max_pixels: 1_000_000 });
        }
    }
}
