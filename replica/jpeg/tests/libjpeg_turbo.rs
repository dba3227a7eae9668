//! Decodes random JPEG files, and compares the pixels with those of libjpeg-turbo. A file that is cut short must be
//! refused, or have the same pixels.

use jpeg::JpegFile;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use turbojpeg::{Compressor, Image, PixelFormat, Subsamp};

/// The number of files of each test.
const COUNT: u32 = 1500;

/// The seed of the random files. It is fixed, so that every run has the same files.
const SEED: u64 = 1;

/// A random picture: gradients, a pattern and noise, from none to nothing else.
struct Picture {
    width: u16,
    height: u16,
    rgb: Vec<u8>,
}

impl Picture {
    fn random(random: &mut ChaCha8Rng) -> Self {
        let (width, height) = (random.random_range(1..=90_u16), random.random_range(1..=90_u16));
        let (noise, period) = ([0, 8, 60, 255][random.random_range(0..4)], random.random_range(2..=40_u16));
        let mut rgb = Vec::new();
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            let pattern = if (x / period + y / period).is_multiple_of(2) { 200 } else { 30 };
            for level in [u32::from(x) * 255 / u32::from(width), u32::from(y) * 255 / u32::from(height), pattern] {
                rgb.push((level + random.random_range(0..=noise)).min(255) as u8);
            }
        }
        Self { width, height, rgb }
    }
}

/// A file of the crate `jpeg-encoder`, which has all kinds of sampling, scans and restart markers.
fn with_jpeg_encoder(random: &mut ChaCha8Rng) -> (String, Vec<u8>) {
    const SAMPLING: [SamplingFactor; 9] = [
        SamplingFactor::F_1_1,
        SamplingFactor::F_2_1,
        SamplingFactor::F_1_2,
        SamplingFactor::F_2_2,
        SamplingFactor::F_4_1,
        SamplingFactor::F_4_2,
        SamplingFactor::F_1_4,
        SamplingFactor::F_2_4,
        SamplingFactor::R_4_4_4,
    ];
    let picture = Picture::random(random);
    let quality = random.random_range(1..=100);
    let sampling = SAMPLING[random.random_range(0..SAMPLING.len())];
    let (scans, interval) = (random.random_range(0..=20), random.random_range(0..=9));
    let optimised = random.random();
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, quality);
    encoder.set_sampling_factor(sampling);
    encoder.set_optimized_huffman_tables(optimised);
    if scans >= 2 {
        encoder.set_progressive_scans(scans);
    }
    if interval > 0 {
        encoder.set_restart_interval(interval);
    }
    encoder.encode(&picture.rgb, picture.width, picture.height, ColorType::Rgb).expect("an image");
    let (width, height) = (picture.width, picture.height);
    (format!("{width}x{height}, {quality}, {sampling:?}, {scans} scans, restart {interval}, {optimised}"), file)
}

/// A file of libjpeg-turbo, which refines coefficients in progressive files, and has arithmetic coding.
fn with_libjpeg_turbo(random: &mut ChaCha8Rng) -> (String, Vec<u8>) {
    const SAMPLING: [Subsamp; 7] = [
        Subsamp::None,
        Subsamp::Sub2x1,
        Subsamp::Sub2x2,
        Subsamp::Gray,
        Subsamp::Sub1x2,
        Subsamp::Sub4x1,
        Subsamp::Sub1x4,
    ];
    let picture = Picture::random(random);
    let (quality, sampling) = (random.random_range(1..=100), SAMPLING[random.random_range(0..SAMPLING.len())]);
    let (progressive, arithmetic, optimised) = (random.random(), random.random(), random.random());
    let mut compressor = Compressor::new().expect("libjpeg-turbo");
    compressor.set_quality(quality).expect("a quality");
    compressor.set_subsamp(sampling).expect("a sampling");
    compressor.set_progressive(progressive).expect("a mode");
    compressor.set_arithmetic(arithmetic).expect("a mode");
    compressor.set_optimize(optimised).expect("a mode");
    let (width, height) = (picture.width.into(), picture.height.into());
    let image = Image { pixels: &picture.rgb[..], width, pitch: 3 * width, height, format: PixelFormat::RGB };
    let file = compressor.compress_to_vec(image).expect("an image");
    (format!("{width}x{height}, {quality}, {sampling:?}, progressive {progressive}, arithmetic {arithmetic}"), file)
}

fn ours(file: &[u8]) -> Result<Vec<u8>, jpeg::Error> {
    JpegFile::read(file, u64::MAX)?.decode()
}

fn theirs(file: &[u8]) -> Result<Vec<u8>, turbojpeg::Error> {
    turbojpeg::decompress(file, PixelFormat::RGB).map(|image| image.pixels)
}

/// A random file of either encoder.
fn random_file(number: u32, random: &mut ChaCha8Rng) -> (String, Vec<u8>) {
    if number.is_multiple_of(2) { with_jpeg_encoder(random) } else { with_libjpeg_turbo(random) }
}

#[test]
fn random_files_have_the_pixels_of_libjpeg_turbo() {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut equal = 0;
    for number in 0..COUNT {
        let (name, file) = random_file(number, &mut random);
        // The crate jpeg-encoder counts some restart intervals wrongly, of which libjpeg-turbo warns.
        let Ok(theirs) = theirs(&file) else { continue };
        assert!(ours(&file).is_ok_and(|ours| ours == theirs), "file {number}: {name}");
        equal += 1;
    }
    assert!(equal > COUNT * 8 / 10, "{equal} of {COUNT}");
}

#[test]
fn files_that_are_cut_short_are_refused_or_have_the_same_pixels() {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut refused = 0;
    for number in 0..COUNT {
        let (name, file) = random_file(number, &mut random);
        let cut = &file[..random.random_range(2..file.len() - 2)];
        assert!(ours(cut).is_err(), "file {number}: {name}, cut to {} bytes", cut.len());
        // With an end marker, the file may be a progressive one without its last scans.
        let ended = [cut, &[0xff, 0xd9]].concat();
        match ours(&ended) {
            // libjpeg-turbo's interface has no pixels of a file of which it warns.
            Ok(ours) => assert!(theirs(&ended).map_or(true, |theirs| theirs == ours), "file {number}: {name}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > COUNT * 8 / 10, "{refused} of {COUNT}");
}
