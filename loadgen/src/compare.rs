//! Executes `loadgen compare`: compares the reports of several runs, judges them, and draws a conclusion. Runs of one name
//! with different seeds are repetitions, and count as one group.

mod conclusion;
mod group;
mod reading;
mod verdict;

use crate::config::CompareArgs;
use crate::figure::{Estimate, Figure};
use crate::report::{RunReport, RunSetup};
use anyhow::Result;
use conclusion::Conclusion;
use group::COLUMNS;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

pub use group::RunGroup;
pub use verdict::Verdict;

/// Share of the processor time, 0 to 1. Steal above it is worth a caveat.
const NOTABLE_STEAL: f64 = 0.01;

/// Most runs that a caveat names.
const MAX_NAMED: usize = 5;

/// Several runs, and the goal that their attainment is compared with.
#[derive(Debug, Clone, PartialEq)]
pub struct RunComparison {
    /// Percentage of requests that must be answered within the objective.
    pub goal: f64,
    /// The runs by name, in the order in which the command line first has the names.
    pub groups: Vec<RunGroup>,
}

/// A comparison as the JSON of `loadgen compare --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparisonReport {
    /// Percentage of requests that must be answered within the objective.
    pub goal: f64,
    /// The groups, in the order in which the command line first has their names.
    pub groups: Vec<GroupReport>,
    /// The judgement on each pair of groups with several runs.
    pub verdicts: Vec<Verdict>,
    /// The reasons why the comparison is unfair, a sentence for each.
    pub caveats: Vec<String>,
    /// The conclusion in words.
    pub conclusion: String,
}

/// The figures of a group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupReport {
    /// The name of the runs.
    pub name: String,
    /// The seeds of the runs.
    pub seeds: Vec<u64>,
    /// The mean of each figure with its 95 % interval. A figure is absent if a run lacks it, such as a percentile that lies
    /// among the failed requests.
    pub figures: BTreeMap<Figure, Estimate>,
}

/// Reads the reports that the flags name.
///
/// # Errors
/// If a file cannot be read or is not the report of a run, or if two runs have the same name and the same seed. The
/// message names the file or the run.
pub fn read(args: &CompareArgs) -> Result<RunComparison> {
    Ok(RunComparison { goal: args.goal, groups: reading::read(&args.reports)? })
}

impl RunComparison {
    /// The table, the verdicts, the caveats and the conclusion as plain text.
    pub fn text(&self) -> String {
        let rows = self.table();
        let widths: Vec<usize> = (0..COLUMNS.len())
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let line = |row: &[String; COLUMNS.len()]| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
                if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            cells.collect::<Vec<_>>().join("  ")
        };
        let mut lines: Vec<String> = rows.iter().map(line).collect();
        lines.push(String::new());
        lines.extend(self.sentences());
        lines.join("\n")
    }

    /// The table, the verdicts, the caveats and the conclusion in Markdown.
    pub fn markdown(&self) -> String {
        let line = |row: &[String; COLUMNS.len()]| {
            format!("| {} |", row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>().join(" | "))
        };
        let mut lines: Vec<String> = self.table().iter().map(line).collect();
        lines.insert(1, format!("|---|{}", "---:|".repeat(COLUMNS.len() - 1)));
        lines.push(String::new());
        // Without the hyphens, Markdown would join the sentences to one paragraph.
        lines.extend(self.sentences().into_iter().map(|sentence| format!("- {sentence}")));
        lines.join("\n")
    }

    /// The comparison for `--json`.
    pub fn report(&self) -> ComparisonReport {
        let group = |group: &RunGroup| GroupReport {
            name: group.name.clone(),
            seeds: group.runs.iter().map(|run| run.setup.seed).collect(),
            figures: Figure::ALL.iter().filter_map(|&figure| Some((figure, group.estimate(figure)?))).collect(),
        };
        ComparisonReport {
            goal: self.goal,
            groups: self.groups.iter().map(group).collect(),
            verdicts: self.verdicts(),
            caveats: self.caveats(),
            conclusion: self.conclusion(),
        }
    }

    /// The header of the table, and a row for each name.
    pub fn table(&self) -> Vec<[String; COLUMNS.len()]> {
        std::iter::once(COLUMNS.map(str::to_owned)).chain(self.groups.iter().map(RunGroup::cells)).collect()
    }

    /// The judgement on each pair of groups with several runs, in each figure that is judged.
    pub fn verdicts(&self) -> Vec<Verdict> {
        verdict::judge(&self.groups)
    }

    fn sentences(&self) -> Vec<String> {
        let verdicts = self.verdicts().iter().map(Verdict::text).collect::<Vec<_>>();
        verdicts.into_iter().chain(self.caveats()).chain([self.conclusion()]).collect()
    }

    /// The reasons why the comparison is unfair or says little, a sentence for each: differences between the runs, invalid
    /// runs, single runs, and machines whose hosts were busy.
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
        differ("machine", runs().filter_map(|run| Some(run.setup.machine.as_ref()?.to_string())).collect());
        for (name, run) in self.named_runs() {
            if !run.is_complete {
                caveats.push(format!("{name} was stopped after {:.0} s.", run.setup.length_seconds));
            }
            if run.send_delays.is_bottleneck {
                caveats
                    .push(format!("In {name}, loadgen was the bottleneck; its figures say nothing about the server."));
            }
        }
        caveats.extend(self.steal_caveat());
        caveats.extend(self.single_run_caveat());
        caveats
    }

    /// All runs with their names.
    fn named_runs(&self) -> impl Iterator<Item = (String, &RunReport)> {
        self.groups.iter().flat_map(|group| group.runs.iter().map(move |run| (group.run_name(run), run)))
    }

    fn steal_caveat(&self) -> Option<String> {
        let stolen: Vec<String> = self
            .named_runs()
            .filter_map(|(name, run)| Some((name, run.steal.filter(|&steal| steal > NOTABLE_STEAL)?)))
            .map(|(name, steal)| format!("{name} ({:.1} %)", 100.0 * steal))
            .collect();
        let reason = "the host gave this share of the machine's processor time to others";
        (!stolen.is_empty()).then(|| format!("Steal was above 1 % in {}: {reason}.", listed(&stolen)))
    }

    fn single_run_caveat(&self) -> Option<String> {
        let single: Vec<String> =
            self.groups.iter().filter(|group| !group.is_repeated()).map(|group| group.name.clone()).collect();
        (!single.is_empty() && self.groups.len() > 1).then(|| {
            format!(
                "One run says nothing about how much its figures vary, so none is called ahead of another: {}. Repeat \
                 them with loadgen run --runs 5.",
                listed(&single)
            )
        })
    }

    /// The conclusion: the cheapest of the valid groups that reached the goal. If none reached it, or no cost is known, the
    /// group with the highest attainment. Further sentences say what the figures of several runs are.
    pub fn conclusion(&self) -> String {
        let groups = self.groups.iter().filter(|group| group.is_valid()).collect();
        let sentence = Conclusion { goal: self.goal, objective_ms: self.objective_ms(), groups }.sentence();
        let is_repeated = self.groups.iter().any(RunGroup::is_repeated);
        let note =
            if is_repeated { " Figures of several seeds are means, with their 95 % interval in brackets." } else { "" };
        let pairs = self.verdicts().iter().filter(|verdict| verdict.figure == Figure::Attainment).count();
        let chance = match pairs {
            0 | 1 => String::new(),
            _ => format!(
                " {pairs} pairs are judged, each by itself: of 100 pairs of equal laws, about 3 would show a difference by \
                 chance."
            ),
        };
        format!("{sentence}{note}{chance}")
    }

    /// The objective of the first run, in milliseconds. It stands for the objective of all runs.
    fn objective_ms(&self) -> f64 {
        self.groups.first().map_or(0.0, |group| group.runs[0].setup.objective_ms)
    }
}

/// The names, of which at most [`MAX_NAMED`] are named.
fn listed(names: &[String]) -> String {
    let named = names[..names.len().min(MAX_NAMED)].join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
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
    use crate::latencies::OfferedPercentiles;
    use crate::machine::Machine;
    use crate::summary::RunSummary;
    use crate::usage::{CountedBy, ReplicaUsage};

    pub(super) fn run(name: &str, attainment: f64, replica_seconds: Option<f64>) -> RunGroup {
        let usage = replica_seconds.map(|replica_seconds| ReplicaUsage {
            counted_by: CountedBy::Scaler,
            replica_seconds,
            peak_replicas: 3.0,
            changes: 4,
            replica_seconds_per_1000_good: Some(40.25),
        });
        let offered_latency_ms = OfferedPercentiles { p95: Some(300.0), ..OfferedPercentiles::default() };
        let summary = RunSummary { offered: 1000, attainment, usage, offered_latency_ms, ..RunSummary::default() };
        RunGroup { name: name.into(), runs: vec![crate::report::tests::report(summary)] }
    }

    /// Runs of one name with the seeds 1, 2 and so on. Each has an attainment and replica-seconds.
    pub(super) fn repeated(name: &str, figures: &[(f64, f64)]) -> RunGroup {
        let runs = figures.iter().zip(1..).map(|(&(attainment, cost), seed)| {
            let mut report = run(name, attainment, Some(cost)).runs.remove(0);
            report.setup.seed = seed;
            report
        });
        RunGroup { name: name.into(), runs: runs.collect() }
    }

    #[test]
    fn single_runs_have_a_row_each_and_none_is_called_ahead() {
        let groups = vec![run("slo", 0.9962, Some(100.0)), run("cpu|90", 0.5, Some(90.0))];
        let comparison = RunComparison { goal: 99.0, groups };
        let text = comparison.text();
        assert!(text.lines().nth(1).expect("a row").starts_with("slo "), "{text}");
        assert!(text.contains("99.62 %") && text.contains("300 ms") && text.contains("never"), "{text}");
        assert!(text.contains("One run says nothing") && !text.contains("is ahead"), "{text}");
        let markdown = comparison.markdown();
        assert!(markdown.contains("|---|---:|") && markdown.contains("cpu\\|90"), "{markdown}");
        assert_eq!(RunComparison { goal: 99.0, groups: vec![run("a", 1.0, None)] }.caveats(), Vec::<String>::new());
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
            "whole was the cheapest run that answered 97.4 % within 500 ms: 97.40 % for 3 replica-seconds."
        );
        assert!(conclusion(&runs[..2]).starts_with("There is no conclusion"));
    }

    #[test]
    fn caveats_name_what_makes_a_comparison_unfair() {
        let mut runs = vec![run("a", 0.5, Some(1.0)), run("b", 0.5, None)];
        runs[1].runs[0].setup.length_seconds = 4.0;
        runs[1].runs[0].setup.objective_ms = 100.0;
        runs[1].runs[0].is_complete = false;
        runs[1].runs[0].steal = Some(0.032);
        let machine = |cores| Some(Machine { processor: "a chip".into(), cores, memory_bytes: 8 << 30 });
        (runs[0].runs[0].setup.machine, runs[1].runs[0].setup.machine) = (machine(2), machine(4));
        runs[0].runs[0].steal = Some(0.009);
        let caveats = RunComparison { goal: 99.0, groups: runs }.caveats().join(" ");
        for words in [
            "differ in objective: 100 ms; 500 ms",
            "b was stopped",
            "differ in length: 10 s; 4 s",
            "counted: asked for; not at all",
            "differ in machine: a chip, 2 cores, 8 GiB; a chip, 4 cores, 8 GiB",
            "Steal was above 1 % in b (3.2 %): the host",
        ] {
            assert!(caveats.contains(words), "{words}: {caveats}");
        }
    }

    #[test]
    fn runs_of_one_name_are_compared_by_their_means() {
        let slo = repeated("slo", &[(0.995, 100.0), (0.994, 120.0), (0.996, 80.0)]);
        let hpa = repeated("hpa", &[(0.98, 200.0), (0.981, 300.0), (0.97, 210.0)]);
        let mut comparison = RunComparison { goal: 99.0, groups: vec![slo, hpa] };
        let row = &comparison.table()[1];
        assert_eq!([&row[0], &row[5], &row[6]], ["slo, 3 seeds", "100 (50–150)", "3"]);
        assert!(row[1].starts_with("99.50 (99.2") && row[1].ends_with(") %"), "{}", row[1]);
        assert_eq!(comparison.verdicts().len(), 2, "attainment and replica-seconds");
        assert!(
            comparison.conclusion().ends_with("with their 95 % interval in brackets."),
            "{}",
            comparison.conclusion()
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

    #[test]
    fn the_json_has_the_figures_of_each_group_and_the_verdicts() {
        let slo = repeated("slo", &[(0.995, 100.0), (0.994, 120.0)]);
        let comparison = RunComparison { goal: 99.0, groups: vec![slo, run("single", 0.5, None)] };
        let json = serde_json::to_value(comparison.report()).expect("JSON");
        assert_eq!(json["groups"][0]["seeds"], serde_json::json!([1, 2]));
        assert_eq!(json["groups"][0]["figures"]["replica-seconds"]["mean"], 110.0);
        assert!(json["groups"][0]["figures"]["attainment"]["interval"]["low"].is_number());
        assert!(json["groups"][1]["figures"]["attainment"]["interval"].is_null());
        assert_eq!(json["verdicts"], serde_json::json!([]));
    }

    #[test]
    fn long_lists_of_names_are_cut() {
        let names: Vec<String> = (1..=7).map(|number| number.to_string()).collect();
        assert_eq!((listed(&names[..2]), listed(&names)), ("1, 2".into(), "1, 2, 3, 4, 5 and 2 more".into()));
    }
}
