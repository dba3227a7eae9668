//! The replica's part of `cargo xtask parity`: writes the pixels and logits of listed images to files, which
//! `bench/peers/parity.py` reads.

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressIterator, ProgressStyle};
use replica::model::{
    Device, KernelChoice, Model, ModelFactory, ModelFile, ModelSource, Precision, Setup, WeightsSource,
};
use replica::transform::Transform;
use replica::{decode, preprocess};
use std::path::{Path, PathBuf};

/// Reads FOLDER/list.txt, whose lines have a kind and a path, separated by a tab. Writes to FOLDER the crops of these
/// images (ours.u8, black for an image that the replica refuses), and the path and reason of each refusal
/// (refused.txt). With weights, also writes the logits of these crops (NAME-own.f32), and the logits of the crops in
/// theirs.u8 (NAME-given.f32).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of all files that are read and written
    folder: PathBuf,
    /// First part of the names of the files of logits
    #[arg(long, requires = "weights")]
    name: Option<String>,
    /// File of weights with torchvision's names
    #[arg(long, requires = "name")]
    weights: Option<PathBuf>,
}

/// Writes the files that [`Args`] describes.
///
/// # Errors
/// If a file cannot be read or written, or the model cannot be loaded or computed.
pub(crate) fn run(args: Args) -> Result<()> {
    let folder = &args.folder;
    let crops = decode_listed(folder)?;
    let (Some(name), Some(weights)) = (args.name, args.weights) else { return Ok(()) };
    let setup =
        Setup { kernel: KernelChoice::Auto, device: Device::Cpu, precision: Precision::F32, threads: 1, max_batch: 1 };
    let file = ModelFile::open(&ModelSource::Weights(WeightsSource::file(weights)))?;
    let mut model = ModelFactory::new(file, Transform::IMAGENET.crop as usize, setup)?.model()?;
    let theirs = folder.join("theirs.u8");
    let theirs = std::fs::read(&theirs).with_context(|| format!("read {}", theirs.display()))?;
    for (pixels, crops) in [("own", &crops), ("given", &theirs)] {
        let logits = logits(&mut *model, crops, &format!("{name}, {pixels} pixels"))?;
        write(&folder.join(format!("{name}-{pixels}.f32")), &logits)?;
    }
    Ok(())
}

/// Decodes and crops the listed images, and writes ours.u8 and refused.txt. Returns the crops one after another.
fn decode_listed(folder: &Path) -> Result<Vec<u8>> {
    let list = folder.join("list.txt");
    let rows = std::fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
    let (mut crops, mut refused) = (Vec::new(), String::new());
    for row in rows.lines() {
        let without_tab = || format!("{}: expected KIND, a tab and PATH, got {row:?}", list.display());
        let (_kind, path) = row.split_once('\t').with_context(without_tab)?;
        let file = std::fs::read(path).with_context(|| format!("read {path}"))?;
        match decode::decode(&file, decode::ImageLimits::default()) {
            Ok(pixels) => crops.extend(preprocess::crop(&pixels, &Transform::IMAGENET)),
            Err(error) => {
                refused.push_str(&format!("{path}\t{error}\n"));
                crops.resize(crops.len() + Transform::IMAGENET.input_length(), 0);
            }
        }
    }
    write(&folder.join("ours.u8"), &crops)?;
    write(&folder.join("refused.txt"), refused.as_bytes())?;
    Ok(crops)
}

/// The logits of all crops, one crop after another, as the bytes of little-endian f32.
fn logits(model: &mut dyn Model, crops: &[u8], message: &str) -> Result<Vec<u8>> {
    let style = ProgressStyle::with_template(&format!("{message} {{wide_bar}} {{pos}}/{{len}} {{eta}} left"))?;
    let bar = ProgressBar::new((crops.len() / Transform::IMAGENET.input_length()) as u64).with_style(style);
    let mut bytes = Vec::new();
    for crop in crops.chunks_exact(Transform::IMAGENET.input_length()).progress_with(bar) {
        let rows = model.logits(&[preprocess::normalise(crop, &Transform::IMAGENET)])?;
        bytes.extend(rows.iter().flatten().flat_map(|logit| logit.to_le_bytes()));
    }
    Ok(bytes)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}
