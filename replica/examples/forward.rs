//! Times forward passes when told to, on a model that is loaded as the server loads it: what `cargo xtask bench replica`
//! compares with other engines. `bench/forward.py` answers the same lines.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use replica::model::{Device, Input, KernelChoice, Model, ModelFactory, ModelFile, ModelSource, Precision, Setup};
use replica::preprocess;
use replica::transform::Transform;
use std::path::PathBuf;
use std::time::Instant;

/// Answers lines on standard input: "time BATCH REPEATS" with milliseconds, "logits BATCH" with the logits of the first
/// BATCH pictures.
#[derive(Parser)]
struct Args {
    /// Weights with torchvision's names
    #[arg(long)]
    weights: PathBuf,
    /// 224x224 RGB pixels, 8 bits each, picture after picture
    #[arg(long)]
    crops: PathBuf,
    /// Threads of one forward pass
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Pictures that the replica would be started for
    #[arg(long, default_value_t = 1)]
    max_batch: usize,
    /// As the replica's
    #[arg(long, value_enum, default_value_t = KernelChoice::Auto)]
    kernel: KernelChoice,
    /// As the replica's
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let setup = Setup {
        kernel: args.kernel,
        device: Device::Cpu,
        precision: args.precision,
        threads: args.threads,
        max_batch: args.max_batch,
    };
    let side = Transform::IMAGENET.crop as usize;
    let factory = ModelFactory::new(ModelFile::open(&ModelSource::Weights(args.weights, None))?, side, setup)?;
    let mut model = factory.model()?;
    let crops = std::fs::read(&args.crops).with_context(|| format!("read {}", args.crops.display()))?;
    let pictures: Vec<Input> = crops
        .chunks_exact(Transform::IMAGENET.input_length())
        .map(|crop| preprocess::normalise(crop, &Transform::IMAGENET))
        .collect();
    println!("ready replica, {factory}");
    for line in std::io::stdin().lines() {
        let answer = answer(&mut *model, &pictures, &line?)?;
        println!("{}", answer.iter().map(|number| format!("{number:.9}")).collect::<Vec<_>>().join(" "));
    }
    Ok(())
}

fn answer(model: &mut dyn Model, pictures: &[Input], line: &str) -> Result<Vec<f64>> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let batch: usize = fields.get(1).with_context(|| format!("no batch in {line:?}"))?.parse()?;
    ensure!((1..=pictures.len()).contains(&batch), "there are {} pictures, not {batch}", pictures.len());
    let logits = model.logits(&pictures[..batch])?;
    let Some(repeats) = fields.get(2) else {
        return Ok(logits.into_iter().flatten().map(f64::from).collect());
    };
    // The first pass, above, found its memory gone from the caches.
    (0..repeats.parse()?)
        .map(|_| {
            let start = Instant::now();
            model.logits(&pictures[..batch])?;
            Ok(start.elapsed().as_secs_f64() * 1e3)
        })
        .collect()
}
