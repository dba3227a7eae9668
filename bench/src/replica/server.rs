//! The replica as it is measured: the bundled model, one worker of one thread.

use crate::cores;
use anyhow::{Context, Result, ensure};
use harness::stack::ServiceProcess;
use harness::{http, paths};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Time for the replica to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Time between two polls of `/readyz`, short enough for measuring the start-up.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// One worker of one thread, on any machine. The deadline is long enough for a time in which the host stops the
/// machine.
const FLAGS: [&str; 5] = ["--listen=127.0.0.1:0", "--log=warn", "--workers=1", "--threads=1", "--deadline=1m"];

/// The file of the bundled model's weights.
pub(super) fn weights() -> PathBuf {
    paths::root().join("replica/models/shapes.safetensors")
}

/// Starts a replica and waits until it is ready.
///
/// # Errors
/// When it does not start.
pub(super) fn start(logs: &Path) -> Result<ServiceProcess> {
    start_command(Command::new(paths::program("replica")), logs)
}

/// Starts a replica that classifies up to `max_batch` images together.
///
/// # Errors
/// When it does not start.
pub(super) fn start_batching(max_batch: u32, logs: &Path) -> Result<ServiceProcess> {
    let mut replica = Command::new(paths::program("replica"));
    replica.arg(format!("--max-batch={max_batch}"));
    start_command(replica, logs)
}

/// Starts a replica that stays on one core.
///
/// # Errors
/// When it does not start.
pub(super) fn start_on(core: u32, logs: &Path) -> Result<ServiceProcess> {
    start_command(cores::command_on(core, paths::program("replica")), logs)
}

/// Starts a replica and returns as soon as it listens, before it is ready.
///
/// # Errors
/// When it does not start.
pub(super) fn spawn(mut replica: Command, logs: &Path) -> Result<ServiceProcess> {
    replica.arg("--exit-with-parent").args(FLAGS);
    ServiceProcess::spawn("replica", replica, logs)
}

/// Waits until the replica is ready. Returns its capacity.
///
/// # Errors
/// When it does not become ready within a minute.
pub(super) fn wait_until_ready(replica: &ServiceProcess) -> Result<u64> {
    let url = format!("http://{}/readyz", replica.address);
    let agent = http::agent();
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let mut answer = agent.get(&url).call().with_context(|| format!("get {url}"))?;
        let text = answer.body_mut().read_to_string()?;
        if answer.status() == 200 {
            let body: Value = serde_json::from_str(&text).with_context(|| format!("read the answer of {url}"))?;
            return Ok(body["capacity"].as_u64().unwrap_or(1));
        }
        ensure!(Instant::now() < deadline, "the replica did not become ready within {READY_TIMEOUT:?}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn start_command(replica: Command, logs: &Path) -> Result<ServiceProcess> {
    let replica = spawn(replica, logs)?;
    wait_until_ready(&replica)?;
    Ok(replica)
}
