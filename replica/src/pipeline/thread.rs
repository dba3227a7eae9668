//! Starts the named threads of the pipeline, and reports their failures to the owner of the pipeline.

use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// Reports to the pipeline's owner that the pipeline cannot go on. If a thread drops the sender while it panics, the
/// panic is reported.
#[derive(Clone)]
pub(super) struct FatalErrorSender(pub(super) mpsc::Sender<anyhow::Error>);

impl FatalErrorSender {
    pub(super) fn report(&self, error: anyhow::Error) {
        // The channel has room for one error, so only the first one is reported. It is closed while the process stops.
        let _full_or_closed = self.0.try_send(error);
    }
}

impl Drop for FatalErrorSender {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("without a name");
            self.report(anyhow::anyhow!("the thread {name} has panicked; its message is in the log"));
        }
    }
}

/// Starts a thread that runs `body`. A panic of `body` is reported to `errors`.
///
/// # Errors
/// If the system refuses another thread.
pub(super) fn start(
    name: &str,
    errors: FatalErrorSender,
    body: impl FnOnce() + Send + 'static,
) -> anyhow::Result<JoinHandle<()>> {
    let run = move || {
        // Dropped while a panic of `body` unwinds, which reports the panic.
        let _errors = errors;
        body();
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(|error| {
        let advice = "lower --workers, or raise the limit of processes (ulimit -u, pids.max)";
        anyhow::anyhow!("start the thread {name}: {error}; {advice}")
    })
}
