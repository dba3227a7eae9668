//! Flags that choose the results of a run that are printed and written.

use std::path::{Path, PathBuf};

/// Flags of `loadgen run` that choose the results.
#[derive(Debug, Clone, clap::Args)]
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
    /// These flags for one run of several: the files of `--html`, `--csv` and `--log` have the seed in their names.
    #[must_use]
    pub fn of_run(&self, seed: u64) -> Self {
        let of_seed = |file: &Option<PathBuf>| file.as_ref().map(|file| with_seed(file, seed));
        Self { html: of_seed(&self.html), csv: of_seed(&self.csv), log: of_seed(&self.log), ..self.clone() }
    }

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

/// The path with `-seed-SEED` before its extension. `.csv.gz` counts as one extension.
fn with_seed(path: &Path, seed: u64) -> PathBuf {
    let is_compressed = path.extension().is_some_and(|extension| extension == "gz");
    let plain = if is_compressed { path.with_extension("") } else { path.to_owned() };
    let mut name = plain.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-seed-{seed}"));
    for extension in [plain.extension(), path.extension().filter(|_| is_compressed)].into_iter().flatten() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_stands_before_the_extension() {
        for (path, expected) in [
            ("out/run.html", "out/run-seed-7.html"),
            ("requests.csv.gz", "requests-seed-7.csv.gz"),
            ("a.b.csv", "a.b-seed-7.csv"),
            ("plain", "plain-seed-7"),
            ("log.gz", "log-seed-7.gz"),
        ] {
            assert_eq!(with_seed(Path::new(path), 7), Path::new(expected));
        }
    }
}
