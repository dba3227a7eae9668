//! The replica's part of `cargo xtask bench zoo`: loads each checkpoint that `bench/peers/zoo.py` has made, and compares
//! the result with the expected one.

use anyhow::{Context, Result, ensure};
use replica::model::{
    Device, Input, KernelChoice, ModelFactory, ModelFile, ModelSource, Precision, Setup, WeightsSource,
};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The side of the images in input.f32, in pixels.
const SIDE: usize = 64;

/// The largest accepted difference of a logit from torch's, relative to the largest logit.
const LOGITS: f32 = 1e-4;

/// Loads the models that FOLDER/zoo.json lists, and compares logits and refusals with the expected ones.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder that `zoo.py` has filled
    folder: PathBuf,
    /// Part of the names of the models to load; by default all
    #[arg(long)]
    only: Option<String>,
}

/// A model of the zoo, and the expected result.
#[derive(Deserialize)]
struct Specimen {
    name: String,
    path: PathBuf,
    /// The value of `--weights-key`.
    key: Option<String>,
    #[serde(flatten)]
    expected: Expected,
}

/// What a model should give.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    /// A file with torch's logits of input.f32.
    Logits(PathBuf),
    /// A part of the message.
    Refused(String),
}

/// Prints a line for each model.
///
/// # Errors
/// If a file of the folder cannot be read, or a result is not the expected one.
pub(crate) fn run(args: &Args) -> Result<()> {
    let list = args.folder.join("zoo.json");
    let text = std::fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
    let mut zoo: Vec<Specimen> = serde_json::from_str(&text).with_context(|| format!("parse {}", list.display()))?;
    zoo.retain(|specimen| args.only.as_ref().is_none_or(|part| specimen.name.contains(part)));
    let images: Vec<Input> =
        numbers(&args.folder.join("input.f32"))?.chunks(3 * SIDE * SIDE).map(<[f32]>::to_vec).collect();
    let mut failed = Vec::new();
    for specimen in &zoo {
        let found = logits(&args.folder, specimen, &images);
        let (agrees, result) = specimen.judge(&args.folder, found)?;
        println!("{} {:<28} {result}", if agrees { "ok  " } else { "FAIL" }, specimen.name);
        if !agrees {
            failed.push(specimen.name.as_str());
        }
    }
    ensure!(
        failed.is_empty(),
        "{} of {} models: other results than expected: {}",
        failed.len(),
        zoo.len(),
        failed.join(", ")
    );
    println!("all {} models give the expected results", zoo.len());
    Ok(())
}

impl Specimen {
    /// Whether the result is the expected one, and a description of it.
    fn judge(&self, folder: &Path, found: Result<Vec<f32>>) -> Result<(bool, String)> {
        Ok(match (&self.expected, found) {
            (Expected::Refused(part), Err(error)) => {
                let message = format!("{error:#}");
                (message.contains(part), format!("refused: {message}"))
            }
            (Expected::Refused(part), Ok(_)) => (false, format!("accepted, expected a refusal with {part:?}")),
            (Expected::Logits(_), Err(error)) => (false, format!("refused: {error:#}")),
            (Expected::Logits(path), Ok(found)) => {
                let expected = numbers(&folder.join(path))?;
                let scale = expected.iter().fold(f32::MIN_POSITIVE, |largest, logit| largest.max(logit.abs()));
                let pairs = found.iter().zip(&expected);
                let difference = pairs.map(|(ours, theirs)| (ours - theirs).abs() / scale).fold(0.0, f32::max);
                let agrees = found.len() == expected.len() && difference <= LOGITS;
                (agrees, format!("{} logits, largest relative difference {difference:.1e}", found.len()))
            }
        })
    }
}

/// The logits of all images, one image after another.
fn logits(folder: &Path, specimen: &Specimen, images: &[Input]) -> Result<Vec<f32>> {
    let source = WeightsSource { key: specimen.key.clone(), ..WeightsSource::file(folder.join(&specimen.path)) };
    let file = ModelFile::open(&ModelSource::Weights(source))?;
    // All engines compute the same network, so the one that starts first is enough.
    let (kernel, device, precision) = (KernelChoice::Libtorch, Device::Cpu, Precision::F32);
    let setup = Setup { kernel, device, precision, threads: 1, max_batch: images.len() };
    let rows = ModelFactory::new(file, SIDE, setup)?.model()?.logits(images)?;
    Ok(rows.concat())
}

/// The little-endian numbers of a file.
fn numbers(path: &Path) -> Result<Vec<f32>> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}
