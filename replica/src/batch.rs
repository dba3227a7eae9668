//! Which of the waiting pictures go through the model together. Knows deadlines and how long a pass takes; knows nothing of
//! threads, pictures or models, and is told the time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Weight of a new time in the running mean of passes of its size.
const NEW: f64 = 0.1;

/// Pictures, or whatever stands for them, in order of arrival.
#[derive(Debug)]
pub struct Batcher<T> {
    waiting: VecDeque<Waiting<T>>,
    wait: Duration,
    /// Mean seconds of a pass of one, two, … pictures.
    times: Vec<f64>,
}

#[derive(Debug)]
struct Waiting<T> {
    since: Instant,
    deadline: Instant,
    picture: T,
}

/// What is taken together.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch<T> {
    /// To be computed, oldest first.
    pub pictures: Vec<T>,
    /// Whose deadline has passed.
    pub expired: Vec<T>,
}

impl<T> Batcher<T> {
    /// `times` are those of passes of one picture, two, and so on to the largest batch; nothing is held for longer than
    /// `wait` for others to join it.
    pub fn new(times: Vec<Duration>, wait: Duration) -> Self {
        Self { waiting: VecDeque::new(), wait, times: times.iter().map(Duration::as_secs_f64).collect() }
    }

    /// Adds one.
    pub fn push(&mut self, now: Instant, deadline: Instant, picture: T) {
        self.waiting.push_back(Waiting { since: now, deadline, picture });
    }

    /// When the next batch should be taken; none while nothing waits.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let oldest = self.waiting.front()?;
        if self.waiting.len() >= self.times.len() {
            return Some(now);
        }
        // Another may join until the oldest would be late with it.
        let joined = self.time(self.waiting.len() + 1);
        let earliest = self.waiting.iter().map(|waiting| waiting.deadline).min()?;
        Some((oldest.since + self.wait).min(earliest.checked_sub(joined).unwrap_or(now)).max(oldest.since))
    }

    /// Takes the oldest, as many as keep the deadlines of all that are taken. One that would be late even alone limits
    /// nobody.
    pub fn take(&mut self, now: Instant) -> Batch<T> {
        let all = std::mem::take(&mut self.waiting);
        let (expired, waiting): (VecDeque<_>, VecDeque<_>) = all.into_iter().partition(|one| one.deadline <= now);
        self.waiting = waiting;
        let alone = now + self.time(1);
        let keeps = |count: usize| {
            let done = now + self.time(count);
            self.waiting.iter().take(count).all(|one| one.deadline >= done || one.deadline < alone)
        };
        let most = self.waiting.len().min(self.times.len());
        let count = (1..=most).rev().find(|&count| count == 1 || keeps(count)).unwrap_or(0);
        let pictures = self.waiting.drain(..count).map(|one| one.picture).collect();
        Batch { pictures, expired: expired.into_iter().map(|one| one.picture).collect() }
    }

    /// Remembers how long a pass of `count` pictures took.
    pub fn record(&mut self, count: usize, took: Duration) {
        if let Some(mean) = self.times.get_mut(count.wrapping_sub(1)) {
            *mean += NEW * (took.as_secs_f64() - *mean);
        }
    }

    /// Expected time of a pass of `count` pictures.
    fn time(&self, count: usize) -> Duration {
        let last = self.times.len().saturating_sub(1);
        self.times.get(count.saturating_sub(1).min(last)).map_or(Duration::ZERO, |&time| Duration::from_secs_f64(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Passes of one to four pictures take 30, 40, 50 and 60 ms.
    fn batcher(start: Instant, wait: Duration, deadlines: &[u64]) -> Batcher<usize> {
        let mut batcher = Batcher::new((0..4).map(|more| ms(30 + 10 * more)).collect(), wait);
        for (index, deadline) in deadlines.iter().enumerate() {
            batcher.push(start, start + ms(*deadline), index);
        }
        batcher
    }

    #[test]
    fn as_many_go_as_keep_their_deadlines() {
        let start = Instant::now();
        for (deadlines, pictures, expired) in [
            (&[][..], &[][..], &[][..]),
            (&[500], &[0], &[]),
            (&[500, 500, 500], &[0, 1, 2], &[]),
            // No more than the largest batch.
            (&[500, 500, 500, 500, 500], &[0, 1, 2, 3], &[]),
            // The oldest has 45 ms: with one other it takes 40.
            (&[45, 500, 500], &[0, 1], &[]),
            // The third has too little time for a batch of three, but not for the next one.
            (&[500, 500, 45], &[0, 1], &[]),
            // Late whatever happens: then it stands in nobody's way.
            (&[10, 500, 500], &[0, 1, 2], &[]),
            (&[0, 500, 0, 500], &[1, 3], &[0, 2]),
        ] {
            let batch = batcher(start, ms(0), deadlines).take(start);
            assert_eq!(batch, Batch { pictures: pictures.to_vec(), expired: expired.to_vec() }, "{deadlines:?}");
        }
    }

    #[test]
    fn what_is_not_taken_stays_in_order() {
        let start = Instant::now();
        let mut batcher = batcher(start, ms(0), &[500; 6]);
        assert_eq!(batcher.take(start).pictures, [0, 1, 2, 3]);
        assert_eq!(batcher.take(start).pictures, [4, 5]);
        assert_eq!(batcher.due(start), None);
    }

    #[test]
    fn nobody_waits_for_others_longer_than_allowed() {
        let start = Instant::now();
        for (wait, deadlines, due) in [
            // By default not at all.
            (0, &[500][..], 0),
            (20, &[500], 20),
            (20, &[500, 500], 20),
            // Full.
            (20, &[500, 500, 500, 500], 5),
            // With a second one it would take 40 ms.
            (20, &[50], 10),
            (20, &[30], 0),
        ] {
            let batcher = batcher(start, ms(wait), deadlines);
            assert_eq!(batcher.due(start + ms(5)), Some(start + ms(due)), "{wait} ms, {deadlines:?}");
        }
    }

    #[test]
    fn times_are_learned() {
        let start = Instant::now();
        let mut batcher = batcher(start, ms(0), &[45, 500]);
        // Passes of two have become slow.
        (0..50).for_each(|_| batcher.record(2, ms(80)));
        batcher.record(0, ms(80));
        batcher.record(9, ms(80));
        assert_eq!(batcher.take(start).pictures, [0]);
    }
}
