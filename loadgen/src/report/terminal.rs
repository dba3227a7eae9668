//! Results as text for a terminal. Does no I/O.

use super::{RunReport, RunSetup};
use crate::capacity::{CapacityReport, RateTrial};
use crate::condition::ConditionResult;
use crate::connection_limit::ConnectionLimit;
use crate::interval::Interval;
use crate::latencies::{Percentiles, format_ms, format_or_never};
use crate::send_delay::SendDelays;
use crate::slowest::SlowRequest;
use crate::summary::RunSummary;
use crate::usage::ReplicaUsage;
use crate::workers::report as workers;

/// The figures of a whole run, one subject on each line.
pub fn summary(report: &RunReport) -> String {
    let (summary, setup) = (&report.summary, &report.setup);
    let mut lines = Vec::new();
    if !report.is_complete {
        lines.push(format!(
            "PARTIAL     stopped after {:.1} s; {} requests were still in flight, and had not missed the objective yet",
            setup.length_seconds, report.unfinished
        ));
    }
    lines.extend(request_lines(summary, setup));
    if let Some(accuracy) = summary.accuracy {
        lines.push(format!("accuracy    {:.2} % of the answers to labelled images", 100.0 * accuracy));
    }
    if let Some(problem) = &setup.label_problem {
        let unknown = if summary.accuracy.is_none() { "accuracy    unknown: " } else { "labels      " };
        lines.push(format!("{unknown}{problem}"));
    }
    lines.push(format!(
        "bytes       {:.1} MB sent, {:.1} MB received",
        summary.sent_bytes as f64 / 1e6,
        summary.received_bytes as f64 / 1e6
    ));
    lines.extend(summary.usage.as_ref().map(usage_line));
    if setup.skipped_images > 0 {
        lines.push(format!("images      {} files could not be read and were skipped", setup.skipped_images));
    }
    lines.extend(slowest_lines(&report.slowest));
    lines.extend(workers::lines(&report.workers, report.send_delays.late_after_ms));
    lines.extend(send_delay_line(&report.send_delays, setup.connection_limit));
    lines.extend(report.thresholds.iter().map(|result| format!("threshold   {result}")));
    lines.join("\n")
}

/// The lines about the number of requests, their outcomes and their latencies.
fn request_lines(summary: &RunSummary, setup: &RunSetup) -> Vec<String> {
    let latency = |percentile: fn(&Percentiles) -> f64| format_ms(summary.latency_ms.as_ref().map(percentile));
    let mut lines = vec![
        format!("offered     {} requests in {:.0} s ({})", summary.offered, setup.length_seconds, setup.load),
        format!("answered    {}, failed {}", summary.answered, summary.failed),
    ];
    lines.extend(summary.errors.iter().map(|(code, count)| format!("            {count} × {code}")));
    lines.push(format!(
        "latency     p50 {}, p90 {}, p95 {}, p99 {}, p99.9 {}, max {} (of the answered requests)",
        latency(|latency| latency.p50),
        latency(|latency| latency.p90),
        latency(|latency| latency.p95),
        latency(|latency| latency.p99),
        latency(|latency| latency.p999),
        latency(|latency| latency.max)
    ));
    if summary.failed > 0 {
        let offered = summary.offered_latency_ms;
        lines.push(format!(
            "            p50 {}, p90 {}, p95 {}, p99 {}, p99.9 {} (of all offered requests; a failed one is never answered)",
            format_or_never(offered.p50),
            format_or_never(offered.p90),
            format_or_never(offered.p95),
            format_or_never(offered.p99),
            format_or_never(offered.p999)
        ));
    }
    lines.push(format!("attainment  {:.2} % within {:.0} ms", 100.0 * summary.attainment, setup.objective_ms));
    lines.push(format!(
        "goodput     {:.1} good answers per second (right, and within the objective), of {:.1} answers per second",
        summary.goodput_per_second, summary.throughput_per_second
    ));
    let late = summary.answered - summary.answered_within_run.min(summary.answered);
    if late > 0 {
        lines.push(format!(
            "            {late} answers came after the end of the run, and are in neither of these rates"
        ));
    }
    lines
}

/// The lines about the slowest requests: a line for each, with its id and the parts of its latency.
fn slowest_lines(slowest: &[SlowRequest]) -> Vec<String> {
    let line = |(index, request): (usize, &SlowRequest)| {
        let SlowRequest { request_id, image, at_seconds, latency_ms, code, replica, parts_ms, .. } = request;
        let head = if index == 0 { "slowest" } else { "" };
        let outcome = code.as_ref().map_or_else(String::new, |code| format!(", {code}"));
        let replica = replica.as_ref().map_or_else(String::new, |replica| format!(", by {replica}"));
        let parts = [
            ("sent late", Some(parts_ms.send_delay)),
            ("queue", parts_ms.queue),
            ("decode", parts_ms.decode),
            ("batch", parts_ms.batch),
            ("inference", parts_ms.inference),
            ("rest", Some(parts_ms.rest)),
        ];
        let parts = parts.into_iter().filter_map(|(name, part)| Some(format!("{name} {:.1}", part?)));
        let parts = parts.collect::<Vec<_>>().join(", ");
        format!(
            "{head:<11} {latency_ms:.1} ms = {parts}: {request_id} ({image}) at {at_seconds:.3} s{replica}{outcome}"
        )
    };
    slowest.iter().enumerate().map(line).collect()
}

/// The line about the use of replicas.
fn usage_line(usage: &ReplicaUsage) -> String {
    let cost = usage.replica_seconds_per_1000_good;
    let cost = cost.map_or_else(String::new, |cost| format!(", {cost:.1} for 1000 good answers"));
    format!(
        "replicas    {:.0} replica-seconds ({}){cost}; at most {:.0} replicas, {} changes",
        usage.replica_seconds,
        usage.counted_by.description(),
        usage.peak_replicas,
        usage.changes
    )
}

/// The line about late requests; `None` if there are none. `limit` is the limit of open files, if it bounds the
/// connections.
fn send_delay_line(delays: &SendDelays, limit: Option<ConnectionLimit>) -> Option<String> {
    let SendDelays { send_delay_ms, late_after_ms, late_sends, is_bottleneck } = delays;
    let late =
        format!("{late_sends} requests were sent over {late_after_ms} ms late (p99 {:.1} ms)", send_delay_ms.p99);
    if *is_bottleneck {
        let invalid = format!("INVALID     {late}");
        Some(match limit {
            Some(limit) => format!(
                "{invalid}: this machine, or its limit of open files, was the bottleneck, and the figures say nothing \
                 about the server; {limit}"
            ),
            None => format!(
                "{invalid}: this machine, or --connections, was the bottleneck, and the figures say nothing about the \
                 server; lower the rate, or raise --connections"
            ),
        })
    } else if *late_sends > 0 {
        Some(format!("warning     {late}, since this machine was busy"))
    } else {
        None
    }
}

/// The rows of `--table`. Each row shows its first second, the offered rate, the replicas and the queue length at its
/// end, p95 and attainment.
pub fn table(report: &RunReport) -> String {
    let mut lines = vec![" time   offered   replicas   queue      p95   within objective".to_owned()];
    let number = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.0}"));
    for row in &report.table {
        let metrics = report.server_metrics_at(row.second + row.seconds - 1);
        let attainment = (row.offered > 0).then(|| 100.0 * row.within_objective as f64 / row.offered as f64);
        lines.push(format!(
            "{:>3} s {:>7.1}/s {:>10} {:>7} {:>5} ms   {:>14} %",
            row.second,
            row.offered as f64 / row.seconds as f64,
            number(metrics.and_then(|metrics| metrics.replicas)),
            number(metrics.and_then(|metrics| metrics.queue_length)),
            number(row.latency_ms.map(|latency| latency.p95)),
            number(attainment)
        ));
    }
    lines.join("\n")
}

/// The result of a search for the capacity: a line for each rate that was tried, and the conclusion.
pub fn capacity(capacity: &CapacityReport) -> String {
    let mut lines: Vec<String> = capacity.trials.iter().map(trial_line).collect();
    let slo = capacity.slo.join(", ");
    lines.push(match (capacity.requests_per_second, capacity.fails_at) {
        (Some(rate), Some(failed)) => format!("capacity    {rate:.2}/s with {slo}; it fails at {failed:.2}/s"),
        (Some(rate), None) => format!("capacity    at least {rate:.2}/s with {slo}"),
        (None, Some(failed)) => format!("capacity    none: {slo} fails even at {failed:.2}/s"),
        (None, None) => "capacity    unknown".to_owned(),
    });
    if let Some(Interval { low, high }) = capacity.interval {
        let searches = capacity.estimates.len();
        lines.push(format!("interval    {low:.2} to {high:.2}/s (95 %), from {searches} searches"));
    }
    lines.extend(capacity.limits());
    lines.join("\n")
}

/// The rate of a trial, whether it held (`late` if this machine could not send on time), and the value of each condition in each window.
fn trial_line(trial: &RateTrial) -> String {
    let value = |result: &ConditionResult| result.value.map_or_else(|| "none".into(), |value| format!("{value:.1}"));
    let window = |results: &Vec<ConditionResult>| results.iter().map(value).collect::<Vec<_>>().join(" ");
    let windows: Vec<String> = trial.windows.iter().map(window).collect();
    let result = match (trial.held, trial.is_bottleneck) {
        (true, _) => "held",
        (false, true) => "late",
        (false, false) => "failed",
    };
    format!("{:>9.2}/s  {result:<6}  {}", trial.requests_per_second, windows.join(" | "))
}
