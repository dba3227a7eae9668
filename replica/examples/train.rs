//! Trains the bundled model: ResNet-18 from scratch on labelled pictures, on the CPU.
//!
//! The pictures pass through the replica's own decoding and transform, so what is measured here is what is served.
//! Small inputs come first and 224 last: most of the learning then costs a tenth.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressIterator, ProgressStyle};
use replica::model::{Device as Place, KernelChoice, Model, ModelFactory, ModelFile, ModelSource, Precision, Setup};
use replica::transform::Transform;
use replica::{decode, preprocess};
use safetensors::{Dtype, tensor::TensorView};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tch::nn::{self, ModuleT, OptimizerConfig};
use tch::{Device, Kind, Tensor};

/// Trains ResNet-18 on a folder of pictures with a labels.csv, and writes f16 weights.
#[derive(Parser)]
#[command(after_help = "Example:\n  loadgen pictures target/train --count 12000 --seed 1\n  \
    loadgen pictures target/held-out --count 2400 --seed 2\n  \
    cargo run --release -p replica --example train -- target/train target/held-out shapes.safetensors")]
struct Args {
    /// Folder to learn from
    train: PathBuf,
    /// Folder that is only ever measured on
    held_out: PathBuf,
    /// File to write, in the safetensors format
    out: PathBuf,
    /// Seed of the initial weights and of the order of pictures
    #[arg(long, default_value_t = 1)]
    seed: i64,
}

/// One stretch of training at one input size.
struct Stage {
    /// Inputs are averaged over squares of this side: 3 makes 224 into 74.
    shrink: i64,
    pictures: i64,
    peak_learning_rate: f64,
}

const STAGES: [Stage; 3] = [
    Stage { shrink: 3, pictures: 30_000, peak_learning_rate: 2e-3 },
    Stage { shrink: 2, pictures: 6_400, peak_learning_rate: 1e-3 },
    Stage { shrink: 1, pictures: 16_000, peak_learning_rate: 5e-4 },
];

const BATCH: i64 = 64;

fn main() -> Result<()> {
    let args = Args::parse();
    tch::manual_seed(args.seed);
    let train = Pictures::load(&args.train, None)?;
    let held_out = Pictures::load(&args.held_out, Some(&train.labels))?;

    let store = nn::VarStore::new(Device::Cpu);
    let model = tch::vision::resnet::resnet18(&store.root(), train.labels.len() as i64);
    let mut optimizer = nn::AdamW { wd: 0.02, ..Default::default() }.build(&store, 1e-3)?;
    for stage in STAGES {
        let steps = stage.pictures / BATCH;
        let bar = bar(steps as u64, format!("training at {}", 224 / stage.shrink));
        let mut order = Tensor::randperm(train.len(), (Kind::Int64, Device::Cpu));
        let mut next = 0;
        for step in 0..steps {
            if next + BATCH > train.len() {
                order = Tensor::randperm(train.len(), (Kind::Int64, Device::Cpu));
                next = 0;
            }
            let (input, target) = train.batch(&order.narrow(0, next, BATCH));
            next += BATCH;
            // Linear warm-up over a tenth, then half a cosine down to zero.
            let done = step as f64 / steps as f64;
            let rate =
                if done < 0.1 { done / 0.1 } else { (1.0 + ((done - 0.1) / 0.9 * std::f64::consts::PI).cos()) / 2.0 };
            optimizer.set_lr(stage.peak_learning_rate * rate);
            let input = shrunk(&turned(&input, step), stage.shrink);
            let loss = model.forward_t(&input, true).cross_entropy_for_logits(&target);
            optimizer.backward_step(&loss);
            bar.set_message(format!("loss {:.4}", loss.double_value(&[])));
            bar.inc(1);
        }
        bar.finish();
    }

    write(&store, &train.labels, &args.out)?;
    // What counts is the file: half precision, folded, through the replica's own code.
    let file = ModelFile::open(&ModelSource::Weights(args.out, None))?;
    let setup =
        Setup { kernel: KernelChoice::Auto, device: Place::Cpu, precision: Precision::F32, threads: 1, max_batch: 1 };
    let mut model = ModelFactory::new(file, 224, setup)?.model()?;
    println!("held-out accuracy {:.2} %", 100.0 * accuracy(&mut *model, &held_out)?);
    Ok(())
}

/// Pictures after the evaluation transform, and their classes.
struct Pictures {
    /// Each 224 × 224 × 3 levels.
    crops: Vec<Vec<u8>>,
    classes: Vec<i64>,
    labels: Vec<String>,
}

impl Pictures {
    /// `labels` fixes the order of classes; without it they are numbered as they first appear.
    fn load(folder: &Path, labels: Option<&[String]>) -> Result<Self> {
        let list = folder.join("labels.csv");
        let text = std::fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
        let mut known: Vec<String> = labels.map(<[String]>::to_vec).unwrap_or_default();
        let mut index: HashMap<String, i64> = known.iter().cloned().zip(0..).collect();
        let (mut crops, mut classes) = (Vec::new(), Vec::new());
        let rows: Vec<&str> = text.lines().skip(1).collect();
        let style = progress_style(&format!("decoding {}", folder.display()));
        for row in rows.iter().progress_with_style(style) {
            let (file, label) = row.split_once(',').with_context(|| format!("{}: bad row {row:?}", list.display()))?;
            if !index.contains_key(label) {
                ensure!(labels.is_none(), "{}: label {label:?} is not among the training labels", list.display());
                index.insert(label.to_owned(), known.len() as i64);
                known.push(label.to_owned());
            }
            let path = folder.join(file);
            let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            let pixels = decode::decode(&bytes, decode::Limits::default())
                .with_context(|| format!("decode {}", path.display()))?;
            crops.push(preprocess::crop(&pixels, &Transform::IMAGENET));
            classes.push(index[label]);
        }
        Ok(Self { crops, classes, labels: known })
    }

    fn len(&self) -> i64 {
        self.crops.len() as i64
    }

    /// Normalised `[n, 3, 224, 224]` and `[n]` classes.
    fn batch(&self, indices: &Tensor) -> (Tensor, Tensor) {
        let indices = Vec::<i64>::try_from(indices).expect("indices are integers");
        let numbers: Vec<f32> = indices
            .iter()
            .flat_map(|&i| preprocess::normalise(&self.crops[i as usize], &Transform::IMAGENET))
            .collect();
        let classes: Vec<i64> = indices.iter().map(|&i| self.classes[i as usize]).collect();
        let input = Tensor::from_slice(&numbers).view([indices.len() as i64, 224, 224, 3]).permute([0, 3, 1, 2]);
        (input, Tensor::from_slice(&classes))
    }
}

/// One of the eight symmetries of the square, by step: they change no label.
fn turned(input: &Tensor, step: i64) -> Tensor {
    let turned = input.rot90(step % 4, [2, 3]);
    if step / 4 % 2 == 0 { turned } else { turned.flip([3]) }
}

fn shrunk(input: &Tensor, by: i64) -> Tensor {
    if by == 1 {
        return input.shallow_clone();
    }
    input.avg_pool2d([by, by], [by, by], [0, 0], false, true, None)
}

fn accuracy(model: &mut dyn Model, pictures: &Pictures) -> Result<f64> {
    let mut right = 0;
    let style = progress_style("measuring");
    for (crop, &class) in pictures.crops.iter().zip(&pictures.classes).progress_with_style(style) {
        let logits = model.logits(&[preprocess::normalise(crop, &Transform::IMAGENET)])?.remove(0);
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        right += usize::from(best == Some(class as usize));
    }
    Ok(right as f64 / pictures.crops.len() as f64)
}

fn write(store: &nn::VarStore, labels: &[String], path: &Path) -> Result<()> {
    let variables = store.variables();
    let mut halves: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, variable) in &variables {
        let half = variable.to_kind(Kind::Half).contiguous();
        let mut bytes = vec![0; half.numel() * 2];
        half.copy_data_u8(&mut bytes, half.numel());
        halves.push((name.clone(), half.size().iter().map(|&side| side as usize).collect(), bytes));
    }
    halves.sort();
    let views = halves
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F16, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    let metadata =
        HashMap::from([("labels".to_owned(), labels.join("\n")), ("model".to_owned(), "resnet18".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), path).with_context(|| format!("write {}", path.display()))
}

fn bar(length: u64, name: String) -> ProgressBar {
    ProgressBar::new(length).with_style(progress_style(&name))
}

fn progress_style(name: &str) -> ProgressStyle {
    ProgressStyle::with_template(&format!("{name} {{wide_bar}} {{pos}}/{{len}} {{msg}} {{eta}} left"))
        .expect("the template is valid")
}
