//! The scaler's metrics: names, types and HELP texts. A test compares them with the table in docs/api.md.

use metrics::{describe_counter, describe_gauge, gauge};
use service::wire::metric;

pub(crate) const BLOCKED_REPLICAS: &str = "scaler_blocked_replicas";
pub(crate) const CEILING_REPLICAS: &str = "scaler_ceiling_replicas";
pub(crate) const DECISIONS: &str = "scaler_decisions_total";
pub(crate) const PREDICTED_LATE: &str = "scaler_predicted_late_ratio";
pub(crate) const OBSERVATION_AGE: &str = "scaler_observation_age_seconds";
const BUILD_INFO: &str = "scaler_build_info";

const GAUGES: [(&str, &str); 7] = [
    (metric::DESIRED_REPLICAS, "Desired replicas, after all limits."),
    (metric::READY_REPLICAS, "Replicas that serve."),
    (BLOCKED_REPLICAS, "Desired replicas that cannot be placed or keep dying."),
    (CEILING_REPLICAS, "Replicas that the target has room for, while that limits the scaler; otherwise 0."),
    (PREDICTED_LATE, "Share of requests that the law slo expects to be late."),
    (OBSERVATION_AGE, "Age of the figures that the scaler acts on, in seconds."),
    (BUILD_INFO, "1, with the version of the program."),
];

/// Registers the HELP text of each metric, and sets the version of the program.
pub(crate) fn describe() {
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for (name, help) in GAUGES {
        describe_gauge!(name, help);
    }
    describe_counter!(DECISIONS, "Decisions, one at each tick, by action and reason.");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn docs_api_md_lists_exactly_these_metrics() {
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
        let exported = gauges.into_iter().chain([(DECISIONS, "counter")]).collect();
        assert_eq!(
            documented, exported,
            "the table in docs/api.md (left) must list the metrics of scaler/src/metrics.rs (right)"
        );
    }
}
