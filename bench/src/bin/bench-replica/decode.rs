//! Times what comes before the model when told to: a file's bytes → normalised numbers. `bench/decode.py` answers the same
//! lines, with PIL and torchvision.

use anyhow::{Context, Result};
use clap::Parser;
use replica::transform::Transform;
use replica::{decode, preprocess};
use std::path::PathBuf;
use std::time::Instant;

/// Answers lines on standard input: "time INDEX REPEATS" with milliseconds.
#[derive(Parser)]
struct Args {
    /// JPEG, PNG or WebP files, numbered from 0
    files: Vec<PathBuf>,
}

fn main() -> Result<()> {
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let files = Args::parse().files.iter().map(read).collect::<Result<Vec<_>>>()?;
    println!("ready replica");
    for line in std::io::stdin().lines() {
        let line = line?;
        let numbers: Vec<usize> = line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
        let &[index, repeats] = &numbers[..] else { anyhow::bail!("time INDEX REPEATS, not {line:?}") };
        let file = files.get(index).with_context(|| format!("there is no file {index}"))?;
        let times = (0..repeats).map(|_| time(file).map(|milliseconds| format!("{milliseconds:.6}")));
        println!("{}", times.collect::<Result<Vec<_>>>()?.join(" "));
    }
    Ok(())
}

fn time(file: &[u8]) -> Result<f64> {
    let start = Instant::now();
    let pixels = decode::decode(file, decode::Limits::default())?;
    let input = preprocess::input(&pixels, &Transform::IMAGENET);
    let took = start.elapsed();
    std::hint::black_box(input);
    Ok(took.as_secs_f64() * 1e3)
}
