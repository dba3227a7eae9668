//! `lab simulate`: laws on workloads in virtual time. A trial runs a law, the same code that scales a live system,
//! against the plant; a comparison runs all trials and an oracle.

pub mod args;
pub mod comparison;
pub mod flags;
pub mod oracle;
pub mod plant;
pub mod report;
pub mod requests;
pub mod service_time;
pub mod timeline;
pub mod trial;

use anyhow::{Context, Result};
use args::Args;
use comparison::LawComparison;
use flags::Flags;
use serde::Serialize;

/// Runs `lab simulate`.
///
/// # Errors
/// When a flag is out of its range, or a file cannot be read or written.
pub fn run(args: &Args) -> Result<()> {
    let comparison = LawComparison::run(&args.config()?)?;
    publish(&args.flags, &comparison, &comparison)
}

/// Prints the comparison's table, and writes the files that the flags ask for. `json` is the content of the JSON file.
///
/// # Errors
/// When a file cannot be written.
pub fn publish(flags: &Flags, comparison: &LawComparison, json: &impl Serialize) -> Result<()> {
    print!("{}", report::table::render(comparison));
    if let Some(path) = &flags.json {
        let json = serde_json::to_string_pretty(json)?;
        std::fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &flags.html {
        std::fs::write(path, report::html::render(comparison)).with_context(|| format!("write {}", path.display()))?;
        println!("\nplots     {}", path.display());
    }
    Ok(())
}
