//! The requests that arrived at one dispatcher between the points of a period, from its counters at the points. Pure.
//!
//! As in the scaler, counts from before the first point are ignored, and the counters of a restarted dispatcher begin
//! at zero. Counts from within a long gap are left out, because it is not known when in the gap the requests arrived.

use super::samples::{DispatcherSample, PointMap};
use law::histogram::increase;

/// With fewer restarts than this, a history never counts as that of several dispatchers that answer in turns.
const MIN_ALTERNATING_RESTARTS: usize = 3;

/// More than one restart in this number of points means that several dispatchers answer in turns.
const POINTS_PER_RESTART: usize = 8;

/// The number of requests that arrived between two points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ArrivalInterval {
    /// The number of the first point.
    pub from: usize,
    /// The number of the last point.
    pub to: usize,
    /// The number of requests that were admitted or refused.
    pub arrivals: f64,
}

/// A time in which one process of a dispatcher counted without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountingSpan {
    /// The number of the first point.
    pub first: usize,
    /// The number of the last point.
    pub last: usize,
    /// Whether the process started within the period. Then its counts at the first point belong to the span.
    pub is_from_start: bool,
}

/// The history of one dispatcher's counters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CounterHistory {
    /// The arrivals between neighbouring points, in order of time.
    pub arrivals: Vec<ArrivalInterval>,
    /// The spans in order of time. A span of a single point is left out, unless the process started within the period:
    /// only then has it counted anything.
    pub spans: Vec<CountingSpan>,
    /// The number of all arrivals that were refused.
    pub shed: f64,
    /// The number of restarts of the dispatcher.
    pub restarts: usize,
}

/// The counters at the previous point.
struct Previous {
    index: usize,
    enqueued: f64,
    shed: f64,
}

impl CounterHistory {
    /// The history of the counters at `points`. If two neighbouring points are more than `max_gap` steps apart, there
    /// is a gap between them.
    pub fn of(points: &PointMap<DispatcherSample>, max_gap: usize) -> Self {
        let mut history = Self::default();
        let mut previous: Option<Previous> = None;
        let mut span: Option<CountingSpan> = None;
        for (&index, sample) in points {
            let Some(enqueued) = sample.enqueued else { continue };
            let before = previous.replace(Previous { index, enqueued, shed: sample.shed });
            let Some(before) = before.filter(|before| index - before.index <= max_gap) else {
                history.close(span.replace(CountingSpan { first: index, last: index, is_from_start: false }));
                continue;
            };
            if enqueued < before.enqueued {
                history.restarts += 1;
                history.close(span.replace(CountingSpan { first: index, last: index, is_from_start: true }));
            }
            if let Some(span) = &mut span {
                span.last = index;
            }
            // Each counter has its own increase. After a restart, the old count of refused requests may be recorded for
            // one more point.
            let shed = increase(before.shed, sample.shed);
            history.shed += shed;
            let arrivals = increase(before.enqueued, enqueued) + shed;
            history.arrivals.push(ArrivalInterval { from: before.index, to: index, arrivals });
        }
        history.close(span);
        history
    }

    fn close(&mut self, span: Option<CountingSpan>) {
        self.spans.extend(span.filter(|span| span.is_from_start || span.first < span.last));
    }

    /// Whether there are too many restarts for one dispatcher. Then several dispatchers answer in turns at one address.
    pub fn alternates(&self) -> bool {
        self.restarts >= MIN_ALTERNATING_RESTARTS && self.restarts * POINTS_PER_RESTART > self.arrivals.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The history of these points, each `(point, admitted requests, refused requests)`.
    fn history(points: &[(usize, f64, f64)]) -> CounterHistory {
        let sample = |&(index, enqueued, shed): &(usize, f64, f64)| {
            (index, DispatcherSample { enqueued: Some(enqueued), shed, ..DispatcherSample::default() })
        };
        CounterHistory::of(&points.iter().map(sample).collect(), 20)
    }

    fn intervals(history: &CounterHistory) -> Vec<(usize, usize, f64)> {
        history.arrivals.iter().map(|interval| (interval.from, interval.to, interval.arrivals)).collect()
    }

    fn spans(history: &CounterHistory) -> Vec<(usize, usize, bool)> {
        history.spans.iter().map(|span| (span.first, span.last, span.is_from_start)).collect()
    }

    #[test]
    fn counts_from_before_the_first_point_are_ignored() {
        let found = history(&[(3, 1e6, 50.0), (4, 1e6 + 7.0, 50.0), (7, 1e6 + 9.0, 53.0)]);
        assert_eq!(intervals(&found), [(3, 4, 7.0), (4, 7, 5.0)]);
        assert_eq!((spans(&found), found.shed, found.restarts), (vec![(3, 7, false)], 3.0, 0));
    }

    #[test]
    fn counters_of_a_restarted_dispatcher_begin_at_zero() {
        for again in [(2, 4.0, 0.0), (2, 2.0, 2.0)] {
            let found = history(&[(0, 90.0, 5.0), (1, 100.0, 5.0), again, (3, 600.0, 6.0)]);
            assert_eq!(intervals(&found), [(0, 1, 10.0), (1, 2, 4.0), (2, 3, 602.0)]);
            assert_eq!((spans(&found), found.shed, found.restarts), (vec![(0, 1, false), (2, 3, true)], 6.0, 1));
        }
        // The count of refused requests from before the restart is recorded for one more point.
        let found = history(&[(0, 90.0, 40.0), (1, 4.0, 40.0), (2, 5.0, 3.0)]);
        assert_eq!((intervals(&found), found.shed, found.restarts), (vec![(0, 1, 4.0), (1, 2, 4.0)], 3.0, 1));
        let found = history(&[(0, 9.0, 0.0), (1, 4.0, 0.0), (2, 3.0, 0.0), (3, 3.0, 0.0)]);
        assert_eq!(intervals(&found), [(0, 1, 4.0), (1, 2, 3.0), (2, 3, 0.0)]);
        assert_eq!((spans(&found), found.restarts), (vec![(1, 1, true), (2, 3, true)], 2));
    }

    #[test]
    fn counts_from_within_a_gap_are_left_out() {
        let found = history(&[(0, 5.0, 0.0), (20, 9.0, 0.0), (41, 99.0, 7.0), (42, 100.0, 7.0), (99, 3.0, 0.0)]);
        assert_eq!(intervals(&found), [(0, 20, 4.0), (41, 42, 1.0)]);
        assert_eq!((spans(&found), found.shed, found.restarts), (vec![(0, 20, false), (41, 42, false)], 0.0, 0));
    }

    #[test]
    fn points_without_the_counter_are_skipped() {
        let mut points: PointMap<DispatcherSample> = PointMap::new();
        points.insert(0, DispatcherSample { enqueued: Some(1.0), ..DispatcherSample::default() });
        points.insert(1, DispatcherSample { shed: 3.0, ready: Some(2.0), ..DispatcherSample::default() });
        points.insert(2, DispatcherSample { enqueued: Some(4.0), shed: 3.0, ..DispatcherSample::default() });
        assert_eq!(intervals(&CounterHistory::of(&points, 20)), [(0, 2, 6.0)]);
        assert_eq!(CounterHistory::of(&PointMap::new(), 20), CounterHistory::default());
    }

    #[test]
    fn dispatchers_that_answer_in_turns_are_detected() {
        let turns: Vec<_> =
            (0..40_usize).map(|turn| (turn, if turn % 2 == 0 { 9000.0 } else { 100.0 } + turn as f64, 0.0)).collect();
        assert!(history(&turns).alternates());
        let now_and_then: Vec<_> = (0..4000_usize).map(|point| (point, (point % 20) as f64, 0.0)).collect();
        let found = history(&now_and_then);
        assert_eq!((found.restarts, found.alternates()), (199, false));
        assert!(!history(&[(0, 9.0, 0.0), (1, 2.0, 0.0), (2, 1.0, 0.0)]).alternates());
    }

    mod properties {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            /// The spans hold as many requests as the intervals, at any counts, restarts and gaps.
            #[test]
            fn spans_hold_as_many_requests_as_intervals(
                points in proptest::collection::btree_map(0..500_usize, (0..50_u32, 0..20_u32), 0..60),
            ) {
                let counters = points.into_iter().map(|(at, counts)| (at, f64::from(counts.0), f64::from(counts.1)));
                let points: Vec<_> = counters.collect();
                let found = history(&points);
                let counted = |index: usize| {
                    points.iter().find(|point| point.0 == index).expect("every span ends at a point").1
                };
                let in_spans = found.spans.iter().map(|span| {
                    counted(span.last) - if span.is_from_start { 0.0 } else { counted(span.first) }
                });
                let in_intervals: f64 = found.arrivals.iter().map(|interval| interval.arrivals).sum();
                prop_assert_eq!(in_spans.sum::<f64>() + found.shed, in_intervals);
                prop_assert!(found.arrivals.windows(2).all(|pair| pair[0].to <= pair[1].from));
                prop_assert!(found.arrivals.iter().all(|interval| interval.arrivals >= 0.0));
                prop_assert!(found.arrivals.iter().all(|interval| interval.to - interval.from <= 20));
            }
        }
    }
}
