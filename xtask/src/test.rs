//! `cargo xtask test`: gets what the tests need, runs every test, and says which were skipped.

use crate::install::{self, Consent};
use crate::{build, cluster, doctor, requirement};
use anyhow::Result;

/// Flags of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Install missing packages with apt-get, without a question
    #[arg(long)]
    yes: bool,
}

/// Runs every test, the checks on a Kubernetes cluster included.
///
/// # Errors
/// If the workspace cannot be built or a test fails.
pub fn run(options: &Options) -> Result<()> {
    let consent = if options.yes { Consent::Given } else { Consent::Ask };
    install::install(&requirement::missing(), consent);
    let result = build::test().and_then(|()| cluster::test());
    println!("\n{}", doctor::skipped());
    result
}
