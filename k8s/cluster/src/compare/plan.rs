//! The runs of a comparison, and the time that they take. Pure.

use super::Options;
use super::autoscaler::Autoscaler;
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// The time for which a run is set up, until the first run was measured: the namespace is deleted, pods start, and the
/// HPA gets to know their utilisation.
const SETUP: Duration = Duration::from_secs(35);

/// One run of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The program that scales the replicas.
    pub(super) autoscaler: Autoscaler,
    /// The seed of the arrivals.
    pub(super) seed: u64,
}

impl Run {
    /// The name in messages.
    pub(super) fn name(self) -> String {
        format!("{}, seed {}", self.autoscaler.name(), self.seed)
    }

    /// The name of the file of the report.
    pub(super) fn file(self) -> String {
        format!("{}-seed-{}.json", self.autoscaler.name().replace(" %", "").replace(' ', "-"), self.seed)
    }
}

/// All runs that the flags ask for.
///
/// # Errors
/// If a list of the flags has a value twice.
pub(super) fn runs(options: &Options) -> Result<Vec<Run>> {
    unique("--seeds", &options.seeds)?;
    unique("--hpa", &options.hpa)?;
    unique("--hpa-tuned", &options.hpa_tuned)?;
    let shipped = options.hpa.iter().map(|&target| Autoscaler::Hpa { target, is_tuned: false });
    let tuned = options.hpa_tuned.iter().map(|&target| Autoscaler::Hpa { target, is_tuned: true });
    let autoscalers: Vec<Autoscaler> = shipped.chain(tuned).chain([Autoscaler::Scaler]).collect();
    let with_seed = |&seed| autoscalers.iter().map(move |&autoscaler| Run { autoscaler, seed });
    Ok(options.seeds.iter().flat_map(with_seed).collect())
}

fn unique<T: Ord + fmt::Display>(flag: &str, values: &[T]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for value in values {
        ensure!(seen.insert(value), "{flag} has {value} twice; give each value once");
    }
    Ok(())
}

/// The runs that are left, and the time that they take.
#[derive(Debug)]
pub(super) struct Progress {
    left: usize,
    finished: u32,
    /// The time that all finished runs took together.
    took: Duration,
    /// The length of the workload.
    length: Duration,
}

impl Progress {
    /// The progress before the first of `left` runs with a workload of `length`.
    pub(super) fn new(left: usize, length: Duration) -> Self {
        Self { left, finished: 0, took: Duration::ZERO, length }
    }

    /// Notes that a run is finished, which took this time.
    pub(super) fn finish_run(&mut self, took: Duration) {
        self.left = self.left.saturating_sub(1);
        self.finished += 1;
        self.took += took;
    }

    /// The time that is left, in words.
    pub(super) fn left(&self) -> String {
        format!("about {:.0} min left", self.time_left().as_secs_f64() / 60.0)
    }

    fn time_left(&self) -> Duration {
        let each = if self.finished == 0 { self.length + SETUP } else { self.took / self.finished };
        each.mul_f64(self.left as f64)
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.time_left().as_secs_f64() / 60.0;
        write!(f, "{} runs of {} s each, about {minutes:.0} min in all", self.left, self.length.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn options(flags: &[&str]) -> Result<Options, clap::Error> {
        Ok(Cli::try_parse_from(["compare"].iter().chain(flags))?.options)
    }

    #[test]
    fn every_autoscaler_has_a_run_with_each_seed() {
        let flags = ["--seeds=3,1", "--hpa=50,70", "--hpa-tuned=70"];
        let runs = runs(&options(&flags).expect("flags")).expect("no value is given twice");
        let names: Vec<String> = runs.iter().map(|run| run.name()).collect();
        let of = |seed| {
            ["HPA 50 %", "HPA 70 %", "HPA 70 % tuned", "slo"].map(|name| format!("{name}, seed {seed}")).to_vec()
        };
        assert_eq!(names, [of(3), of(1)].concat());
        let files: BTreeSet<String> = runs.iter().map(|run| run.file()).collect();
        assert_eq!(files.len(), runs.len(), "no run overwrites the report of another: {files:?}");
        assert!(files.contains("HPA-70-tuned-seed-3.json"));
    }

    #[test]
    fn by_default_there_are_fifteen_runs_in_three_quarters_of_an_hour() {
        let runs = runs(&options(&[]).expect("flags")).expect("no value is given twice");
        assert_eq!(runs.len(), 15);
        let progress = Progress::new(runs.len(), Duration::from_secs(150));
        assert_eq!(progress.to_string(), "15 runs of 150 s each, about 46 min in all");
    }

    #[test]
    fn the_time_left_is_that_of_the_finished_runs() {
        let mut progress = Progress::new(3, Duration::from_secs(150));
        assert_eq!(progress.left(), "about 9 min left");
        progress.finish_run(Duration::from_secs(240));
        assert_eq!(progress.left(), "about 8 min left");
        progress.finish_run(Duration::from_secs(120));
        assert_eq!(progress.left(), "about 3 min left");
    }

    #[test]
    fn errors_name_the_invalid_flag() {
        for (flag, word) in [
            ("--seeds=1,2,1", "--seeds has 1 twice"),
            ("--hpa=70,70", "--hpa has 70 twice"),
            ("--hpa-tuned=50,50", "--hpa-tuned has 50 twice"),
            ("--hpa=0", "--hpa"),
            ("--hpa-tuned=101", "--hpa-tuned"),
            ("--seeds=-1", "--seeds"),
            ("--seeds=", "--seeds"),
        ] {
            let error = match options(&[flag]) {
                Ok(options) => runs(&options).expect_err("refused").to_string(),
                Err(error) => error.to_string(),
            };
            assert!(error.contains(word), "{flag}: {error}");
        }
        assert!(options(&["--resume=a", "--workload=b"]).is_err());
        assert!(options(&["--resume=a", "--time-scale=2"]).is_err());
        assert!(options(&["--resume=a"]).is_ok());
    }
}
