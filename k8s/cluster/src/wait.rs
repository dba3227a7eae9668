//! Waits for a condition by checking it repeatedly.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Time between two calls of `attempt`.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Calls `attempt` until it returns a value, and returns this value. `condition` describes the awaited condition in the
/// error message.
///
/// # Errors
/// If `attempt` fails, or returns no value within `timeout`.
pub async fn wait_for<T>(
    condition: &str,
    timeout: Duration,
    mut attempt: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = attempt().await? {
            return Ok(value);
        }
        if start.elapsed() > timeout {
            bail!("after {timeout:?}, still waiting for {condition}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
