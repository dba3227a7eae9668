//! The flags of `lab simulate`.

use super::flags::{Config, Defaults, Flags};
use super::workload_set::WorkloadSet;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::time::Duration;
use workload::Workload;
use workload::shape::Shape;

/// The properties of the plant where no flag gives them. They are those of this project's replicas.
const DEFAULTS: Defaults =
    Defaults { startup: Duration::from_secs(3), service: Duration::from_millis(55), service_variation: 0.2, slots: 1 };

/// Compares the attainment and the cost of laws on given workloads, in virtual time. The laws scale a model of a
/// dispatcher and its replicas. The replicas take time to start and to answer requests.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    lab simulate --workload workload.txt --policy slo,concurrency,cpu:70 --startup 3s --seeds 5\n  \
    lab simulate --shape square:low=7,high=35,period=60,length=600 --html comparison.html\n  \
    lab simulate --set held-out --policy slo,concurrency --seeds 3\n  \
    lab simulate --workload day.txt --policy slo --max 40 --slots 16 --batch 8 --batch-growth 0.1")]
pub struct Args {
    /// Workload file with the number of requests in each second, as for loadgen; may be repeated
    #[arg(long, value_name = "FILE")]
    pub workload: Vec<PathBuf>,
    /// Shape of a workload: constant, ramp, step, spike, sine, square, sawtooth, on-off, markov, gamma, flash or walk,
    /// and after a colon any of low=, high= (requests per second), period=, length= (seconds), seed= and, for gamma,
    /// cv= (the coefficient of variation of the rates), separated by commas, such as
    /// square:low=7,high=35,period=60,length=600; may be repeated
    #[arg(long)]
    pub shape: Vec<Shape>,
    /// Set of workloads; may be repeated
    #[arg(long, value_enum)]
    pub set: Vec<WorkloadSet>,
    /// Factor by which the rates of all workloads are multiplied
    #[arg(long, default_value_t = 1.0)]
    pub rate_scale: f64,
    /// The flags of the laws, the plant and the report
    #[command(flatten)]
    pub flags: Flags,
}

impl Args {
    /// Checks the flags, reads the workloads and the service times, and returns the configuration.
    ///
    /// # Errors
    /// If a flag is out of range, two flags contradict each other, or a file cannot be read or has invalid content.
    pub fn config(&self) -> Result<Config> {
        ensure!(
            !(self.workload.is_empty() && self.shape.is_empty() && self.set.is_empty()),
            "there is no workload; give --workload FILE, --shape SHAPE or --set SET"
        );
        ensure!(
            self.rate_scale > 0.0 && self.rate_scale <= 1e6,
            "--rate-scale ({}) must be more than 0 and at most 1000000",
            self.rate_scale
        );
        let mut workloads: Vec<(String, Workload)> = Vec::new();
        for path in &self.workload {
            let text = std::fs::read_to_string(path).with_context(|| format!("read workload {}", path.display()))?;
            let workload = text.parse().with_context(|| format!("parse workload {}", path.display()))?;
            workloads.push((path.display().to_string(), workload));
        }
        let shapes = self.shape.iter().cloned().chain(self.set.iter().flat_map(|set| set.shapes()));
        workloads.extend(shapes.map(|shape| (shape.to_string(), shape.workload())));
        let scaled = |(name, workload): (String, Workload)| (name, workload.scaled(self.rate_scale));
        let workloads = workloads.into_iter().map(scaled).collect();
        self.flags.config(workloads, DEFAULTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::time_distribution::TimeDistribution;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn config(flags: &[&str]) -> Result<Config, String> {
        let cli = Cli::try_parse_from(["simulate"].iter().chain(flags)).map_err(|error| error.to_string())?;
        cli.args.config().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn errors_name_the_invalid_flag_or_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        let (workload, times) = (file("workload", "5 x"), file("times", "50\n\n60.5\n"));
        assert!(matches!(
            config(&["--shape=constant", &format!("--service-times={times}")]).expect("good").plant.service_times,
            TimeDistribution::Recorded(times) if times.len() == 2
        ));
        assert_eq!(
            config(&["--set=training", "--shape=constant", "--set=held-out"]).expect("good").workloads.len(),
            37
        );
        let (bad_times, no_times) = (file("bad", "50\n-1\n"), file("none", "\n"));
        for (flags, word) in [
            (&[][..], "--workload FILE, --shape SHAPE or --set"),
            (&["--workload=no/such/file"], "no/such/file"),
            (&[&format!("--workload={workload}")], "line 1, column 3"),
            (&["--shape=circle"], "no such shape"),
            (&["--set=all"], "held-out"),
            (&["--shape=constant", "--policy=magic"], "magic"),
            (&["--shape=constant", "--min=7"], "--min (7)"),
            (&["--shape=constant", "--min=0"], "--min 0 needs"),
            (&["--shape=constant", "--seeds=0"], "seeds"),
            (&["--shape=constant", "--startup-variation=NaN"], "--startup-variation (NaN)"),
            (&["--shape=constant", "--mtbf=20ms"], "--mtbf (20ms)"),
            (&["--shape=constant", "--jitter=600ms"], "--jitter (600ms)"),
            (&["--shape=constant", "--jitter=300ms", "--interval=200ms"], "two readings (200ms)"),
            (&["--shape=constant", "--dispatchers=0"], "dispatchers"),
            (&["--shape=constant", "--cores=0"], "--cores (0)"),
            (&["--shape=constant", "--cores=NaN"], "--cores"),
            (&["--shape=constant", "--pods-per-second=0"], "--pods-per-second (0) must be at least 0.1"),
            (&["--shape=constant", "--pods-per-second=NaN"], "--pods-per-second (NaN)"),
            (&["--shape=constant", "--goal=2"], "--goal (2)"),
            (&["--shape=constant", "--quantile=1"], "--quantile"),
            (&["--shape=constant", "--interval=1ms"], "--interval"),
            (&["--shape=constant", "--rate-scale=NaN"], "--rate-scale (NaN)"),
            (&["--shape=constant", "--workers=2"], "--slots (1)"),
            (&["--shape=constant", "--batch-growth=NaN"], "--batch-growth (NaN)"),
            (&["--shape=constant", "--service=0s"], "service"),
            (&["--shape=constant", "--service-variation=-1"], "service-variation"),
            (&["--shape=constant", &format!("--service-times={bad_times}")], "line 2: \"-1\""),
            (&["--shape=constant", &format!("--service-times={no_times}")], "has no service times"),
        ] {
            let error = config(flags).expect_err("refused");
            assert!(error.contains(word), "{flags:?}: {error}");
        }
    }
}
