//! Prints the measurements as tables on the terminal.

use super::cell::{ServerKind, TableCell};
use super::measurements::{CellMeasurements, PEERS, USUAL_CONNECTIONS};

const HEADER: &str =
    "connections  server         requests/s    p50 ms    p99 ms  CPU µs/request  of nginx's  of haproxy's  with queue";

/// Prints a table for each body size, and then the ratios and differences by which the dispatcher is judged.
pub(crate) fn print(measurements: &CellMeasurements) {
    for body in measurements.bodies() {
        println!("\n{body} B\n{HEADER}");
        for cell in measurements.cells().filter(|cell| cell.body == body) {
            println!("{}", row(measurements, cell).trim_end());
        }
    }
    println!();
    for body in measurements.bodies() {
        let cell = TableCell { body, connections: USUAL_CONNECTIONS, server: ServerKind::Roundhouse };
        let ratios: Vec<String> = PEERS
            .into_iter()
            .filter_map(|peer| {
                Some(format!("{:.2} times that of {}", measurements.cpu_ratio(cell, peer)?, peer.name()))
            })
            .collect();
        if !ratios.is_empty() {
            println!("{cell}: processor time {}", ratios.join(", "));
        }
    }
    for body in measurements.bodies() {
        let servers = [ServerKind::Roundhouse].into_iter().chain(PEERS);
        let added: Vec<String> = servers
            .filter_map(|server| Some(format!("{} {:.0} µs", server.name(), measurements.added_us(body, server)?)))
            .collect();
        if !added.is_empty() {
            println!("added to the median latency of {body} B at one connection: {}", added.join(", "));
        }
    }
}

fn row(measurements: &CellMeasurements, cell: TableCell) -> String {
    let number = |value: Option<f64>, decimals| value.map_or(String::new(), |value| format!("{value:.decimals$}"));
    let ratio = |peer| match cell.server {
        ServerKind::Roundhouse => number(measurements.cpu_ratio(cell, peer), 2),
        _ => String::new(),
    };
    format!(
        "{:>11}  {:<13} {:>11} {:>9} {:>9} {:>15} {:>11} {:>13} {:>11}",
        cell.connections,
        cell.server.name(),
        number(measurements.median(cell, |measurement| Some(measurement.requests_per_second)), 0),
        number(measurements.median(cell, |measurement| Some(measurement.p50_us / 1e3)), 3),
        number(measurements.median(cell, |measurement| Some(measurement.p99_us / 1e3)), 3),
        number(measurements.median(cell, |measurement| measurement.cpu_us), 1),
        ratio(ServerKind::Nginx),
        ratio(ServerKind::Haproxy),
        ratio(ServerKind::HaproxyQueue)
    )
}
