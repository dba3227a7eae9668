//! Figures of the dispatcher alone: builds what measures it, and lets that do the rest.

use crate::steal::Watch;
use crate::{build, paths};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::process::Command;

/// Flags of a measurement.
#[derive(Debug, Args)]
pub struct Options {
    /// Flags of the measurement, such as --json FILE; `-- --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    flags: Vec<String>,
}

/// Takes one of the measurements of the dispatcher's example `stress`.
///
/// # Errors
/// When something does not build, or the figures mean nothing.
pub fn run(measurement: &str, options: &Options) -> Result<()> {
    build::programs()?;
    build::example("stress")?;
    let program = paths::program("examples/stress");
    let mut stress = Command::new(&program);
    stress.arg(measurement).arg("--dispatcher").arg(paths::program("dispatcher")).args(&options.flags);
    let watch = Watch::start();
    let status = stress.status().with_context(|| format!("run {}", program.display()))?;
    let stolen = watch.finish();
    if stolen.is_notable() {
        println!("{stolen}");
    }
    ensure!(status.success(), "{measurement} failed ({status})");
    Ok(())
}
