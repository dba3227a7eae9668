//! `cargo xtask bench zoo`: loads checkpoints as torch, torchvision, timm, transformers and safetensors write them, and
//! compares the logits and refusals with the expected ones.

use crate::progress;
use crate::python::{Python, ZOO};
use anyhow::{Context, Result, ensure};
use clap::Args;
use harness::paths;
use std::path::PathBuf;
use std::process::Command;

/// Flags of `cargo xtask bench zoo`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Python interpreter that has the packages already; by default an environment in target/tools, which is made
    #[arg(long)]
    python: Option<PathBuf>,
    /// Part of the names of the models to load; by default all
    #[arg(long)]
    only: Option<String>,
}

/// Makes the checkpoints, some 3 GB, unless an earlier run has made them. Loads each and prints the results.
///
/// # Errors
/// If a program fails, or a result is not the expected one.
pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = paths::output("zoo");
    if !folder.join("zoo.json").exists() {
        let python = Python::find(options.python.as_deref(), ZOO)?;
        let spinner = progress::spinner("making checkpoints");
        let status = python.script("zoo.py").arg(&folder).status().context("run bench/peers/zoo.py")?;
        spinner.finish_and_clear();
        ensure!(status.success(), "bench/peers/zoo.py failed ({status})");
    }
    let mut replica = Command::new(paths::program("bench-replica"));
    replica.arg("zoo").arg(&folder);
    if let Some(only) = &options.only {
        replica.arg("--only").arg(only);
    }
    let status = replica.status().context("run bench-replica zoo")?;
    ensure!(status.success(), "bench-replica zoo failed ({status}); its files are in {}", folder.display());
    Ok(())
}
