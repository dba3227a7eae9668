//! The latest part of a time series.

use std::collections::VecDeque;
use std::time::Duration;

/// The values of the latest `span`, and one value before it. Each value has its time. The oldest value comes first.
#[derive(Debug, Clone)]
pub struct Window<T> {
    span: Duration,
    entries: VecDeque<(Duration, T)>,
}

impl<T> Window<T> {
    /// An empty window.
    pub fn new(span: Duration) -> Self {
        Self { span, entries: VecDeque::new() }
    }

    /// Adds a value, whose time must not be before that of the newest value. Forgets old values, but keeps one that is
    /// at least as old as the span.
    pub fn push(&mut self, at: Duration, value: T) {
        self.entries.push_back((at, value));
        while self.entries.get(1).is_some_and(|&(then, _)| then + self.span <= at) {
            self.entries.pop_front();
        }
    }

    /// The oldest value. It is at least as old as the span once values were added for that long.
    pub fn oldest(&self) -> Option<&T> {
        self.entries.front().map(|entry| &entry.1)
    }

    /// The latest value at `then` or before, with its time.
    pub fn at(&self, then: Duration) -> Option<&(Duration, T)> {
        let after = self.entries.partition_point(|entry| entry.0 <= then);
        self.entries.get(after.checked_sub(1)?)
    }

    /// The newest value with its time.
    pub fn newest(&self) -> Option<&(Duration, T)> {
        self.entries.back()
    }

    /// The values of the last `span` before `at`, newest first.
    pub fn within(&self, at: Duration, span: Duration) -> impl Iterator<Item = &T> {
        self.entries.iter().rev().take_while(move |entry| entry.0 + span > at).map(|entry| &entry.1)
    }
}
