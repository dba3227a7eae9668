//! The scaler's metrics: names, types and HELP texts. docs/api.md has the same table for people.

use metrics::{describe_counter, describe_gauge};
use service::wire::metric;

/// Replicas that cannot be placed or keep dying.
pub const BLOCKED_REPLICAS: &str = "scaler_blocked_replicas";
/// Replicas that the cluster can hold.
pub const CEILING_REPLICAS: &str = "scaler_ceiling_replicas";
/// Decisions by action and reason.
pub const DECISIONS: &str = "scaler_decisions_total";
/// Share of requests that will be late.
pub const PREDICTED_LATE: &str = "scaler_predicted_late_ratio";
/// Age of the figures.
pub const OBSERVATION_AGE: &str = "scaler_observation_age_seconds";

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
pub fn describe() {
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
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md");
        let text = std::fs::read_to_string(path).expect("docs/api.md is there");
        let rows = text.lines().filter(|line| line.starts_with("| `scaler_"));
        let documented: BTreeSet<(&str, &str)> = rows
            .flat_map(|row| {
                let cells: Vec<&str> = row.split('|').map(str::trim).collect();
                let names = cells[1].split(", ").map(|name| name.trim_matches('`'));
                names.map(move |name| (name, cells[2])).collect::<Vec<_>>()
            })
            .collect();
        let gauges = GAUGES.iter().map(|(name, _)| (*name, "gauge"));
        let exported = gauges.chain(COUNTERS.iter().map(|(name, _)| (*name, "counter"))).collect();
        assert_eq!(documented, exported, "docs/api.md and scaler/src/metrics.rs");
    }
}
