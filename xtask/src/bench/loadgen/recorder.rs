//! loadgen's example server that notes each arrival, on a core of its own.

use crate::paths;
use crate::stack::Service;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const CORE: &str = "0";

/// A running one.
pub(super) struct Recorder {
    service: Service,
    log: PathBuf,
}

impl Recorder {
    /// Starts it; `stall` is when it stands still, after its first request, and for how long.
    pub(super) fn start(folder: &Path, stall: Option<(Duration, Duration)>) -> Result<Self> {
        let log = folder.join("arrivals.txt");
        let mut command = Command::new("taskset");
        command.args(["-c", CORE]).arg(paths::program("examples/recorder")).arg("--log").arg(&log);
        if let Some((after, length)) = stall {
            command.arg(format!("--stall-after={}ms", after.as_millis()));
            command.arg(format!("--stall-for={}ms", length.as_millis()));
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
