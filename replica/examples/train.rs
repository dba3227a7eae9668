//! Trains the bundled model, a ResNet-18, from scratch on labelled images, on the CPU.
//!
//! The images pass through the replica's own decoding and transform, so the accuracy that is measured here is that of
//! the server. Training begins with small inputs, because a step of the first stage takes about a tenth of the time of
//! a step with inputs of 224 pixels.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressIterator, ProgressStyle};
use replica::model::{
    Device as ModelDevice, KernelChoice, Model, ModelFactory, ModelFile, ModelSource, Precision, Setup, WeightsSource,
};
use replica::transform::Transform;
use replica::{decode, preprocess};
use safetensors::{Dtype, tensor::TensorView};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tch::nn::{self, ModuleT, OptimizerConfig};
use tch::{Device, Kind, Tensor};

/// Trains ResNet-18 on a folder of images with a labels.csv, and writes f16 weights.
#[derive(Parser)]
#[command(after_help = "Example:\n  loadgen pictures target/train --count 12000 --seed 1\n  \
    loadgen pictures target/held-out --count 2400 --seed 2\n  \
    cargo run --release -p replica --example train -- target/train target/held-out shapes.safetensors")]
struct Args {
    /// Folder with the training images and a labels.csv
    train: PathBuf,
    /// Folder with other images and a labels.csv, for measuring the accuracy
    held_out: PathBuf,
    /// File to write the weights to, in the safetensors format
    out: PathBuf,
    /// Seed of the initial weights and of the order of the images
    #[arg(long, default_value_t = 1)]
    seed: i64,
}

/// The part of the training with one size of the input.
struct TrainingStage {
    /// Inputs are averaged over squares of this side: with 3, 224 pixels become 74.
    shrink: i64,
    /// The number of images in all steps. Each image may be used several times.
    images: i64,
    peak_learning_rate: f64,
}

const STAGES: [TrainingStage; 3] = [
    TrainingStage { shrink: 3, images: 30_000, peak_learning_rate: 2e-3 },
    TrainingStage { shrink: 2, images: 6_400, peak_learning_rate: 1e-3 },
    TrainingStage { shrink: 1, images: 16_000, peak_learning_rate: 5e-4 },
];

/// The number of images of one step.
const BATCH: i64 = 64;

/// The share of a stage's steps in which the learning rate rises, 0 to 1.
const WARM_UP: f64 = 0.1;

fn main() -> Result<()> {
    let args = Args::parse();
    tch::manual_seed(args.seed);
    let train = LabelledImages::load(&args.train, None)?;
    let held_out = LabelledImages::load(&args.held_out, Some(&train.labels))?;

    let store = nn::VarStore::new(Device::Cpu);
    let model = tch::vision::resnet::resnet18(&store.root(), train.labels.len() as i64);
    let mut optimizer = nn::AdamW { wd: 0.02, ..Default::default() }.build(&store, 1e-3)?;
    for stage in &STAGES {
        run(stage, &model, &mut optimizer, &train);
    }

    write(&store, &train.labels, &args.out)?;
    // The accuracy is measured with the file and the code that a replica uses, so with half precision and folded
    // layers.
    let file = ModelFile::open(&ModelSource::Weights(WeightsSource::file(args.out)))?;
    let setup = Setup {
        kernel: KernelChoice::Auto,
        device: ModelDevice::Cpu,
        precision: Precision::F32,
        threads: 1,
        max_batch: 1,
    };
    let mut model = ModelFactory::new(file, 224, setup)?.model()?;
    println!("held-out accuracy {:.2} %", 100.0 * accuracy(&mut *model, &held_out)?);
    Ok(())
}

/// Trains for one stage.
fn run(stage: &TrainingStage, model: &impl ModuleT, optimizer: &mut nn::Optimizer, train: &LabelledImages) {
    let steps = stage.images / BATCH;
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
        optimizer.set_lr(stage.peak_learning_rate * share_of_peak(step as f64 / steps as f64));
        let input = downscaled(&augmented(&input, step), stage.shrink);
        let loss = model.forward_t(&input, true).cross_entropy_for_logits(&target);
        optimizer.backward_step(&loss);
        bar.set_message(format!("loss {:.4}", loss.double_value(&[])));
        bar.inc(1);
    }
    bar.finish();
}

/// The learning rate divided by its peak, after the share `done` of a stage. It rises linearly, and then falls to zero
/// along half a cosine.
fn share_of_peak(done: f64) -> f64 {
    if done < WARM_UP {
        return done / WARM_UP;
    }
    (1.0 + ((done - WARM_UP) / (1.0 - WARM_UP) * std::f64::consts::PI).cos()) / 2.0
}

/// Images after the evaluation transform, with their classes.
struct LabelledImages {
    /// The pixels of each image: 224 × 224, RGB, 8 bits for each channel.
    crops: Vec<Vec<u8>>,
    classes: Vec<i64>,
    labels: Vec<String>,
}

impl LabelledImages {
    /// Reads the images of a folder. The number of a class is its index in `labels`. If `labels` is `None`, the classes
    /// are numbered in the order in which they first appear.
    fn load(folder: &Path, labels: Option<&[String]>) -> Result<Self> {
        let list = folder.join("labels.csv");
        let text = std::fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
        let mut known: Vec<String> = labels.map(<[String]>::to_vec).unwrap_or_default();
        let mut index: HashMap<String, i64> = known.iter().cloned().zip(0..).collect();
        let (mut crops, mut classes) = (Vec::new(), Vec::new());
        let rows: Vec<&str> = text.lines().skip(1).collect();
        let style = progress_style(&format!("decoding {}", folder.display()));
        for row in rows.iter().progress_with_style(style) {
            let (file, label) = row
                .split_once(',')
                .with_context(|| format!("{}: expected FILE,LABEL in the row {row:?}", list.display()))?;
            if !index.contains_key(label) {
                ensure!(labels.is_none(), "{}: label {label:?} is not among the training labels", list.display());
                index.insert(label.to_owned(), known.len() as i64);
                known.push(label.to_owned());
            }
            let path = folder.join(file);
            let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            let pixels = decode::decode(&bytes, decode::ImageLimits::default())
                .with_context(|| format!("decode {}", path.display()))?;
            crops.push(preprocess::crop(&pixels, &Transform::IMAGENET));
            classes.push(index[label]);
        }
        Ok(Self { crops, classes, labels: known })
    }

    fn len(&self) -> i64 {
        self.crops.len() as i64
    }

    /// The model's input `[n, 3, 224, 224]` and the classes `[n]` of the images whose indices are in `indices`.
    fn batch(&self, indices: &Tensor) -> (Tensor, Tensor) {
        let indices = Vec::<i64>::try_from(indices).expect("the tensor of indices has integers");
        let numbers: Vec<f32> = indices
            .iter()
            .flat_map(|&i| preprocess::normalise(&self.crops[i as usize], &Transform::IMAGENET))
            .collect();
        let classes: Vec<i64> = indices.iter().map(|&i| self.classes[i as usize]).collect();
        let input = Tensor::from_slice(&numbers).view([indices.len() as i64, 224, 224, 3]).permute([0, 3, 1, 2]);
        (input, Tensor::from_slice(&classes))
    }
}

/// The input after a rotation and perhaps a reflection. The eight symmetries of the square take turns from step to
/// step. None of them changes a label.
fn augmented(input: &Tensor, step: i64) -> Tensor {
    let turned = input.rot90(step % 4, [2, 3]);
    if step / 4 % 2 == 0 { turned } else { turned.flip([3]) }
}

/// The input, averaged over squares whose side is `by` pixels.
fn downscaled(input: &Tensor, by: i64) -> Tensor {
    if by == 1 {
        return input.shallow_clone();
    }
    input.avg_pool2d([by, by], [by, by], [0, 0], false, true, None)
}

/// The share of the images whose likeliest class is correct, 0 to 1.
fn accuracy(model: &mut dyn Model, images: &LabelledImages) -> Result<f64> {
    let mut right = 0;
    let style = progress_style("measuring");
    for (crop, &class) in images.crops.iter().zip(&images.classes).progress_with_style(style) {
        let logits = model.logits(&[preprocess::normalise(crop, &Transform::IMAGENET)])?.remove(0);
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        right += usize::from(best == Some(class as usize));
    }
    Ok(right as f64 / images.crops.len() as f64)
}

/// Writes the weights in half precision to `path`, with the labels in the metadata of the file.
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
        .expect("the template of the progress bar is valid")
}
