//! `cargo xtask setup` and `cargo xtask test`: get what the tests need, run every test, say which were skipped.

use crate::install::{self, Consent};
use crate::{build, cluster, doctor, libtorch, requirement};
use anyhow::Result;

/// Flags of `cargo xtask setup` and `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Install missing packages with apt-get, without a question
    #[arg(long)]
    yes: bool,
}

/// Installs what the build and the tests need, as far as it can be had, and gets libtorch.
///
/// # Errors
/// If something that the build needs cannot be had.
pub fn setup(options: &Options) -> Result<()> {
    let consent = if options.yes { Consent::Given } else { Consent::Ask };
    install::install(&requirement::missing(), consent);
    requirement::check_build()?;
    libtorch::ensure()
}

/// Runs every test, the checks on a Kubernetes cluster included, and prints which were skipped.
///
/// # Errors
/// If the workspace cannot be built or a test fails.
pub fn run(options: &Options) -> Result<()> {
    setup(options)?;
    build::compile_tests()?;
    let result = build::run_tests().and_then(|()| cluster::test());
    println!("\n{}", doctor::skipped());
    result
}
