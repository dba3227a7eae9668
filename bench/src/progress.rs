//! How far a benchmark is, on standard error.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Time between two lines of [`Lines`].
const INTERVAL: Duration = Duration::from_secs(2);

/// A bar of `steps` steps that shows `message` and the time that is left.
pub(crate) fn bar(steps: u64, message: &'static str) -> ProgressBar {
    let template = "{bar:24} {pos}/{len}  {eta} left  {msg}";
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    let bar = ProgressBar::new(steps).with_style(style).with_message(message);
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// A spinner for a step of unknown length.
pub(crate) fn spinner(message: &'static str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(message);
    spinner.enable_steady_tick(Duration::from_millis(200));
    spinner
}

/// One line every two seconds. A bar would be drawn by the thread that sends requests, and delay them.
pub(crate) struct Lines {
    message: &'static str,
    total: usize,
    last: Instant,
}

impl Lines {
    /// The first line comes after two seconds.
    pub(crate) fn new(message: &'static str, total: usize) -> Self {
        Self { message, total, last: Instant::now() }
    }

    /// Prints a line if the last one is two seconds old; `done` steps of the total are done.
    pub(crate) fn update(&mut self, done: usize) {
        if self.last.elapsed() >= INTERVAL {
            self.last = Instant::now();
            eprintln!("{}: {done} of {}", self.message, self.total);
        }
    }
}
