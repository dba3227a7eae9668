//! The table of all runs of an experiment: how long each took, how much of the machine its host took, and its figures.

use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Prints the machine and a row for each of loadgen's reports.
///
/// # Errors
/// If a report cannot be read, or lacks a figure.
pub(super) fn print(reports: &[PathBuf]) -> Result<()> {
    let runs = reports.iter().map(|path| read(path)).collect::<Result<Vec<Run>>>()?;
    if let Some(machine) = runs.iter().find_map(|run| run.machine.as_ref()) {
        println!("\nmachine     {machine}");
    }
    println!("\n{}", table(&runs));
    Ok(())
}

/// The figures of one run.
#[derive(Debug, Clone, PartialEq)]
struct Run {
    law: String,
    seed: u64,
    /// The machine in words. `None` on systems other than Linux.
    machine: Option<String>,
    /// Length of the run in seconds.
    seconds: f64,
    /// Share of the machine's processor time that its host took, 0 to 1. `None` on systems other than Linux.
    steal: Option<f64>,
    /// Share of the requests that were answered within the objective, 0 to 1.
    attainment: f64,
    replica_seconds: f64,
}

fn read(path: &Path) -> Result<Run> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let report: Value = serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
    Run::parse(&report).with_context(|| format!("read {}", path.display()))
}

impl Run {
    fn parse(report: &Value) -> Result<Self> {
        let number = |pointer: &str| {
            let value = report.pointer(pointer).and_then(Value::as_f64);
            value.with_context(|| format!("the report has no number at {pointer}"))
        };
        Ok(Self {
            law: report["setup"]["name"].as_str().unwrap_or_default().to_owned(),
            seed: report["setup"]["seed"].as_u64().unwrap_or_default(),
            machine: machine(&report["setup"]["machine"]),
            seconds: number("/setup/length_seconds")?,
            steal: report["steal"].as_f64(),
            attainment: number("/summary/attainment")?,
            replica_seconds: number("/summary/usage/replica_seconds")?,
        })
    }
}

/// The machine in words.
fn machine(machine: &Value) -> Option<String> {
    let processor = machine["processor"].as_str()?;
    let gibibytes = machine["memory_bytes"].as_f64()? / f64::from(1 << 30);
    Some(format!("{processor}, {} cores, {gibibytes:.0} GiB", machine["cores"].as_u64()?))
}

fn table(runs: &[Run]) -> String {
    let width = runs.iter().map(|run| run.law.chars().count()).max().unwrap_or_default().max("law".len());
    let header = format!(
        "{:width$} {:>6} {:>9} {:>8} {:>10} {:>16}",
        "law", "seed", "length", "steal", "in time", "replica-seconds"
    );
    let row = |run: &Run| {
        let Run { law, seed, seconds, steal, attainment, replica_seconds, .. } = run;
        let steal = steal.map_or_else(|| "–".to_owned(), |steal| format!("{:.1} %", 100.0 * steal));
        let attainment = 100.0 * attainment;
        format!("{law:width$} {seed:>6} {seconds:>7.0} s {steal:>8} {attainment:>8.2} % {replica_seconds:>16.0}")
    };
    std::iter::once(header).chain(runs.iter().map(row)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_has_the_length_the_steal_and_the_figures_of_a_run() {
        let report = json!({
            "setup": {
                "name": "slo", "seed": 3, "length_seconds": 180.0,
                "machine": {"processor": "a chip", "cores": 2, "memory_bytes": 8_u64 << 30},
            },
            "steal": 0.031,
            "summary": {"attainment": 0.9894, "usage": {"replica_seconds": 292.4}},
        });
        let run = Run::parse(&report).expect("a report");
        assert_eq!(run.machine.as_deref(), Some("a chip, 2 cores, 8 GiB"));
        let elsewhere = Run { steal: None, law: "latency-ratio".into(), ..run.clone() };
        let table = table(&[run, elsewhere]);
        let words =
            |line: usize| table.lines().nth(line).expect("a row").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(1), "slo 3 180 s 3.1 % 98.94 % 292");
        assert_eq!(words(2), "latency-ratio 3 180 s – 98.94 % 292");
        let lengths: Vec<usize> = table.lines().map(|line| line.chars().count()).collect();
        assert!(lengths.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
        assert!(Run::parse(&json!({})).expect_err("refused").to_string().contains("/setup/length_seconds"));
    }
}
