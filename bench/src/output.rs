//! The flag `--json`, by which a benchmark writes its figures to a file.

use anyhow::{Context, Result};
use serde_json::Value;
use std::path::PathBuf;

/// The flag for the file with the figures.
#[derive(Debug, clap::Args)]
pub(crate) struct Output {
    /// File for all figures, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Output {
    /// Writes `figures` to the file that `--json` names. Does nothing without the flag.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn write(&self, figures: &Value) -> Result<()> {
        let Some(path) = &self.json else { return Ok(()) };
        std::fs::write(path, format!("{figures:#}\n")).with_context(|| format!("write {}", path.display()))
    }
}
