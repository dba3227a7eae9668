//! The report of a comparison as an HTML page with plots.

use super::cells;
use crate::simulate::comparison::{ComparisonRow, LawComparison, WorkloadComparison};
use crate::simulate::timeline::TimelineSample;
use plotters::prelude::*;
use std::fmt::Write;

/// The width and the height of one plot, in pixels.
const PLOT_SIZE: (u32, u32) = (900, 190);

/// The least time between two points of a rate, in seconds. It is a little less than a second, because sample times
/// have rounding errors.
const MIN_RATE_INTERVAL: f64 = 0.999;

/// The points of a line in a plot, each as `(seconds since the start, value)`.
type PlotPoints = Vec<(f64, f64)>;

/// The page of a comparison: for each workload a table and a plot for each row. The page contains everything that it
/// needs, so a browser fetches nothing.
pub fn render(comparison: &LawComparison) -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Laws compared</title><style>\
         body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
         table{border-collapse:collapse}td,th{padding:.15rem .7rem;text-align:right}\
         td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#f4f4f4}\
         pre{margin:0;white-space:pre-wrap}h3{margin:.8rem 0 0;font-weight:600}</style><h1>Laws compared</h1>",
    );
    for workload in &comparison.workloads {
        // Writing to a string cannot fail.
        let _infallible = write!(page, "<h2>{}</h2>", escaped(&workload.workload));
        for note in &workload.notes {
            let _infallible = write!(page, "<pre>{}</pre>", escaped(note));
        }
        page.push_str(&table(workload));
        for row in workload.rows() {
            let _infallible = write!(page, "<h3>{}</h3>{}", escaped(&row.law), plot(row));
        }
    }
    page.push_str("</html>");
    page
}

fn table(workload: &WorkloadComparison) -> String {
    let mut text = String::from(
        "<table><tr><th>law<th>in time<th>worst seed<th>p50 ms<th>p95 ms<th>p99 ms<th>replica-seconds<th>× oracle\
         <th>peak<th>changes",
    );
    for row in workload.rows() {
        let _infallible = write!(text, "<tr><td>{}", escaped(&row.law));
        for cell in cells(row) {
            let _infallible = write!(text, "<td>{cell}");
        }
    }
    text + "</table>"
}

/// The plot of a row, as SVG. The left axis is for desired and ready replicas. The right axis is for offered requests
/// per second, and for those that missed the objective.
fn plot(row: &ComparisonRow) -> String {
    let mut svg = String::new();
    match draw(row, &mut svg) {
        Ok(()) => svg,
        Err(error) => format!("<p>this plot cannot be drawn: {}</p>", escaped(&error.to_string())),
    }
}

fn draw(row: &ComparisonRow, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let seconds = |sample: &TimelineSample| sample.at.as_secs_f64();
    let end = row.timeline.last().map_or(1.0, seconds).max(1.0);
    let highest_desired = row.timeline.iter().map(|sample| sample.desired).max().unwrap_or(1).max(1) as f64;
    let (offered, late) = rates(&row.timeline);
    let highest_rate = offered.iter().map(|point| point.1).fold(1.0, f64::max);
    let root = SVGBackend::with_string(svg, PLOT_SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(4)
        .x_label_area_size(24)
        .y_label_area_size(40)
        .right_y_label_area_size(44)
        .build_cartesian_2d(0.0..end, 0.0..highest_desired * 1.15)?
        .set_secondary_coord(0.0..end, 0.0..highest_rate * 1.1);
    chart.configure_mesh().light_line_style(TRANSPARENT).y_desc("replicas").x_desc("seconds").draw()?;
    chart.configure_secondary_axes().y_desc("requests/s").draw()?;
    let (grey, red) = (RGBColor(150, 150, 150), RGBColor(200, 30, 30));
    chart.draw_secondary_series(LineSeries::new(offered, grey))?;
    chart.draw_secondary_series(AreaSeries::new(late, 0.0, red.mix(0.6)))?;
    let ready = row.timeline.iter().map(|sample| (seconds(sample), sample.ready as f64));
    let desired = row.timeline.iter().map(|sample| (seconds(sample), sample.desired as f64));
    chart.draw_series(LineSeries::new(desired, BLUE.mix(0.35)))?;
    chart.draw_series(LineSeries::new(ready, BLUE))?;
    root.present()?;
    Ok(())
}

/// Two lines of requests per second, whose points are at least a second apart: the offered requests, and the requests
/// that missed the objective. The second line is empty if the results of requests were not recorded.
fn rates(timeline: &[TimelineSample]) -> (PlotPoints, PlotPoints) {
    let (mut offered, mut late) = (Vec::new(), Vec::new());
    let (mut last_at, mut last_offered, mut last_late) = (0.0, 0, 0);
    for sample in timeline {
        let at = sample.at.as_secs_f64();
        let elapsed = at - last_at;
        if elapsed < MIN_RATE_INTERVAL {
            continue;
        }
        offered.push((at, (sample.offered - last_offered) as f64 / elapsed));
        let mut late_until_now = 0;
        if let Some(requests) = sample.requests {
            late_until_now = sample.offered - requests.in_time - requests.pending;
            late.push((at, late_until_now.saturating_sub(last_late) as f64 / elapsed));
        }
        (last_at, last_offered, last_late) = (at, sample.offered, late_until_now);
    }
    (offered, late)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
