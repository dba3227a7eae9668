//! Decodes damaged images. Each must be decoded or refused within a time limit, and the model's input must have only
//! finite numbers.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use replica::decode::{ImageLimits, decode};
use replica::preprocess;
use replica::transform::Transform;
use std::path::Path;
use std::time::{Duration, Instant};

/// The number of images that are damaged and decoded.
const COUNT: u32 = 100_000;

/// The seed of the random damages. It is fixed, so that every run damages the same bytes.
const SEED: u64 = 1;

/// The longest time for one image. Each image takes milliseconds at most, so the test passes on a busy machine, too.
const MAX_TIME: Duration = Duration::from_secs(5);

#[test]
fn damaged_images_are_decoded_or_refused_in_time() {
    let files = files();
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    for number in 0..COUNT {
        let file = damaged(&files, &mut random);
        let started = Instant::now();
        if let Ok(pixels) = decode(&file, ImageLimits::default()) {
            let input = preprocess::input(&pixels, &Transform::IMAGENET);
            assert!(input.iter().all(|value| value.is_finite()), "image {number}");
        }
        assert!(started.elapsed() <= MAX_TIME, "image {number} took {:?}", started.elapsed());
    }
}

/// The image files to damage, in the order of their names.
fn files() -> Vec<Vec<u8>> {
    let folder = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let entries = |name: &str| std::fs::read_dir(folder(name)).expect("the folder can be listed");
    let entries = ["odd", "foreign"].into_iter().flat_map(entries);
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("the folder can be listed").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("the file can be read")).collect()
}

/// A random file of `files`. Some bytes are changed, removed or repeated, and some of another file are inserted.
fn damaged(files: &[Vec<u8>], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut file = files[random.random_range(0..files.len())].clone();
    for _ in 0..random.random_range(1..=8) {
        if file.len() < 2 {
            break;
        }
        let at = random.random_range(0..file.len());
        let length = random.random_range(1..=64).min(file.len() - at);
        match random.random_range(0..7) {
            0 => file[at] = random.random(),
            1 => file[at] ^= 1 << random.random_range(0..8),
            // Headers control decoding, so they are damaged more often than other bytes.
            2 => file[at.min(random.random_range(0..200))] = [0, 1, 0x7f, 0x80, 0xfe, 0xff][random.random_range(0..6)],
            3 => drop(file.drain(at..at + length)),
            4 => {
                let part = file[at..at + length].to_vec();
                file.splice(at..at, part);
            }
            5 => {
                let other = &files[random.random_range(0..files.len())];
                let from = random.random_range(0..other.len());
                let part = other[from..other.len().min(from + length)].to_vec();
                file.splice(at..at, part);
            }
            _ => file.truncate(at.max(2)),
        }
    }
    file
}
