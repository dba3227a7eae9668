//! Reads the reports that `loadgen compare` compares.

use super::RunGroup;
use crate::latencies::{Latencies, OfferedPercentiles};
use crate::report::RunReport;
use crate::series::RunSeries;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest file, in bytes. The report of a run of a few hours is smaller.
const MAX_FILE_BYTES: u64 = 512 << 20;

/// Reads the files, and groups the runs by their names. A file has one run, or those of `--runs`.
///
/// # Errors
/// If a file cannot be read or is not the report of a run, or if two runs have the same name and the same seed. The
/// message names the file or the run.
pub(super) fn read(files: &[PathBuf]) -> Result<Vec<RunGroup>> {
    let mut groups: Vec<RunGroup> = Vec::new();
    for path in files {
        let reports = read_file(path).with_context(|| format!("read report {}", path.display()))?;
        let stem = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();
        for mut report in reports {
            let name = printable(report.setup.name.as_deref().unwrap_or(&stem));
            report.setup.load = printable(&report.setup.load);
            add_offered_percentiles(&mut report);
            add(&mut groups, name, report)?;
        }
    }
    Ok(groups)
}

fn add(groups: &mut Vec<RunGroup>, name: String, report: RunReport) -> Result<()> {
    let Some(group) = groups.iter_mut().find(|group| group.name == name) else {
        groups.push(RunGroup { name, runs: vec![report] });
        return Ok(());
    };
    let seed = report.setup.seed;
    ensure!(
        group.runs.iter().all(|run| run.setup.seed != seed),
        "two runs have the name {name:?} and the seed {seed}; rename a file, or give names with loadgen run --name"
    );
    group.runs.push(report);
    Ok(())
}

/// The runs of a file, at least one.
fn read_file(path: &Path) -> Result<Vec<RunReport>> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
    ensure!(text.len() as u64 <= MAX_FILE_BYTES, "the file is longer than 512 MiB");
    let error = match serde_json::from_slice::<RunReport>(&text) {
        Ok(report) => return Ok(vec![report]),
        Err(error) => error,
    };
    if serde_json::from_slice::<CapacityReportMarker>(&text).is_ok() {
        bail!("the file is a result of --find-capacity; compare runs of one workload instead");
    }
    if serde_json::from_slice::<SeriesMarker>(&text).is_ok() {
        let series: RunSeries =
            serde_json::from_slice(&text).context("a run of the file is not a report of loadgen")?;
        ensure!(!series.runs.is_empty(), "the file has no run");
        return Ok(series.runs);
    }
    let reason =
        if error.is_data() { "the file is not a report of loadgen run --json" } else { "the file is not JSON" };
    Err(error).context(reason)
}

/// A field that only the result of `--find-capacity` has.
#[derive(Deserialize)]
struct CapacityReportMarker {
    #[serde(rename = "tries")]
    _tries: IgnoredAny,
}

/// The fields that only the result of `--runs` has.
#[derive(Deserialize)]
struct SeriesMarker {
    #[serde(rename = "runs")]
    _runs: IgnoredAny,
    #[serde(rename = "figures")]
    _figures: IgnoredAny,
}

/// Computes the percentiles of all offered requests from the histogram, if an earlier version of loadgen wrote the report
/// without them.
fn add_offered_percentiles(report: &mut RunReport) {
    let summary = &mut report.summary;
    if summary.answered > 0
        && summary.offered_latency_ms == OfferedPercentiles::default()
        && let Ok(latencies) = Latencies::decoded(&report.histogram)
    {
        summary.offered_latency_ms = latencies.percentiles_of_offered(summary.offered);
    }
}

/// Replaces control characters, so that the text of a file cannot send commands to the terminal.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::RunSummary;
    use std::time::Duration;

    fn report() -> RunReport {
        crate::report::tests::report(RunSummary { offered: 1000, attainment: 1.0, ..RunSummary::default() })
    }

    #[test]
    fn errors_name_files_that_are_not_reports() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("created");
            std::fs::write(&path, text).expect("written");
            path
        };
        let good = serde_json::to_string(&report()).expect("JSON");
        let error = |reports: &[PathBuf]| format!("{:#}", read(reports).expect_err("refused"));
        for (name, text, words) in [
            ("a.json", "no", "a.json: the file is not JSON"),
            ("b.json", "{}", "not a report of loadgen run --json"),
            ("c.json", "{\"tries\":[]}", "--find-capacity"),
            ("d.json", &format!("[{}0]", "0,".repeat(1000)), "not a report of loadgen run"),
            ("e.json", "{\"runs\":[],\"figures\":{}}", "the file has no run"),
            ("f.json", "{\"runs\":[{}],\"figures\":{}}", "a run of the file is not a report"),
        ] {
            let error = error(&[file(name, text)]);
            assert!(error.contains(words), "{name}: {error}");
        }
        assert!(error(&[folder.path().join("gone.json")]).contains("gone.json"));
        let (one, two) = (file("one.json", &good), file("two.json", &good));
        assert!(error(&[one.clone(), one.clone()]).contains("two runs have the name \"one\" and the seed 1"));
        let other_seed = file("other/one.json", &good.replace("\"seed\":1", "\"seed\":2"));
        let groups = read(&[one, two, other_seed]).expect("good");
        let found: Vec<_> = groups.iter().map(|group| (group.name.as_str(), group.runs.len())).collect();
        assert_eq!(found, [("one", 2), ("two", 1)]);
    }

    #[test]
    fn the_runs_of_a_series_are_one_group() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("slo.json");
        let mut second = report();
        second.setup.seed = 2;
        let series = RunSeries::new(vec![report(), second]);
        std::fs::write(&path, serde_json::to_string(&series).expect("JSON")).expect("written");
        let groups = read(&[path]).expect("good");
        assert_eq!((groups.len(), groups[0].name.as_str(), groups[0].runs.len()), (1, "slo", 2));
    }

    #[test]
    fn a_report_without_percentiles_of_all_requests_gets_them_from_its_histogram() {
        let latencies: Latencies = (1..=90).map(Duration::from_millis).collect();
        let mut old = report();
        old.histogram = latencies.encoded();
        (old.summary.offered, old.summary.answered, old.summary.failed) = (100, 90, 10);
        add_offered_percentiles(&mut old);
        let found = old.summary.offered_latency_ms;
        assert!(found.p50.is_some_and(|p50| (p50 - 50.0).abs() < 0.1) && found.p90.is_some(), "{found:?}");
        assert_eq!((found.p95, found.p99), (None, None));
        let mut broken = report();
        (broken.summary.answered, broken.histogram) = (1, "no histogram".into());
        add_offered_percentiles(&mut broken);
        assert_eq!(broken.summary.offered_latency_ms, OfferedPercentiles::default());
    }
}
