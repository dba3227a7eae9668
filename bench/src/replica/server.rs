//! The replica as it is measured: the bundled model, one worker of one thread.

use super::cores;
use crate::paths;
use crate::stack::Service;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// For it to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// What makes it one worker of one thread, whatever the machine has; and nobody is refused when its host stops it.
const FLAGS: [&str; 5] = ["--listen=127.0.0.1:0", "--log=warn", "--workers=1", "--threads=1", "--deadline=1m"];

/// The weights that it has built in.
pub fn weights() -> PathBuf {
    paths::root().join("replica/models/shapes.safetensors")
}

/// Starts one and waits until it is ready.
///
/// # Errors
/// When it does not start.
pub fn start(logs: &Path) -> Result<Service> {
    ready(spawn(Command::new(paths::program("replica")), logs)?)
}

/// The same, where up to `max_batch` pictures go together.
///
/// # Errors
/// When it does not start.
pub fn start_batching(max_batch: u32, logs: &Path) -> Result<Service> {
    let mut replica = Command::new(paths::program("replica"));
    replica.arg(format!("--max-batch={max_batch}"));
    ready(spawn(replica, logs)?)
}

/// The same on one core.
///
/// # Errors
/// When it does not start.
pub fn start_on(core: u32, logs: &Path) -> Result<Service> {
    ready(spawn(cores::command_on(core, paths::program("replica")), logs)?)
}

/// Starts one; it listens, and is not ready yet.
///
/// # Errors
/// When it does not start.
pub fn spawn(mut replica: Command, logs: &Path) -> Result<Service> {
    replica.arg("--exit-with-parent").args(FLAGS);
    Service::spawn("replica", replica, logs)
}

/// Asks until it is ready, and tells its capacity.
///
/// # Errors
/// When it does not become so.
pub fn wait(replica: &Service) -> Result<u64> {
    let url = format!("http://{}/readyz", replica.address);
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).no_delay(true).build().into();
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let mut answer = agent.get(&url).call().with_context(|| format!("get {url}"))?;
        let text = answer.body_mut().read_to_string()?;
        if answer.status() == 200 {
            let body: Value = serde_json::from_str(&text).with_context(|| format!("read the answer of {url}"))?;
            return Ok(body["capacity"].as_u64().unwrap_or(1));
        }
        ensure!(Instant::now() < deadline, "the replica did not become ready within {READY_TIMEOUT:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn ready(replica: Service) -> Result<Service> {
    wait(&replica)?;
    Ok(replica)
}
