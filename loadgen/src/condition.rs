//! `p95<500ms`: what is to hold of a run.

use crate::summary::{Summary, percent};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A figure of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Latency at a quantile of all offered requests, in hundred-thousandths; milliseconds.
    Latency(u32),
    /// Mean latency of the answered, milliseconds.
    Mean,
    /// Per cent of offered requests answered within the objective.
    Attainment,
    /// Per cent of offered requests that failed.
    Errors,
    /// Per cent of labelled answers that are right.
    Accuracy,
    /// Right answers within the objective per second.
    Goodput,
    /// Answers per second.
    Throughput,
    /// Replica-seconds.
    ReplicaSeconds,
    /// Replica-seconds for 1000 good answers.
    Cost,
}

const METRICS: [(&str, Metric); 14] = [
    ("p50", Metric::Latency(50_000)),
    ("p90", Metric::Latency(90_000)),
    ("p95", Metric::Latency(95_000)),
    ("p99", Metric::Latency(99_000)),
    ("p99.9", Metric::Latency(99_900)),
    ("max", Metric::Latency(100_000)),
    ("mean", Metric::Mean),
    ("attainment", Metric::Attainment),
    ("errors", Metric::Errors),
    ("accuracy", Metric::Accuracy),
    ("goodput", Metric::Goodput),
    ("throughput", Metric::Throughput),
    ("replica-seconds", Metric::ReplicaSeconds),
    ("cost", Metric::Cost),
];

/// Longest first, so that `<=` is not read as `<`.
const COMPARISONS: [(&str, Comparison); 4] =
    [("<=", Comparison::AtMost), (">=", Comparison::AtLeast), ("<", Comparison::Below), (">", Comparison::Above)];

/// How the figure is to lie to the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    AtMost,
    AtLeast,
    Below,
    Above,
}

/// A figure and its bound.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// What is looked at.
    pub metric: Metric,
    comparison: Comparison,
    /// In the metric's unit.
    bound: f64,
    /// As it was written.
    text: String,
}

/// What became of a condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// As it was written.
    pub condition: String,
    /// The figure, in milliseconds, per cent or as it is; absent where there is none: nothing was measured, or so many
    /// requests failed that the percentile lies among them.
    pub value: Option<f64>,
    /// Whether it held; not if there is no figure.
    pub held: bool,
}

/// What is wrong with a condition's text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; write it like p95<500ms, attainment>99 or goodput>=20")]
pub struct Error {
    what: String,
}

impl FromStr for Condition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let error = |what: &str| Error { what: what.to_owned() };
        let (at, (sign, comparison)) = text
            .char_indices()
            .find_map(|(at, _)| {
                COMPARISONS.iter().find(|(sign, _)| text[at..].starts_with(sign)).map(|found| (at, *found))
            })
            .ok_or_else(|| error("there is none of < <= > >="))?;
        let (name, bound) = (text[..at].trim(), text[at + sign.len()..].trim());
        let metric = METRICS.iter().find(|(known, _)| *known == name).map(|&(_, metric)| metric).ok_or_else(|| {
            let known: Vec<&str> = METRICS.iter().map(|(known, _)| *known).collect();
            error(&format!("{name:?} is none of {}", known.join(", ")))
        })?;
        let bound = match metric {
            Metric::Latency(_) | Metric::Mean => match humantime::parse_duration(bound) {
                Ok(duration) => duration.as_secs_f64() * 1e3,
                Err(_) => return Err(error(&format!("{bound:?} is no time, such as 500ms"))),
            },
            _ => {
                let number = bound.trim_end_matches('%').trim().parse().ok();
                let finite = number.filter(|number: &f64| number.is_finite() && *number >= 0.0);
                finite.ok_or_else(|| error(&format!("{bound:?} is no number")))?
            }
        };
        Ok(Self { metric, comparison, bound, text: text.trim().to_owned() })
    }
}

impl Condition {
    /// Whether it can tell of a server at one rate whether that is too much: what grows with the rate itself cannot, what
    /// is of the answered only cannot where the others are refused, and neither can what replicas cost.
    pub fn fits_capacity(&self) -> bool {
        matches!(self.metric, Metric::Latency(_) | Metric::Attainment | Metric::Errors)
    }

    /// Whether it holds of a run. `latency` is that of all offered requests at a quantile, milliseconds.
    pub fn judge(&self, summary: &Summary, latency: impl Fn(f64) -> Option<f64>) -> Outcome {
        let usage = summary.usage.as_ref();
        let value = match self.metric {
            Metric::Latency(quantile) => latency(f64::from(quantile) / 1e5),
            Metric::Mean => summary.latency_ms.map(|latency| latency.mean),
            Metric::Attainment => (summary.offered > 0).then_some(percent(summary.attainment)),
            Metric::Errors => (summary.offered > 0).then(|| 100.0 * summary.failed as f64 / summary.offered as f64),
            Metric::Accuracy => summary.accuracy.map(percent),
            Metric::Goodput => Some(summary.goodput_per_second),
            Metric::Throughput => Some(summary.throughput_per_second),
            Metric::ReplicaSeconds => usage.map(|usage| usage.replica_seconds),
            Metric::Cost => usage.and_then(|usage| usage.replica_seconds_per_1000_good),
        };
        let holds = |value: f64| match self.comparison {
            Comparison::AtMost => value <= self.bound,
            Comparison::AtLeast => value >= self.bound,
            Comparison::Below => value < self.bound,
            Comparison::Above => value > self.bound,
        };
        Outcome { condition: self.text.clone(), value, held: value.is_some_and(holds) }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.held { "held" } else { "breached" };
        match self.value {
            Some(value) => write!(f, "{}: {verdict}, at {value:.2}", self.condition),
            None => write!(f, "{}: {verdict}, as there is no such figure, or too much failed", self.condition),
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
    fn conditions_are_read_with_units() {
        for (text, metric, comparison, bound) in [
            ("p95<500ms", Metric::Latency(95_000), Comparison::Below, 500.0),
            (" p99.9 <= 1s ", Metric::Latency(99_900), Comparison::AtMost, 1000.0),
            ("attainment>99", Metric::Attainment, Comparison::Above, 99.0),
            ("errors <= 0.5 %", Metric::Errors, Comparison::AtMost, 0.5),
            ("goodput>=20", Metric::Goodput, Comparison::AtLeast, 20.0),
            ("replica-seconds<1e3", Metric::ReplicaSeconds, Comparison::Below, 1000.0),
        ] {
            let read: Condition = text.parse().expect(text);
            assert_eq!((read.metric, read.comparison, read.bound), (metric, comparison, bound), "{text}");
        }
    }

    #[test]
    fn bad_conditions_are_named() {
        for (text, word) in [
            ("", "none of <"),
            ("p95", "none of <"),
            ("p95=5", "none of <"),
            ("p42<1s", "\"p42\" is none of p50"),
            ("p95<500", "\"500\" is no time"),
            ("p95<", "\"\" is no time"),
            ("attainment>NaN", "no number"),
            ("attainment>-1", "no number"),
            ("é<5", "\"é\" is none of"),
        ] {
            let error = text.parse::<Condition>().expect_err("refused").to_string();
            assert!(error.contains(word) && error.contains("write it like"), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_was_not_measured_does_not_hold() {
        let judge = |text: &str, summary: &Summary, latency: Option<f64>| {
            text.parse::<Condition>().expect(text).judge(summary, |_| latency).held
        };
        let nothing = Summary::default();
        for text in ["attainment>=0", "accuracy>=0", "cost<1", "mean<1s", "errors<=100"] {
            assert!(!judge(text, &nothing, None), "{text}");
        }
        let some = Summary { offered: 4, answered: 3, failed: 1, attainment: 0.75, ..nothing };
        assert!(judge("attainment>=75", &some, None) && !judge("attainment>75", &some, None));
        assert!(judge("errors<=25", &some, None) && !judge("errors<25", &some, None));
        let most = Summary { offered: 500, attainment: 407.0 / 500.0, ..Summary::default() };
        assert!(judge("attainment>=81.4", &most, None) && !judge("attainment>81.4", &most, None));
        assert!(judge("p50<1s", &some, Some(999.0)) && !judge("p99<1s", &some, None));
    }
}
