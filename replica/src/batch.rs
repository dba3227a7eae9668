//! Decides which waiting images share a forward pass. Knows deadlines and the expected times of passes, and takes the
//! present time as an argument; knows nothing of threads, pixels or models.

use crate::pass_times::PassTimes;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The waiting images in order of arrival. Each image is a `T`.
#[derive(Debug)]
pub struct Batcher<T> {
    waiting: VecDeque<WaitingImage<T>>,
    /// The longest time that an image waits for others to join its batch.
    wait: Duration,
    times: PassTimes,
}

/// An image that waits for its forward pass.
#[derive(Debug)]
struct WaitingImage<T> {
    since: Instant,
    deadline: Instant,
    image: T,
}

/// The images that leave the queue together.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch<T> {
    /// The images for one forward pass, oldest first.
    pub images: Vec<T>,
    /// The images whose deadlines have passed. They get no forward pass.
    pub expired: Vec<T>,
}

impl<T> Batcher<T> {
    /// An empty batcher, which expects that passes take `times`. An image waits at most `wait` for others to join its
    /// batch.
    pub fn new(times: PassTimes, wait: Duration) -> Self {
        Self { waiting: VecDeque::new(), wait, times }
    }

    /// Adds an image that arrives at `now`.
    pub fn push(&mut self, now: Instant, deadline: Instant, image: T) {
        self.waiting.push_back(WaitingImage { since: now, deadline, image });
    }

    /// The instant at which the next batch should be taken; `None` while no image waits.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let oldest = self.waiting.front()?;
        if self.waiting.len() >= self.times.max_batch() {
            return Some(now);
        }
        // Another image may join as long as a pass with one more image would still keep the earliest deadline.
        let joined = self.times.expected(self.waiting.len() + 1);
        let earliest = self.waiting.iter().map(|waiting| waiting.deadline).min()?;
        Some((oldest.since + self.wait).min(earliest.checked_sub(joined).unwrap_or(now)).max(oldest.since))
    }

    /// Takes as many of the oldest images as one pass can compute within the deadlines of all of them. An image that
    /// would miss its deadline even in a pass of its own does not limit the batch.
    pub fn take(&mut self, now: Instant) -> Batch<T> {
        let all = std::mem::take(&mut self.waiting);
        let (expired, waiting): (VecDeque<_>, VecDeque<_>) = all.into_iter().partition(|image| image.deadline <= now);
        self.waiting = waiting;
        let done_alone = now + self.times.expected(1);
        let keeps = |count: usize| {
            let done = now + self.times.expected(count);
            self.waiting.iter().take(count).all(|image| image.deadline >= done || image.deadline < done_alone)
        };
        let most = self.waiting.len().min(self.times.max_batch());
        let count = (1..=most).rev().find(|&count| count == 1 || keeps(count)).unwrap_or(0);
        let images = self.waiting.drain(..count).map(|waiting| waiting.image).collect();
        Batch { images, expired: expired.into_iter().map(|waiting| waiting.image).collect() }
    }

    /// Corrects the expected times by a pass of `count` images that took `took`.
    pub fn record(&mut self, count: usize, took: Duration) {
        self.times.record(count, took);
    }

    /// The expected time of a full pass for each of its images.
    pub fn full_work(&self) -> Duration {
        let most = self.times.max_batch();
        self.times.expected(most) / u32::try_from(most).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// A batcher with one image for each of `deadlines`, in milliseconds after `start`. Passes of one to four images
    /// take 30, 40, 50 and 60 ms.
    fn batcher(start: Instant, wait: Duration, deadlines: &[u64]) -> Batcher<usize> {
        let times = PassTimes::through(&[(1, ms(30)), (2, ms(40)), (4, ms(60))], 4);
        let mut batcher = Batcher::new(times, wait);
        for (index, deadline) in deadlines.iter().enumerate() {
            batcher.push(start, start + ms(*deadline), index);
        }
        batcher
    }

    #[test]
    fn full_work_is_the_time_of_a_full_pass_for_each_image() {
        let mut four = batcher(Instant::now(), ms(0), &[]);
        assert!(four.full_work().abs_diff(ms(15)) < ms(1), "{:?}", four.full_work());
        // Passes of fewer images tell how long a full one takes.
        (0..50).for_each(|_| four.record(2, ms(80)));
        assert!(four.full_work().abs_diff(ms(30)) < ms(2), "{:?}", four.full_work());
        (0..200).for_each(|_| four.record(4, ms(80)));
        assert!(four.full_work().abs_diff(ms(20)) < ms(1), "{:?}", four.full_work());
    }

    #[test]
    fn a_batch_is_as_large_as_its_deadlines_allow() {
        let start = Instant::now();
        for (deadlines, images, expired) in [
            (&[][..], &[][..], &[][..]),
            (&[500], &[0], &[]),
            (&[500, 500, 500], &[0, 1, 2], &[]),
            // The largest batch has four images.
            (&[500, 500, 500, 500, 500], &[0, 1, 2, 3], &[]),
            // The oldest image has 45 ms left. A pass of two images takes 40 ms, and a pass of three takes 50 ms.
            (&[45, 500, 500], &[0, 1], &[]),
            // A pass of three images takes 50 ms, so the third image would miss its deadline of 45 ms in this batch.
            (&[500, 500, 45], &[0, 1], &[]),
            // The first image would be late even in a pass of its own, so it does not limit the batch.
            (&[10, 500, 500], &[0, 1, 2], &[]),
            (&[0, 500, 0, 500], &[1, 3], &[0, 2]),
        ] {
            let batch = batcher(start, ms(0), deadlines).take(start);
            assert_eq!(batch, Batch { images: images.to_vec(), expired: expired.to_vec() }, "{deadlines:?}");
        }
    }

    #[test]
    fn images_that_are_not_taken_stay_in_order() {
        let start = Instant::now();
        let mut batcher = batcher(start, ms(0), &[500; 6]);
        assert_eq!(batcher.take(start).images, [0, 1, 2, 3]);
        assert_eq!(batcher.take(start).images, [4, 5]);
        assert_eq!(batcher.due(start), None);
    }

    #[test]
    fn no_image_waits_for_others_longer_than_allowed() {
        let start = Instant::now();
        for (wait, deadlines, due) in [
            // By default, no image waits for others.
            (0, &[500][..], 0),
            (20, &[500], 20),
            (20, &[500, 500], 20),
            // Four images are the largest batch, so it is due now, 5 ms after the start.
            (20, &[500, 500, 500, 500], 5),
            // A pass with a second image would take 40 ms, so the image may wait for 50 ms - 40 ms.
            (20, &[50], 10),
            (20, &[30], 0),
        ] {
            let batcher = batcher(start, ms(wait), deadlines);
            let found = batcher.due(start + ms(5)).expect("images wait").saturating_duration_since(start);
            // The line through the times of passes is exact but for roundings.
            assert!(found.abs_diff(ms(due)) < Duration::from_micros(1), "{wait} ms, {deadlines:?}: {found:?}");
        }
    }

    #[test]
    fn the_expected_time_of_a_pass_follows_the_recorded_times() {
        let start = Instant::now();
        let mut batcher = batcher(start, ms(0), &[75, 500]);
        // Passes of two images now take about 80 ms, too long for the deadline of 75 ms, and those of one take 60 ms.
        (0..50).for_each(|_| batcher.record(2, ms(80)));
        batcher.record(0, ms(80));
        batcher.record(9, ms(80));
        assert_eq!(batcher.take(start).images, [0]);
    }

    proptest! {
        #[test]
        fn a_size_that_was_slow_is_used_again(
            max_batch in 2..=64_usize,
            (fixed_us, each_us) in (0..40_000_u64, 100..40_000_u64),
            past in prop::collection::vec((1..=64_usize, 0..60_000_u64), 0..60),
        ) {
            let time = |count: usize| Duration::from_micros(fixed_us + each_us * count as u64);
            let times = PassTimes::through(&[(1, time(1)), (2, time(2))], max_batch);
            let mut batcher = Batcher::new(times, ms(0));
            // Some passes stall, or seem to take no time.
            past.into_iter().for_each(|(count, took)| batcher.record(count, ms(took)));
            // From now on, passes take their usual times, and a full one keeps the deadlines of its images.
            let (mut now, mut full) = (Instant::now(), 0);
            for _pass in 0..200 {
                let deadline = now + time(max_batch).mul_f64(1.3);
                (0..max_batch).for_each(|image| batcher.push(now, deadline, image));
                let count = batcher.take(now).images.len();
                full = if count == max_batch { full + 1 } else { 0 };
                batcher.record(count, time(count));
                // The images that are left have expired by then.
                now += time(max_batch) * 2;
            }
            prop_assert!(full >= 50, "after 200 passes, the last {} are full", full);
        }
    }
}
