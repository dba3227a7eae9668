//! `cargo xtask up`: starts a system that runs until Ctrl-C.

use crate::build;
use anyhow::{Result, bail};
use clap::Args;
use harness::stack::{ScalerProgram, Stack, StackSetup};
use harness::{command, paths};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Time limit for drawing the example images.
const DRAW_LIMIT: Duration = Duration::from_secs(60);

/// Flags of `cargo xtask up`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cargo xtask up --weights resnet50.pth --labels imagenet\n  \
                        cargo xtask up --model resnet-50/\n  \
                        cargo xtask up --listen 0.0.0.0:5052   # reachable from other machines")]
pub struct Options {
    /// Address on which the dispatcher listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5052")]
    listen: SocketAddr,
    /// Largest number of replicas
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    max: u32,
    /// File of weights, .safetensors or .pth; by default the bundled model
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Directory with weights, config.json, preprocessor_config.json and labels.txt; all but the weights may be missing
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "weights")]
    model: Option<PathBuf>,
    /// Class names: weights (those in the files of the model), imagenet, or a file with one name per line
    #[arg(long)]
    labels: Option<String>,
}

impl Options {
    fn scaler_flags(&self) -> Vec<String> {
        let weights = self.weights.as_ref().map(|path| format!("--replica-arg=--weights={}", path.display()));
        let model = self.model.as_ref().map(|path| format!("--replica-arg=--model={}", path.display()));
        let labels = self.labels.as_ref().map(|labels| format!("--replica-arg=--labels={labels}"));
        [Some(format!("--max={}", self.max)), weights, model, labels].into_iter().flatten().collect()
    }
}

/// Starts the system, prints how to use it, and waits until a program ends.
///
/// # Errors
/// If a program cannot be built or started, or ends by itself.
pub fn run(options: &Options) -> Result<()> {
    build::programs(&build::PROGRAMS)?;
    let folder = paths::output("up");
    let images = folder.join("pictures");
    let mut draw = Command::new(paths::program("loadgen"));
    command::run(draw.arg("pictures").arg(&images).args(["--seed", "2026"]), DRAW_LIMIT)?;
    let listen = options.listen.to_string();
    let (program, scaler) = (ScalerProgram::Scaler, options.scaler_flags());
    let mut stack = Stack::start(StackSetup { listen: &listen, folder: folder.clone(), program, scaler })?;
    print_usage(&stack.dispatcher.address, &folder, &images);
    let ended = stack.wait()?;
    bail!("the {ended} ended by itself; read {}", folder.join(format!("{ended}.log")).display())
}

fn print_usage(dispatcher: &str, folder: &Path, images: &Path) {
    println!("\nRoundhouse is up at http://{dispatcher}");
    println!("logs are in {}, example images in {}\n", folder.display(), images.display());
    println!("  curl -H 'Content-Type: image/jpeg' --data-binary '@{}' \\", images.join("00007.jpg").display());
    println!("    http://{dispatcher}/predict");
    println!("  curl http://{dispatcher}/status\n");
    println!("Ctrl-C stops the system.");
}
