//! A report as one self-contained page: figures, and plots by uPlot, which is vendored beside this file.

use super::{Report, terminal};

const SCRIPT: &str = include_str!("vendor/uPlot.iife.min.js");
const STYLE: &str = include_str!("vendor/uPlot.min.css");
const PAGE: &str = include_str!("page.html");

/// The page.
pub fn page(report: &Report) -> String {
    // `<` can end a script early; inside JSON strings its escape means the same.
    let data =
        serde_json::to_string(report).expect("reports have string keys and finite shapes").replace('<', "\\u003c");
    let summary = terminal::summary(report).replace('&', "&amp;").replace('<', "&lt;");
    // The data comes last: whatever stands in it is not searched for the other names.
    PAGE.replace("/*UPLOT_STYLE*/", STYLE)
        .replace("/*UPLOT_SCRIPT*/", SCRIPT)
        .replace("SUMMARY_TEXT", &summary)
        .replace("\"REPORT_DATA\"", &data)
}
