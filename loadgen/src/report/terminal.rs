//! A report as text.

use super::Report;
use crate::capacity::Capacity;
use crate::latencies::{Percentiles, ms};

/// The lines with the figures of the whole run.
pub fn summary(report: &Report) -> String {
    let (summary, setup) = (&report.summary, &report.setup);
    let latency = |pick: fn(&Percentiles) -> f64| ms(summary.latency_ms.as_ref().map(pick));
    let mut lines = Vec::new();
    if !report.is_complete {
        lines.push(format!(
            "PARTIAL     stopped after {:.1} s; {} answers were not waited for",
            setup.length_seconds, report.unfinished
        ));
    }
    lines.push(format!("offered     {} requests in {:.0} s ({})", summary.offered, setup.length_seconds, setup.load));
    lines.push(format!("answered    {}, failed {}", summary.answered, summary.failed));
    lines.extend(summary.errors.iter().map(|(code, count)| format!("            {count} × {code}")));
    lines.push(format!(
        "latency     p50 {}, p90 {}, p95 {}, p99 {}, p99.9 {}, max {}",
        latency(|all| all.p50),
        latency(|all| all.p90),
        latency(|all| all.p95),
        latency(|all| all.p99),
        latency(|all| all.p999),
        latency(|all| all.max)
    ));
    lines.push(format!("attainment  {:.2} % within {:.0} ms", 100.0 * summary.attainment, setup.objective_ms));
    lines.push(format!(
        "goodput     {:.1} right answers within the objective per second, of {:.1} answers",
        summary.goodput_per_second, summary.throughput_per_second
    ));
    if let Some(accuracy) = summary.accuracy {
        lines.push(format!("accuracy    {:.2} % of labelled pictures", 100.0 * accuracy));
    }
    lines.push(format!(
        "bytes       {:.1} MB sent, {:.1} MB received",
        summary.sent_bytes as f64 / 1e6,
        summary.received_bytes as f64 / 1e6
    ));
    if let Some(usage) = &summary.usage {
        let cost = usage
            .replica_seconds_per_1000_good
            .map_or_else(String::new, |cost| format!(", {cost:.1} for 1000 good answers"));
        lines.push(format!(
            "replicas    {:.0} replica-seconds {}{cost}; at most {:.0}, changed {} times",
            usage.replica_seconds,
            usage.source.word(),
            usage.peak_replicas,
            usage.changes
        ));
    }
    if setup.skipped_pictures > 0 {
        lines.push(format!("pictures    {} could not be read and were skipped", setup.skipped_pictures));
    }
    let late = &report.punctuality;
    if late.is_bottleneck {
        lines.push(format!(
            "INVALID     {} requests were sent over 10 ms late (p99 {:.1} ms): this machine, or --connections, was the \
             bottleneck, and the figures say nothing of the server",
            late.late_sends, late.send_delay_ms.p99
        ));
    } else if late.late_sends > 0 {
        lines.push(format!(
            "warning     {} requests were sent over 10 ms late (p99 {:.1} ms): this machine was busy",
            late.late_sends, late.send_delay_ms.p99
        ));
    }
    lines.extend(report.thresholds.iter().map(|outcome| format!("threshold   {outcome}")));
    lines.join("\n")
}

/// The rows of `--table`: time, offered load, replicas and queue at their end, p95, attainment.
pub fn table(report: &Report) -> String {
    let mut lines = vec![" time   offered   replicas   queue      p95   within objective".to_owned()];
    for row in &report.table {
        let glimpse = report.glimpse(row.second + row.seconds - 1);
        let seen = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.0}"));
        let attained = (row.offered > 0).then(|| 100.0 * row.within_objective as f64 / row.offered as f64);
        lines.push(format!(
            "{:>3} s {:>7.1}/s {:>10} {:>7} {:>5} ms   {:>14} %",
            row.second,
            row.offered as f64 / row.seconds as f64,
            seen(glimpse.and_then(|glimpse| glimpse.replicas)),
            seen(glimpse.and_then(|glimpse| glimpse.queue_length)),
            seen(row.latency_ms.map(|latency| latency.p95)),
            seen(attained)
        ));
    }
    lines.join("\n")
}

/// What a search for capacity found, rate by rate.
pub fn capacity(found: &Capacity) -> String {
    let mut lines = Vec::new();
    for one in &found.tries {
        let windows: Vec<String> = one
            .windows
            .iter()
            .map(|outcomes| {
                let value = |value: Option<f64>| value.map_or_else(|| "none".into(), |value| format!("{value:.1}"));
                outcomes.iter().map(|outcome| value(outcome.value)).collect::<Vec<_>>().join(" ")
            })
            .collect();
        let verdict = if one.held { "held" } else { "failed" };
        lines.push(format!("{:>9.2}/s  {verdict:<6}  {}", one.requests_per_second, windows.join(" | ")));
    }
    let slo = found.slo.join(", ");
    lines.push(match (found.requests_per_second, found.fails_at) {
        (Some(rate), Some(failed)) => format!("capacity    {rate:.2}/s with {slo}; it fails at {failed:.2}/s"),
        (Some(rate), None) => format!("capacity    at least {rate:.2}/s with {slo}"),
        (None, Some(failed)) => format!("capacity    none: {slo} fails even at {failed:.2}/s"),
        (None, None) => "capacity    unknown".to_owned(),
    });
    if found.is_limited_by_generator {
        lines.push(
            "INVALID     this machine could not send on time at the rate that failed; the server may be capable of more".into(),
        );
    }
    if !found.is_complete {
        lines.push("PARTIAL     the search was stopped".into());
    }
    lines.join("\n")
}
