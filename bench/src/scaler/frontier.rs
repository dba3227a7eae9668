//! The frontier: how many more requests are in time for how many more replicas. `slo` chooses by its quantile. Each law
//! of another autoscaler has its settings as shipped, and settings that are the best for the set `training`.

use super::comparison::{Comparison, Mean, Row};
use super::section::Measured;
use super::sets::{HeldOut, run};
use crate::figure::Figure;
use anyhow::Result;
use serde::Serialize;
use serde_json::json;

/// The quantiles of `slo`. The lowest two make it as cheap as the cheapest settings of other laws.
const QUANTILES: [f64; 7] = [0.8, 0.9, 0.95, 0.98, 0.985, DEFAULT_QUANTILE, 0.995];

/// The quantile of `slo` without a flag.
const DEFAULT_QUANTILE: f64 = 0.99;

/// The laws of other autoscalers as shipped, and the law that was `slo` before. An HPA whose manifest names no metric
/// holds 80 % of the processors.
const AS_SHIPPED: [&str; 6] = ["cpu:80", "queue", "ray-serve", "concurrency", "forecast", "windows"];

/// The laws of other autoscalers with all settings that are the best for their law on the set `training` without its
/// gamma workloads, with three seeds: no other setting that was tried answers more requests in time there at the same
/// or a lower cost. Settings with less than 90 % in time there are left out. The set `held-out` had no part in the
/// choice. These settings were tried:
///
/// - `cpu`: 20, 30, …, 100 %, without a behavior, and with `up=0s` and `down` of 0, 15, 30, 60, 120 and 300 s;
/// - `queue`: every 1, 2, 5, 10, 15 and 30 s;
/// - `concurrency`: targets of 0.3, 0.4, …, 1;
/// - `forecast`: every 0.5, 1, 2, 3, 5, 10, 20, 30, 60 and 180 s, with utilisations of 0.3, 0.4, …, 0.9 and 1.
const TUNED: [&str; 38] = [
    "cpu:70:up=0s:down=30s",
    "cpu:90",
    "cpu:80:up=0s:down=60s",
    "cpu:70:up=0s:down=60s",
    "cpu:80:up=0s:down=120s",
    "cpu:70",
    "cpu:60",
    "cpu:50",
    "cpu:40:up=0s:down=120s",
    "cpu:20:up=0s:down=30s",
    "cpu:40",
    "cpu:20:up=0s:down=60s",
    "cpu:30",
    "cpu:20:up=0s:down=120s",
    "cpu:20",
    "cpu:20:up=0s:down=300s",
    "queue:15s",
    "queue:10s",
    "queue:5s",
    "queue:2s",
    "queue:1s",
    "concurrency:0.9",
    "concurrency:0.8",
    "concurrency:0.6",
    "concurrency:0.5",
    "concurrency:0.4",
    "concurrency:0.3",
    "forecast:5s:1",
    "forecast:3s:1",
    "forecast:2s:1",
    "forecast:1s:0.9",
    "forecast:1s:0.8",
    "forecast:1s:0.7",
    "forecast:1s:0.6",
    "forecast:1s:0.5",
    "forecast:1s:0.4",
    "forecast:500ms:0.3",
    "forecast:1s:0.3",
];

/// A law with its settings, and its results on the set.
#[derive(Debug, Serialize)]
struct Point {
    /// The law as in `--policy`, and the quantile of `slo`.
    law: String,
    /// The figures over the workloads without the gamma workload.
    mean: Mean,
    /// The results on each workload.
    #[serde(skip)]
    rows: Vec<Row>,
}

impl Point {
    fn new(label: String, law: &str, comparison: &Comparison) -> Self {
        let rows = comparison.workloads.iter().map(|rows| rows.row(law).clone()).collect();
        Self { law: label, mean: comparison.without_gamma().mean(law), rows }
    }

    /// Whether the law answers more requests in time than `other`, as means over the workloads, at the same or a lower
    /// cost.
    fn dominates(&self, other: &Self) -> bool {
        self.mean.attainment > other.mean.attainment && self.mean.times_oracle <= other.mean.times_oracle
    }

    /// Whether the law answers more requests in time than `other` on one workload, at the same or a lower cost.
    fn dominates_on(&self, workload: usize, other: &Self) -> bool {
        let (own, other) = (&self.rows[workload], &other.rows[workload]);
        own.attainment > other.attainment && own.replica_seconds <= other.replica_seconds
    }
}

/// Simulates the set `held-out` with each quantile and each setting. The oracle does not depend on them, so it is taken
/// from `held_out`.
///
/// # Errors
/// If `lab` fails.
pub(super) fn measure(held_out: &HeldOut) -> Result<Measured> {
    let oracles = held_out.comparison()?;
    let simulate = |title: &str, laws: &str, quantile: f64| -> Result<Comparison> {
        let quantile = format!("--quantile={quantile}");
        let mut comparison = run(title, &["--set=held-out", "--goal=0", "--policy", laws, &quantile])?;
        comparison.take_oracles(oracles);
        Ok(comparison)
    };
    let mut own = Vec::new();
    for quantile in QUANTILES {
        let title = format!("slo, --quantile {quantile}");
        let comparison = simulate(&title, "slo", quantile)?;
        own.push(Point::new(title, "slo", &comparison));
    }
    let laws = [AS_SHIPPED.as_slice(), TUNED.as_slice()].concat();
    let comparison = simulate("the other laws", &laws.join(","), DEFAULT_QUANTILE)?;
    let others: Vec<Point> = laws.iter().map(|&law| Point::new(law.to_owned(), law, &comparison)).collect();
    print(&own, &others);
    println!();
    let mut figures = Vec::new();
    for (quantile, point) in QUANTILES.iter().zip(&own) {
        let dominated = print_dominated(point, &others, &comparison);
        if *quantile == DEFAULT_QUANTILE {
            let count = Figure::new("frontier_dominated", dominated as f64, "");
            figures.push(count.labelled("frontier: workloads on which another law dominates slo"));
        }
    }
    Ok(Measured { figures, details: json!({"slo": own, "others": others}) })
}

/// Prints all points by their cost. The last column names the point of `slo` with the highest attainment of those that
/// dominate a point.
fn print(own: &[Point], others: &[Point]) {
    println!("{:26} {:>9} {:>13} {:>9} {:>8}  dominated by", "law", "in time", "worst seed", "× oracle", "changes");
    // One quantile of slo that dominates another one says nothing about the other laws.
    let rivals = others.iter().map(|point| (point, own));
    let mut points: Vec<(&Point, &[Point])> = own.iter().map(|point| (point, [].as_slice())).chain(rivals).collect();
    points.sort_by(|(a, _), (b, _)| a.mean.times_oracle.total_cmp(&b.mean.times_oracle));
    for (point, own) in points {
        let Mean { attainment, worst_attainment, times_oracle, changes } = point.mean;
        let (in_time, worst) = (100.0 * attainment, 100.0 * worst_attainment);
        let better = own.iter().filter(|own| own.dominates(point));
        let best = better.max_by(|a, b| a.mean.attainment.total_cmp(&b.mean.attainment));
        let by = best.map_or("", |best| &best.law);
        println!("{:26} {in_time:7.2} % {worst:11.2} % {times_oracle:9.2} {changes:8.1}  {by}", point.law);
    }
}

/// Prints the workloads on which another law dominates `point`. Returns their number. The best of all settings is taken
/// for each workload, which an operator could not know before.
fn print_dominated(point: &Point, others: &[Point], comparison: &Comparison) -> usize {
    let mut dominated = 0;
    for (index, rows) in comparison.workloads.iter().enumerate() {
        let by: Vec<&str> =
            others.iter().filter(|other| other.dominates_on(index, point)).map(|other| &*other.law).collect();
        if !by.is_empty() {
            dominated += 1;
            println!("{} is dominated on {} by {}", point.law, rows.workload, by.join(", "));
        }
    }
    println!("{} is dominated on {dominated} of {} workloads", point.law, comparison.workloads.len());
    dominated
}
