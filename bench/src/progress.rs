//! Shows the progress of a benchmark on standard error.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Time between two lines that [`Lines`] prints.
const INTERVAL: Duration = Duration::from_secs(2);

/// A progress bar of `steps` steps with `message` and an estimate of the remaining time.
pub(crate) fn bar(steps: u64, message: &'static str) -> ProgressBar {
    let template = "{bar:24} {pos}/{len}  {eta} left  {msg}";
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    let bar = ProgressBar::new(steps).with_style(style).with_message(message);
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// A spinner with `message`, for a step of unknown length.
pub(crate) fn spinner(message: &'static str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(message);
    spinner.enable_steady_tick(Duration::from_millis(200));
    spinner
}

/// Progress as lines of text, one every two seconds. The thread that sends requests calls this: drawing a bar there
/// would delay the requests.
pub(crate) struct Lines {
    message: &'static str,
    total: usize,
    last: Instant,
}

impl Lines {
    /// Starts the progress of `total` steps. The first line is printed after two seconds.
    pub(crate) fn new(message: &'static str, total: usize) -> Self {
        Self { message, total, last: Instant::now() }
    }

    /// Prints that `done` steps are done, if the last line is at least two seconds old.
    pub(crate) fn update(&mut self, done: usize) {
        if self.last.elapsed() >= INTERVAL {
            self.last = Instant::now();
            eprintln!("{}: {done} of {}", self.message, self.total);
        }
    }
}
