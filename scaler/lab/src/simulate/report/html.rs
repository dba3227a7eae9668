//! A comparison as a page: for each workload the load, and for each law its replicas and what came late.

use super::cells;
use crate::simulate::comparison::{Comparison, Row, Rows};
use crate::simulate::trial::Moment;
use plotters::prelude::*;
use std::fmt::Write;

/// Of one plot, pixels.
const SIZE: (u32, u32) = (900, 190);

/// A page that needs nothing else.
pub fn render(comparison: &Comparison) -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Laws compared</title><style>\
         body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
         table{border-collapse:collapse}td,th{padding:.15rem .7rem;text-align:right}\
         td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#f4f4f4}\
         pre{margin:0;white-space:pre-wrap}h3{margin:.8rem 0 0;font-weight:600}</style><h1>Laws compared</h1>",
    );
    for rows in &comparison.workloads {
        // Nothing can go wrong in writing to a string.
        let _infallible = write!(page, "<h2>{}</h2>", escaped(&rows.workload));
        for note in &rows.notes {
            let _infallible = write!(page, "<pre>{}</pre>", escaped(note));
        }
        page.push_str(&table(rows));
        for row in rows.all() {
            let _infallible = write!(page, "<h3>{}</h3>{}", escaped(&row.law), plot(row));
        }
    }
    page.push_str("</html>");
    page
}

fn table(rows: &Rows) -> String {
    let mut text = String::from(
        "<table><tr><th>law<th>in time<th>worst seed<th>p50 ms<th>p95 ms<th>p99 ms<th>replica-seconds<th>× oracle<th>peak\
         <th>changes",
    );
    for row in rows.all() {
        let _infallible = write!(text, "<tr><td>{}", escaped(&row.law));
        for cell in cells(row) {
            let _infallible = write!(text, "<td>{cell}");
        }
    }
    text + "</table>"
}

/// Replicas asked for and ready (left axis), requests per second and late ones among them (right axis).
fn plot(row: &Row) -> String {
    let mut svg = String::new();
    match draw(row, &mut svg) {
        Ok(()) => svg,
        Err(error) => format!("<p>no plot: {}</p>", escaped(&error.to_string())),
    }
}

fn draw(row: &Row, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let second = |moment: &Moment| moment.at.as_secs_f64();
    let end = row.course.last().map_or(1.0, second).max(1.0);
    let replicas = row.course.iter().map(|moment| moment.desired).max().unwrap_or(1).max(1) as f64 * 1.15;
    let (load, late) = rates(&row.course);
    let highest = load.iter().map(|point| point.1).fold(1.0, f64::max) * 1.1;
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(4)
        .x_label_area_size(24)
        .y_label_area_size(40)
        .right_y_label_area_size(44)
        .build_cartesian_2d(0.0..end, 0.0..replicas)?
        .set_secondary_coord(0.0..end, 0.0..highest);
    chart.configure_mesh().light_line_style(TRANSPARENT).y_desc("replicas").x_desc("seconds").draw()?;
    chart.configure_secondary_axes().y_desc("requests/s").draw()?;
    let (grey, red) = (RGBColor(150, 150, 150), RGBColor(200, 30, 30));
    chart.draw_secondary_series(LineSeries::new(load, grey))?;
    chart.draw_secondary_series(AreaSeries::new(late, 0.0, red.mix(0.6)))?;
    let ready = row.course.iter().map(|moment| (second(moment), moment.ready as f64));
    let desired = row.course.iter().map(|moment| (second(moment), moment.desired as f64));
    chart.draw_series(LineSeries::new(desired, BLUE.mix(0.35)))?;
    chart.draw_series(LineSeries::new(ready, BLUE))?;
    root.present()?;
    Ok(())
}

/// (seconds, value)
type Points = Vec<(f64, f64)>;

/// Requests per second that arrived, and that were not answered in time as far as is known, each second.
fn rates(course: &[Moment]) -> (Points, Points) {
    let (mut load, mut late) = (Vec::new(), Vec::new());
    let mut last = (0.0, 0, 0);
    for moment in course {
        let at = moment.at.as_secs_f64();
        if at - last.0 < 0.999 {
            continue;
        }
        load.push((at, (moment.offered - last.1) as f64 / (at - last.0)));
        let missing = moment.requests.map_or(0, |requests| moment.offered - requests.in_time - requests.pending);
        if moment.requests.is_some() {
            late.push((at, missing.saturating_sub(last.2) as f64 / (at - last.0)));
        }
        last = (at, moment.offered, missing);
    }
    (load, late)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
