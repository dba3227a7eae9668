//! Compares decoded and transformed pixels with those that Pillow and torchvision made of the same files
//! (`data/make.py`, `data/make_odd.py`, `data/make_foreign.py`). The files in `data/found` were found elsewhere.

use replica::decode::{Error, Image, ImageLimits, Pixels, decode};
use replica::preprocess::crop;
use replica::transform::{Interpolation, Transform};
use std::path::Path;

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn decoded(name: &str) -> Pixels {
    decode(&file(name), ImageLimits::default()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The width and height of an image, and the hash of its levels.
type PixelSummary = (u32, u32, u64);

/// Every file in `folder`, with the summary of Pillow's pixels. The summary is `None` for a file that must be refused.
fn expected(folder: &str) -> Vec<(String, Option<PixelSummary>)> {
    let text = String::from_utf8(file(&format!("{folder}/levels.txt"))).expect("text");
    let expected = |words: &[&str]| match words {
        ["refused"] => None,
        [width, height, hash] => {
            let side = |text: &str| text.parse().expect("a side");
            Some((side(width), side(height), u64::from_str_radix(hash, 16).expect("a hash")))
        }
        other => panic!("{other:?}"),
    };
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        (format!("{folder}/{}", words[0]), expected(&words[1..]))
    };
    text.lines().map(line).collect()
}

/// The FNV-1a hash of `bytes`.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The largest and the mean difference between the levels, which are 0 to 255.
fn difference(ours: &[u8], theirs: &[u8]) -> (u8, f64) {
    assert_eq!(ours.len(), theirs.len());
    let differences = ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b));
    let sum: f64 = differences.clone().map(f64::from).sum();
    (differences.max().unwrap_or(0), sum / ours.len() as f64)
}

#[test]
fn images_have_exactly_the_pixels_that_pillow_decodes() {
    let files = [expected("odd"), expected("foreign"), expected("found")].concat();
    assert!(files.len() > 300, "{} files", files.len());
    for (name, expected) in files {
        let found = decode(&file(&name), ImageLimits::default());
        let found = found.map(|pixels| (pixels.width, pixels.height, hash(&pixels.rgb)));
        match (found, expected) {
            (Ok(found), Some(expected)) => assert_eq!(found, expected, "{name}"),
            (Err(_), None) => {}
            (found, expected) => panic!("{name}: {found:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn orientation_turns_images_like_pillow_and_only_if_asked() {
    for (name, turned) in expected("oriented") {
        let file = file(&name);
        let summary = |orient: bool| {
            let limits = ImageLimits { orient, ..ImageLimits::default() };
            let pixels = decode(&file, limits).unwrap_or_else(|error| panic!("{name}: {error}"));
            (pixels.width, pixels.height, hash(&pixels.rgb))
        };
        assert_eq!(Some(summary(true)), turned, "{name}");
        // The files with the value 1 have the pixels that the others store.
        let (stored, format) = (summary(false), name.rsplit('.').next().expect("a format"));
        let upright = expected("oriented").into_iter().find(|(name, _)| *name == format!("oriented/1.{format}"));
        assert_eq!(Some(stored), upright.expect("a file with the value 1").1, "{name}");
    }
}

#[test]
fn odd_and_foreign_images_cut_anywhere_are_refused() {
    for (name, expected) in [expected("odd"), expected("foreign")].concat() {
        let whole = file(&name);
        // These files have bytes after the image, which decoding does not need.
        let longer = ["trailing", "two-pictures", "metadata", "saved.gif", "runs-skip", "runs-too-long", ".tif"];
        if expected.is_none() || longer.iter().any(|word| name.contains(word)) {
            continue;
        }
        // The last bytes of these formats are no pixels: an end mark, and the padding of a row.
        let ends_with_pixels = !name.ends_with(".gif") && !name.ends_with(".bmp");
        let lengths = (0..if ends_with_pixels { 100 } else { 90 }).step_by(7);
        let last = ends_with_pixels.then_some(whole.len() - 1);
        for length in lengths.map(|percent| whole.len() * percent / 100).chain(last) {
            assert!(decode(&whole[..length], ImageLimits::default()).is_err(), "{name} cut to {length} bytes");
        }
    }
}

#[test]
fn a_damaged_png_is_refused_before_its_pixels_are_inflated() {
    let mut damaged = file("picture.png");
    let pixels = damaged.windows(4).position(|name| name == b"IDAT").expect("a PNG has pixels") + 4;
    // Compressed data cannot begin with this byte, so inflating it would give another error.
    damaged[pixels] = 0xff;
    let refused = decode(&damaged, ImageLimits::default()).expect_err("damaged").to_string();
    assert!(refused.contains("a checksum differs"), "{refused}");
}

#[test]
fn the_error_message_names_the_defect_of_the_file() {
    for (name, reason) in [
        ("odd/lossless.jpg", "lossless JPEG is not supported"),
        ("odd/deep.jpg", "12 bits per sample"),
        ("odd/no-height.jpg", "45x0 pixels"),
        ("odd/two.jpg", "2 colour channels"),
        ("odd/no-end.jpg", "cut short"),
        ("odd/half-and-end.jpg", "coded data is missing"),
        ("odd/lost-restart.jpg", "restart markers are missing"),
        ("odd/no-end.png", "cut short"),
        ("odd/checksum.png", "a checksum differs"),
        ("odd/short.webp", "cut short"),
        ("foreign/progressive-420-gap.jpg", "out of order"),
        ("foreign/progressive-420-half-scan.jpg", "coded data is missing"),
        ("foreign/progressive-script-no-red.jpg", "scans are missing"),
        ("foreign/arithmetic-half.jpg", "coded data is missing"),
        ("foreign/half-lossy.webp", "Corrupt bitstream"),
        ("foreign/fewer-rows.png", "not have enough data"),
    ] {
        let refused = decode(&file(name), ImageLimits::default()).expect_err(name).to_string();
        assert!(refused.contains(reason), "{name}: {refused}");
    }
}

#[test]
fn transformed_pixels_differ_from_torchvisions_by_at_most_two_levels() {
    let ours = crop(&decoded("picture.png"), &Transform::IMAGENET);
    let (largest, _) = difference(&ours, &decoded("picture-224.png").rgb);
    assert!(largest <= 1, "enlarged: {largest} levels");
    let ours = crop(&decoded("large.jpg"), &Transform::IMAGENET);
    let (largest, mean) = difference(&ours, &decoded("large-224.png").rgb);
    assert!(largest <= 2 && mean < 0.5, "reduced: {largest} levels at most, {mean:.3} on average");

    for (resize, side, interpolation, name) in [
        (96, 64, Interpolation::Bicubic, "bicubic"),
        (200, 64, Interpolation::Bicubic, "bicubic"),
        (96, 64, Interpolation::Nearest, "nearest"),
        (60, 80, Interpolation::Bilinear, "bilinear"),
        (40, 80, Interpolation::Bicubic, "bicubic"),
    ] {
        let transform = Transform { resize, crop: side, interpolation, ..Transform::IMAGENET };
        let ours = crop(&decoded("picture.png"), &transform);
        let theirs = decoded(&format!("odd/{resize}-{side}-{name}.crop.png")).rgb;
        let (largest, _) = difference(&ours, &theirs);
        let allowed = if interpolation == Interpolation::Nearest { 0 } else { 2 };
        assert!(largest <= allowed, "{resize} {side} {name}: {largest} levels");
    }
}

#[test]
fn every_kind_of_image_file_becomes_rgb() {
    for name in ["grey.jpg", "cmyk.jpg", "progressive.jpg", "palette.png", "alpha.png", "lossless.webp"] {
        let pixels = decoded(name);
        assert_eq!((pixels.width, pixels.height, pixels.rgb.len()), (120, 90, 3 * 120 * 90), "{name}");
    }
    let exact = |name: &str| decoded(name).rgb;
    assert_eq!(exact("alpha.png"), exact("lossless.webp"), "both files have the same image");
    let grey = decoded("grey.jpg").rgb;
    assert!(grey.chunks_exact(3).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    for name in ["large.jpg", "progressive.jpg", "picture.png", "alpha.png", "lossless.webp"] {
        let whole = file(name);
        for percent in (0..100).step_by(3).chain([98, 99]) {
            let cut = &whole[..whole.len() * percent / 100];
            assert!(decode(cut, ImageLimits::default()).is_err(), "{name} cut to {percent} %");
        }
    }
}

#[test]
fn images_with_too_many_pixels_are_refused() {
    for name in ["bomb.jpg", "bomb.png"] {
        match decode(&file(name), ImageLimits::default()) {
            Err(Error::TooManyPixels { width: 20_000, height: 20_000, .. }) => {}
            other => panic!("{name}: {:?}", other.map(|pixels| (pixels.width, pixels.height))),
        }
    }
    let frame = [&b"VP8 \x0a\0\0\0"[..], &[0x10, 0, 0, 0x9d, 0x01, 0x2a, 0xff, 0x3f, 0xff, 0x3f]].concat();
    let refused = decode(&[&b"RIFF\x16\0\0\0WEBP"[..], &frame].concat(), ImageLimits::default());
    assert!(matches!(refused, Err(Error::TooManyPixels { width: 16383, height: 16383, .. })), "{refused:?}");
    // The canvas has 1x1 pixels, and the frame 16383x16383.
    let canvas = [&b"VP8X\x0a\0\0\0"[..], &[0; 10]].concat();
    let refused = decode(&[&b"RIFF\x28\0\0\0WEBP"[..], &canvas, &frame].concat(), ImageLimits::default());
    assert!(refused.is_err_and(|error| error.to_string().contains("does not fit its canvas")));
    // The first frame of the animation has one pixel, and the canvas 7071x7071.
    let side = &7070_u32.to_le_bytes()[..3];
    let canvas = [&b"VP8X\x0a\0\0\0\x02\0\0\0"[..], side, side].concat();
    let frame = [&b"ANMF\x1e\0\0\0"[..], &[0; 16], b"VP8L\x05\0\0\0\x2f\0\0\0\0\0"].concat();
    let refused = decode(&[&b"RIFF\x3c\0\0\0WEBP"[..], &canvas, &frame].concat(), ImageLimits::default());
    assert!(matches!(refused, Err(Error::TooManyPixels { width: 7071, height: 7071, .. })), "{refused:?}");
    for (width, height) in [(65_536, 1), (1, 65_536)] {
        let refused = decode(&png_of_zeros(width, height), ImageLimits::default());
        assert!(matches!(refused, Err(Error::TooLong { .. })), "{refused:?}");
    }
    assert!(decode(&png_of_zeros(65_535, 1), ImageLimits::default()).is_ok());
}

/// A grey PNG of one bit for each pixel.
fn png_of_zeros(width: u32, height: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut writer = png::Encoder::new(&mut file, width, height);
    writer.set_color(png::ColorType::Grayscale);
    writer.set_depth(png::BitDepth::One);
    let mut writer = writer.write_header().expect("a PNG");
    writer.write_image_data(&vec![0; width.div_ceil(8) as usize * height as usize]).expect("a PNG");
    writer.finish().expect("a PNG");
    file
}

#[test]
fn images_that_need_more_memory_than_all_decoders_have_are_refused() {
    // An image takes more if it is progressive, interlaced or a part of a larger animation.
    for (small, large) in [
        ("odd/33x31-0.jpg", "odd/33x31-0p.jpg"),
        ("odd/6-16.png", "odd/6-16-interlaced.png"),
        ("foreign/flag-all-lossy.webp", "foreign/animation-wide-lossy.webp"),
    ] {
        let bytes = |name: &str| Image::read(&file(name), ImageLimits::default()).expect(name).memory_bytes();
        assert!(bytes(small) < bytes(large), "{small}");
        let limits = ImageLimits { memory_bytes: bytes(small), ..ImageLimits::default() };
        assert!(decode(&file(small), limits).is_ok());
        match decode(&file(large), limits) {
            Err(error @ Error::TooMuchMemory { .. }) => {
                assert!(error.to_string().contains(&format!("over the limit of {} bytes", bytes(small))), "{error}");
            }
            other => panic!("{large}: {other:?}"),
        }
    }
}

#[test]
fn tiles_of_each_colour_may_be_larger_than_the_image() {
    // 17 rows in two tiles of 16×16 for each colour.
    let tags: [(u16, u32, u32); 11] = [
        (256, 1, 16),
        (257, 1, 17),
        (258, 3, 146),
        (259, 1, 1),
        (262, 1, 2),
        (277, 1, 3),
        (284, 1, 2),
        (322, 1, 16),
        (323, 1, 16),
        (324, 6, 154),
        (325, 6, 178),
    ];
    let mut file = b"II\x2a\0\x08\0\0\0\x0b\0".to_vec();
    for (tag, count, value) in tags {
        let kind = if tag == 258 { 3_u16 } else { 4 };
        file.extend([tag, kind].map(u16::to_le_bytes).concat());
        file.extend([count, value].map(u32::to_le_bytes).concat());
    }
    file.extend([0; 4]);
    file.extend([8_u16, 8, 8, 0].map(u16::to_le_bytes).concat());
    file.extend([0, 1, 2, 3, 4, 5].map(|tile: u32| (202 + 256 * tile).to_le_bytes()).concat());
    file.extend([256_u32; 6].map(u32::to_le_bytes).concat());
    assert_eq!(file.len(), 202);
    file.extend([10, 11, 20, 21, 30, 31].map(|level| [level; 256]).concat());
    let pixels = decode(&file, ImageLimits::default()).expect("an image");
    assert_eq!(pixels.rgb, [[10, 20, 30].repeat(16 * 16), [11, 21, 31].repeat(16)].concat());
}

#[test]
fn a_turned_image_takes_six_bytes_for_each_pixel_or_those_of_decoding_if_they_are_more() {
    // The chunk says that the picture is turned by a quarter.
    let checked = b"eXIfII\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let length = checked.len() as u32 - 4;
    let chunk = [&length.to_be_bytes()[..], checked, &crc32fast::hash(checked).to_be_bytes()].concat();
    let mut large = png_of_zeros(2000, 1000);
    large.splice(33..33, chunk);
    for (file, pixels, is_more) in [(large, 2_000_000, true), (file("oriented/6.webp"), 1, false)] {
        let bytes = |orient: bool| {
            let limits = ImageLimits { orient, ..ImageLimits::default() };
            Image::read(&file, limits).expect("an image").memory_bytes()
        };
        let expected = if is_more { 6 * pixels + file.len() as u64 } else { bytes(false) };
        assert_eq!(bytes(true), expected);
        assert_eq!(bytes(true) > bytes(false), is_more);
    }
}

/// A progressive JPEG of one component, with `side` by `side` pixels and `scans` scans without data.
fn many_scans(scans: usize, side: u16) -> Vec<u8> {
    let [high, low] = side.to_be_bytes();
    let frame = [0xff, 0xc2, 0, 11, 8, high, low, high, low, 1, 1, 0x11, 0];
    let scan = [0xff, 0xda, 0, 8, 1, 1, 0, 0, 0, 0, 0];
    [&[0xff, 0xd8][..], &frame, &scan.repeat(scans), &[0xff, 0xd9]].concat()
}

#[test]
fn too_many_scans_are_refused_before_any_is_decoded() {
    for (scans, side, reason) in [
        (101, 8, "more than 100 scans"),
        (1_000_000, 8, "more than 100 scans"),
        (30, 7000, "30 scans of 7000x7000 pixels are too much"),
    ] {
        let refused = decode(&many_scans(scans, side), ImageLimits::default()).expect_err("refused").to_string();
        assert!(refused.contains(reason), "{refused}");
    }
    let accepted = decode(&many_scans(100, 8), ImageLimits::default()).expect_err("the scans are empty").to_string();
    assert!(!accepted.contains("scans are too much") && !accepted.contains("more than"), "{accepted}");
}

/// A grey baseline JPEG of `side` by `side` pixels. `before` comes ahead of its three segments, and `data` is the
/// scan's. With the end marker, the decoder counts four segments.
fn grey(side: u8, before: &[u8], data: &[u8]) -> Vec<u8> {
    let quantisation = [&[0xff, 0xdb, 0, 67, 0][..], &[1; 64]].concat();
    let frame = [0xff, 0xc0, 0, 11, 8, 0, side, 0, side, 1, 1, 0x11, 0];
    let scan = [0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0];
    [&[0xff, 0xd8][..], before, &quantisation, &frame, &scan, data, &[0xff, 0xd9]].concat()
}

#[test]
fn more_segments_or_tables_than_an_image_needs_are_refused() {
    // The codes of the standard for a difference of 0 (00) and for the end of a block (1010), and two bits that fill
    // the byte.
    const BLOCK: u8 = 0b0010_1011;
    let before = |segment: &[u8], count: usize| grey(8, &segment.repeat(count), &[BLOCK]);
    let huffman = [&[0xff, 0xc4, 0, 20, 3, 1][..], &[0; 16]].concat();
    let quantisation = [&[0xff, 0xdb, 0, 67, 3][..], &[1; 64]].concat();
    for (file, reason) in [
        (before(b"\xff\xfe\0\x02", 9_996), None),
        (before(b"\xff\xfe\0\x02", 9_997), Some("more than 10000 segments")),
        (before(b"\xff\x01", 9_997), Some("more than 10000 segments")),
        (before(b"\xff\xdd\0\x04\0\0", 9_997), Some("more than 10000 segments")),
        // The contents of each segment with a Huffman table are 18 bytes. The image's own tables are 65 bytes.
        (before(&huffman, 7_278), None),
        (before(&huffman, 7_279), Some("more than 131072 bytes of tables")),
        (before(&quantisation, 2_015), None),
        (before(&quantisation, 2_016), Some("more than 131072 bytes of tables")),
        // Fill bytes and restart markers between segments do not count as segments.
        (before(b"\xff\0", 100_000), None),
        (before(b"\xff\xd0", 100_000), None),
    ] {
        let refused = decode(&file, ImageLimits::default()).err().map(|error| error.to_string());
        let start = &file[..40];
        match (&refused, reason) {
            (None, None) => {}
            (Some(refused), Some(reason)) if refused.contains(reason) => {}
            _ => panic!("{refused:?} instead of {reason:?} for {} bytes from {start:02x?}", file.len()),
        }
    }
}

#[test]
fn bytes_after_the_last_block_of_a_scan_are_skipped() {
    const BLOCK: u8 = 0b0010_1011;
    let clean = decode(&grey(8, &[], &[BLOCK]), ImageLimits::default()).expect("an image");
    for padding in [&[0][..], &[0xff], &[0xff, 0], &[0xff, 0xd0], b"text"] {
        for count in [1, 5000, 1_000_000] {
            let data = [&[BLOCK][..], &padding.repeat(count)].concat();
            let found = decode(&grey(8, &[], &data), ImageLimits::default());
            assert_eq!(found.ok(), Some(clean.clone()), "{count} times {padding:x?}");
        }
    }
}

#[test]
fn blocks_of_the_greatest_length_are_decoded() {
    // The table has one code of each length, and two of sixteen bits. The code of sixteen ones is the symbol for a
    // number of fifteen bits, so data of ones is a sequence of the longest codes and numbers.
    let table = |class: u8| [&[0xff, 0xc4, 0, 36, class << 4][..], &[1; 15], &[2], &[15; 17]].concat();
    let block = [0xff, 0].repeat(64 * (16 + 15) / 8);
    let found = decode(&grey(248, &[table(0), table(1)].concat(), &block.repeat(31 * 31)), ImageLimits::default());
    assert!(found.is_ok(), "{:?}", found.err());
}

#[test]
fn other_files_are_refused_and_damaged_files_cause_no_panic() {
    for bytes in [&b""[..], b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x04\0\0\0WEBP", b"GIF89a", b"BM"] {
        assert!(decode(bytes, ImageLimits::default()).is_err(), "{bytes:?}");
    }
    // Each of the first 700 bytes of a small file is damaged in turn. The result may be an error or an image.
    for name in ["progressive.jpg", "palette.png", "lossless.webp"] {
        let whole = file(name);
        for index in 0..whole.len().min(700) {
            let mut damaged = whole.clone();
            damaged[index] ^= 0xff;
            let _image_or_error = decode(&damaged, ImageLimits { max_pixels: 1_000_000, ..ImageLimits::default() });
        }
    }
}
