//! Requests to programs that run on this machine.

use anyhow::{Context, Result};
use std::time::Duration;
use ureq::Agent;

/// Time limit of one request.
const LIMIT: Duration = Duration::from_secs(30);

/// A client that sends every request directly, without a proxy from the environment, and returns answers of any status.
pub fn agent() -> Agent {
    Agent::config_builder().proxy(None).timeout_global(Some(LIMIT)).http_status_as_error(false).build().into()
}

/// The body of the answer to `GET url`.
///
/// # Errors
/// If there is no answer within 30 s, or its status is not 200.
pub fn get(url: &str) -> Result<String> {
    let mut answer = agent().get(url).call().with_context(|| format!("get {url}"))?;
    anyhow::ensure!(answer.status() == 200, "GET {url} was answered with the status {}", answer.status());
    answer.body_mut().read_to_string().with_context(|| format!("read the answer of {url}"))
}
