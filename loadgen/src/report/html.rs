//! A report, or a comparison of several reports, as one HTML page with figures and plots. The page contains its data
//! and the plotting library uPlot, which is vendored beside this file. A browser fetches nothing when it opens the
//! page.

use super::{RunReport, terminal};
use crate::compare::{RunComparison, Verdict};
use serde::Serialize;
use serde_json::{Value, json};

const UPLOT_SCRIPT: &str = include_str!("page/vendor/uPlot.iife.min.js");
const UPLOT_STYLE: &str = include_str!("page/vendor/uPlot.min.css");
const PAGE: &str = include_str!("page/page.html");
const RUN_SCRIPT: &str = include_str!("page/run.js");
const COMPARISON_SCRIPT: &str = include_str!("page/comparison.js");

/// The data of the page of one run. It is written as JSON at once: a JSON value of the seconds of a whole day would take
/// hundreds of megabytes.
#[derive(Serialize)]
struct PageData<'a> {
    #[serde(flatten)]
    report: &'a RunReport,
    text: String,
}

/// The page of one run.
pub fn page(report: &RunReport) -> String {
    fill_page("Roundhouse load report", RUN_SCRIPT, &PageData { report, text: terminal::summary(report) })
}

/// The page that compares several runs.
pub fn comparison(comparison: &RunComparison) -> String {
    let groups = comparison.groups.iter().enumerate();
    let runs = groups.flat_map(|(index, group)| {
        group.runs.iter().map(move |report| plot_data(&group.run_name(report), index, report))
    });
    let data = json!({
        "runs": runs.collect::<Vec<_>>(),
        "table": comparison.table().iter().map(|row| row.to_vec()).collect::<Vec<_>>(),
        "verdicts": comparison.verdicts().iter().map(Verdict::text).collect::<Vec<_>>(),
        "caveats": comparison.caveats(),
        "conclusion": comparison.conclusion(),
    });
    fill_page("Roundhouse comparison", COMPARISON_SCRIPT, &data)
}

/// The data for the plots of one run, column by column. `seconds` are the whole seconds of the run, and `metrics_at`
/// are the times in seconds at which the server's metrics were read. Runs of one group have the same colour.
fn plot_data(name: &str, group: usize, report: &RunReport) -> Value {
    let rounded = |value: f64| (value * 10.0).round() / 10.0;
    let metrics = &report.server_metrics;
    json!({
        "name": name,
        "group": group,
        "seconds": report.seconds.iter().map(|row| row.second).collect::<Vec<_>>(),
        "offered": report.seconds.iter().map(|row| row.offered).collect::<Vec<_>>(),
        // A logarithmic axis cannot show zero.
        "p95": report.seconds.iter().map(|row| row.latency_ms.map(|ms| rounded(ms.p95).max(0.1))).collect::<Vec<_>>(),
        "metrics_at": metrics.iter().map(|metrics| rounded(metrics.at_seconds)).collect::<Vec<_>>(),
        "queue": metrics.iter().map(|metrics| metrics.queue_length).collect::<Vec<_>>(),
        "replicas": metrics.iter().map(|metrics| metrics.replicas).collect::<Vec<_>>(),
    })
}

/// Fills title, script and data into the page.
fn fill_page(title: &str, script: &str, data: &impl Serialize) -> String {
    let data = serde_json::to_string(data).expect("a report is JSON");
    // `</script>` within the data would end the script. In JSON strings, the escape means the same as `<`.
    let data = data.replace('<', "\\u003c");
    // The data is filled in last, so that text in it is not taken for a placeholder.
    PAGE.replace("PAGE_TITLE", title)
        .replace("/*UPLOT_STYLE*/", UPLOT_STYLE)
        .replace("/*UPLOT_SCRIPT*/", UPLOT_SCRIPT)
        .replace("/*PAGE_SCRIPT*/", script)
        .replace("\"REPORT_DATA\"", &data)
}
