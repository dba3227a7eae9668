//! Flags that choose the results of a run that are printed and written.

use crate::output_file::{FileId, OutputFile, file_id};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Flags of `loadgen run` that choose the results.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the run in reports and comparisons
    #[arg(long)]
    pub name: Option<String>,
    /// Print a table with one row for every SECONDS seconds of the run
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub table: Option<u32>,
    /// Write the results to this file as JSON; `loadgen schema` prints the schema. For this flag and the next ones, - is
    /// standard output; the summary then goes to standard error
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
    /// Write the thresholds to this file as test cases in JUnit's XML, for CI systems
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Write the results to this file as a summary in Markdown, for the pages of CI systems
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Print a line every five seconds to standard error, instead of showing the live screen
    #[arg(long)]
    pub no_tui: bool,
    /// Print nothing but errors, and the file that goes to standard output
    #[arg(long, short, conflicts_with = "no_tui")]
    pub quiet: bool,
}

/// The open files that the flags name.
#[derive(Debug, Default)]
pub struct OutputFiles {
    /// The file of `--json`.
    pub json: Option<OutputFile>,
    /// The file of `--html`.
    pub html: Option<OutputFile>,
    /// The file of `--csv`.
    pub csv: Option<OutputFile>,
    /// The file of `--log`.
    pub log: Option<OutputFile>,
    /// The file of `--junit`.
    pub junit: Option<OutputFile>,
    /// The file of `--markdown`.
    pub markdown: Option<OutputFile>,
}

impl Args {
    /// Opens every file that the flags name, so that a missing folder is noticed before the run and not after it. The
    /// contents of files that exist stay. `input` is the flag and the file that the run reads, if there is one.
    ///
    /// # Errors
    /// If a file cannot be written, or if two flags name the same file; the message names them.
    pub fn open_files(&self, input: Option<(&'static str, &Path)>) -> Result<OutputFiles> {
        let mut taken = Vec::new();
        if let Some((flag, path)) = input
            && let Some(id) = std::fs::metadata(path).ok().as_ref().and_then(file_id)
        {
            taken.push((flag, id));
        }
        let mut open = |flag, path: &Option<PathBuf>| {
            let open = |path: &PathBuf| open_file(flag, path, &mut taken);
            path.as_ref().map(open).transpose()
        };
        Ok(OutputFiles {
            json: open("--json", &self.json)?,
            html: open("--html", &self.html)?,
            csv: open("--csv", &self.csv)?,
            log: open("--log", &self.log)?,
            junit: open("--junit", &self.junit)?,
            markdown: open("--markdown", &self.markdown)?,
        })
    }
}

/// Opens the file of `flag`, unless another flag in `taken` has the same file.
fn open_file(flag: &'static str, path: &Path, taken: &mut Vec<(&'static str, FileId)>) -> Result<OutputFile> {
    let file = OutputFile::open(path).context(flag)?;
    if let Some(id) = file.id() {
        if let Some((other, _)) = taken.iter().find(|(_, taken)| *taken == id) {
            let place = if file.is_stdout() { "standard output".into() } else { path.display().to_string() };
            bail!("{other} and {flag} both name {place}; give each its own file");
        }
        taken.push((flag, id));
    }
    Ok(file)
}

impl OutputFiles {
    fn all(&self) -> impl Iterator<Item = &OutputFile> {
        let Self { json, html, csv, log, junit, markdown } = self;
        [json, html, csv, log, junit, markdown].into_iter().flatten()
    }

    /// Deletes the results of earlier runs.
    ///
    /// # Errors
    /// If a file cannot be changed; the message names it.
    pub fn clear(&self) -> Result<()> {
        self.all().try_for_each(OutputFile::clear)
    }

    /// Whether one of the files is standard output. Nothing else must be printed there then.
    pub fn use_stdout(&self) -> bool {
        self.all().any(OutputFile::is_stdout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        output: Args,
    }

    fn open(flags: &[&str], input: Option<(&'static str, &Path)>) -> Result<OutputFiles> {
        Line::try_parse_from([&["loadgen"], flags].concat()).expect("the flags are valid").output.open_files(input)
    }

    #[test]
    fn each_result_needs_a_file_of_its_own() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("a"), "5 5\n").expect("writable");
        std::fs::hard_link(path("a"), path("b")).expect("writable");
        let error = |flags: &[&str], input| open(flags, input).expect_err("refused").to_string();
        let same = error(&["--json", &path("a"), "--csv", &path("b")], None);
        assert!(same.contains("--json and --csv both name") && same.contains(&path("b")), "{same}");
        assert!(error(&["--markdown=-", "--json=-"], None).contains("--json and --markdown both name standard output"));
        let workload = path("a");
        let overwritten = error(&["--html", &path("b")], Some(("--workload", Path::new(&workload))));
        assert!(overwritten.contains("--workload and --html both name"), "{overwritten}");
        assert_eq!(std::fs::read_to_string(path("a")).expect("readable"), "5 5\n");
        let files = open(&["--json=/dev/null", "--csv=/dev/null", "--junit=-"], None).expect("three results");
        assert!(files.use_stdout());
        assert!(!open(&["--json", &path("c")], None).expect("one result").use_stdout());
    }
}
