//! `loadgen compare`: several runs side by side, and what follows from them.

use crate::config::CompareArgs;
use crate::latencies::ms;
use crate::report::{Report, Setup};
use crate::summary::percent;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Hours of a run.
const MAX_FILE_BYTES: u64 = 512 << 20;

/// Runs and what is enough.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Per cent within the objective that are enough.
    pub goal: f64,
    /// In the order in which they were given.
    pub runs: Vec<Run>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// What it is called.
    pub name: String,
    /// What it found.
    pub report: Report,
}

const COLUMNS: [&str; 9] = [
    "run",
    "within objective",
    "p95",
    "p99",
    "failed",
    "replica-seconds",
    "peak replicas",
    "changes",
    "replica-s per 1000 good",
];

/// Reads the reports.
///
/// # Errors
/// Names the file that cannot be read or is none that `loadgen run --json` wrote.
pub fn read(args: &CompareArgs) -> Result<Comparison> {
    let mut runs = Vec::new();
    let mut names = BTreeSet::new();
    for path in &args.reports {
        let mut report = read_report(path).with_context(|| format!("read report {}", path.display()))?;
        let stem = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();
        let name = plain(report.setup.name.as_deref().unwrap_or(&stem));
        report.setup.load = plain(&report.setup.load);
        ensure!(names.insert(name.clone()), "two runs are called {name:?}; loadgen run --name tells them apart");
        runs.push(Run { name, report });
    }
    Ok(Comparison { goal: args.goal, runs })
}

fn read_report(path: &Path) -> Result<Report> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
    ensure!(text.len() as u64 <= MAX_FILE_BYTES, "it is longer than 512 MiB");
    let error = match serde_json::from_slice::<Report>(&text) {
        Ok(report) => return Ok(report),
        Err(error) => error,
    };
    if serde_json::from_slice::<Search>(&text).is_ok() {
        bail!("it is what --find-capacity found; compare runs of one workload instead");
    }
    let what = if error.is_data() { "it is not what loadgen run --json writes" } else { "it is no JSON" };
    Err(error).context(what)
}

/// What tells a search for capacity from a run.
#[derive(Deserialize)]
struct Search {
    #[serde(rename = "tries")]
    _tries: IgnoredAny,
}

/// Text of a file for a terminal, which control characters would command.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

impl Run {
    fn attainment(&self) -> f64 {
        percent(self.report.summary.attainment)
    }

    /// Whether its figures are of the whole load and of the server.
    fn counts(&self) -> bool {
        self.report.is_complete && !self.report.punctuality.is_bottleneck
    }

    fn replica_seconds(&self) -> Option<f64> {
        self.report.summary.usage.as_ref().map(|usage| usage.replica_seconds)
    }

    /// The columns.
    fn cells(&self) -> [String; 9] {
        let summary = &self.report.summary;
        let usage = |pick: fn(&crate::usage::Usage) -> Option<f64>, decimals: usize| {
            let value = summary.usage.as_ref().and_then(pick);
            value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
        };
        [
            self.name.clone(),
            format!("{:.2} %", self.attainment()),
            ms(summary.latency_ms.map(|latency| latency.p95)),
            ms(summary.latency_ms.map(|latency| latency.p99)),
            summary.failed.to_string(),
            usage(|usage| Some(usage.replica_seconds), 0),
            usage(|usage| Some(usage.peak_replicas), 0),
            usage(|usage| Some(usage.changes as f64), 0),
            usage(|usage| usage.replica_seconds_per_1000_good, 1),
        ]
    }
}

impl Comparison {
    /// The table, what makes it unfair, and the conclusion, for a terminal.
    pub fn text(&self) -> String {
        let rows = self.table();
        let widths: Vec<usize> = (0..COLUMNS.len())
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let line = |row: &[String; 9]| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
                if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            cells.collect::<Vec<_>>().join("  ")
        };
        let mut lines: Vec<String> = rows.iter().map(line).collect();
        lines.push(String::new());
        lines.extend(self.caveats());
        lines.push(self.conclusion());
        lines.join("\n")
    }

    /// The same in Markdown.
    pub fn markdown(&self) -> String {
        let line = |row: &[String; 9]| {
            format!("| {} |", row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>().join(" | "))
        };
        let mut lines: Vec<String> = self.table().iter().map(line).collect();
        lines.insert(1, format!("|---|{}", "---:|".repeat(COLUMNS.len() - 1)));
        lines.push(String::new());
        lines.extend(self.caveats());
        lines.push(self.conclusion());
        lines.join("\n")
    }

    /// The header and a row for each run.
    pub fn table(&self) -> Vec<[String; 9]> {
        std::iter::once(COLUMNS.map(str::to_owned)).chain(self.runs.iter().map(Run::cells)).collect()
    }

    /// What makes the comparison unfair.
    pub fn caveats(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut differ = |what: &str, of: &dyn Fn(&Run) -> String| {
            let values: BTreeSet<String> = self.runs.iter().map(of).collect();
            if values.len() > 1 {
                found
                    .push(format!("The runs differ in {what}: {}.", values.into_iter().collect::<Vec<_>>().join("; ")));
            }
        };
        differ("load", &|run| run.report.setup.load.clone());
        differ("arrivals", &|run| {
            let Setup { arrivals, seed, .. } = &run.report.setup;
            arrivals.map_or_else(|| format!("seed {seed}"), |arrivals| format!("{arrivals}, seed {seed}"))
        });
        differ("length", &|run| format!("{:.0} s", run.report.setup.length_seconds));
        differ("objective", &|run| format!("{} ms", run.report.setup.objective_ms));
        differ("how replicas were counted", &|run| {
            run.report.summary.usage.as_ref().map_or("not at all", |usage| usage.source.word()).into()
        });
        for Run { name, report } in &self.runs {
            if !report.is_complete {
                found.push(format!("{name} was stopped after {:.0} s.", report.setup.length_seconds));
            }
            if report.punctuality.is_bottleneck {
                found.push(format!(
                    "In {name} the generator was the bottleneck; its figures say nothing of the server."
                ));
            }
        }
        found
    }

    /// What follows from those that count, in one sentence.
    pub fn conclusion(&self) -> String {
        let objective = self.runs.first().map_or(0.0, |run| run.report.setup.objective_ms);
        let runs = || self.runs.iter().filter(|run| run.counts());
        let reached = |run: &&Run| run.attainment() >= self.goal;
        // Of equals the first.
        let Some(closest) = runs().rev().max_by(|a, b| a.attainment().total_cmp(&b.attainment())) else {
            return "Nothing follows: no run is complete and was sent on time.".to_owned();
        };
        let mut costs: Vec<(f64, &Run)> =
            runs().filter(reached).filter_map(|run| Some((run.replica_seconds()?, run))).collect();
        costs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let Some(&(cost, best)) = costs.first() else {
            let verb = if closest.attainment() >= self.goal { "did best" } else { "came closest" };
            let none = if reached(&closest) {
                String::new()
            } else {
                format!("No run answered {} % within {objective:.0} ms; ", self.goal)
            };
            let cost =
                closest.replica_seconds().map_or(String::new(), |cost| format!(", for {cost:.0} replica-seconds"));
            return format!("{none}{} {verb} with {:.2} %{cost}.", closest.name, closest.attainment());
        };
        let mut sentence = format!(
            "{} is the cheapest that answered {} % within {objective:.0} ms: {:.2} % for {cost:.0} replica-seconds",
            best.name,
            self.goal,
            best.attainment()
        );
        if let Some((next, run)) = costs.get(1) {
            let more = 100.0 * (next / cost - 1.0);
            sentence.push_str(&format!("; {} needed {next:.0}, {more:.0} % more", run.name));
        }
        let mut missed: Vec<&Run> = runs().filter(|run| !reached(run)).collect();
        missed.sort_by(|a, b| b.attainment().total_cmp(&a.attainment()));
        match missed[..] {
            [] => {}
            [run] => sentence.push_str(&format!("; {} missed that with {:.2} %", run.name, run.attainment())),
            [run, ..] => sentence.push_str(&format!(
                "; {} missed that, the best of them {} with {:.2} %",
                missed.len(),
                run.name,
                run.attainment()
            )),
        }
        sentence + "."
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Summary;
    use crate::usage::{Source, Usage};

    fn run(name: &str, attainment: f64, replica_seconds: Option<f64>) -> Run {
        let usage = replica_seconds.map(|replica_seconds| Usage {
            source: Source::Scaler,
            replica_seconds,
            peak_replicas: 3.0,
            changes: 4,
            replica_seconds_per_1000_good: Some(40.25),
        });
        let summary = Summary { offered: 1000, attainment, usage, ..Summary::default() };
        let report = crate::report::tests::report(summary);
        Run { name: name.into(), report }
    }

    #[test]
    fn the_conclusion_names_the_cheapest_that_is_good_enough() {
        let comparison = |runs| Comparison { goal: 99.0, runs };
        let all = comparison(vec![
            run("slo", 0.9962, Some(100.0)),
            run("cpu-50", 0.9970, Some(150.0)),
            run("cpu-90", 0.92, Some(90.0)),
        ]);
        assert_eq!(
            all.conclusion(),
            "slo is the cheapest that answered 99 % within 500 ms: 99.62 % for 100 replica-seconds; cpu-50 needed 150, \
             50 % more; cpu-90 missed that with 92.00 %."
        );
        let alone = comparison(vec![run("a", 0.5, None), run("b", 0.995, Some(9.0)), run("c", 0.7, Some(1.0))]);
        assert_eq!(
            alone.conclusion(),
            "b is the cheapest that answered 99 % within 500 ms: 99.50 % for 9 replica-seconds; 2 missed that, the best of \
             them c with 70.00 %."
        );
        let none = comparison(vec![run("a", 0.5, Some(10.0)), run("b", 0.6, None)]);
        assert_eq!(none.conclusion(), "No run answered 99 % within 500 ms; b came closest with 60.00 %.");
        let unpaid = comparison(vec![run("a", 0.999, None)]);
        assert_eq!(unpaid.conclusion(), "a did best with 99.90 %.");
        assert!(all.text().lines().nth(1).expect("a row").starts_with("slo "), "{}", all.text());
        assert!(all.markdown().contains("|---|---:|"));
        assert!(all.caveats().is_empty());
    }

    #[test]
    fn what_was_cut_short_or_sent_late_cannot_win() {
        let mut runs =
            vec![run("stopped", 1.0, Some(1.0)), run("late", 1.0, Some(2.0)), run("whole", 0.974, Some(3.0))];
        runs[0].report.is_complete = false;
        runs[1].report.punctuality.is_bottleneck = true;
        let conclusion = |runs: &[Run]| Comparison { goal: 97.4, runs: runs.to_vec() }.conclusion();
        assert_eq!(
            conclusion(&runs),
            "whole is the cheapest that answered 97.4 % within 500 ms: 97.40 % for 3 replica-seconds."
        );
        assert!(conclusion(&runs[..2]).starts_with("Nothing follows"));
    }

    #[test]
    fn unfair_comparisons_say_so() {
        let mut runs = vec![run("a", 0.5, Some(1.0)), run("b", 0.5, None)];
        runs[1].report.setup.length_seconds = 4.0;
        runs[1].report.setup.objective_ms = 100.0;
        runs[1].report.is_complete = false;
        let caveats = Comparison { goal: 99.0, runs }.caveats().join(" ");
        for words in [
            "differ in objective: 100 ms; 500 ms",
            "b was stopped",
            "differ in length: 10 s; 4 s",
            "counted: asked for; not at all",
        ] {
            assert!(caveats.contains(words), "{words}: {caveats}");
        }
    }

    #[test]
    fn files_that_are_no_reports_are_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let good = serde_json::to_string(&run("x", 1.0, None).report).expect("JSON");
        let args = |reports| CompareArgs { reports, goal: 99.0, html: None, markdown: false };
        let error = |reports| format!("{:#}", read(&args(reports)).expect_err("refused"));
        assert!(error(vec![file("a.json", "no")]).contains("a.json: it is no JSON"));
        assert!(error(vec![file("b.json", "{}")]).contains("not what loadgen run --json writes"));
        assert!(error(vec![file("c.json", "{\"tries\":[]}")]).contains("--find-capacity"));
        assert!(error(vec![folder.path().join("gone.json")]).contains("gone.json"));
        assert!(error(vec![file("d.json", &format!("[{}0]", "0,".repeat(1000)))]).contains("not what loadgen run"));
        let (one, two) = (file("one.json", &good), file("two.json", &good));
        assert!(error(vec![one.clone(), one.clone()]).contains("two runs are called \"one\""));
        let runs = read(&args(vec![one, two])).expect("good").runs;
        assert_eq!(runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    }
}
