//! `cargo xtask up`: the system, until Ctrl-C.

use crate::stack::{Setup, Stack};
use crate::{build, paths};
use anyhow::{Context, Result, ensure};
use std::process::Command;

/// Starts everything, tells how to use it, and stays.
///
/// # Errors
/// When something does not start, or the dispatcher ends.
pub fn run(max: u32) -> Result<()> {
    build::programs()?;
    let folder = paths::output("up");
    let pictures = folder.join("pictures");
    let status = Command::new(paths::program("loadgen")).arg("pictures").arg(&pictures).args(["--seed", "2026"]).status();
    let status = status.context("run loadgen")?;
    ensure!(status.success(), "loadgen failed ({status})");
    let setup = Setup { listen: "0.0.0.0:5052", folder: folder.clone(), scaler: vec![format!("--max={max}")] };
    let mut stack = Stack::start(setup)?;
    println!("\nRoundhouse is up at http://{}", stack.dispatcher.address);
    println!("logs are in {}, pictures to try in {}\n", folder.display(), pictures.display());
    println!("  curl -H 'Content-Type: image/jpeg' --data-binary @{} \\", pictures.join("00007.jpg").display());
    println!("    http://{}/predict", stack.dispatcher.address);
    println!("  curl http://{}/status\n", stack.dispatcher.address);
    println!("Ctrl-C stops it.");
    stack.dispatcher.wait()?;
    anyhow::bail!("the dispatcher ended; see {}", folder.join("dispatcher.log").display())
}
