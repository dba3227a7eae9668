//! The scaler's metrics: names, types and HELP texts. docs/api.md has the same table for people.

use metrics::{describe_counter, describe_gauge};
use service::wire::metric;

pub(crate) const BLOCKED_REPLICAS: &str = "scaler_blocked_replicas";
pub(crate) const CEILING_REPLICAS: &str = "scaler_ceiling_replicas";
pub(crate) const DECISIONS: &str = "scaler_decisions_total";
pub(crate) const PREDICTED_LATE: &str = "scaler_predicted_late_ratio";
pub(crate) const OBSERVATION_AGE: &str = "scaler_observation_age_seconds";

const GAUGES: [(&str, &str); 6] = [
    (metric::DESIRED_REPLICAS, "Replicas that the scaler asks for."),
    (metric::READY_REPLICAS, "Replicas that serve."),
    (BLOCKED_REPLICAS, "Replicas that are asked for, and cannot be placed or keep dying."),
    (CEILING_REPLICAS, "Replicas that the cluster can hold, while that holds the scaler back; else 0."),
    (PREDICTED_LATE, "Share of requests that the law slo expects to be late."),
    (OBSERVATION_AGE, "Age of the figures that the scaler acts on."),
];

const COUNTERS: [(&str, &str); 1] = [(DECISIONS, "Decisions, one at each tick, by action and reason.")];

/// Tells the exporter the HELP text of each metric.
pub(crate) fn describe() {
    for (name, help) in GAUGES {
        describe_gauge!(name, help);
    }
    for (name, help) in COUNTERS {
        describe_counter!(name, help);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_documents_have_the_same_metrics() {
        let text = include_str!("../../docs/api.md");
        let rows = text.lines().filter(|line| line.starts_with("| `scaler_"));
        let documented: BTreeSet<(&str, &str)> = rows
            .flat_map(|row| {
                let cells: Vec<&str> = row.split('|').map(str::trim).collect();
                let names = cells[1].split(", ").map(|name| name.trim_matches('`'));
                names.map(move |name| (name, cells[2])).collect::<Vec<_>>()
            })
            .collect();
        let gauges = GAUGES.map(|(name, _)| (name, "gauge"));
        let exported = gauges.into_iter().chain(COUNTERS.map(|(name, _)| (name, "counter"))).collect();
        assert_eq!(documented, exported, "docs/api.md and scaler/src/metrics.rs");
    }
}
