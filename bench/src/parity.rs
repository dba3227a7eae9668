//! `cargo xtask parity`: the replica next to torchvision, on the same pictures with the same weights.

use crate::bench::replica::{pictures, subject};
use crate::python::{Python, TORCHVISION};
use crate::{build, paths};
use anyhow::{Context, Result, ensure};
use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Pixels: levels of 255, on average over all and at most.
const MEAN_LEVELS: f64 = 0.5;
const MAX_LEVELS: f64 = 4.0;

/// The largest difference of a picture's logits, next to its largest logit, given equal pixels.
const LOGITS: f64 = 1e-4;

/// Share of the pictures whose likeliest class is another: from file to class with trained weights; given equal pixels
/// with random ones, which tell classes so little apart that a level of one pixel may decide.
const OTHER_CLASSES: f64 = 0.005;

/// Pictures that loadgen draws, of which all others are made.
const DRAWN: u32 = 48;

/// Flags of `cargo xtask parity`.
#[derive(Debug, Args)]
pub struct Options {
    /// A Python that has the packages already, instead of one that is made in target/tools
    #[arg(long)]
    python: Option<PathBuf>,
    /// Write every figure there, too
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A network to compare.
struct Model {
    name: &'static str,
    architecture: &'static str,
    /// Of the bundled file; otherwise random ones.
    bundled: bool,
}

const MODELS: [Model; 4] = [
    Model { name: "shapes", architecture: "resnet18", bundled: true },
    Model { name: "random18", architecture: "resnet18", bundled: false },
    Model { name: "random34", architecture: "resnet34", bundled: false },
    Model { name: "random50", architecture: "resnet50", bundled: false },
];

/// Compares and judges.
///
/// # Errors
/// When something does not run, or the replica is not as near to torchvision as it is to be.
pub fn run(options: &Options) -> Result<()> {
    build::programs()?;
    build::example("parity")?;
    let python = Python::find(options.python.as_deref(), TORCHVISION)?;
    let folder = paths::output("parity");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    pictures::draw(&folder.join("drawn"), DRAWN)?;
    let comparison = Comparison { python, folder };
    let made = comparison.torchvision("making pictures", &["pictures"])?;
    println!("{} pictures in {}", made["pictures"], comparison.folder.join("pictures").display());
    let mut models = Vec::new();
    for model in &MODELS {
        models.push((model, comparison.logits(model)?));
    }
    let pixels = comparison.torchvision("comparing pixels", &["pixels"])?;
    print(&pixels, &models);
    if let Some(path) = &options.json {
        let text = format!("{:#}\n", json!({ "figures": figures(&pixels, &models) }));
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    let missed = missed(&pixels, &models);
    ensure!(missed.is_empty(), "not as torchvision does it:\n  {}", missed.join("\n  "));
    println!("the replica does as torchvision does");
    Ok(())
}

/// Where everything lies, and what computes torchvision's part.
struct Comparison {
    python: Python,
    folder: PathBuf,
}

impl Comparison {
    /// Runs both sides on a model.
    fn logits(&self, model: &Model) -> Result<Value> {
        let weights = if model.bundled {
            subject::weights()
        } else {
            self.torchvision("making weights", &["weights", model.architecture])?;
            self.folder.join(format!("{}.pth", model.architecture))
        };
        let mut replica = Command::new(paths::program("examples/parity"));
        replica.arg(&self.folder).arg("--name").arg(model.name).arg("--weights").arg(&weights);
        let status = replica.status().context("run the example parity")?;
        ensure!(status.success(), "the example parity failed on {} ({status})", model.name);
        let weights = weights.to_str().context("the path of the weights is not Unicode")?;
        self.torchvision("torchvision", &["logits", model.name, model.architecture, weights])
    }

    /// One task of `bench/parity.py`; its arguments but for the folder, which comes second.
    fn torchvision(&self, what: &'static str, task: &[&str]) -> Result<Value> {
        let spinner = ProgressBar::new_spinner().with_message(what);
        spinner.enable_steady_tick(Duration::from_millis(200));
        let mut python = self.python.script("parity.py");
        python.arg(task[0]).arg(&self.folder).args(&task[1..]).stderr(Stdio::inherit());
        let done = python.output().context("run bench/parity.py")?;
        spinner.finish_and_clear();
        ensure!(done.status.success(), "bench/parity.py {} failed ({})", task[0], done.status);
        serde_json::from_slice(&done.stdout).with_context(|| format!("read what parity.py {} says", task[0]))
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

fn print(pixels: &Value, models: &[(&Model, Value)]) {
    println!("\npixels after pre-processing, levels of 255\n{:<24} pictures  refused     mean  max", "kind");
    let row = |kind: &str, pictures: &str, refused: &str, of: &Value| {
        println!("{kind:<24} {pictures:>8} {refused:>8} {:>8.3} {:>4}", number(&of["mean"]), number(&of["max"]));
    };
    for kind in rows(pixels, "kinds") {
        row(text(&kind["kind"]), &kind["pictures"].to_string(), &kind["refused"].to_string(), kind);
    }
    row("all", "", "", pixels);
    println!("the furthest: {}", text(&pixels["worst"]));
    for refusal in rows(pixels, "refused") {
        println!("refused: {}: {}", text(&refusal["file"]), text(&refusal["reason"]));
    }
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

fn figures(pixels: &Value, models: &[(&Model, Value)]) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::from([
        ("parity_mean_levels".to_owned(), number(&pixels["mean"])),
        ("parity_max_levels".to_owned(), number(&pixels["max"])),
        ("parity_refused".to_owned(), rows(pixels, "refused").len() as f64),
    ]);
    for kind in rows(pixels, "kinds") {
        for of in ["mean", "max"] {
            figures.insert(format!("parity_{of}_levels_{}", text(&kind["kind"])), number(&kind[of]));
        }
    }
    for (model, found) in models {
        for figure in ["relative", "top1", "top5", "top1_given"] {
            figures.insert(format!("parity_{figure}_{}", model.name), number(&found[figure]));
        }
    }
    figures
}

/// What is not as it is to be, in words.
fn missed(pixels: &Value, models: &[(&Model, Value)]) -> Vec<String> {
    let mut missed = Vec::new();
    // Written so that a number that is not there misses, too.
    let mut at_most = |what: String, value: f64, most: f64| {
        if !matches!(value.partial_cmp(&most), Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)) {
            missed.push(format!("{what}: {value:.2e}, at most {most}"));
        }
    };
    at_most("pictures refused".into(), rows(pixels, "refused").len() as f64, 0.0);
    at_most("pixels, mean".into(), number(&pixels["mean"]), MEAN_LEVELS);
    at_most("pixels, max".into(), number(&pixels["max"]), MAX_LEVELS);
    for (model, found) in models {
        let name = model.name;
        at_most(format!("{name}, logits"), number(&found["relative"]), LOGITS);
        let top1 = if model.bundled { "top1" } else { "top1_given" };
        at_most(format!("{name}, share of other classes"), 1.0 - number(&found[top1]), OTHER_CLASSES);
    }
    missed
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAINED: &Model = &MODELS[0];
    const RANDOM: &Model = &MODELS[1];

    fn check(pixels: &Value, model: &Model, found: Value, expected: &[&str]) {
        let missed = missed(pixels, &[(model, found)]);
        assert_eq!(missed.len(), expected.len(), "{missed:?}");
        for (missed, expected) in missed.iter().zip(expected) {
            assert!(missed.starts_with(expected), "{missed}");
        }
    }

    #[test]
    fn whatever_is_over_its_target_is_named() {
        let near = json!({"mean": 0.5, "max": 4, "refused": []});
        let far = json!({"mean": 0.6, "max": 5, "refused": [{}]});
        let same = json!({"relative": 1e-4, "top1": 0.9951, "top1_given": 0.9});
        check(&near, TRAINED, same.clone(), &[]);
        check(&far, TRAINED, same.clone(), &["pictures", "pixels, mean", "pixels, max"]);
        check(&near, RANDOM, same, &["random18, share"]);
        check(&near, RANDOM, json!({"relative": 0.0, "top1": 0.9, "top1_given": 1.0}), &[]);
        check(&near, TRAINED, json!({"relative": 2e-4, "top1": 0.99}), &["shapes, logits", "shapes, share"]);
        check(&near, TRAINED, json!({}), &["shapes, logits", "shapes, share"]);
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
