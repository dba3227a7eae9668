//! Being told to stop: SIGTERM, SIGINT, or the end of a parent that holds this process's standard input open.

use std::io::Read;
use tokio::signal::unix::{SignalKind, signal};

/// Resolves when this process should drain and exit.
///
/// With `lifeline`, standard input is a pipe whose other end the parent keeps open: it closes when the parent ends, by
/// whatever means, kill -9 included, so no child outlives it.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub async fn requested(lifeline: bool) -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        () = parent_gone(), if lifeline => "the parent process is gone",
    })
}

async fn parent_gone() {
    continue_when_the_parent_ends();
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    // A thread of its own: a blocked read of standard input cannot be cancelled, and must not hold up the exit.
    std::thread::Builder::new()
        .name("lifeline".into())
        .spawn(move || {
            let mut ignored = [0; 64];
            while matches!(std::io::stdin().read(&mut ignored), Ok(1..)) {}
            drop(sender);
        })
        .expect("the system has a thread to spare");
    // Only ever ends by the sender's drop.
    let _ended = receiver.await;
}

/// Asks the kernel to continue this process when its parent ends: a process that is stopped (SIGSTOP) would otherwise
/// never read the end of its standard input. Only Linux has such a call; elsewhere a stopped process outlives its parent
/// until it is continued.
fn continue_when_the_parent_ends() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::CONT)) {
        tracing::debug!(%error, "while it is stopped, this process will not notice that its parent is gone");
    }
}
