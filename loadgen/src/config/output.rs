//! Flags that choose the results of a run that are printed and written.

use std::path::PathBuf;

/// Flags of `loadgen run` that choose the results.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the run in reports and comparisons
    #[arg(long)]
    pub name: Option<String>,
    /// Print a table with one row for every SECONDS seconds of the run
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub table: Option<u32>,
    /// Write the results to this file as JSON; `loadgen schema` prints the schema
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the results to this file as one HTML page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write a row for every second to this file, as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write a row for every request to this file, as CSV compressed with gzip
    #[arg(long, value_name = "FILE.csv.gz")]
    pub log: Option<PathBuf>,
    /// Print a line every five seconds to standard error, instead of showing the live screen
    #[arg(long)]
    pub no_tui: bool,
    /// Print neither progress nor summary
    #[arg(long, short, conflicts_with = "no_tui")]
    pub quiet: bool,
}

impl Args {
    /// Creates every file that the flags name, so that a missing folder is noticed before the run and not after it.
    ///
    /// # Errors
    /// If a file cannot be created; the message names it.
    pub fn create_files(&self) -> anyhow::Result<()> {
        use anyhow::Context;
        for file in [&self.json, &self.html, &self.csv, &self.log].into_iter().flatten() {
            std::fs::File::options()
                .create(true)
                .append(true)
                .open(file)
                .with_context(|| format!("create {}", file.display()))?;
        }
        Ok(())
    }
}
