//! `cargo xtask bench onnx`: exports random networks of torchvision and timm to ONNX, and compares the logits of the
//! replica's program with torch's.

use crate::python::{Python, ZOO};
use anyhow::{Context, Result, ensure};
use clap::Args;
use harness::paths;
use serde::Deserialize;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

/// The largest accepted difference of a logit from torch's, relative to the image's largest logit.
const LOGITS: f64 = 1e-4;

/// Flags of `cargo xtask bench onnx`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Python interpreter that has the packages already; by default an environment in target/tools, which is made
    #[arg(long)]
    python: Option<PathBuf>,
    /// Part of the names of the networks and of the ways to export them, such as vit or classic17; by default all
    #[arg(long, default_value = "")]
    only: String,
}

/// A line that `onnx_networks.py` prints.
#[derive(Debug, Deserialize)]
struct Compared {
    name: String,
    /// The exporter and the version of the operators.
    way: String,
    /// The largest difference of a logit, relative to the image's largest logit.
    relative: f64,
}

/// Prints a line for each network. Exported files are kept for the next run.
///
/// # Errors
/// If a program fails, or a difference is larger than its bound.
pub(crate) fn run(options: &Options) -> Result<()> {
    let python = Python::find(options.python.as_deref(), ZOO)?;
    let mut script = python.script("onnx_networks.py");
    script.arg(paths::output("onnx")).arg(paths::program("replica")).arg("--only").arg(&options.only);
    let mut child = script.stdout(Stdio::piped()).spawn().context("run bench/peers/onnx_networks.py")?;
    println!("{:<28} {:<12} logits, relative difference", "network", "export");
    let mut compared = 0;
    let mut missed = Vec::new();
    for line in BufReader::new(child.stdout.take().context("read from the script")?).lines() {
        let line = line.context("read from the script")?;
        // torch's exporters also print to standard output.
        let Ok(Compared { name, way, relative }) = serde_json::from_str(&line) else { continue };
        println!("{name:<28} {way:<12} {relative:.1e}");
        compared += 1;
        // A difference that is no number must not pass for a small one.
        if relative.is_nan() || relative > LOGITS {
            missed.push(format!("{name} {way}"));
        }
    }
    let status = child.wait().context("wait for the script")?;
    ensure!(status.success(), "bench/peers/onnx_networks.py failed ({status})");
    ensure!(compared > 0, "--only {:?} names none of the networks", options.only);
    ensure!(missed.is_empty(), "logits differ by more than {LOGITS}: {}", missed.join(", "));
    println!("the replica agrees with torch on all {compared} files");
    Ok(())
}
