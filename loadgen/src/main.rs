//! loadgen's process: flags, runtime, files.

use anyhow::{Context, Result};
use clap::Parser;
use loadgen::config::{Cli, Command, RunArgs};
use loadgen::report::{html, terminal};
use loadgen::{images, run};
use std::path::Path;

fn main() -> Result<()> {
    service::descriptors::raise();
    match Cli::parse().command {
        Command::Run(args) => make_run(&args),
        Command::Pictures(args) => {
            images::write(&args.folder, args.count, args.seed)?;
            println!("{} pictures and labels.csv are in {}", args.count, args.folder.display());
            Ok(())
        }
    }
}

fn make_run(args: &RunArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(run::run(args))?;
    if args.table.is_some() {
        println!("{}\n", terminal::table(&report));
    }
    if !args.quiet {
        println!("{}", terminal::summary(&report));
    }
    let write =
        |path: &Path, text: String| std::fs::write(path, text).with_context(|| format!("write {}", path.display()));
    if let Some(path) = &args.json {
        write(path, serde_json::to_string_pretty(&report)?)?;
    }
    if let Some(path) = &args.html {
        write(path, html::page(&report))?;
        if !args.quiet {
            println!("report      {}", path.display());
        }
    }
    Ok(())
}
