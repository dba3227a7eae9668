//! Prints the measurements as tables on the terminal.

use super::cell::{ServerKind, TableCell};
use super::measurements::{CellMeasurements, PEERS, USUAL_CONNECTIONS};

const HEADER: &str =
    "connections  server      requests/s    p50 ms    p99 ms  CPU µs/request  of nginx's  of haproxy's";

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
        if let [Some(nginx), Some(haproxy)] = PEERS.map(|peer| measurements.cpu_ratio(cell, peer)) {
            println!("{cell}: {nginx:.2} times the processor time of nginx, {haproxy:.2} times that of haproxy");
        }
    }
    for body in measurements.bodies() {
        let servers = [ServerKind::Roundhouse, ServerKind::Nginx, ServerKind::Haproxy];
        let added =
            servers.map(|server| Some(format!("{} {:.0} µs", server.name(), measurements.added_us(body, server)?)));
        if let [Some(own), Some(nginx), Some(haproxy)] = added {
            println!("added to the median latency of {body} B at one connection: {own}, {nginx}, {haproxy}");
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
        "{:>11}  {:<10} {:>11} {:>9} {:>9} {:>15} {:>11} {:>13}",
        cell.connections,
        cell.server.name(),
        number(measurements.median(cell, |measurement| Some(measurement.requests_per_second)), 0),
        number(measurements.median(cell, |measurement| Some(measurement.p50_us / 1e3)), 3),
        number(measurements.median(cell, |measurement| Some(measurement.p99_us / 1e3)), 3),
        number(measurements.median(cell, |measurement| measurement.cpu_us), 1),
        ratio(ServerKind::Nginx),
        ratio(ServerKind::Haproxy)
    )
}
