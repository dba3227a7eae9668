//! A line on standard error every two seconds, so that nobody wonders.

use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(2);

/// Says how far something is.
pub(crate) struct Progress {
    what: &'static str,
    total: usize,
    said: Instant,
}

impl Progress {
    /// Nothing is done yet, and nothing said.
    pub(crate) fn new(what: &'static str, total: usize) -> Self {
        Self { what, total, said: Instant::now() }
    }

    /// `done` of the total are done.
    pub(crate) fn at(&mut self, done: usize) {
        if self.said.elapsed() >= EVERY {
            self.said = Instant::now();
            eprintln!("{}: {done} of {}", self.what, self.total);
        }
    }
}
