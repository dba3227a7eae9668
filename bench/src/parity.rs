//! `cargo xtask parity`: compares the replica with torchvision, on the same images and with the same weights.

use crate::output::Output;
use crate::python::{Python, TORCHVISION};
use crate::{images, progress};
use anyhow::{Context, Result, ensure};
use clap::Args;
use harness::paths;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The largest accepted mean difference of pixels over all images, in levels of 255.
const MEAN_LEVELS: f64 = 0.5;

/// The largest accepted difference of a pixel, in levels of 255.
const MAX_LEVELS: f64 = 4.0;

/// The largest accepted difference of logits that both sides compute of the same pixels, relative to the image's
/// largest logit.
const LOGITS: f64 = 1e-4;

/// The largest accepted share of images whose likeliest class differs. With the bundled weights, each side makes its
/// own pixels of the files. With random weights, both sides get the same pixels: the logits of the classes are so close
/// that one level of one pixel could change the likeliest class.
const OTHER_CLASSES: f64 = 0.005;

/// The flag for the number of images that loadgen draws. All test images are made of them.
const DRAWN: &str = "--count=48";

/// Flags of `cargo xtask parity`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Python interpreter that has the packages already; by default an environment in target/tools, which is made
    #[arg(long)]
    python: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// A network on which the replica and torchvision are compared.
struct ComparedModel {
    /// The name in tables, figures and files.
    name: &'static str,
    /// torchvision's name of the architecture.
    architecture: &'static str,
    /// Whether the weights are the bundled ones. Otherwise they are random.
    is_bundled: bool,
}

/// The networks that are compared.
const MODELS: [ComparedModel; 4] = [
    ComparedModel { name: "shapes", architecture: "resnet18", is_bundled: true },
    ComparedModel { name: "random18", architecture: "resnet18", is_bundled: false },
    ComparedModel { name: "random34", architecture: "resnet34", is_bundled: false },
    ComparedModel { name: "random50", architecture: "resnet50", is_bundled: false },
];

/// A model, and the JSON that `parity.py logits` prints for it.
type ModelResult<'a> = (&'a ComparedModel, Value);

/// Compares pixels, logits and classes, prints the differences and writes the figures.
///
/// # Errors
/// If a program fails, or a difference is larger than its bound.
pub(crate) fn run(options: &Options) -> Result<()> {
    let python = Python::find(options.python.as_deref(), TORCHVISION)?;
    let folder = paths::output("parity");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    images::draw(&folder.join("drawn"), &[DRAWN])?;
    let parity = ParityRun { python, folder };
    let made = parity.torchvision("making images", &["images"])?;
    println!("{} images in {}", made["images"], parity.folder.join("images").display());
    let mut models = Vec::new();
    for model in &MODELS {
        models.push((model, parity.logits(model)?));
    }
    let pixels = parity.torchvision("comparing pixels", &["pixels"])?;
    print_pixels(&pixels);
    print_models(&models);
    options.output.write(&json!({ "figures": figures(&pixels, &models) }))?;
    let missed = missed_targets(&pixels, &models);
    ensure!(missed.is_empty(), "the replica differs from torchvision:\n  {}", missed.join("\n  "));
    println!("the replica agrees with torchvision");
    Ok(())
}

/// The folder with all files of a run, and the Python that computes torchvision's part.
struct ParityRun {
    python: Python,
    folder: PathBuf,
}

impl ParityRun {
    /// Computes the logits of both sides with `model`. Returns the JSON that `parity.py logits` prints.
    fn logits(&self, model: &ComparedModel) -> Result<Value> {
        let weights = if model.is_bundled {
            paths::root().join("replica/models/shapes.safetensors")
        } else {
            self.torchvision("making weights", &["weights", model.architecture])?;
            self.folder.join(format!("{}.pth", model.architecture))
        };
        let mut replica = Command::new(paths::program("bench-replica"));
        replica.arg("parity").arg(&self.folder).arg("--name").arg(model.name).arg("--weights").arg(&weights);
        let status = replica.status().context("run bench-replica parity")?;
        ensure!(status.success(), "bench-replica parity failed on {} ({status})", model.name);
        let not_unicode = || format!("the path of the weights is not Unicode: {}", weights.display());
        let path = weights.to_str().with_context(not_unicode)?;
        self.torchvision("torchvision", &["logits", model.name, model.architecture, path])
    }

    /// Runs a task of `parity.py`: `task` is the task's name and the arguments that follow the folder. Shows `message`
    /// meanwhile. Returns the JSON that the script prints.
    fn torchvision(&self, message: &'static str, task: &[&str]) -> Result<Value> {
        let spinner = progress::spinner(message);
        let mut python = self.python.script("parity.py");
        python.arg(task[0]).arg(&self.folder).args(&task[1..]).stderr(Stdio::inherit());
        let output = python.output().context("run bench/peers/parity.py")?;
        spinner.finish_and_clear();
        ensure!(output.status.success(), "bench/peers/parity.py {} failed ({})", task[0], output.status);
        serde_json::from_slice(&output.stdout).with_context(|| format!("parse the output of parity.py {}", task[0]))
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn rows<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn print_pixels(pixels: &Value) {
    println!(
        "\ndifferences of pixels after pre-processing, in levels of 255\n{:<24}   images  refused     mean  max",
        "kind"
    );
    let row = |kind: &str, images: &str, refused: &str, levels: &Value| {
        println!("{kind:<24} {images:>8} {refused:>8} {:>8.3} {:>4}", number(&levels["mean"]), number(&levels["max"]));
    };
    for kind in rows(pixels, "kinds") {
        row(text(&kind["kind"]), &kind["images"].to_string(), &kind["refused"].to_string(), kind);
    }
    row("all", "", "", pixels);
    println!("the largest difference is in {}", text(&pixels["worst"]));
    for refusal in rows(pixels, "refused") {
        println!("the replica refuses {}: {}", text(&refusal["file"]), text(&refusal["reason"]));
    }
}

fn print_models(models: &[ModelResult]) {
    println!("\nmodel      logits, relative, equal pixels   top-1 %   top-5 %   top-1 %, equal pixels   classes seen");
    for (model, found) in models {
        println!(
            "{:<10} {:>30.1e} {:>9.2} {:>9.2} {:>23.2} {:>14}",
            model.name,
            number(&found["relative"]),
            100.0 * number(&found["top1"]),
            100.0 * number(&found["top5"]),
            100.0 * number(&found["top1_given"]),
            found["classes"]
        );
    }
    println!();
}

fn figures(pixels: &Value, models: &[ModelResult]) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::from([
        ("parity_mean_levels".to_owned(), number(&pixels["mean"])),
        ("parity_max_levels".to_owned(), number(&pixels["max"])),
        ("parity_refused".to_owned(), rows(pixels, "refused").len() as f64),
    ]);
    for kind in rows(pixels, "kinds") {
        for levels in ["mean", "max"] {
            figures.insert(format!("parity_{levels}_levels_{}", text(&kind["kind"])), number(&kind[levels]));
        }
    }
    for (model, found) in models {
        for figure in ["relative", "top1", "top5", "top1_given"] {
            figures.insert(format!("parity_{figure}_{}", model.name), number(&found[figure]));
        }
    }
    figures
}

/// A line for each figure that exceeds its bound.
fn missed_targets(pixels: &Value, models: &[ModelResult]) -> Vec<String> {
    let mut missed = Vec::new();
    let mut at_most = |figure: String, value: f64, bound: f64| {
        // A missing figure is NaN, and must not pass for one within its bound.
        if value.is_nan() || value > bound {
            missed.push(format!("{figure}: {value:.2e}, more than {bound}"));
        }
    };
    at_most("images that the replica refuses".into(), rows(pixels, "refused").len() as f64, 0.0);
    at_most("pixels, mean difference in levels".into(), number(&pixels["mean"]), MEAN_LEVELS);
    at_most("pixels, largest difference in levels".into(), number(&pixels["max"]), MAX_LEVELS);
    for (model, found) in models {
        let name = model.name;
        at_most(format!("{name}, largest relative difference of logits"), number(&found["relative"]), LOGITS);
        let top1 = if model.is_bundled { "top1" } else { "top1_given" };
        at_most(format!("{name}, share of images with another class"), 1.0 - number(&found[top1]), OTHER_CLASSES);
    }
    missed
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAINED: &ComparedModel = &MODELS[0];
    const RANDOM: &ComparedModel = &MODELS[1];

    fn check(pixels: &Value, model: &ComparedModel, found: Value, expected: &[&str]) {
        let missed = missed_targets(pixels, &[(model, found)]);
        assert_eq!(missed.len(), expected.len(), "{missed:?}");
        for (missed, expected) in missed.iter().zip(expected) {
            assert!(missed.starts_with(expected), "{missed}");
        }
    }

    #[test]
    fn figures_that_exceed_their_bounds_are_named() {
        let near = json!({"mean": 0.5, "max": 4, "refused": []});
        let far = json!({"mean": 0.6, "max": 5, "refused": [{}]});
        let same = json!({"relative": 1e-4, "top1": 0.9951, "top1_given": 0.9});
        check(&near, TRAINED, same.clone(), &[]);
        check(&far, TRAINED, same.clone(), &["images", "pixels, mean", "pixels, largest"]);
        check(&near, RANDOM, same, &["random18, share"]);
        check(&near, RANDOM, json!({"relative": 0.0, "top1": 0.9, "top1_given": 1.0}), &[]);
        check(&near, TRAINED, json!({"relative": 2e-4, "top1": 0.99}), &["shapes, largest", "shapes, share"]);
        check(&near, TRAINED, json!({}), &["shapes, largest", "shapes, share"]);
    }

    #[test]
    fn figures_are_named_by_kind_and_model() {
        let pixels = json!({"mean": 0.1, "max": 3, "refused": [], "kinds": [{"kind": "png-l", "mean": 0.0, "max": 1}]});
        let found = json!({"relative": 1e-6, "top1": 1.0, "top5": 1.0, "top1_given": 1.0});
        let figures = figures(&pixels, &[(TRAINED, found)]);
        for (name, value) in
            [("parity_max_levels", 3.0), ("parity_max_levels_png-l", 1.0), ("parity_relative_shapes", 1e-6)]
        {
            assert_eq!(figures.get(name), Some(&value), "{name}");
        }
    }
}
