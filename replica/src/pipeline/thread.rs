//! Named threads whose failure reaches the pipeline's owner.

use tokio::sync::mpsc;

/// Tells the pipeline's owner that it cannot go on, also when a thread panics.
#[derive(Clone)]
pub(super) struct Alarm(pub(super) mpsc::Sender<anyhow::Error>);

impl Alarm {
    pub(super) fn ring(&self, error: anyhow::Error) {
        // The first one counts; and nobody listens any more once the process is stopping.
        let _heard = self.0.try_send(error);
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.ring(anyhow::anyhow!(
                "the {} thread has panicked",
                std::thread::current().name().unwrap_or("nameless")
            ));
        }
    }
}

/// Starts one.
pub(super) fn start(name: String, alarm: Alarm, body: impl FnOnce() + Send + 'static) {
    let run = move || {
        // Dropped last, and so also when `body` panics.
        let _alarm = alarm;
        body();
    };
    std::thread::Builder::new().name(name).spawn(run).expect("the system has a thread to spare");
}
