//! `cargo xtask up`: the system, until Ctrl-C.

use crate::stack::{ScalerProgram, Setup, Stack};
use crate::{build, paths};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::path::PathBuf;
use std::process::Command;

/// Flags of `cargo xtask up`.
#[derive(Debug, Args)]
pub struct Options {
    /// Replicas at most
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    max: u32,
    /// Weights of your own, .safetensors or .pth; without it, the bundled model
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Their class names: weights (the file's own), imagenet, or a file with one a line
    #[arg(long)]
    labels: Option<String>,
}

impl Options {
    fn scaler_flags(&self) -> Vec<String> {
        let weights = self.weights.as_ref().map(|path| format!("--replica-arg=--weights={}", path.display()));
        let labels = self.labels.as_ref().map(|labels| format!("--replica-arg=--labels={labels}"));
        [Some(format!("--max={}", self.max)), weights, labels].into_iter().flatten().collect()
    }
}

/// Starts everything, tells how to use it, and stays.
///
/// # Errors
/// When something does not start, or the dispatcher ends.
pub fn run(options: &Options) -> Result<()> {
    build::programs()?;
    let folder = paths::output("up");
    let pictures = folder.join("pictures");
    let status =
        Command::new(paths::program("loadgen")).arg("pictures").arg(&pictures).args(["--seed", "2026"]).status();
    let status = status.context("run loadgen")?;
    ensure!(status.success(), "loadgen failed ({status})");
    let scaler = options.scaler_flags();
    let program = ScalerProgram::Scaler;
    let setup = Setup { listen: "0.0.0.0:5052", folder: folder.clone(), program, scaler };
    let mut stack = Stack::start(setup)?;
    println!("\nRoundhouse is up at http://{}", stack.dispatcher.address);
    println!("logs are in {}, pictures to try in {}\n", folder.display(), pictures.display());
    println!("  curl -H 'Content-Type: image/jpeg' --data-binary '@{}' \\", pictures.join("00007.jpg").display());
    println!("    http://{}/predict", stack.dispatcher.address);
    println!("  curl http://{}/status\n", stack.dispatcher.address);
    println!("Ctrl-C stops it.");
    let ended = stack.wait()?;
    anyhow::bail!("the {ended} ended; see {}", folder.join(format!("{ended}.log")).display())
}
