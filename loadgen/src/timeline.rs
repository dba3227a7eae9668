//! The timeline of a run: the figures of its consecutive intervals, such as its seconds. Keeps the latencies of an interval only while
//! answers to its requests may come. Pure.

use crate::latencies::Latencies;
use crate::sample::Sample;
use crate::summary::IntervalSummary;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// Largest number of latencies that are kept one by one: 1 MiB. More are kept in a histogram, which needs 1 to 3 MB.
const MAX_SINGLE: usize = 1 << 16;

/// The figures of each interval so far.
#[derive(Debug, Clone)]
pub struct Timeline {
    objective: Duration,
    /// Length of an interval, in seconds; at least 1.
    step: usize,
    /// The figures of the intervals from the first one on. The percentiles of open intervals are still absent.
    rows: Vec<IntervalSummary>,
    /// The latencies of the last intervals, which are open.
    open: VecDeque<OpenInterval>,
}

/// The figures of one second of a part of a load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SecondFigures {
    /// The second, counted from 0 at the start of the run.
    pub second: usize,
    /// Requests of the part that were scheduled in the second.
    pub offered: usize,
    /// Of these, the requests that were answered within the objective.
    pub within_objective: usize,
    /// Of these, the requests that failed.
    pub failed: usize,
    /// The latencies of the answered requests.
    pub latencies: Latencies,
}

impl SecondFigures {
    /// Whether the counts agree with each other, and the second belongs to a run of `length`.
    pub fn is_consistent(&self, length: Duration) -> bool {
        let answered = self.offered.checked_sub(self.failed);
        answered.is_some_and(|answered| answered as u64 == self.latencies.count() && self.within_objective <= answered)
            && self.offered < 1 << 48
            && (self.second as u64) < length.as_secs() + 1
    }
}

/// The latencies of the answered requests of an interval.
#[derive(Debug, Clone)]
pub(crate) enum OpenInterval {
    /// Each latency.
    Single(Vec<Duration>),
    /// A histogram of more than [`MAX_SINGLE`] latencies.
    Histogram(Box<Latencies>),
}

impl Default for OpenInterval {
    fn default() -> Self {
        Self::Single(Vec::new())
    }
}

impl OpenInterval {
    /// Adds a latency.
    pub(crate) fn record(&mut self, latency: Duration) {
        match self {
            Self::Single(latencies) if latencies.len() < MAX_SINGLE => latencies.push(latency),
            Self::Single(latencies) => {
                let mut histogram: Latencies = latencies.drain(..).collect();
                histogram.record(latency);
                *self = Self::Histogram(Box::new(histogram));
            }
            Self::Histogram(histogram) => histogram.record(latency),
        }
    }

    /// Adds all latencies of a histogram.
    fn add(&mut self, more: &Latencies) {
        match self {
            Self::Single(latencies) if latencies.len() as u64 + more.count() <= MAX_SINGLE as u64 => {
                let each = more.counts().flat_map(|(latency, count)| std::iter::repeat_n(latency, count as usize));
                latencies.extend(each);
            }
            Self::Single(latencies) => {
                let mut histogram: Latencies = latencies.drain(..).collect();
                histogram.add(more);
                *self = Self::Histogram(Box::new(histogram));
            }
            Self::Histogram(histogram) => histogram.add(more),
        }
    }

    /// All latencies as a histogram.
    pub(crate) fn into_latencies(self) -> Latencies {
        match self {
            Self::Single(latencies) => latencies.into_iter().collect(),
            Self::Histogram(histogram) => *histogram,
        }
    }
}

impl Timeline {
    /// Intervals of `step` seconds each.
    ///
    /// # Panics
    /// If `step` is zero.
    pub fn new(objective: Duration, step: usize) -> Self {
        assert!(step > 0, "an interval has a length");
        Self { objective, step, rows: Vec::new(), open: VecDeque::new() }
    }

    /// Counts a request that has ended into the interval of its scheduled send time. If that interval is closed, its
    /// percentiles leave the request out.
    pub fn record(&mut self, sample: &Sample) {
        let index = self.index(sample.scheduled.as_secs() as usize);
        let row = &mut self.rows[index];
        row.offered += 1;
        row.within_objective += usize::from(sample.is_within(self.objective));
        row.failed += usize::from(!sample.is_answered());
        if sample.is_answered()
            && let Some(open) = self.open_at(index)
        {
            open.record(sample.latency);
        }
    }

    /// Adds the figures of a second of a part of the load. The sum of all parts has the figures of the load.
    pub fn add(&mut self, part: &SecondFigures) {
        let index = self.index(part.second);
        let row = &mut self.rows[index];
        row.offered += part.offered;
        row.within_objective += part.within_objective;
        row.failed += part.failed;
        if let Some(open) = self.open_at(index) {
            open.add(&part.latencies);
        }
    }

    /// The index of the interval of a second, which exists then.
    fn index(&mut self, second: usize) -> usize {
        let index = second / self.step;
        while self.rows.len() <= index {
            self.open_next();
        }
        index
    }

    /// The latencies of an interval; `None` if it is closed.
    fn open_at(&mut self, index: usize) -> Option<&mut OpenInterval> {
        let first_open = self.rows.len() - self.open.len();
        self.open.get_mut(index.checked_sub(first_open)?)
    }

    /// Closes the intervals that end at or before `time`: computes their percentiles, and forgets their latencies.
    pub fn close_before(&mut self, time: Duration) {
        let closed = time.as_secs() as usize / self.step;
        while self.rows.len() - self.open.len() < closed
            && let Some(open) = self.open.pop_front()
        {
            let index = self.rows.len() - self.open.len() - 1;
            self.rows[index].latency_ms = open.into_latencies().percentiles();
        }
    }

    /// The figures of a run of `length`. The last interval may be shorter. An interval without requests is included.
    pub fn finish(mut self, length: Duration) -> Vec<IntervalSummary> {
        self.close_before(Duration::MAX);
        let seconds = length.as_secs_f64().ceil() as usize;
        let count = seconds.div_ceil(self.step);
        self.rows.truncate(count);
        while self.rows.len() < count {
            self.open_next();
        }
        if let Some(last) = self.rows.last_mut() {
            last.seconds = seconds - last.second;
        }
        self.rows
    }

    fn open_next(&mut self) {
        let second = self.rows.len() * self.step;
        self.rows.push(IntervalSummary { second, seconds: self.step, ..IntervalSummary::default() });
        self.open.push_back(OpenInterval::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::{ANSWERED, failed, sample};
    use crate::workers::part_seconds::PartSeconds;
    use proptest::prelude::*;

    fn timeline(step: usize, samples: &[Sample]) -> Timeline {
        let mut timeline = Timeline::new(Duration::from_millis(500), step);
        samples.iter().for_each(|sample| timeline.record(sample));
        timeline
    }

    #[test]
    fn every_second_has_its_row() {
        let run = [
            sample(100, 50, ANSWERED),
            sample(2100, 1, failed("queue_full")),
            sample(900, 700, ANSWERED),
            sample(200, 60, ANSWERED),
            sample(2400, 40, ANSWERED),
        ];
        let rows_of = |step| timeline(step, &run).finish(Duration::from_millis(2500));
        let rows = rows_of(1);
        let counts: Vec<_> = rows.iter().map(|row| (row.offered, row.within_objective, row.failed)).collect();
        assert_eq!(counts, [(3, 2, 0), (0, 0, 0), (2, 1, 1)]);
        assert!(rows[1].latency_ms.is_none());
        let wide: Vec<_> = rows_of(2).iter().map(|row| (row.second, row.seconds, row.offered)).collect();
        assert_eq!(wide, [(0, 2, 3), (2, 1, 2)]);
        assert_eq!(timeline(1, &[]).finish(Duration::from_secs(2)).len(), 2);
        assert_eq!(timeline(1, &run).finish(Duration::from_secs(1)).len(), 1, "the user stopped the run");
    }

    #[test]
    fn a_closed_interval_has_forgotten_its_latencies_and_kept_its_percentiles() {
        let mut timeline = timeline(1, &[sample(100, 50, ANSWERED), sample(1100, 70, ANSWERED)]);
        timeline.close_before(Duration::from_millis(1999));
        assert_eq!(timeline.open.len(), 1);
        timeline.close_before(Duration::from_secs(60));
        assert!(timeline.open.is_empty());
        timeline.record(&sample(1200, 1000, ANSWERED));
        timeline.record(&sample(61_000, 80, ANSWERED));
        let rows = timeline.finish(Duration::from_secs(62));
        let slowest = |second: usize| rows[second].latency_ms.map(|latency| latency.max.round());
        assert_eq!((slowest(0), slowest(1), slowest(61)), (Some(50.0), Some(70.0), Some(80.0)));
        assert_eq!((rows[1].offered, rows[1].within_objective), (2, 1));
    }

    proptest! {
        #[test]
        fn the_intervals_of_parts_add_up_to_those_of_the_whole(
            all in prop::collection::vec((0..6000_u64, 0..3000_u64, any::<bool>()), 0..300),
            count in 1..5_usize,
            step in 1..4_usize,
        ) {
            let outcome = |answered: bool| if answered { ANSWERED } else { failed("x") };
            let all: Vec<Sample> =
                all.into_iter().map(|(at, latency, answered)| sample(at, latency, outcome(answered))).collect();
            let mut sum = timeline(step, &[]);
            for part in 0..count {
                let mut seconds = PartSeconds::new(Duration::from_millis(500));
                all.iter().skip(part).step_by(count).for_each(|sample| seconds.record(sample));
                while let Some(second) = seconds.take_before(Duration::MAX) {
                    let sent = serde_json::to_string(&second).expect("JSON");
                    let received: SecondFigures = serde_json::from_str(&sent).expect("figures");
                    prop_assert!(received.is_consistent(Duration::from_secs(6)));
                    sum.add(&received);
                }
            }
            let length = Duration::from_secs(6);
            prop_assert_eq!(sum.finish(length), timeline(step, &all).finish(length));
        }
    }

    #[test]
    fn figures_of_a_second_that_contradict_each_other_are_noticed() {
        let good = SecondFigures {
            second: 5,
            offered: 3,
            within_objective: 1,
            failed: 1,
            latencies: [10, 900].map(Duration::from_millis).into_iter().collect(),
        };
        let length = Duration::from_secs(6);
        assert!(good.is_consistent(length));
        let bad = [
            SecondFigures { second: usize::MAX, ..good.clone() },
            SecondFigures { offered: 4, ..good.clone() },
            SecondFigures { failed: 4, ..good.clone() },
            SecondFigures { within_objective: 3, ..good.clone() },
        ];
        assert!(bad.iter().all(|figures| !figures.is_consistent(length)));
    }

    #[test]
    fn many_latencies_have_the_percentiles_of_few() {
        let count = 2 * MAX_SINGLE as u64;
        let latency = |index: u64| 1 + index % 1000;
        let many: Vec<Sample> = (0..count).map(|index| sample(0, latency(index), ANSWERED)).collect();
        let rows = timeline(1, &many).finish(Duration::from_secs(1));
        let exact = many.iter().map(|sample| sample.latency).collect::<Latencies>().percentiles();
        assert_eq!((rows[0].offered as u64, rows[0].latency_ms), (count, exact));
    }
}
