//! Named threads whose failure reaches the owner of the pipeline.

use tokio::sync::mpsc;

/// Reports to the pipeline's owner that the pipeline cannot go on. Reports a panic of the thread that drops it.
#[derive(Clone)]
pub(super) struct FatalErrorSender(pub(super) mpsc::Sender<anyhow::Error>);

impl FatalErrorSender {
    pub(super) fn report(&self, error: anyhow::Error) {
        // The channel holds one error; only the first is reported. It is closed while the process stops.
        let _full_or_closed = self.0.try_send(error);
    }
}

impl Drop for FatalErrorSender {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            self.report(anyhow::anyhow!("the {} thread has panicked", thread.name().unwrap_or("nameless")));
        }
    }
}

/// Starts a thread that runs `body` and reports a panic to `errors`.
pub(super) fn start(name: String, errors: FatalErrorSender, body: impl FnOnce() + Send + 'static) {
    let run = move || {
        // Dropped after `body` has returned or panicked.
        let _errors = errors;
        body();
    };
    std::thread::Builder::new().name(name).spawn(run).expect("the system can start another thread");
}
