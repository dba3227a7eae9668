//! `lab simulate`: compares laws on workloads in virtual time. A trial runs a law against the plant; the law is the
//! same code that scales a live system. A comparison runs all trials and the oracle.

pub mod args;
pub mod comparison;
pub mod controller;
pub mod flags;
pub mod mean;
pub mod oracle;
pub mod plant;
pub mod report;
pub mod requests;
pub mod streams;
pub mod time_distribution;
pub mod timeline;
pub mod trial;
pub mod workload_set;

use anyhow::{Context, Result};
use args::Args;
use comparison::LawComparison;
use flags::Flags;
use serde::Serialize;

/// Runs `lab simulate`.
///
/// # Errors
/// If a flag is out of range, two flags contradict each other, or a file cannot be read or written.
pub fn run(args: &Args) -> Result<()> {
    let comparison = LawComparison::run(&args.config()?)?;
    publish(&args.flags, &comparison, &comparison)
}

/// Prints the comparison as a table, and writes the files of `--json` and `--html`. `json` is the content of the JSON
/// file.
///
/// # Errors
/// If a file cannot be written.
pub fn publish(flags: &Flags, comparison: &LawComparison, json: &impl Serialize) -> Result<()> {
    print!("{}", report::table::render(comparison));
    if let Some(path) = &flags.json {
        let json = serde_json::to_string_pretty(json)?;
        std::fs::write(path, json).with_context(|| format!("write the file of --json, {}", path.display()))?;
    }
    if let Some(path) = &flags.html {
        let page = report::html::render(comparison);
        std::fs::write(path, page).with_context(|| format!("write the file of --html, {}", path.display()))?;
        println!("\nplots     {}", path.display());
    }
    Ok(())
}
