//! The reasons for this process to stop: SIGTERM, SIGINT, or the end of its parent process. A second signal ends the
//! process at once.

use std::io::Read;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Resolves with the reason when this process should drain and exit. A second signal ends the process at once, with the
/// status that a shell gives a program that the signal has killed (128 plus the signal's number).
///
/// With `exit_with_parent`, standard input must be a pipe whose other end only the parent process holds. The system
/// closes the pipe when the parent ends, even by SIGKILL, so this process cannot outlive its parent.
///
/// # Errors
/// If the signal handlers cannot be installed, or the thread that reads standard input cannot be started.
pub async fn requested(exit_with_parent: bool) -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let parent = if exit_with_parent { Some(watch_parent()?) } else { None };
    let parent_has_ended = async {
        match parent {
            Some(end_of_input) => {
                // The thread sends nothing. The wait ends with an error when the thread drops the sender.
                let _sender_dropped = end_of_input.await;
            }
            None => std::future::pending().await,
        }
    };
    let (reason, is_signal) = tokio::select! {
        (reason, _) = next_signal(&mut terminate, &mut interrupt) => (reason, true),
        () = parent_has_ended => ("the parent process has ended", false),
    };
    tokio::spawn(async move {
        if !is_signal {
            // A parent that ends may have sent its first signal at the same moment.
            next_signal(&mut terminate, &mut interrupt).await;
        }
        let (name, kind) = next_signal(&mut terminate, &mut interrupt).await;
        tracing::warn!("{name} while the process stops already; it ends at once");
        std::process::exit(128 + kind.as_raw_value());
    });
    Ok(reason)
}

/// Waits for SIGTERM or SIGINT. Returns its name and its kind.
async fn next_signal(terminate: &mut Signal, interrupt: &mut Signal) -> (&'static str, SignalKind) {
    tokio::select! {
        _ = terminate.recv() => ("SIGTERM", SignalKind::terminate()),
        _ = interrupt.recv() => ("SIGINT", SignalKind::interrupt()),
    }
}

/// Starts a thread that drops the channel's sender when standard input reaches its end.
fn watch_parent() -> std::io::Result<oneshot::Receiver<()>> {
    continue_when_the_parent_ends();
    let (sender, end_of_input) = oneshot::channel();
    let read_to_end = move || {
        let mut ignored = [0; 64];
        while matches!(std::io::stdin().read(&mut ignored), Ok(1..)) {}
        drop(sender);
    };
    // A blocked read of standard input cannot be cancelled. On one of tokio's threads it would delay the exit.
    std::thread::Builder::new().name("parent-watch".into()).spawn(read_to_end).map_err(|error| {
        let advice = "raise the limit of processes (ulimit -u, pids.max)";
        std::io::Error::new(error.kind(), format!("start the thread parent-watch: {error}; {advice}"))
    })?;
    Ok(end_of_input)
}

/// Asks the kernel to continue this process when its parent ends. Otherwise a stopped process (SIGSTOP) could not read
/// the end of its standard input. Only Linux has a call for this. On other systems, a stopped process outlives its
/// parent until it is continued.
fn continue_when_the_parent_ends() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::CONT)) {
        tracing::debug!(%error, "prctl failed; if this process is stopped, it does not notice the end of its parent");
    }
}
