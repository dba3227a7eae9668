//! Runs `lab simulate` and holds its results.

use anyhow::{Context, Result, ensure};
use harness::paths;
use serde::{Deserialize, Serialize};
use std::process::{Command, Stdio};

/// The results of `lab simulate`. The names of the fields of this type and of the types in its fields are those of the
/// JSON that the program writes.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct Comparison {
    /// The results on each workload.
    pub(super) workloads: Vec<WorkloadRows>,
    /// The table that the program printed.
    #[serde(skip)]
    pub(super) table: String,
}

/// The results of all laws on one workload.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct WorkloadRows {
    /// The path of the workload's file, or its shape.
    pub(super) workload: String,
    /// The row of the oracle; `None` if there is no oracle.
    pub(super) oracle: Option<Row>,
    /// The row of each law.
    pub(super) laws: Vec<Row>,
}

/// The results of one law on one workload, as means over the seeds unless a field says otherwise.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct Row {
    /// The law as in `--policy`.
    pub(super) law: String,
    /// The share of the requests that were answered within the objective.
    pub(super) attainment: f64,
    /// The attainment with the seed for which it is lowest.
    pub(super) worst_attainment: f64,
    /// The cost: replicas × seconds.
    pub(super) replica_seconds: f64,
    /// The replica-seconds ÷ those of the oracle; `None` without an oracle.
    pub(super) times_oracle: Option<f64>,
    /// The number of changes of the desired replicas.
    pub(super) changes: f64,
    /// The number of changes after the first minute, with each seed.
    pub(super) late_changes: Vec<usize>,
}

/// The figures of one law over several workloads.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Mean {
    /// The mean attainment.
    pub(super) attainment: f64,
    /// The lowest attainment on any workload with any seed.
    pub(super) worst_attainment: f64,
    /// The mean of the replica-seconds ÷ those of the oracle; infinite without an oracle.
    pub(super) times_oracle: f64,
    /// The mean number of changes of the desired replicas.
    pub(super) changes: f64,
}

impl Comparison {
    /// Runs `lab simulate` with `flags`. `title` says on standard error what is simulated.
    ///
    /// # Errors
    /// If the program is missing or fails.
    pub(super) fn run(title: &str, flags: &[&str]) -> Result<Self> {
        eprintln!("simulating: {title} …");
        let folder = paths::output("bench-scaler");
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let json = folder.join("comparison.json");
        let mut lab = Command::new(paths::program("lab"));
        lab.arg("simulate").args(flags).arg("--json").arg(&json);
        let output = lab
            .stderr(Stdio::inherit())
            .output()
            .context("run lab simulate; build it: cargo build --release --workspace")?;
        ensure!(output.status.success(), "lab simulate {} failed ({})", flags.join(" "), output.status);
        let text = std::fs::read_to_string(&json).with_context(|| format!("read {}", json.display()))?;
        let read: Self = serde_json::from_str(&text).with_context(|| format!("parse {}", json.display()))?;
        Ok(Self { table: String::from_utf8_lossy(&output.stdout).into_owned(), ..read })
    }

    /// The results on the workloads without the shape gamma. Its rates are independent from second to second. No law
    /// can foresee them, so this workload is judged by itself.
    pub(super) fn without_gamma(&self) -> Self {
        let kept = self.workloads.iter().filter(|rows| !rows.is_gamma()).cloned();
        Self { workloads: kept.collect(), table: String::new() }
    }

    /// The figures of a law over all workloads.
    ///
    /// # Panics
    /// If the law was not simulated.
    pub(super) fn mean(&self, law: &str) -> Mean {
        let rows: Vec<&Row> = self.workloads.iter().map(|rows| rows.row(law)).collect();
        let mean = |figure: fn(&Row) -> f64| rows.iter().map(|row| figure(row)).sum::<f64>() / rows.len() as f64;
        Mean {
            attainment: mean(|row| row.attainment),
            worst_attainment: rows.iter().map(|row| row.worst_attainment).fold(1.0, f64::min),
            times_oracle: mean(|row| row.times_oracle.unwrap_or(f64::INFINITY)),
            changes: mean(|row| row.changes),
        }
    }

    /// Adds the oracles of `other`, which has the same workloads, seeds and replicas.
    pub(super) fn take_oracles(&mut self, other: &Self) {
        for (rows, other) in self.workloads.iter_mut().zip(&other.workloads) {
            rows.oracle.clone_from(&other.oracle);
            let cost = rows.oracle.as_ref().map(|oracle| oracle.replica_seconds);
            for row in &mut rows.laws {
                row.times_oracle = cost.map(|cost| row.replica_seconds / cost);
            }
        }
    }

    /// Prints the attainment and the ratio to the oracle of all laws, one workload a line.
    pub(super) fn print(&self) {
        const WIDTH: usize = 55;
        let laws: Vec<&str> = self.workloads.iter().take(1).flat_map(|rows| &rows.laws).map(|row| &*row.law).collect();
        let line = |name: &str, cells: Vec<String>| {
            let cells: String = cells.iter().map(|cell| format!(" {cell:>15}")).collect();
            println!("{name:WIDTH$}{cells}");
        };
        let cell = |attainment: f64, times_oracle: f64| format!("{:.2} % {times_oracle:5.2}", 100.0 * attainment);
        line("in time and × oracle", laws.iter().map(|&law| law.to_owned()).collect());
        for rows in &self.workloads {
            let cells = rows.laws.iter().map(|row| cell(row.attainment, row.times_oracle.unwrap_or(f64::NAN)));
            line(&rows.workload, cells.collect());
        }
        let means = laws.iter().map(|law| self.mean(law));
        line("mean", means.map(|mean| cell(mean.attainment, mean.times_oracle)).collect());
    }
}

impl WorkloadRows {
    /// Whether the workload has the shape gamma.
    pub(super) fn is_gamma(&self) -> bool {
        self.workload.starts_with("gamma:")
    }

    /// The row of a law.
    ///
    /// # Panics
    /// If the law was not simulated.
    pub(super) fn row(&self, law: &str) -> &Row {
        self.laws.iter().find(|row| row.law == law).expect("the law was simulated")
    }
}
