//! Conditions on a run, such as `p95<500ms`. Pure. Knows nothing of how the figures are measured.

use crate::summary::{RunSummary, percent};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A figure of a run that a condition can limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunMetric {
    /// Latency of all offered requests at a quantile, in milliseconds. The quantile is given in hundred-thousandths.
    Latency(u32),
    /// Mean latency of the answered requests, in milliseconds.
    Mean,
    /// Percentage of the offered requests that were answered within the objective.
    Attainment,
    /// Percentage of the offered requests that failed.
    Errors,
    /// Percentage of right answers among the answers to labelled images.
    Accuracy,
    /// Good answers per second.
    Goodput,
    /// Answers per second.
    Throughput,
    /// Replica-seconds of the run.
    ReplicaSeconds,
    /// Replica-seconds for 1000 good answers.
    Cost,
}

/// The metrics with the names that users write.
const METRICS: [(&str, RunMetric); 14] = [
    ("p50", RunMetric::Latency(50_000)),
    ("p90", RunMetric::Latency(90_000)),
    ("p95", RunMetric::Latency(95_000)),
    ("p99", RunMetric::Latency(99_000)),
    ("p99.9", RunMetric::Latency(99_900)),
    ("max", RunMetric::Latency(100_000)),
    ("mean", RunMetric::Mean),
    ("attainment", RunMetric::Attainment),
    ("errors", RunMetric::Errors),
    ("accuracy", RunMetric::Accuracy),
    ("goodput", RunMetric::Goodput),
    ("throughput", RunMetric::Throughput),
    ("replica-seconds", RunMetric::ReplicaSeconds),
    ("cost", RunMetric::Cost),
];

/// The signs of the operators, the longest first, so that `<=` is not read as `<`.
const OPERATORS: [(&str, Operator); 4] =
    [("<=", Operator::AtMost), (">=", Operator::AtLeast), ("<", Operator::Below), (">", Operator::Above)];

/// The relation between figure and bound that a condition requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    AtMost,
    AtLeast,
    Below,
    Above,
}

/// Number of requests that should lie beyond a quantile for its estimate to be of use.
pub const REQUESTS_BEYOND: f64 = 10.0;

/// A bound on a figure of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The figure that is compared with the bound.
    pub metric: RunMetric,
    operator: Operator,
    /// The bound in the unit of the metric.
    bound: f64,
    /// The condition as the user wrote it.
    text: String,
}

/// The result of a condition for one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConditionResult {
    /// The condition as the user wrote it.
    pub condition: String,
    /// The value of the figure, in milliseconds, per cent or the figure's own unit. Absent if nothing was measured, or
    /// if the percentile lies among the failed requests.
    pub value: Option<f64>,
    /// Whether the condition held. False if there is no value.
    pub held: bool,
}

/// The reason why a text is not a condition.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; write a condition like p95<500ms, attainment>99 or goodput>=20")]
pub struct Error {
    reason: String,
}

impl FromStr for Condition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let error = |reason: &str| Error { reason: reason.to_owned() };
        let (at, (sign, operator)) = text
            .char_indices()
            .find_map(|(at, _)| {
                OPERATORS.iter().find(|(sign, _)| text[at..].starts_with(sign)).map(|found| (at, *found))
            })
            .ok_or_else(|| error("the condition has none of < <= > >="))?;
        let (name, bound) = (text[..at].trim(), text[at + sign.len()..].trim());
        let metric = METRICS.iter().find(|(known, _)| *known == name).map(|&(_, metric)| metric).ok_or_else(|| {
            let known: Vec<&str> = METRICS.iter().map(|(known, _)| *known).collect();
            error(&format!("{name:?} is none of {}", known.join(", ")))
        })?;
        let bound = match metric {
            RunMetric::Latency(_) | RunMetric::Mean => match humantime::parse_duration(bound) {
                Ok(duration) => duration.as_secs_f64() * 1e3,
                Err(_) => return Err(error(&format!("{bound:?} is not a time, such as 500ms"))),
            },
            _ => {
                let number = bound.trim_end_matches('%').trim().parse().ok();
                let finite = number.filter(|number: &f64| number.is_finite() && *number >= 0.0);
                finite.ok_or_else(|| error(&format!("{bound:?} is not a number of at least 0")))?
            }
        };
        Ok(Self { metric, operator, bound, text: text.trim().to_owned() })
    }
}

impl Condition {
    /// Whether `--slo` may have this condition: its figure must get worse when a rate is too high. Goodput and
    /// throughput grow with the rate. The mean and the accuracy cover the answered requests only, and an overloaded
    /// server refuses the others. The cost of replicas says nothing about a rate.
    pub fn fits_capacity(&self) -> bool {
        matches!(self.metric, RunMetric::Latency(_) | RunMetric::Attainment | RunMetric::Errors)
    }

    /// The number of requests in which the figure is not a matter of chance: ten of them are expected beyond the quantile, or
    /// beyond the bound of a share. Zero for the maximum and for shares below a millionth, for which no run is long enough.
    pub fn requests_needed(&self) -> f64 {
        let share = match self.metric {
            RunMetric::Latency(quantile) => 1.0 - f64::from(quantile) / 1e5,
            RunMetric::Attainment => 1.0 - self.bound / 100.0,
            RunMetric::Errors => self.bound / 100.0,
            _ => 0.0,
        };
        if share > 1e-6 { (REQUESTS_BEYOND / share).round() } else { 0.0 }
    }

    /// Checks the condition for a run. `latency` gives the latency of all offered requests at a quantile (0 to 1), in
    /// milliseconds; `None` if the quantile lies among failed requests.
    pub fn check(&self, summary: &RunSummary, latency: impl Fn(f64) -> Option<f64>) -> ConditionResult {
        let usage = summary.usage.as_ref();
        let value = match self.metric {
            RunMetric::Latency(quantile) => latency(f64::from(quantile) / 1e5),
            RunMetric::Mean => summary.latency_ms.map(|latency| latency.mean),
            RunMetric::Attainment => (summary.offered > 0).then_some(percent(summary.attainment)),
            RunMetric::Errors => (summary.offered > 0).then(|| 100.0 * summary.failed as f64 / summary.offered as f64),
            RunMetric::Accuracy => summary.accuracy.map(percent),
            RunMetric::Goodput => Some(summary.goodput_per_second),
            RunMetric::Throughput => Some(summary.throughput_per_second),
            RunMetric::ReplicaSeconds => usage.map(|usage| usage.replica_seconds),
            RunMetric::Cost => usage.and_then(|usage| usage.replica_seconds_per_1000_good),
        };
        let holds = |value: f64| match self.operator {
            Operator::AtMost => value <= self.bound,
            Operator::AtLeast => value >= self.bound,
            Operator::Below => value < self.bound,
            Operator::Above => value > self.bound,
        };
        ConditionResult { condition: self.text.clone(), value, held: value.is_some_and(holds) }
    }
}

impl fmt::Display for ConditionResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = if self.held { "held" } else { "breached" };
        match self.value {
            Some(value) => write!(f, "{}: {result}, at {value:.2}", self.condition),
            None => write!(
                f,
                "{}: {result}, since the figure was not measured, or too many requests failed",
                self.condition
            ),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_parsed_with_units() {
        for (text, metric, operator, bound) in [
            ("p95<500ms", RunMetric::Latency(95_000), Operator::Below, 500.0),
            (" p99.9 <= 1s ", RunMetric::Latency(99_900), Operator::AtMost, 1000.0),
            ("attainment>99", RunMetric::Attainment, Operator::Above, 99.0),
            ("errors <= 0.5 %", RunMetric::Errors, Operator::AtMost, 0.5),
            ("goodput>=20", RunMetric::Goodput, Operator::AtLeast, 20.0),
            ("replica-seconds<1e3", RunMetric::ReplicaSeconds, Operator::Below, 1000.0),
        ] {
            let read: Condition = text.parse().expect(text);
            assert_eq!((read.metric, read.operator, read.bound), (metric, operator, bound), "{text}");
        }
    }

    #[test]
    fn a_condition_needs_ten_requests_beyond_its_quantile() {
        for (text, requests) in [
            ("p50<1s", 20.0),
            ("p95<1s", 200.0),
            ("p99<1s", 1000.0),
            ("p99.9<1s", 10_000.0),
            ("max<1s", 0.0),
            ("attainment>98", 500.0),
            ("attainment>=100", 0.0),
            ("errors<=0", 0.0),
            ("errors<1", 1000.0),
        ] {
            assert_eq!(text.parse::<Condition>().expect(text).requests_needed(), requests, "{text}");
        }
    }

    #[test]
    fn errors_name_the_fault_of_a_condition() {
        for (text, word) in [
            ("", "none of <"),
            ("p95", "none of <"),
            ("p95=5", "none of <"),
            ("p42<1s", "\"p42\" is none of p50"),
            ("p95<500", "\"500\" is not a time"),
            ("p95<", "\"\" is not a time"),
            ("attainment>NaN", "not a number"),
            ("attainment>-1", "not a number"),
            ("é<5", "\"é\" is none of"),
        ] {
            let error = text.parse::<Condition>().expect_err("refused").to_string();
            assert!(error.contains(word) && error.contains("write a condition like"), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_condition_on_an_unmeasured_figure_does_not_hold() {
        let holds = |text: &str, summary: &RunSummary, latency: Option<f64>| {
            text.parse::<Condition>().expect(text).check(summary, |_| latency).held
        };
        let nothing = RunSummary::default();
        for text in ["attainment>=0", "accuracy>=0", "cost<1", "mean<1s", "errors<=100"] {
            assert!(!holds(text, &nothing, None), "{text}");
        }
        let some = RunSummary { offered: 4, answered: 3, failed: 1, attainment: 0.75, ..nothing };
        assert!(holds("attainment>=75", &some, None) && !holds("attainment>75", &some, None));
        assert!(holds("errors<=25", &some, None) && !holds("errors<25", &some, None));
        let most = RunSummary { offered: 500, attainment: 407.0 / 500.0, ..RunSummary::default() };
        assert!(holds("attainment>=81.4", &most, None) && !holds("attainment>81.4", &most, None));
        assert!(holds("p50<1s", &some, Some(999.0)) && !holds("p99<1s", &some, None));
    }
}
