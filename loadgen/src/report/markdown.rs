//! A run as Markdown, for the pages on which CI systems show the summary of a build. Does no I/O.

use super::RunReport;
use crate::latencies::{format_ms, format_or_never};
use crate::summary::percent;

/// The summary of a run: its verdict, thresholds, figures, errors and settings.
pub fn summary(report: &RunReport) -> String {
    let title = report.setup.name.as_deref().unwrap_or(&report.setup.load);
    let mut lines = vec![format!("### Load test: {}", escape(title)), String::new()];
    lines.extend(verdict(report).into_iter().flat_map(|line| [line, String::new()]));
    if !report.thresholds.is_empty() {
        let result = |held| if held { "✅ held" } else { "❌ breached" };
        let value = |value: Option<f64>| value.map_or_else(|| "none".into(), |value| format!("{value:.2}"));
        let rows = report.thresholds.iter();
        let rows = rows.map(|row| [escape(&row.condition), result(row.held).to_owned(), value(row.value)]);
        lines.extend(table(["threshold", "result", "value"], rows));
    }
    lines.extend(table(["figure", "value"], figures(report)));
    if !report.summary.errors.is_empty() {
        let errors = report.summary.errors.iter().map(|(code, count)| [escape(code), count.to_string()]);
        lines.extend(table(["error", "requests"], errors));
    }
    lines.extend(["<details><summary>Settings</summary>".to_owned(), String::new()]);
    lines.extend(table(["setting", "value"], settings(report)));
    lines.push("</details>".into());
    lines.join("\n")
}

/// Whether the run passed, and the reasons why its figures may mean little. One sentence on each line.
fn verdict(report: &RunReport) -> Vec<String> {
    let setup = &report.setup;
    let mut lines = Vec::new();
    if !report.is_complete {
        lines.push(format!(
            "⚠️ **Partial**: the run was stopped after {:.1} s; {} requests were still in flight.",
            setup.length_seconds, report.unfinished
        ));
    }
    if report.send_delays.is_bottleneck {
        lines.push(format!(
            "❌ **Invalid**: {} requests were sent late by loadgen, so the figures say nothing about the server.",
            report.send_delays.late_sends
        ));
    }
    let breached = report.thresholds.iter().filter(|result| !result.held).count();
    lines.push(match (breached, report.thresholds.len()) {
        (_, 0) => "The run had no thresholds.".into(),
        (0, all) => format!("✅ **Passed**: {all} of {all} thresholds held."),
        (breached, all) => format!("❌ **Failed**: {breached} of {all} thresholds were breached."),
    });
    lines
}

fn figures(report: &RunReport) -> Vec<[String; 2]> {
    let (summary, setup) = (&report.summary, &report.setup);
    let row = |name: &str, value: String| [name.to_owned(), value];
    let mut rows = vec![
        row(
            "requests",
            format!("{} offered, {} answered, {} failed", summary.offered, summary.answered, summary.failed),
        ),
        row(
            &format!("within {:.0} ms", setup.objective_ms),
            format!("{:.2} % of all offered", percent(summary.attainment)),
        ),
        row(
            "rate",
            format!(
                "{:.1} good answers per second, of {:.1} answers per second",
                summary.goodput_per_second, summary.throughput_per_second
            ),
        ),
    ];
    let answered = summary.latency_ms;
    let offered = &summary.offered_latency_ms;
    // A run without requests has no percentile, although no request failed.
    let of_offered = if summary.offered == 0 { format_ms } else { format_or_never };
    for (name, of_all, of_answered) in [
        ("p50", offered.p50, answered.map(|latency| latency.p50)),
        ("p95", offered.p95, answered.map(|latency| latency.p95)),
        ("p99", offered.p99, answered.map(|latency| latency.p99)),
        ("max", offered.max, answered.map(|latency| latency.max)),
    ] {
        let value = format!("{} of all offered, {} of the answered", of_offered(of_all), format_ms(of_answered));
        rows.push(row(&format!("latency {name}"), value));
    }
    if let Some(accuracy) = summary.accuracy {
        rows.push(row("accuracy", format!("{:.2} %", percent(accuracy))));
    }
    if let Some(usage) = &summary.usage {
        let cost = usage.replica_seconds_per_1000_good;
        let cost = cost.map_or_else(String::new, |cost| format!(", {cost:.1} for 1000 good answers"));
        let value = format!(
            "{:.0} replica-seconds ({}){cost}; at most {:.0}",
            usage.replica_seconds,
            usage.counted_by.description(),
            usage.peak_replicas
        );
        rows.push(row("replicas", value));
    }
    rows
}

fn settings(report: &RunReport) -> Vec<[String; 2]> {
    let setup = &report.setup;
    let mut rows = vec![
        ["load".to_owned(), escape(&setup.load)],
        ["url".to_owned(), escape(&setup.url)],
        ["length".to_owned(), format!("{:.1} s", setup.length_seconds)],
        ["seed".to_owned(), setup.seed.to_string()],
        ["images".to_owned(), setup.images.to_string()],
        ["started".to_owned(), escape(&setup.started_at)],
        ["loadgen".to_owned(), escape(&setup.version)],
    ];
    if setup.warmup_seconds > 0.0 {
        rows.push(["warm-up".to_owned(), format!("{:.1} s", setup.warmup_seconds)]);
    }
    rows
}

/// The lines of a table, and an empty line.
fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Vec<String> {
    let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
    let header = [line(&header.map(str::to_owned)), format!("|{}", "---|".repeat(N))];
    header.into_iter().chain(rows.into_iter().map(|row| line(&row))).chain([String::new()]).collect()
}

/// The text without a meaning in Markdown or HTML, on one line. A server chooses the codes of its errors, and a user the
/// name of a run.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' | '!' => escaped.extend(['\\', char]),
            char if char.is_control() => escaped.push(' '),
            char => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use crate::condition::ConditionResult;
    use crate::latencies::OfferedPercentiles;
    use crate::report::tests::report;
    use crate::summary::RunSummary;

    #[test]
    fn thresholds_figures_and_errors_have_their_rows() {
        let errors = [("queue_full".to_owned(), 3)].into();
        let offered_latency_ms = OfferedPercentiles { p50: Some(12.0), ..OfferedPercentiles::default() };
        let summary =
            RunSummary { offered: 40, answered: 37, failed: 3, errors, offered_latency_ms, ..RunSummary::default() };
        let mut report = report(summary);
        let threshold = |text: &str, held| ConditionResult { condition: text.into(), value: Some(612.0), held };
        report.thresholds = vec![threshold("p95<500ms", false), threshold("p50<1s", true)];
        let text = super::summary(&report);
        for line in [
            "❌ **Failed**: 1 of 2 thresholds were breached.",
            "| p95&lt;500ms | ❌ breached | 612.00 |",
            "| p50&lt;1s | ✅ held | 612.00 |",
            "| requests | 40 offered, 37 answered, 3 failed |",
            "| latency p50 | 12 ms of all offered, – of the answered |",
            "| latency p99 | never of all offered, – of the answered |",
            "| queue\\_full | 3 |",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        report.thresholds.remove(0);
        assert!(super::summary(&report).contains("✅ **Passed**: 1 of 1 thresholds held."));
    }

    #[test]
    fn partial_and_invalid_runs_say_so() {
        let mut report = report(RunSummary::default());
        report.is_complete = false;
        report.send_delays.is_bottleneck = true;
        let text = super::summary(&report);
        assert!(
            text.contains("**Partial**: the run was stopped after 10.0 s") && text.contains("**Invalid**"),
            "{text}"
        );
        assert!(text.contains("| latency p99 | – of all offered, – of the answered |"), "{text}");
    }

    #[test]
    fn text_of_users_and_servers_cannot_break_the_page() {
        let mut report = report(RunSummary { errors: [("a|b\n\n# c".to_owned(), 1)].into(), ..RunSummary::default() });
        report.setup.name = Some("<script>alert(1)</script>\n[x](y)".into());
        let text = super::summary(&report);
        assert!(!text.contains("<script>") && !text.contains("\n[x]"), "{text}");
        assert!(text.contains("| a\\|b  \\# c | 1 |"), "{text}");
    }
}
