//! A report as text.

use super::Report;

/// A few lines with the figures of the whole run.
pub fn summary(report: &Report) -> String {
    let (summary, setup) = (&report.summary, &report.setup);
    let latency = &summary.latency_ms;
    let mut lines = vec![
        format!("offered     {} requests in {:.0} s ({})", summary.offered, setup.length_seconds, setup.load),
        format!("answered    {}, failed {}", summary.answered, summary.failed),
    ];
    lines.extend(summary.errors.iter().map(|(code, count)| format!("            {count} x {code}")));
    lines.push(format!(
        "latency     p50 {:.0} ms, p90 {:.0} ms, p95 {:.0} ms, p99 {:.0} ms, max {:.0} ms",
        latency.p50, latency.p90, latency.p95, latency.p99, latency.max
    ));
    lines.push(format!("attainment  {:.2} % within {:.0} ms", 100.0 * summary.attainment, setup.objective_ms));
    lines.push(format!("goodput     {:.1} right answers within the objective per second", summary.goodput_per_second));
    if let Some(accuracy) = summary.accuracy {
        lines.push(format!("accuracy    {:.2} % of labelled pictures", 100.0 * accuracy));
    }
    if summary.late_sends > 0 {
        lines.push(format!(
            "warning     {} requests were sent over 10 ms late (p99 {:.1} ms): this machine was too busy to send on time",
            summary.late_sends, summary.send_delay_p99_ms
        ));
    }
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
            seen(glimpse.map(|glimpse| glimpse.replicas)),
            seen(glimpse.map(|glimpse| glimpse.queue_length)),
            seen(row.latency_ms.map(|latency| latency.p95)),
            seen(attained)
        ));
    }
    lines.join("\n")
}
