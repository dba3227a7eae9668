//! Feeds damaged pictures through decoding and the transform, and counts what comes of it.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use replica::decode::{Error, Limits, decode};
use replica::preprocess;
use replica::transform::Transform;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Damages pictures at random and decodes them; fails if one takes too long.
#[derive(Parser)]
#[command(after_help = "Example:\n  cargo run --release --example mutate -- replica/tests/data/odd --count 100000")]
struct Args {
    /// Folder of pictures to damage
    folder: PathBuf,
    /// How many to try
    #[arg(long, default_value_t = 100_000)]
    count: u32,
    /// The same seed damages the same bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Longest that one picture may take, milliseconds
    #[arg(long, default_value_t = 1000)]
    most_ms: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let entries = std::fs::read_dir(&args.folder).with_context(|| format!("read {}", args.folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    // The order of a folder is the system's.
    paths.sort();
    let files: Vec<Vec<u8>> = paths.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    ensure!(!files.is_empty(), "{} is empty", args.folder.display());
    let mut random = ChaCha8Rng::seed_from_u64(args.seed);
    let mut outcomes: BTreeMap<String, u32> = BTreeMap::new();
    let mut slowest = Duration::ZERO;
    for _ in 0..args.count {
        let damaged = damaged(&files, &mut random);
        let started = Instant::now();
        let outcome = match decode(&damaged, Limits::default()) {
            Ok(pixels) => {
                let input = preprocess::input(&pixels, &Transform::IMAGENET);
                ensure!(input.iter().all(|number| number.is_finite()), "an input is not finite");
                "decoded".to_owned()
            }
            Err(Error::TooManyPixels { .. }) => "too many pixels".into(),
            Err(Error::UnknownFormat) => "unknown format".into(),
            Err(Error::Corrupt { format, reason }) if reason == "the decoder gave up" => format!("{format} panic"),
            Err(Error::Corrupt { format, .. }) => format!("{format} corrupt"),
        };
        slowest = slowest.max(started.elapsed());
        *outcomes.entry(outcome).or_default() += 1;
    }
    for (outcome, count) in outcomes {
        println!("{count:>8} {outcome}");
    }
    println!("slowest {} ms", slowest.as_millis());
    ensure!(slowest <= Duration::from_millis(args.most_ms), "slower than {} ms", args.most_ms);
    Ok(())
}

/// One of the files with a few bytes changed, removed, repeated or taken from another.
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
            // Headers are where the interesting bytes are.
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
