//! The figures of each worker in the report of a distributed load, and their text. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One worker of a distributed load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerReport {
    /// The worker's address, as in `--workers`.
    pub address: String,
    /// The worker's system clock minus that of the coordinator, in milliseconds. The start of the load does not depend
    /// on system clocks; times in logs do.
    pub clock_offset_ms: f64,
    /// The largest error with which the coordinator knows the worker's clock, in milliseconds: half the shortest round
    /// trip. The worker starts its part earlier or later by this at most.
    pub clock_uncertainty_ms: f64,
    /// Requests of the worker's part that have ended.
    pub offered: usize,
    /// Requests that the worker sent late.
    pub late_sends: usize,
    /// Whether more than 1 % of the worker's requests were sent late.
    pub is_bottleneck: bool,
    /// The reason why the figures of this worker are missing or partial. Absent if they are whole.
    pub failure: Option<String>,
}

/// The lines about the workers of a load. A request counts as sent late after `late_after_ms`.
pub fn lines(workers: &[WorkerReport], late_after_ms: f64) -> Vec<String> {
    if workers.is_empty() {
        return Vec::new();
    }
    let uncertainty = workers.iter().map(|worker| worker.clock_uncertainty_ms).fold(0.0, f64::max);
    let mut lines =
        vec![format!("workers     {} sent the load; their clocks are known within {uncertainty:.2} ms", workers.len())];
    for worker in workers {
        let WorkerReport { address, offered, late_sends, failure, .. } = worker;
        let bottleneck = if worker.is_bottleneck { ", too many" } else { "" };
        let failure = failure.as_ref().map_or_else(String::new, |failure| format!("; MISSING: {failure}"));
        lines.push(format!("            {address}: {offered} requests, {late_sends} sent late{bottleneck}{failure}"));
    }
    lines.extend(uncertain_clocks(workers, late_after_ms));
    lines
}

/// A warning if the clock of a worker is known less exactly than a request may be late.
pub fn uncertain_clocks(workers: &[WorkerReport], late_after_ms: f64) -> Option<String> {
    let uncertain = workers.iter().filter(|worker| worker.clock_uncertainty_ms > late_after_ms);
    let addresses: Vec<&str> = uncertain.map(|worker| worker.address.as_str()).collect();
    (!addresses.is_empty()).then(|| {
        format!(
            "WARNING     the clocks of {} are known less exactly than the {late_after_ms} ms after which a request \
             counts as late, so parts of the load may be shifted by more; use workers that are nearer",
            addresses.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_workers_and_uncertain_clocks_are_named() {
        let near = WorkerReport {
            address: "a:1".into(),
            clock_offset_ms: 3.0,
            clock_uncertainty_ms: 0.25,
            offered: 10,
            late_sends: 0,
            is_bottleneck: false,
            failure: None,
        };
        let far = WorkerReport {
            address: "b:1".into(),
            clock_uncertainty_ms: 8.0,
            failure: Some("it closed the connection".into()),
            ..near.clone()
        };
        let text = lines(&[near.clone(), far], 5.0).join("\n");
        assert!(text.contains("b:1: 10 requests, 0 sent late; MISSING: it closed the connection"), "{text}");
        assert!(text.contains("WARNING     the clocks of b:1 are") && text.contains("within 8.00 ms"), "{text}");
        assert!(!lines(&[near], 5.0).join("\n").contains("WARNING"));
        assert!(lines(&[], 5.0).is_empty());
    }
}
