//! A report, or a comparison of several, as one self-contained page: figures, and plots by uPlot, which is vendored
//! beside this file. Nothing is fetched when it is opened.

use super::{Report, terminal};
use crate::compare::{Comparison, Run};
use serde_json::{Value, json};

const SCRIPT: &str = include_str!("page/vendor/uPlot.iife.min.js");
const STYLE: &str = include_str!("page/vendor/uPlot.min.css");
const PAGE: &str = include_str!("page/page.html");
const RUN: &str = include_str!("page/run.js");
const COMPARISON: &str = include_str!("page/comparison.js");

/// One run.
pub fn page(report: &Report) -> String {
    let mut data = serde_json::to_value(report).expect("a report is JSON");
    // For tools, not for this page.
    data["histogram"] = Value::Null;
    data["text"] = terminal::summary(report).into();
    fill("Roundhouse load report", RUN, &data)
}

/// Several runs side by side.
pub fn comparison(comparison: &Comparison) -> String {
    let data = json!({
        "runs": comparison.runs.iter().map(course).collect::<Vec<_>>(),
        "table": comparison.table().iter().map(|row| row.to_vec()).collect::<Vec<_>>(),
        "caveats": comparison.caveats(),
        "conclusion": comparison.conclusion(),
    });
    fill("Roundhouse comparison", COMPARISON, &data)
}

/// What the plots show of a run, column by column.
fn course(run: &Run) -> Value {
    let Run { name, report } = run;
    let rounded = |value: f64| (value * 10.0).round() / 10.0;
    let glimpses = &report.glimpses;
    json!({
        "name": name,
        "seconds": report.seconds.iter().map(|row| row.second).collect::<Vec<_>>(),
        "offered": report.seconds.iter().map(|row| row.offered).collect::<Vec<_>>(),
        // A logarithmic axis has no zero.
        "p95": report.seconds.iter().map(|row| row.latency_ms.map(|ms| rounded(ms.p95).max(0.1))).collect::<Vec<_>>(),
        "seen": glimpses.iter().map(|glimpse| rounded(glimpse.at_seconds)).collect::<Vec<_>>(),
        "queue": glimpses.iter().map(|glimpse| glimpse.queue_length).collect::<Vec<_>>(),
        "replicas": glimpses.iter().map(|glimpse| glimpse.replicas).collect::<Vec<_>>(),
    })
}

fn fill(title: &str, script: &str, data: &Value) -> String {
    // `<` can end a script early; inside JSON strings its escape means the same.
    let data = data.to_string().replace('<', "\\u003c");
    // The data comes last: whatever stands in it is not searched for the other names.
    PAGE.replace("PAGE_TITLE", title)
        .replace("/*UPLOT_STYLE*/", STYLE)
        .replace("/*UPLOT_SCRIPT*/", SCRIPT)
        .replace("/*PAGE_SCRIPT*/", script)
        .replace("\"REPORT_DATA\"", &data)
}
