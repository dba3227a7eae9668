//! The measurements of all rounds, and their medians and ratios. Knows nothing of processes or terminals.

use super::cell::{CellMeasurement, ServerKind, TableCell};
use crate::statistics::{median, median_ratio};
use std::collections::{BTreeMap, BTreeSet};

/// The number of connections whose figures have no suffix in their names.
pub(crate) const USUAL_CONNECTIONS: u32 = 64;

/// The servers with which the dispatcher is compared.
pub(crate) const PEERS: [ServerKind; 3] = [ServerKind::Nginx, ServerKind::Haproxy, ServerKind::HaproxyQueue];

/// A function that returns one number of a measurement; `None` if the measurement lacks the number.
pub(crate) type Pick = fn(&CellMeasurement) -> Option<f64>;

/// The numbers of a measurement, each with the first part of its figures' names.
const NUMBERS: [(&str, Pick); 4] = [
    ("requests_per_second", |measurement| Some(measurement.requests_per_second)),
    ("p50_us", |measurement| Some(measurement.p50_us)),
    ("p99_us", |measurement| Some(measurement.p99_us)),
    ("cpu_us", |measurement| measurement.cpu_us),
];

/// The measurements of every cell, in the order of the rounds.
#[derive(Debug, Default)]
pub(crate) struct CellMeasurements {
    measurements: BTreeMap<TableCell, Vec<CellMeasurement>>,
}

impl CellMeasurements {
    /// Adds the measurement of `cell` in the next round.
    pub(crate) fn add(&mut self, cell: TableCell, measurement: CellMeasurement) {
        self.measurements.entry(cell).or_default().push(measurement);
    }

    /// The measured cells, in the order of the tables.
    pub(crate) fn cells(&self) -> impl Iterator<Item = TableCell> {
        self.measurements.keys().copied()
    }

    /// The measured body sizes in bytes, in ascending order.
    pub(crate) fn bodies(&self) -> BTreeSet<u32> {
        self.cells().map(|cell| cell.body).collect()
    }

    /// The median of one number of `cell` over all rounds; `None` if the cell was not measured.
    pub(crate) fn median(&self, cell: TableCell, pick: Pick) -> Option<f64> {
        median(self.rounds(cell, pick))
    }

    /// The dispatcher's processor time divided by that of `peer` under the load of `cell`: the median of the ratios of
    /// each round. `None` if one of the two was not measured.
    pub(crate) fn cpu_ratio(&self, cell: TableCell, peer: ServerKind) -> Option<f64> {
        let cpu = |server| self.rounds(cell.on(server), |measurement| measurement.cpu_us);
        median_ratio(&cpu(ServerKind::Roundhouse), &cpu(peer))
    }

    /// The microseconds that `server` adds to the median latency of the stub replica at one connection: the median of
    /// the differences of each round. `None` if one of the two was not measured.
    pub(crate) fn added_us(&self, body: u32, server: ServerKind) -> Option<f64> {
        let p50 =
            |server| self.rounds(TableCell { body, connections: 1, server }, |measurement| Some(measurement.p50_us));
        let rounds = p50(server).into_iter().zip(p50(ServerKind::Direct));
        median(rounds.map(|(through, direct)| through - direct).collect())
    }

    /// All figures by name, such as `cpu_ratio_nginx_38k`. The suffix `_c1` stands for one connection.
    pub(crate) fn named(&self) -> BTreeMap<String, f64> {
        let mut named = Vec::new();
        for cell in self.cells() {
            let (server, body) = (cell.server.name(), size(cell.body));
            let suffix = match cell.connections {
                USUAL_CONNECTIONS => String::new(),
                other => format!("_c{other}"),
            };
            for (number, pick) in NUMBERS {
                named.push((format!("{number}_{server}_{body}{suffix}"), self.median(cell, pick)));
            }
            if PEERS.contains(&cell.server) {
                named.push((format!("cpu_ratio_{server}_{body}{suffix}"), self.cpu_ratio(cell, cell.server)));
            }
            if cell.connections == 1 && cell.server != ServerKind::Direct {
                named.push((format!("added_p50_us_{server}_{body}"), self.added_us(cell.body, cell.server)));
            }
        }
        named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn rounds(&self, cell: TableCell, pick: Pick) -> Vec<f64> {
        self.measurements.get(&cell).into_iter().flatten().filter_map(pick).collect()
    }
}

/// A body size for the name of a figure, such as `200b` or `38k`.
fn size(bytes: u32) -> String {
    if bytes.is_multiple_of(1000) { format!("{}k", bytes / 1000) } else { format!("{bytes}b") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_and_differences_are_taken_within_each_round() {
        let mut measurements = CellMeasurements::default();
        // The machine becomes slower from round to round. By the medians over all rounds, the ratio of processor times
        // would be 4, and the added latencies would be 40 and 0.
        for (server, rounds) in [
            (ServerKind::Roundhouse, [(20.0, 190.0), (80.0, 290.0), (300.0, 590.0)]),
            (ServerKind::Nginx, [(10.0, 150.0), (20.0, 250.0), (150.0, 500.0)]),
            (ServerKind::Direct, [(0.0, 100.0), (0.0, 250.0), (0.0, 400.0)]),
        ] {
            for (cpu_us, p50_us) in rounds {
                let cpu_us = (server != ServerKind::Direct).then_some(cpu_us);
                let measurement = CellMeasurement { requests_per_second: 1e6 / p50_us, p50_us, p99_us: p50_us, cpu_us };
                measurements.add(TableCell { body: 38_000, connections: 1, server }, measurement);
            }
        }
        let named = measurements.named();
        for (name, expected) in [
            ("cpu_ratio_nginx_38k_c1", Some(2.0)),
            ("cpu_us_roundhouse_38k_c1", Some(80.0)),
            ("added_p50_us_roundhouse_38k", Some(90.0)),
            ("added_p50_us_nginx_38k", Some(50.0)),
            ("p99_us_direct_38k_c1", Some(250.0)),
            ("requests_per_second_nginx_38k_c1", Some(4000.0)),
            ("cpu_us_direct_38k_c1", None),
            ("cpu_ratio_haproxy_38k_c1", None),
        ] {
            assert_eq!(named.get(name).copied(), expected, "{name}");
        }
    }
}
