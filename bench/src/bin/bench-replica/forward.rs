//! Times forward passes of a model that is loaded as the replica loads it. `bench/peers/forward.py` answers the same
//! questions with other engines.

use anyhow::{Context, Result, bail, ensure};
use replica::model::{
    Device, Input, Instructions, KernelChoice, Model, ModelFactory, ModelFile, ModelSource, Precision, Setup,
    WeightsSource,
};
use replica::preprocess;
use replica::transform::Transform;
use std::path::PathBuf;
use std::time::Instant;

/// On standard input, a line "time BATCH REPEATS" is answered with the milliseconds of each forward pass, and a line
/// "logits BATCH" with the logits of the first BATCH images.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// File of weights with torchvision's names
    #[arg(long)]
    weights: PathBuf,
    /// File of images, one after another, each of 224x224 RGB pixels with 8 bits a channel
    #[arg(long)]
    crops: PathBuf,
    /// Threads of one forward pass
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// The same as --max-batch of the replica
    #[arg(long, default_value_t = 1)]
    max_batch: usize,
    /// The same as --kernel of the replica
    #[arg(long, value_enum, default_value_t = KernelChoice::Auto)]
    kernel: KernelChoice,
    /// The same as --precision of the replica
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// Fastest vector instructions that may be used, such as avx2; by default all that the processor has
    #[arg(long)]
    instructions: Option<Instructions>,
}

/// Answers questions until standard input ends.
///
/// # Errors
/// If the model cannot be loaded or computed, or a question is malformed.
pub(crate) fn run(args: Args) -> Result<()> {
    if let Some(most) = args.instructions {
        most.restrict();
    }
    let Args { kernel, precision, threads, max_batch, .. } = args;
    let setup = Setup { kernel, device: Device::Cpu, precision, threads, max_batch };
    let side = Transform::IMAGENET.crop as usize;
    let factory =
        ModelFactory::new(ModelFile::open(&ModelSource::Weights(WeightsSource::file(args.weights)))?, side, setup)?;
    let mut model = factory.model()?;
    let crops = std::fs::read(&args.crops).with_context(|| format!("read {}", args.crops.display()))?;
    let images: Vec<Input> = crops
        .chunks_exact(Transform::IMAGENET.input_length())
        .map(|crop| preprocess::normalise(crop, &Transform::IMAGENET))
        .collect();
    println!("ready replica, {factory}");
    for line in std::io::stdin().lines() {
        let answer = answer(&mut *model, &images, &line.context("read standard input")?)?;
        println!("{}", answer.iter().map(|number| format!("{number:.9}")).collect::<Vec<_>>().join(" "));
    }
    Ok(())
}

/// The numbers that answer a line of standard input.
fn answer(model: &mut dyn Model, images: &[Input], line: &str) -> Result<Vec<f64>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let expected = || format!("standard input: expected \"time BATCH REPEATS\" or \"logits BATCH\", got {line:?}");
    let (batch, repeats) = match words[..] {
        ["time", batch, repeats] => (batch, Some(repeats.parse::<u32>().with_context(expected)?)),
        ["logits", batch] => (batch, None),
        _ => bail!(expected()),
    };
    let batch: usize = batch.parse().with_context(expected)?;
    let count = images.len();
    ensure!((1..=count).contains(&batch), "standard input: BATCH must be from 1 to {count}, got {line:?}");
    let images = &images[..batch];
    // For "time", this pass is not timed: other processes have displaced the model's memory from the caches.
    let logits = model.logits(images)?;
    let Some(repeats) = repeats else {
        return Ok(logits.into_iter().flatten().map(f64::from).collect());
    };
    let mut times = Vec::new();
    for _ in 0..repeats {
        let start = Instant::now();
        model.logits(images)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}
