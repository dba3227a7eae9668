//! Starts the replica that is measured: with the bundled model, and one worker of one thread.

use crate::cores;
use anyhow::{Context, Result, ensure};
use harness::stack::ServiceProcess;
use harness::{http, paths};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Time in which the replica must become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Time between two polls of `/readyz`. It is short, since it adds to the measured start-up time.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// The replica's flags: one worker of one thread on any machine, and a deadline that requests meet even if the host
/// stops this machine for some seconds.
const FLAGS: [&str; 5] = ["--listen=127.0.0.1:0", "--log=warn", "--workers=1", "--threads=1", "--deadline=1m"];

/// The file with the weights of the bundled model.
pub(super) fn weights() -> PathBuf {
    paths::root().join("replica/models/shapes.safetensors")
}

/// Starts a replica and waits until it is ready.
///
/// # Errors
/// If the replica does not start.
pub(super) fn start(logs: &Path) -> Result<ServiceProcess> {
    start_command(Command::new(paths::program("replica")), logs)
}

/// Starts a replica with batches of up to `max_batch` images, and waits until it is ready.
///
/// # Errors
/// If the replica does not start.
pub(super) fn start_batching(max_batch: u32, logs: &Path) -> Result<ServiceProcess> {
    let mut replica = Command::new(paths::program("replica"));
    replica.arg(format!("--max-batch={max_batch}"));
    start_command(replica, logs)
}

/// Starts a replica that is pinned to one core, and waits until it is ready.
///
/// # Errors
/// If the replica does not start.
pub(super) fn start_on(core: u32, logs: &Path) -> Result<ServiceProcess> {
    start_command(cores::command_on(core, paths::program("replica")), logs)
}

/// Starts a replica with the command `replica`, and waits until it listens. It may not be ready yet.
///
/// # Errors
/// If the replica does not start.
pub(super) fn spawn(mut replica: Command, logs: &Path) -> Result<ServiceProcess> {
    replica.arg("--exit-with-parent").args(FLAGS);
    ServiceProcess::spawn("replica", replica, logs)
}

/// Waits until the replica is ready. Returns its capacity.
///
/// # Errors
/// If the replica does not become ready within a minute.
pub(super) fn wait_until_ready(replica: &ServiceProcess) -> Result<u64> {
    let url = format!("http://{}/readyz", replica.address);
    let agent = http::agent();
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let mut answer = agent.get(&url).call().with_context(|| format!("get {url}"))?;
        let text = answer.body_mut().read_to_string().with_context(|| format!("read the answer of {url}"))?;
        if answer.status() == 200 {
            let body = serde_json::from_str(&text);
            let body: Value = body.with_context(|| format!("the answer of {url} is not JSON: {text:?}"))?;
            return Ok(body["capacity"].as_u64().unwrap_or(1));
        }
        ensure!(Instant::now() < deadline, "the replica is not ready after {READY_TIMEOUT:?}; {url} answers: {text}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn start_command(replica: Command, logs: &Path) -> Result<ServiceProcess> {
    let replica = spawn(replica, logs)?;
    wait_until_ready(&replica)?;
    Ok(replica)
}
