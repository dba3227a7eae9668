//! loadgen's example server that notes each arrival, on a core of its own.

use crate::paths;
use crate::stack::Service;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const CORE: &str = "0";

/// How it serves.
#[derive(Debug, Clone, Copy)]
pub(super) enum Habit {
    /// As servers do.
    Plain,
    /// Without ever going to sleep, so that whoever sends does not pay for waking it.
    NeverSleeps,
    /// Standing still so long after its first request, and for how long.
    Stalls(Duration, Duration),
}

/// A running one.
pub(super) struct Recorder {
    service: Service,
    log: PathBuf,
}

impl Recorder {
    /// Starts it in this way.
    pub(super) fn start(folder: &Path, habit: Habit) -> Result<Self> {
        let log = folder.join("arrivals.txt");
        let mut command = Command::new("taskset");
        command.args(["-c", CORE]).arg(paths::program("examples/recorder")).arg("--log").arg(&log);
        match habit {
            Habit::Plain => {}
            Habit::NeverSleeps => drop(command.arg("--never-sleep")),
            Habit::Stalls(after, length) => {
                command.arg(format!("--stall-after={}ms", after.as_millis()));
                command.arg(format!("--stall-for={}ms", length.as_millis()));
            }
        }
        Ok(Self { service: Service::spawn("recorder", command, folder)?, log })
    }

    /// `host:port`.
    pub(super) fn address(&self) -> &str {
        &self.service.address
    }

    /// Ends it; every arrival since the first, in order.
    pub(super) fn finish(self) -> Result<Vec<Duration>> {
        let Self { service, log } = self;
        drop(service);
        let text = std::fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
        let line = |line: &str| line.parse().map(Duration::from_nanos).with_context(|| format!("an arrival: {line:?}"));
        text.lines().map(line).collect()
    }
}
