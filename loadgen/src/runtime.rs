//! The beginning and the end of a tokio runtime.

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};

/// A runtime of the calling thread for everything but sending, which has a thread and a runtime of its own.
///
/// # Errors
/// If the system has no file descriptor left.
pub fn new() -> Result<Runtime> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.context("create a runtime; raise the limit of open files (ulimit -n)")
}

/// Runs `future` to its end, and then drops the runtime with its tasks. Does not wait for lookups of names. The system may
/// take a minute for one, although loadgen has given it up long before.
pub fn run<F: Future>(runtime: Runtime, future: F) -> F::Output {
    let output = runtime.block_on(future);
    runtime.shutdown_background();
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    #[test]
    fn the_end_waits_for_no_lookup_and_drops_all_tasks() {
        let runtime = new().expect("a runtime");
        let start = Instant::now();
        let held = Arc::new(());
        let task = held.clone();
        run(runtime, async move {
            tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(task);
            });
            tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_secs(5)));
            tokio::time::sleep(Duration::from_millis(50)).await;
        });
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        assert_eq!(Arc::strong_count(&held), 1, "the task is gone");
    }
}
