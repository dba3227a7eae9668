//! Times the part before the model: from a file's bytes to normalised numbers. `peers/decode.py` answers the same
//! questions with PIL and torchvision.

use anyhow::{Context, Result, bail};
use replica::transform::Transform;
use replica::{decode, preprocess};
use std::path::PathBuf;
use std::time::Instant;

/// Answers a line "time INDEX REPEATS" with the milliseconds of each repetition.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// JPEG, PNG or WebP files, numbered from 0
    files: Vec<PathBuf>,
}

/// Answers questions until standard input ends.
///
/// # Errors
/// When a file cannot be read or decoded, or a question is malformed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let files = args.files.iter().map(read).collect::<Result<Vec<_>>>()?;
    println!("ready replica");
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["time", index, repeats] = words[..] else { bail!("expected time INDEX REPEATS, got {line:?}") };
        let (index, repeats): (usize, u32) = (index.parse()?, repeats.parse()?);
        let file = files.get(index).with_context(|| format!("there is no file {index}"))?;
        let times = (0..repeats).map(|_| milliseconds(file).map(|milliseconds| format!("{milliseconds:.6}")));
        println!("{}", times.collect::<Result<Vec<_>>>()?.join(" "));
    }
    Ok(())
}

/// Milliseconds for one file.
fn milliseconds(file: &[u8]) -> Result<f64> {
    let start = Instant::now();
    let pixels = decode::decode(file, decode::ImageLimits::default())?;
    let input = preprocess::input(&pixels, &Transform::IMAGENET);
    let took = start.elapsed();
    std::hint::black_box(input);
    Ok(took.as_secs_f64() * 1e3)
}
