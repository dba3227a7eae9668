//! The latest part of a time series.

use std::collections::VecDeque;
use std::time::Duration;

/// Values with their times, oldest first, over at least `span`.
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

    /// Adds a value; times ascend. Forgets old values except one that is at least as old as the span.
    pub fn push(&mut self, at: Duration, value: T) {
        self.entries.push_back((at, value));
        while self.entries.get(1).is_some_and(|&(then, _)| then + self.span <= at) {
            self.entries.pop_front();
        }
    }

    /// The oldest value, normally as old as the span.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reaches_back_over_its_span() {
        let second = Duration::from_secs;
        let mut window = Window::new(second(10));
        [0, 4, 8, 12, 16].into_iter().for_each(|at| window.push(second(at), at));
        assert_eq!((window.oldest(), window.newest()), (Some(&4), Some(&(second(16), 16))));
        assert_eq!((window.at(second(11)), window.at(second(3))), (Some(&(second(8), 8)), None));
        assert_eq!(window.within(second(16), second(8)).copied().collect::<Vec<_>>(), [16, 12]);
    }
}
