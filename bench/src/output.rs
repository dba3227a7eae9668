//! The flag `--json`, which every benchmark with figures has.

use anyhow::{Context, Result};
use serde_json::Value;
use std::path::PathBuf;

/// Where a benchmark writes its figures beside the terminal.
#[derive(Debug, clap::Args)]
pub(crate) struct Output {
    /// Write every figure to this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Output {
    /// Writes `figures` to the file of `--json`, if that was given.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, figures: &Value) -> Result<()> {
        let Some(path) = &self.json else { return Ok(()) };
        std::fs::write(path, format!("{figures:#}\n")).with_context(|| format!("write {}", path.display()))
    }
}
