//! The reasons for this process to stop: SIGTERM, SIGINT, or the end of its parent process.

use std::io::Read;
use tokio::signal::unix::{SignalKind, signal};

/// Resolves with the reason when this process is to drain and exit.
///
/// With `exit_with_parent`, standard input must be a pipe whose other end only the parent process holds. The pipe
/// closes when the parent ends, by SIGKILL too, so this process cannot outlive it.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub async fn requested(exit_with_parent: bool) -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        () = parent_has_ended(), if exit_with_parent => "the parent process has ended",
    })
}

/// Resolves when standard input reaches its end.
async fn parent_has_ended() {
    continue_when_the_parent_ends();
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    // A thread of its own: a blocked read of standard input cannot be cancelled, and on one of tokio's threads it would
    // delay the exit.
    std::thread::Builder::new()
        .name("parent-watch".into())
        .spawn(move || {
            let mut ignored = [0; 64];
            while matches!(std::io::stdin().read(&mut ignored), Ok(1..)) {}
            drop(sender);
        })
        .expect("the system can start a thread");
    // Nothing is sent. The wait ends with an error when the thread drops the sender.
    let _sender_dropped = receiver.await;
}

/// Asks the kernel to continue this process when its parent ends. A stopped process (SIGSTOP) could not read the end of
/// its standard input otherwise. Only Linux has such a call; on other systems a stopped process outlives its parent
/// until it is continued.
fn continue_when_the_parent_ends() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::CONT)) {
        tracing::debug!(%error, "prctl failed; while this process is stopped, it does not notice its parent's end");
    }
}
