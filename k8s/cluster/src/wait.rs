//! Waiting for a condition by asking again and again.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Time between two attempts.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Calls `attempt` until it returns `Some`, and returns the value. `condition` names what is awaited, for the error.
///
/// # Errors
/// If `attempt` fails, or has not returned a value within `timeout`.
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
            bail!("waited {timeout:?} in vain for: {condition}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
