//! Several runs of one load with consecutive seeds (`loadgen run --runs`), and the means of their figures. Pure.

use crate::figure::{Estimate, Figure};
use crate::report::RunReport;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The runs of one load, one for each seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunSeries {
    /// The reports of the runs, in the order in which they were made. If the user stopped the series, the last run is
    /// partial.
    pub runs: Vec<RunReport>,
    /// The mean of each figure over the complete runs. A figure is absent if one of the runs lacks it.
    pub figures: BTreeMap<Figure, Estimate>,
}

impl RunSeries {
    /// The series of these runs.
    pub fn new(runs: Vec<RunReport>) -> Self {
        let complete = || runs.iter().filter(|run| run.is_complete);
        let figures = Figure::ALL.iter().filter_map(|&figure| Some((figure, figure.estimate(complete())?))).collect();
        Self { figures, runs }
    }

    /// Whether all runs came to their planned end.
    pub fn is_complete(&self) -> bool {
        self.runs.iter().all(|run| run.is_complete)
    }

    /// Whether every threshold held in every run, and loadgen kept to its schedule.
    pub fn has_held(&self) -> bool {
        self.runs.iter().all(RunReport::has_held)
    }

    /// The means with their intervals, the figures of each run, and the thresholds that were breached, as text for a
    /// terminal.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        let complete: Vec<&RunReport> = self.runs.iter().filter(|run| run.is_complete).collect();
        if !self.is_complete() {
            lines.push(format!(
                "PARTIAL     the series was stopped; its figures are those of {} complete runs",
                complete.len()
            ));
        }
        let seeds: Vec<String> = self.runs.iter().map(|run| run.setup.seed.to_string()).collect();
        lines.push(format!("runs        {} with the seeds {}", self.runs.len(), seeds.join(", ")));
        if let Some(machine) = self.runs.iter().find_map(|run| run.setup.machine.as_ref()) {
            lines.push(format!("machine     {machine}"));
        }
        lines.push(String::new());
        lines.extend(self.table(&complete));
        lines.push(String::new());
        lines.extend(self.runs.iter().flat_map(run_lines));
        lines.join("\n")
    }

    /// A row for each figure that was measured: the mean with its 95 % interval, the standard deviation of one run, and
    /// the values of the runs.
    fn table(&self, complete: &[&RunReport]) -> Vec<String> {
        let mut rows = vec![["figure", "mean (95 % interval)", "std. dev.", "runs"].map(str::to_owned)];
        for figure in Figure::ALL {
            let values: Vec<Option<f64>> = complete.iter().map(|run| figure.of(run)).collect();
            let mean = figure.estimate_text(complete);
            if mean == "–" {
                continue;
            }
            let deviation = self.figures.get(&figure).and_then(|estimate| estimate.standard_deviation);
            let value = |value: &Option<f64>| {
                value.map_or_else(|| "never".into(), |value| format!("{value:.0$}", figure.decimals(value)))
            };
            rows.push([
                figure.name().to_owned(),
                mean,
                deviation.map_or_else(|| "–".into(), |deviation| figure.text(deviation)),
                values.iter().map(value).collect::<Vec<_>>().join(" "),
            ]);
        }
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let (name, mean, deviation) = (width(0), width(1), width(2));
        rows.iter()
            .map(|[first, second, third, last]| format!("{first:<name$}  {second:>mean$}  {third:>deviation$}  {last}"))
            .collect()
    }
}

/// The length of a run and its steal, and what is wrong with it.
fn run_lines(run: &RunReport) -> Vec<String> {
    let seed = run.setup.seed;
    let steal = run.steal.map_or_else(String::new, |steal| format!(", steal {:.1} %", 100.0 * steal));
    let offered = run.summary.offered;
    let mut lines = vec![format!("seed {seed}: {offered} requests in {:.0} s{steal}", run.setup.length_seconds)];
    if !run.is_complete {
        lines.push("  PARTIAL: the run was stopped".into());
    }
    if run.send_delays.is_bottleneck {
        let late = run.send_delays.late_sends;
        lines.push(format!("  INVALID: {late} requests were sent late, and the figures say nothing about the server"));
    }
    lines.extend(run.thresholds.iter().map(|result| format!("  threshold {result}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::condition::ConditionResult;
    use crate::latencies::OfferedPercentiles;
    use crate::summary::RunSummary;

    fn run(seed: u64, attainment: f64) -> RunReport {
        let offered_latency_ms =
            OfferedPercentiles { p50: Some(4.0), p95: Some(50.0), ..OfferedPercentiles::default() };
        let summary = RunSummary { offered: 1000, attainment, offered_latency_ms, ..RunSummary::default() };
        let mut report = crate::report::tests::report(summary);
        report.setup.seed = seed;
        report
    }

    #[test]
    fn the_figures_of_a_series_are_means_over_its_complete_runs() {
        let mut stopped = run(9, 0.1);
        stopped.is_complete = false;
        let series = RunSeries::new(vec![run(7, 0.98), run(8, 0.99), stopped]);
        assert_eq!(series.figures[&Figure::Attainment].mean, 98.5);
        assert!(!series.figures.contains_key(&Figure::P99) && !series.figures.contains_key(&Figure::Cost));
        assert!(!series.is_complete());
        let text = series.text();
        for words in ["PARTIAL", "seeds 7, 8, 9", "98.50 (", "98.00 99.00", "seed 9:", "never never"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(!text.contains("replica-seconds"), "{text}");
    }

    #[test]
    fn a_threshold_that_one_run_breached_is_breached_by_the_series() {
        let (held, mut breached) = (run(1, 1.0), run(2, 0.9));
        breached.thresholds =
            vec![ConditionResult { condition: "attainment>99".into(), value: Some(90.0), held: false }];
        assert!(RunSeries::new(vec![held.clone()]).has_held());
        let series = RunSeries::new(vec![held, breached]);
        assert!(!series.has_held() && series.text().contains("threshold attainment>99: breached"), "{}", series.text());
    }

    #[test]
    fn a_series_is_read_as_it_was_written() {
        let series = RunSeries::new(vec![run(1, 0.97), run(2, 0.98)]);
        let text = serde_json::to_string(&series).expect("JSON");
        assert!(text.contains("\"attainment\":{\"mean\":97.5"), "{text}");
        let read = serde_json::from_str::<RunSeries>(&text).expect("a series");
        assert_eq!((read.runs, read.figures[&Figure::Attainment].mean), (series.runs, 97.5));
    }
}
