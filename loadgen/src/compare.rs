//! Executes `loadgen compare`: compares the reports of several runs, and draws a conclusion from them. Runs of one name
//! with different seeds are repetitions, and count as one.

use crate::config::CompareArgs;
use crate::report::{RunReport, RunSetup};
use crate::spread::Spread;
use crate::summary::percent;
use crate::usage::ReplicaUsage;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Largest report, in bytes. The report of a run of a few hours is smaller.
const MAX_FILE_BYTES: u64 = 512 << 20;

/// Several runs, and the goal that their attainment is compared with.
#[derive(Debug, Clone, PartialEq)]
pub struct RunComparison {
    /// Percentage of requests that must be answered within the objective.
    pub goal: f64,
    /// The runs by name, in the order in which the command line first has the names.
    pub groups: Vec<RunGroup>,
}

/// The runs of one name. Their figures are medians over the runs.
#[derive(Debug, Clone, PartialEq)]
pub struct RunGroup {
    /// Name of the runs; unique in the comparison.
    pub name: String,
    /// The reports of the runs, at least one. Each has another seed.
    pub runs: Vec<RunReport>,
}

/// The header of the table.
const COLUMNS: [&str; 10] = [
    "run",
    "within objective",
    "p50",
    "p95",
    "p99",
    "failed",
    "replica-seconds",
    "peak replicas",
    "changes",
    "replica-s per 1000 good",
];

/// Reads the reports that the flags name.
///
/// # Errors
/// If a file cannot be read or is not the report of a run, or if two runs have the same name and the same seed. The
/// message names the file or the run.
pub fn read(args: &CompareArgs) -> Result<RunComparison> {
    let mut groups: Vec<RunGroup> = Vec::new();
    for path in &args.reports {
        let mut report = read_report(path).with_context(|| format!("read report {}", path.display()))?;
        let stem = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();
        let name = printable(report.setup.name.as_deref().unwrap_or(&stem));
        report.setup.load = printable(&report.setup.load);
        let Some(group) = groups.iter_mut().find(|group| group.name == name) else {
            groups.push(RunGroup { name, runs: vec![report] });
            continue;
        };
        let seed = report.setup.seed;
        ensure!(
            group.runs.iter().all(|run| run.setup.seed != seed),
            "two runs have the name {name:?} and the seed {seed}; rename a file, or give names with loadgen run --name"
        );
        group.runs.push(report);
    }
    Ok(RunComparison { goal: args.goal, groups })
}

fn read_report(path: &Path) -> Result<RunReport> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
    ensure!(text.len() as u64 <= MAX_FILE_BYTES, "the file is longer than 512 MiB");
    let error = match serde_json::from_slice::<RunReport>(&text) {
        Ok(report) => return Ok(report),
        Err(error) => error,
    };
    if serde_json::from_slice::<CapacityReportMarker>(&text).is_ok() {
        bail!("the file is a result of --find-capacity; compare runs of one workload instead");
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

/// Replaces control characters, so that the text of a file cannot send commands to the terminal.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

impl RunGroup {
    /// Percentage of requests that were answered within the objective.
    fn attainment(&self) -> f64 {
        self.spread(|run| Some(percent(run.summary.attainment))).map_or(0.0, |spread| spread.median)
    }

    /// Whether all runs are complete and were sent on time. The figures of any other run belong to another load.
    fn is_valid(&self) -> bool {
        self.runs.iter().all(|run| run.is_complete && !run.send_delays.is_bottleneck)
    }

    fn replica_seconds(&self) -> Option<f64> {
        self.spread(|run| run.summary.usage.as_ref().map(|usage| usage.replica_seconds)).map(|spread| spread.median)
    }

    fn spread(&self, figure: impl Fn(&RunReport) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.runs.iter().map(figure))
    }

    /// The name of one of the runs: with its seed, if there are several.
    pub fn run_name(&self, run: &RunReport) -> String {
        match self.runs.len() {
            1 => self.name.clone(),
            _ => format!("{}, seed {}", self.name, run.setup.seed),
        }
    }

    /// The row of the table.
    fn cells(&self) -> [String; 10] {
        let text = |spread: Option<Spread>, decimals, unit| {
            spread.map_or_else(|| "–".to_owned(), |spread| spread.text(decimals, unit))
        };
        let milliseconds = |figure: fn(&crate::latencies::Percentiles) -> f64| {
            let spread = self.spread(|run| run.summary.latency_ms.as_ref().map(figure));
            text(spread, if spread.is_some_and(|spread| spread.median < 10.0) { 2 } else { 0 }, " ms")
        };
        let usage = |figure: fn(&ReplicaUsage) -> Option<f64>, decimals| {
            text(self.spread(|run| run.summary.usage.as_ref().and_then(figure)), decimals, "")
        };
        let name = match self.runs.len() {
            1 => self.name.clone(),
            count => format!("{}, {count} seeds", self.name),
        };
        [
            name,
            text(self.spread(|run| Some(percent(run.summary.attainment))), 2, " %"),
            milliseconds(|latency| latency.p50),
            milliseconds(|latency| latency.p95),
            milliseconds(|latency| latency.p99),
            text(self.spread(|run| Some(run.summary.failed as f64)), 0, ""),
            usage(|usage| Some(usage.replica_seconds), 0),
            usage(|usage| Some(usage.peak_replicas), 0),
            usage(|usage| Some(usage.changes as f64), 0),
            usage(|usage| usage.replica_seconds_per_1000_good, 1),
        ]
    }
}

impl RunComparison {
    /// The table, the caveats and the conclusion as plain text.
    pub fn text(&self) -> String {
        let rows = self.table();
        let widths: Vec<usize> = (0..COLUMNS.len())
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let line = |row: &[String; 10]| {
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

    /// The table, the caveats and the conclusion in Markdown.
    pub fn markdown(&self) -> String {
        let line = |row: &[String; 10]| {
            format!("| {} |", row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>().join(" | "))
        };
        let mut lines: Vec<String> = self.table().iter().map(line).collect();
        lines.insert(1, format!("|---|{}", "---:|".repeat(COLUMNS.len() - 1)));
        lines.push(String::new());
        lines.extend(self.caveats());
        lines.push(self.conclusion());
        lines.join("\n")
    }

    /// The header of the table, and a row for each name.
    pub fn table(&self) -> Vec<[String; 10]> {
        std::iter::once(COLUMNS.map(str::to_owned)).chain(self.groups.iter().map(RunGroup::cells)).collect()
    }

    /// The reasons why the comparison is unfair, a sentence for each: differences between the runs, and invalid runs.
    pub fn caveats(&self) -> Vec<String> {
        let mut caveats = Vec::new();
        let mut differ = |property: &str, values: BTreeSet<String>| {
            if values.len() > 1 {
                let values = values.into_iter().collect::<Vec<_>>().join("; ");
                caveats.push(format!("The runs differ in {property}: {values}."));
            }
        };
        let runs = || self.groups.iter().flat_map(|group| &group.runs);
        differ("load", runs().map(|run| run.setup.load.clone()).collect());
        differ("arrivals", self.groups.iter().map(arrivals).collect());
        differ("length", runs().map(|run| format!("{:.0} s", run.setup.length_seconds)).collect());
        differ("objective", runs().map(|run| format!("{} ms", run.setup.objective_ms)).collect());
        let counted =
            |run: &RunReport| run.summary.usage.as_ref().map_or("not at all", |usage| usage.counted_by.description());
        differ("how replicas were counted", runs().map(|run| counted(run).into()).collect());
        for (group, run) in self.groups.iter().flat_map(|group| group.runs.iter().map(move |run| (group, run))) {
            let name = group.run_name(run);
            if !run.is_complete {
                caveats.push(format!("{name} was stopped after {:.0} s.", run.setup.length_seconds));
            }
            if run.send_delays.is_bottleneck {
                caveats
                    .push(format!("In {name}, loadgen was the bottleneck; its figures say nothing about the server."));
            }
        }
        caveats
    }

    /// The conclusion in one sentence: the cheapest of the valid runs that reached the goal. If none reached it, or no
    /// cost is known, the run with the highest attainment. If runs are repetitions, another sentence says so.
    pub fn conclusion(&self) -> String {
        let is_repeated = self.groups.iter().any(|group| group.runs.len() > 1);
        let note =
            if is_repeated { " Figures of several seeds are medians, with their range in brackets." } else { "" };
        format!("{}{note}", self.conclusion_of_figures())
    }

    fn conclusion_of_figures(&self) -> String {
        // `max_by` returns the last of several equal runs. The order is reversed, so that the first run is returned.
        let by_attainment = |a: &&RunGroup, b: &&RunGroup| a.attainment().total_cmp(&b.attainment());
        let Some(best) = self.valid_runs().rev().max_by(by_attainment) else {
            return "There is no conclusion: no run is complete and was sent on time.".to_owned();
        };
        let reached = self.valid_runs().filter(|run| self.reaches_goal(run));
        let mut by_cost: Vec<(f64, &RunGroup)> =
            reached.filter_map(|run| Some((run.replica_seconds()?, run))).collect();
        by_cost.sort_by(|a, b| a.0.total_cmp(&b.0));
        match by_cost[..] {
            [] => self.conclusion_without_costs(best),
            [cheapest, ..] => {
                let next = by_cost.get(1).copied();
                format!("{}{}.", self.conclusion_by_cost(cheapest, next), self.missed_goal())
            }
        }
    }

    /// The runs that count for the conclusion; see [`RunGroup::is_valid`].
    fn valid_runs(&self) -> impl DoubleEndedIterator<Item = &RunGroup> {
        self.groups.iter().filter(|group| group.is_valid())
    }

    fn reaches_goal(&self, run: &RunGroup) -> bool {
        run.attainment() >= self.goal
    }

    /// The objective of the first run, in milliseconds. It stands for the objective of all runs.
    fn objective_ms(&self) -> f64 {
        self.groups.first().map_or(0.0, |group| group.runs[0].setup.objective_ms)
    }

    /// The conclusion if no run reached the goal, or if no run that reached it has a known cost.
    fn conclusion_without_costs(&self, best: &RunGroup) -> String {
        let (none, verb) = if self.reaches_goal(best) {
            (String::new(), "did best")
        } else {
            (format!("No run answered {} % within {:.0} ms; ", self.goal, self.objective_ms()), "came closest")
        };
        let cost = best.replica_seconds().map_or(String::new(), |cost| format!(", for {cost:.0} replica-seconds"));
        format!("{none}{} {verb} with {:.2} %{cost}.", best.name, best.attainment())
    }

    /// The first part of the conclusion: the cheapest run that reached the goal, and the next cheapest run. Each run
    /// comes with its replica-seconds.
    fn conclusion_by_cost(&self, (cost, cheapest): (f64, &RunGroup), next: Option<(f64, &RunGroup)>) -> String {
        let mut sentence = format!(
            "{} is the cheapest that answered {} % within {:.0} ms: {:.2} % for {cost:.0} replica-seconds",
            cheapest.name,
            self.goal,
            self.objective_ms(),
            cheapest.attainment()
        );
        if let Some((next_cost, run)) = next {
            let more = 100.0 * (next_cost / cost - 1.0);
            sentence.push_str(&format!("; {} needed {next_cost:.0}, {more:.0} % more", run.name));
        }
        sentence
    }

    /// The last part of the conclusion: the runs that missed the goal. Empty if there are none.
    fn missed_goal(&self) -> String {
        let mut missed: Vec<&RunGroup> = self.valid_runs().filter(|run| !self.reaches_goal(run)).collect();
        missed.sort_by(|a, b| b.attainment().total_cmp(&a.attainment()));
        match missed[..] {
            [] => String::new(),
            [run] => format!("; {} missed the goal with {:.2} %", run.name, run.attainment()),
            [best, ..] => format!(
                "; {} missed the goal, the best of them {} with {:.2} %",
                missed.len(),
                best.name,
                best.attainment()
            ),
        }
    }
}

/// The arrivals of the runs of a group in words, with their seeds.
fn arrivals(group: &RunGroup) -> String {
    let words = group.runs.iter().map(|run| {
        let RunSetup { arrivals, seed, .. } = &run.setup;
        arrivals.map_or_else(|| format!("seed {seed}"), |arrivals| format!("{arrivals}, seed {seed}"))
    });
    words.collect::<BTreeSet<String>>().into_iter().collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::RunSummary;
    use crate::usage::CountedBy;

    fn run(name: &str, attainment: f64, replica_seconds: Option<f64>) -> RunGroup {
        let usage = replica_seconds.map(|replica_seconds| ReplicaUsage {
            counted_by: CountedBy::Scaler,
            replica_seconds,
            peak_replicas: 3.0,
            changes: 4,
            replica_seconds_per_1000_good: Some(40.25),
        });
        let summary = RunSummary { offered: 1000, attainment, usage, ..RunSummary::default() };
        RunGroup { name: name.into(), runs: vec![crate::report::tests::report(summary)] }
    }

    #[test]
    fn the_conclusion_names_the_cheapest_run_that_reached_the_goal() {
        let comparison = |groups| RunComparison { goal: 99.0, groups };
        let all = comparison(vec![
            run("slo", 0.9962, Some(100.0)),
            run("cpu-50", 0.9970, Some(150.0)),
            run("cpu-90", 0.92, Some(90.0)),
        ]);
        assert_eq!(
            all.conclusion(),
            "slo is the cheapest that answered 99 % within 500 ms: 99.62 % for 100 replica-seconds; cpu-50 needed 150, \
             50 % more; cpu-90 missed the goal with 92.00 %."
        );
        let alone = comparison(vec![run("a", 0.5, None), run("b", 0.995, Some(9.0)), run("c", 0.7, Some(1.0))]);
        assert_eq!(
            alone.conclusion(),
            "b is the cheapest that answered 99 % within 500 ms: 99.50 % for 9 replica-seconds; 2 missed the goal, the \
             best of them c with 70.00 %."
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
    fn runs_that_were_stopped_or_sent_late_cannot_win() {
        let mut runs =
            vec![run("stopped", 1.0, Some(1.0)), run("late", 1.0, Some(2.0)), run("whole", 0.974, Some(3.0))];
        runs[0].runs[0].is_complete = false;
        runs[1].runs[0].send_delays.is_bottleneck = true;
        let conclusion = |runs: &[RunGroup]| RunComparison { goal: 97.4, groups: runs.to_vec() }.conclusion();
        assert_eq!(
            conclusion(&runs),
            "whole is the cheapest that answered 97.4 % within 500 ms: 97.40 % for 3 replica-seconds."
        );
        assert!(conclusion(&runs[..2]).starts_with("There is no conclusion"));
    }

    #[test]
    fn caveats_name_what_makes_a_comparison_unfair() {
        let mut runs = vec![run("a", 0.5, Some(1.0)), run("b", 0.5, None)];
        runs[1].runs[0].setup.length_seconds = 4.0;
        runs[1].runs[0].setup.objective_ms = 100.0;
        runs[1].runs[0].is_complete = false;
        let caveats = RunComparison { goal: 99.0, groups: runs }.caveats().join(" ");
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
    fn errors_name_files_that_are_not_reports() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("created");
            std::fs::write(&path, text).expect("written");
            path
        };
        let good = serde_json::to_string(&run("x", 1.0, None).runs[0]).expect("JSON");
        let args = |reports| CompareArgs { reports, goal: 99.0, html: None, markdown: false };
        let error = |reports| format!("{:#}", read(&args(reports)).expect_err("refused"));
        assert!(error(vec![file("a.json", "no")]).contains("a.json: the file is not JSON"));
        assert!(error(vec![file("b.json", "{}")]).contains("not a report of loadgen run --json"));
        assert!(error(vec![file("c.json", "{\"tries\":[]}")]).contains("--find-capacity"));
        assert!(error(vec![folder.path().join("gone.json")]).contains("gone.json"));
        assert!(
            error(vec![file("d.json", &format!("[{}0]", "0,".repeat(1000)))]).contains("not a report of loadgen run")
        );
        let (one, two) = (file("one.json", &good), file("two.json", &good));
        assert!(error(vec![one.clone(), one.clone()]).contains("two runs have the name \"one\" and the seed 1"));
        let other_seed = file("other/one.json", &good.replace("\"seed\":1", "\"seed\":2"));
        let groups = read(&args(vec![one, two, other_seed])).expect("good").groups;
        let found: Vec<_> = groups.iter().map(|group| (group.name.as_str(), group.runs.len())).collect();
        assert_eq!(found, [("one", 2), ("two", 1)]);
    }

    /// Runs of one name with the seeds 1, 2 and so on. Each has an attainment and replica-seconds.
    fn repeated(name: &str, figures: &[(f64, f64)]) -> RunGroup {
        let runs = figures.iter().zip(1..).map(|(&(attainment, cost), seed)| {
            let mut report = run(name, attainment, Some(cost)).runs.remove(0);
            report.setup.seed = seed;
            report
        });
        RunGroup { name: name.into(), runs: runs.collect() }
    }

    #[test]
    fn runs_of_one_name_are_compared_by_their_medians() {
        let slo = repeated("slo", &[(0.995, 100.0), (0.90, 120.0), (0.997, 90.0)]);
        let hpa = repeated("hpa", &[(0.98, 200.0), (0.999, 300.0), (0.97, 210.0)]);
        let mut comparison = RunComparison { goal: 99.0, groups: vec![slo, hpa] };
        assert_eq!(
            comparison.conclusion(),
            "slo is the cheapest that answered 99 % within 500 ms: 99.50 % for 100 replica-seconds; hpa missed the goal \
             with 98.00 %. Figures of several seeds are medians, with their range in brackets."
        );
        let row = &comparison.table()[1];
        assert_eq!(
            [&row[0], &row[1], &row[6], &row[7]],
            ["slo, 3 seeds", "99.50 (90.00–99.70) %", "100 (90–120)", "3 (3–3)"]
        );
        assert!(comparison.caveats().is_empty(), "both have the same seeds: {:?}", comparison.caveats());
        comparison.groups[1].runs[2].is_complete = false;
        comparison.groups[1].runs[0].setup.seed = 7;
        let caveats = comparison.caveats().join(" ");
        for words in ["hpa, seed 3 was stopped", "differ in arrivals", "seed 7"] {
            assert!(caveats.contains(words), "{words}: {caveats}");
        }
        assert!(!comparison.conclusion().contains("hpa"), "a stopped run makes its group invalid");
    }
}
