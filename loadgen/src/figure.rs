//! The figures of a run that repeated runs estimate, with their names and units, and their means. Pure.

use crate::difference::{self, Observation};
use crate::interval::{self, Interval, Moments};
use crate::latencies::Percentiles;
use crate::report::RunReport;
use crate::summary::percent;
use crate::usage::ReplicaUsage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Confidence of the interval of a mean.
pub const CONFIDENCE: f64 = 0.95;

/// A figure of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Figure {
    /// Percentage of the offered requests that were answered within the objective.
    Attainment,
    /// Percentage of the offered requests that failed.
    Errors,
    /// Good answers per second.
    Goodput,
    /// Answers per second.
    Throughput,
    /// Mean latency of the answered requests, in milliseconds.
    Mean,
    /// Median latency of all offered requests, in milliseconds.
    P50,
    /// 95th percentile of the latency of all offered requests, in milliseconds.
    P95,
    /// 99th percentile of the latency of all offered requests, in milliseconds.
    P99,
    /// Replicas, integrated over the run.
    ReplicaSeconds,
    /// Replica-seconds for 1000 good answers.
    Cost,
}

impl Figure {
    /// All figures, in the order in which they are shown.
    pub const ALL: [Self; 10] = [
        Self::Attainment,
        Self::Errors,
        Self::Goodput,
        Self::Throughput,
        Self::Mean,
        Self::P50,
        Self::P95,
        Self::P99,
        Self::ReplicaSeconds,
        Self::Cost,
    ];

    /// The name for readers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attainment => "attainment",
            Self::Errors => "errors",
            Self::Goodput => "goodput",
            Self::Throughput => "throughput",
            Self::Mean => "mean of answered",
            Self::P50 => "p50 of all offered",
            Self::P95 => "p95 of all offered",
            Self::P99 => "p99 of all offered",
            Self::ReplicaSeconds => "replica-seconds",
            Self::Cost => "replica-s per 1000 good",
        }
    }

    /// The unit behind a value, with the space before it.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Attainment | Self::Errors => " %",
            Self::Goodput | Self::Throughput => "/s",
            Self::Mean | Self::P50 | Self::P95 | Self::P99 => " ms",
            Self::ReplicaSeconds | Self::Cost => "",
        }
    }

    /// The number of decimals that a value of about `size` is shown with.
    pub fn decimals(self, size: f64) -> usize {
        match self {
            Self::Attainment | Self::Errors => 2,
            Self::Goodput | Self::Throughput | Self::Cost => 1,
            Self::Mean | Self::P50 | Self::P95 | Self::P99 if size.abs() < 10.0 => 2,
            Self::Mean | Self::P50 | Self::P95 | Self::P99 | Self::ReplicaSeconds => 0,
        }
    }

    /// `value` as text with its unit.
    pub fn text(self, value: f64) -> String {
        format!("{value:.decimals$}{}", self.unit(), decimals = self.decimals(value))
    }

    /// Whether a larger value is the better one.
    pub fn is_better_larger(self) -> bool {
        matches!(self, Self::Attainment | Self::Goodput | Self::Throughput)
    }

    /// Whether an absent value means that the percentile lies among the failed requests.
    fn may_be_infinite(self) -> bool {
        matches!(self, Self::P50 | Self::P95 | Self::P99)
    }

    /// The figure of a run. `None` if it was not measured, or if the percentile lies among the failed requests.
    pub fn of(self, run: &RunReport) -> Option<f64> {
        let summary = &run.summary;
        let usage = |figure: fn(&ReplicaUsage) -> Option<f64>| summary.usage.as_ref().and_then(figure);
        match self {
            Self::Attainment => Some(percent(summary.attainment)),
            Self::Errors => (summary.offered > 0).then(|| 100.0 * summary.failed as f64 / summary.offered as f64),
            Self::Goodput => Some(summary.goodput_per_second),
            Self::Throughput => Some(summary.throughput_per_second),
            Self::Mean => summary.latency_ms.as_ref().map(|latency: &Percentiles| latency.mean),
            Self::P50 => summary.offered_latency_ms.p50,
            Self::P95 => summary.offered_latency_ms.p95,
            Self::P99 => summary.offered_latency_ms.p99,
            Self::ReplicaSeconds => usage(|usage| Some(usage.replica_seconds)),
            Self::Cost => usage(|usage| usage.replica_seconds_per_1000_good),
        }
    }

    /// The figure of each run with its seed. `None` if it is unknown for one of them: a mean over the others would look
    /// like one over all.
    pub fn observations<'a>(self, runs: impl IntoIterator<Item = &'a RunReport>) -> Option<Vec<Observation>> {
        let is_share = matches!(self, Self::Attainment | Self::Errors);
        let observe = |run: &RunReport| {
            let requests = is_share.then_some(run.summary.offered as f64);
            Some(Observation { seed: run.setup.seed, value: self.of(run)?, requests })
        };
        runs.into_iter().map(observe).collect()
    }

    /// The mean of the figure over `runs`. `None` without runs, or if it is unknown for one of them.
    pub fn estimate<'a>(self, runs: impl IntoIterator<Item = &'a RunReport>) -> Option<Estimate> {
        let observations = self.observations(runs)?;
        let values: Vec<f64> = observations.iter().map(|run| run.value).collect();
        let moments = Moments::of(&values)?;
        let interval = interval::of_mean(&values, difference::sampling_variance(&observations), CONFIDENCE);
        let highest = if matches!(self, Self::Attainment | Self::Errors) { 100.0 } else { f64::INFINITY };
        Some(Estimate {
            mean: moments.mean,
            standard_deviation: (moments.count > 1).then(|| moments.variance.sqrt()),
            interval: interval.map(|interval| interval.clamped(0.0, highest)),
        })
    }

    /// The mean of `runs` as text with its interval, such as `97.93 (97.62–98.24) %`; of one run, the value alone. The
    /// text says `never` for a percentile among the failed requests, and a dash for a figure that was not measured.
    pub fn estimate_text(self, runs: &[&RunReport]) -> String {
        // A run without requests has no percentile, although no request failed.
        let never = runs.iter().filter(|run| self.of(run).is_none() && run.summary.offered > 0).count();
        match self.estimate(runs.iter().copied()) {
            Some(Estimate { mean, interval: None, .. }) => self.text(mean),
            Some(Estimate { mean, interval: Some(Interval { low, high }), .. }) => {
                let decimals = self.decimals(mean);
                format!("{mean:.decimals$} ({low:.decimals$}–{high:.decimals$}){}", self.unit())
            }
            None if !self.may_be_infinite() || never == 0 => "–".to_owned(),
            None if never == runs.len() => "never".to_owned(),
            None => format!("never in {never} of {} runs", runs.len()),
        }
    }
}

/// The mean of a figure over several runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Estimate {
    /// The mean, in the unit of the figure.
    pub mean: f64,
    /// The standard deviation of one run. Absent for one run.
    pub standard_deviation: Option<f64>,
    /// The 95 % interval of the mean. Absent for one run, which says nothing about the spread.
    pub interval: Option<Interval>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latencies::OfferedPercentiles;
    use crate::summary::RunSummary;

    fn run(attainment: f64, p99: Option<f64>) -> RunReport {
        let offered_latency_ms = OfferedPercentiles { p99, ..OfferedPercentiles::default() };
        crate::report::tests::report(RunSummary {
            offered: 1000,
            failed: 5,
            attainment,
            offered_latency_ms,
            ..RunSummary::default()
        })
    }

    #[test]
    fn the_mean_stands_before_its_interval() {
        let runs = [run(0.98, Some(100.0)), run(0.99, Some(110.0)), run(1.0, Some(120.0))];
        let runs: Vec<&RunReport> = runs.iter().collect();
        assert_eq!(Figure::Attainment.estimate_text(&runs), "99.00 (96.52–100.00) %");
        assert_eq!(Figure::P99.estimate_text(&runs), "110 (85–135) ms");
        assert_eq!(Figure::P99.estimate_text(&runs[..1]), "100 ms");
        let estimate = Figure::P99.estimate(runs).expect("all runs have it");
        assert_eq!((estimate.mean, estimate.standard_deviation), (110.0, Some(10.0)));
    }

    #[test]
    fn a_percentile_among_failures_is_never_and_an_unmeasured_figure_is_a_dash() {
        let runs = [run(0.98, Some(100.0)), run(0.99, None)];
        let runs: Vec<&RunReport> = runs.iter().collect();
        assert_eq!(Figure::P99.estimate_text(&runs), "never in 1 of 2 runs");
        assert_eq!(Figure::P99.estimate_text(&runs[1..]), "never");
        assert_eq!(Figure::ReplicaSeconds.estimate_text(&runs), "–");
        let without_requests = crate::report::tests::report(RunSummary::default());
        assert_eq!(Figure::P99.estimate_text(&[&without_requests]), "–");
        assert_eq!((Figure::P99.estimate(runs), Figure::Attainment.estimate([])), (None, None));
    }

    #[test]
    fn equal_attainments_still_have_the_interval_of_their_sampling() {
        let runs = [run(0.99, None), run(0.99, None)];
        let interval = Figure::Attainment.estimate(&runs).and_then(|estimate| estimate.interval).expect("two runs");
        assert!(interval.low < 98.6 && interval.high > 99.4, "{interval:?}");
    }
}
