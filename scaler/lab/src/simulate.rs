//! Laws tried out in virtual time: the plant, the very policies that run live, and what came of them.

pub mod args;
pub mod comparison;
pub mod flags;
pub mod line;
pub mod meter;
pub mod oracle;
pub mod plant;
pub mod report;
pub mod requests;
pub mod trial;
pub mod work;

use anyhow::{Context, Result};
use args::Args;
use comparison::Comparison;
use flags::Flags;
use serde::Serialize;

/// Runs what the flags ask for, and prints it.
///
/// # Errors
/// When a flag makes no sense, or a file cannot be read or written.
pub fn run(args: &Args) -> Result<()> {
    let comparison = Comparison::run(&args.plan()?)?;
    publish(&args.flags, &comparison, &comparison)
}

/// Prints the table, and writes what the flags ask for; `json` is all there is to tell.
///
/// # Errors
/// When a file cannot be written.
pub fn publish(flags: &Flags, comparison: &Comparison, json: &impl Serialize) -> Result<()> {
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
