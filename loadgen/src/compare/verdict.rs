//! The judgement on two groups of runs: whether the interval of their difference shows that one is ahead. Pure.

use super::RunGroup;
use crate::difference::Difference;
use crate::figure::Figure;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The figures that are judged, with the confidence of their intervals. It is above 95 %, because three figures are judged
/// at once, and one of them must seldom differ by chance: two equal laws keep all three verdicts of "no difference" in
/// 95 to 99 of 100 comparisons (simulated; docs/benchmarks.md).
const JUDGED: [(Figure, f64); 3] = [(Figure::Attainment, 0.99), (Figure::P99, 0.998), (Figure::ReplicaSeconds, 0.998)];

/// The judgement on two groups in one figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// The figure.
    pub figure: Figure,
    /// Name of a group. If one of the groups is ahead, this one.
    pub first: String,
    /// Name of the other group.
    pub second: String,
    /// Whether the first group is ahead. If not, no difference is shown, which does not mean that there is none.
    pub is_ahead: bool,
    /// The mean of the first group minus that of the second.
    pub difference: Difference,
    /// Confidence of the interval, 0 to 1.
    pub confidence: f64,
}

/// Judges each pair of groups in each figure. Leaves out groups with a single run or an invalid run, and figures that are
/// unknown for a run of the pair.
pub(super) fn judge(groups: &[RunGroup]) -> Vec<Verdict> {
    let judged: Vec<&RunGroup> = groups.iter().filter(|group| group.is_repeated() && group.is_valid()).collect();
    let pairs = judged
        .iter()
        .enumerate()
        .flat_map(|(index, first)| judged[index + 1..].iter().map(move |second| (*first, *second)));
    pairs
        .flat_map(|(first, second)| {
            JUDGED.iter().filter_map(move |&(figure, confidence)| Verdict::on(first, second, figure, confidence))
        })
        .collect()
}

impl Verdict {
    /// The judgement on two groups. `None` if a group has a single run, or the figure of a run is unknown.
    fn on(first: &RunGroup, second: &RunGroup, figure: Figure, confidence: f64) -> Option<Self> {
        let (a, b) = (figure.observations(&first.runs)?, figure.observations(&second.runs)?);
        let difference = Difference::between(&a, &b, confidence)?;
        let (is_larger, is_smaller) = (difference.interval.low > 0.0, difference.interval.high < 0.0);
        let is_second_ahead = if figure.is_better_larger() { is_smaller } else { is_larger };
        let (first, second, difference) = if is_second_ahead {
            (&second.name, &first.name, difference.reversed())
        } else {
            (&first.name, &second.name, difference)
        };
        Some(Self {
            figure,
            first: first.clone(),
            second: second.clone(),
            is_ahead: is_larger || is_smaller,
            difference,
            confidence,
        })
    }

    /// The judgement in one sentence, with the difference and its interval.
    pub fn text(&self) -> String {
        let Self { figure, first, second, difference, .. } = self;
        let Difference { mean, interval, paired_seeds } = difference;
        let unit = if figure.unit() == " %" { " points" } else { figure.unit() };
        let decimals = figure.decimals(*mean);
        let runs = paired_seeds.map_or_else(|| "unpaired".to_owned(), |seeds| format!("paired by {seeds} seeds"));
        let figures = format!(
            "{mean:+.decimals$}{unit} ({} % interval {:+.decimals$} to {:+.decimals$}, {runs})",
            // Rounded, since 100 × 0.998 need not be exactly 99.8.
            (1000.0 * self.confidence).round() / 10.0,
            interval.low,
            interval.high
        );
        let figure = figure.name();
        if self.is_ahead {
            format!("{first} is ahead of {second} in {figure}: {figures}.")
        } else {
            format!("No difference in {figure} is shown between {first} and {second}: {figures}.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latencies::OfferedPercentiles;
    use crate::summary::RunSummary;

    /// Runs of 5,000 requests with the seeds 1, 2 and so on, with these attainments (0 to 1) and percentiles.
    fn group(name: &str, runs: &[(f64, Option<f64>)]) -> RunGroup {
        let run = |(&(attainment, p99), seed): (&(f64, Option<f64>), u64)| {
            let offered_latency_ms = OfferedPercentiles { p99, ..OfferedPercentiles::default() };
            let summary = RunSummary { offered: 5000, attainment, offered_latency_ms, ..RunSummary::default() };
            let mut report = crate::report::tests::report(summary);
            report.setup.seed = seed;
            report
        };
        RunGroup { name: name.into(), runs: runs.iter().zip(1..).map(run).collect() }
    }

    fn slo() -> RunGroup {
        let runs = [(0.980, 400.0), (0.978, 420.0), (0.982, 390.0), (0.979, 410.0), (0.981, 405.0)];
        group("slo", &runs.map(|(attainment, p99)| (attainment, Some(p99))))
    }

    fn hpa() -> RunGroup {
        let runs = [(0.970, 800.0), (0.969, 790.0), (0.971, 820.0), (0.968, 805.0), (0.972, 810.0)];
        group("hpa", &runs.map(|(attainment, p99)| (attainment, Some(p99))))
    }

    #[test]
    fn a_group_is_ahead_if_the_interval_excludes_zero_in_either_order() {
        for groups in [[slo(), hpa()], [hpa(), slo()]] {
            let verdicts = judge(&groups);
            let found: Vec<_> = verdicts.iter().map(|verdict| (verdict.figure, verdict.first.as_str())).collect();
            assert_eq!(found, [(Figure::Attainment, "slo"), (Figure::P99, "slo")]);
            let text = verdicts[0].text();
            assert!(text.starts_with("slo is ahead of hpa in attainment: +1.00 points (99 % interval +0."), "{text}");
            let text = verdicts[1].text();
            assert!(text.contains("in p99 of all offered: -400 ms (99.8 % interval -"), "{text}");
        }
    }

    #[test]
    fn runs_of_equal_figures_show_no_difference() {
        let other = RunGroup { name: "other".into(), ..slo() };
        for verdict in judge(&[slo(), other]) {
            assert!(!verdict.is_ahead, "{verdict:?}");
            assert!(verdict.text().starts_with("No difference in "), "{}", verdict.text());
        }
    }

    #[test]
    fn single_invalid_and_unanswered_runs_are_not_judged() {
        let single = group("single", &[(0.5, Some(9.0))]);
        let mut stopped = slo();
        stopped.runs[0].is_complete = false;
        let mut late = slo();
        late.runs[1].send_delays.is_bottleneck = true;
        assert!(judge(&[hpa(), single, stopped, late]).is_empty());
        let mut failing = slo();
        failing.runs[0].summary.offered_latency_ms.p99 = None;
        let figures: Vec<Figure> = judge(&[hpa(), failing]).iter().map(|verdict| verdict.figure).collect();
        assert_eq!(figures, [Figure::Attainment]);
    }
}
