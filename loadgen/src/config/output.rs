//! Flags that choose the results of a run that are printed and written.

use crate::output_file::{FileId, OutputFile, STDOUT, file_id};
use anyhow::{Context, Result, bail, ensure};
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
    /// The other files of each run, in the order of the seeds.
    pub runs: Vec<RunFiles>,
}

/// The open files that belong to one run.
#[derive(Debug, Default)]
pub struct RunFiles {
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
    /// Opens every file that the flags name for runs with these seeds, so that a missing folder is noticed before the run
    /// and not after it. The contents of files that exist stay. With several seeds, the names of files that belong to one
    /// run have its seed. `inputs` are the flags and the files that the run reads.
    ///
    /// # Errors
    /// If a file cannot be written, or if two flags or two runs name the same file; the message names them.
    pub fn open_files(&self, seeds: &[u64], inputs: &[(&'static str, &Path)]) -> Result<OutputFiles> {
        // A missing input is reported when it is read.
        let id = |path: &Path| std::fs::metadata(path).ok().as_ref().and_then(file_id);
        let mut taken: Vec<_> = inputs.iter().filter_map(|&(flag, path)| Some((flag, id(path)?))).collect();
        let mut open = |flag, path: &Option<PathBuf>, seed: Option<u64>| {
            let open = |path: &PathBuf| {
                let path = seed.map_or_else(|| path.clone(), |seed| with_seed(path, seed));
                open_file(flag, &path, &mut taken)
            };
            path.as_ref().map(open).transpose()
        };
        let json = open("--json", &self.json, None)?;
        let runs = seeds.iter().map(|&seed| {
            let seed = (seeds.len() > 1).then_some(seed);
            Ok(RunFiles {
                html: open("--html", &self.html, seed)?,
                csv: open("--csv", &self.csv, seed)?,
                log: open("--log", &self.log, seed)?,
                junit: open("--junit", &self.junit, seed)?,
                markdown: open("--markdown", &self.markdown, seed)?,
            })
        });
        Ok(OutputFiles { runs: runs.collect::<Result<_>>()?, json })
    }
}

/// Opens the file of `flag`, unless another flag in `taken` has the same file.
fn open_file(flag: &'static str, path: &Path, taken: &mut Vec<(&'static str, FileId)>) -> Result<OutputFile> {
    let file = OutputFile::open(path).context(flag)?;
    if let Some(id) = file.id() {
        if let Some((other, _)) = taken.iter().find(|(_, taken)| *taken == id) {
            let place = if file.is_stdout() { "standard output".into() } else { path.display().to_string() };
            ensure!(
                *other != flag,
                "with --runs, {flag} needs a file for each run, and {place} is one for all of them"
            );
            bail!("{other} and {flag} both name {place}; give each its own file");
        }
        taken.push((flag, id));
    }
    Ok(file)
}

impl OutputFiles {
    fn all(&self) -> impl Iterator<Item = &OutputFile> {
        self.json.iter().chain(self.runs.iter().flat_map(|run| {
            let RunFiles { html, csv, log, junit, markdown } = run;
            [html, csv, log, junit, markdown].into_iter().flatten()
        }))
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

/// The path with `-seed-SEED` before its extension. `.csv.gz` counts as one extension. Standard output, devices and pipes
/// stay.
fn with_seed(path: &Path, seed: u64) -> PathBuf {
    let is_special = std::fs::metadata(path).is_ok_and(|found| !found.is_file());
    if is_special || path.as_os_str() == STDOUT {
        return path.to_owned();
    }
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
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        output: Args,
    }

    fn open(flags: &[&str], inputs: &[(&'static str, &Path)]) -> Result<OutputFiles> {
        Line::try_parse_from([&["loadgen"], flags].concat())
            .expect("the flags are valid")
            .output
            .open_files(&[1], inputs)
    }

    #[test]
    fn each_result_needs_a_file_of_its_own() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("a"), "5 5\n").expect("writable");
        std::fs::hard_link(path("a"), path("b")).expect("writable");
        let error =
            |flags: &[&str], inputs: &[(&'static str, &Path)]| open(flags, inputs).expect_err("refused").to_string();
        let same = error(&["--json", &path("a"), "--csv", &path("b")], &[]);
        assert!(same.contains("--json and --csv both name") && same.contains(&path("b")), "{same}");
        assert!(error(&["--markdown=-", "--json=-"], &[]).contains("--json and --markdown both name standard output"));
        let workload = path("a");
        let overwritten = error(&["--html", &path("b")], &[("--workload", Path::new(&workload))]);
        assert!(overwritten.contains("--workload and --html both name"), "{overwritten}");
        assert_eq!(std::fs::read_to_string(path("a")).expect("readable"), "5 5\n");
        let files = open(&["--json=/dev/null", "--csv=/dev/null", "--junit=-"], &[]).expect("three results");
        assert!(files.use_stdout());
        assert!(!open(&["--json", &path("c")], &[]).expect("one result").use_stdout());
    }

    #[test]
    fn each_run_of_several_needs_a_file_of_its_own() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let csv = folder.path().join("run.csv");
        let open = |csv: &Path| {
            let line =
                Line::try_parse_from([Path::new("loadgen"), Path::new("--csv"), csv]).expect("the flag is valid");
            line.output.open_files(&[4, 5], &[])
        };
        assert_eq!(open(&csv).expect("two files").runs.len(), 2);
        assert!(folder.path().join("run-seed-5.csv").exists() && !csv.exists());
        assert_eq!(open(Path::new("/dev/null")).expect("a device takes the results of both").runs.len(), 2);
        assert!(!Path::new("/dev/null-seed-4").exists());
        let error = open(Path::new("-")).expect_err("refused").to_string();
        assert!(error.contains("with --runs, --csv needs a file for each run"), "{error}");
    }

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
