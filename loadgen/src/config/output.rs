//! What is left of a run.

use std::path::PathBuf;

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the run is called in reports and comparisons
    #[arg(long)]
    pub name: Option<String>,
    /// Print a row for every so many seconds of the run
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub table: Option<u32>,
    /// Write the results as JSON (its schema: loadgen schema)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the results as one HTML page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write a row of CSV for every second
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write a row for every request, as CSV compressed with gzip
    #[arg(long, value_name = "FILE.csv.gz")]
    pub log: Option<PathBuf>,
    /// While it runs, print a line now and then instead of filling the screen
    #[arg(long)]
    pub no_tui: bool,
    /// Print no progress, and no summary
    #[arg(long, short, conflicts_with = "no_tui")]
    pub quiet: bool,
}

impl Args {
    /// Creates every file that is to be written, so that a long run does not end with a folder that is missing.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn check(&self) -> anyhow::Result<()> {
        use anyhow::Context;
        for file in [&self.json, &self.html, &self.csv, &self.log].into_iter().flatten() {
            std::fs::File::options()
                .create(true)
                .append(true)
                .open(file)
                .with_context(|| format!("write {}", file.display()))?;
        }
        Ok(())
    }
}
