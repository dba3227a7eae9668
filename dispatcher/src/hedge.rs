//! Decides when a request that is at a replica gets a second replica, too (`--hedge`). The time is the point at which
//! the answer is unusually late, or at which a second replica could only just still answer within the objective. Pure:
//! times are arguments. The worker finds the replica and sends the request.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The number of service times that are kept.
const RECENT: usize = 200;

/// The number of new service times after which the typical ones are computed again. There is no hedging before.
const REFRESH: usize = 20;

/// The time that a second replica gets, in median service times. With one, half of the second answers would be late.
const MARGIN: u32 = 2;

/// The service times that recent requests had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypicalTimes {
    /// Half of the answers take longer.
    pub median: Duration,
    /// One answer in 20 takes longer.
    pub slow: Duration,
}

impl TypicalTimes {
    /// The time at its replica after which a request is hedged, if its objective passes `objective` after its dispatch;
    /// `None` if no second replica could answer within the objective.
    pub fn hedged_after(&self, objective: Duration) -> Option<Duration> {
        let latest = objective.checked_sub(self.median * MARGIN)?;
        // Before the median, most requests that are hedged would have been answered without.
        (latest >= self.median).then(|| self.slow.clamp(self.median, latest))
    }
}

/// A request that is at a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The id of its permit.
    pub permit_id: u64,
    /// The time at which it was given to the replica.
    pub dispatched: Instant,
    /// The instant after which an answer misses the objective.
    pub objective: Instant,
}

/// The next candidate for a hedge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHedge {
    /// There is no candidate.
    None,
    /// The first candidate becomes due at this instant.
    At(Instant),
    /// This candidate is due.
    Due(Candidate),
}

/// The requests that are at replicas, in the order of their dispatch, and the recent service times.
#[derive(Debug, Default)]
pub struct Hedging {
    candidates: VecDeque<Candidate>,
    recent: VecDeque<Duration>,
    /// The number of service times since [`Hedging::typical`] was computed.
    new: usize,
    typical: Option<TypicalTimes>,
}

impl Hedging {
    /// Adds a request that was just given to a replica.
    pub fn add(&mut self, candidate: Candidate) {
        self.candidates.push_back(candidate);
    }

    /// Records the service time of an answer.
    pub fn record_service_time(&mut self, time: Duration) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(time);
        self.new += 1;
        // Sorting takes some microseconds, too long for each answer.
        if self.new == REFRESH {
            self.new = 0;
            let mut sorted: Vec<_> = self.recent.iter().copied().collect();
            sorted.sort_unstable();
            let quantile = |twentieths: usize| sorted[(sorted.len() - 1) * twentieths / 20];
            self.typical = Some(TypicalTimes { median: quantile(10), slow: quantile(19) });
        }
    }

    /// The first candidate for which `is_pending` holds, and which can still be answered within its objective. All
    /// candidates before it are removed. All requests have the same objective and are at their replicas in the order of
    /// their dispatch, so the first is due first.
    pub fn next(&mut self, now: Instant, is_pending: impl Fn(u64) -> bool) -> NextHedge {
        while let Some(&candidate) = self.candidates.front() {
            if is_pending(candidate.permit_id) {
                let Some(typical) = self.typical else { return NextHedge::None };
                let objective = candidate.objective.saturating_duration_since(candidate.dispatched);
                if let Some(after) = typical.hedged_after(objective)
                    && now + typical.median <= candidate.objective
                {
                    let due = candidate.dispatched + after;
                    return if due <= now { NextHedge::Due(candidate) } else { NextHedge::At(due) };
                }
            }
            self.candidates.pop_front();
        }
        NextHedge::None
    }

    /// Removes the first candidate, because it has a second replica.
    pub fn remove_first(&mut self) {
        self.candidates.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_request_is_hedged_when_it_is_unusually_slow_or_its_objective_is_near() {
        // (median, slow, objective, time after which the request is hedged, all in milliseconds)
        for (median, slow, objective, expected) in [
            (20, 60, 500, Some(60)),
            (20, 900, 500, Some(460)),
            (20, 20, 500, Some(20)),
            (100, 150, 500, Some(150)),
            (100, 450, 500, Some(300)),
            (100, 450, 300, Some(100)),
            (100, 450, 299, None),
            (300, 450, 500, None),
            (0, 0, 0, Some(0)),
        ] {
            let typical = TypicalTimes { median: median * MS, slow: slow * MS };
            let found = typical.hedged_after(objective * MS);
            assert_eq!(found, expected.map(|after| after * MS), "{typical:?}, objective {objective} ms");
        }
    }

    /// Hedging after [`REFRESH`] answers within 10 ms.
    fn after_fast_answers() -> Hedging {
        let mut hedging = Hedging::default();
        (0..REFRESH).for_each(|_| hedging.record_service_time(10 * MS));
        hedging
    }

    #[test]
    fn the_first_request_that_still_waits_is_due_first() {
        let start = Instant::now();
        let mut hedging = after_fast_answers();
        let candidate = |number: u32| Candidate {
            permit_id: u64::from(number),
            dispatched: start + number * MS,
            objective: start + number * MS + 100 * MS,
        };
        (1..=4).for_each(|number| hedging.add(candidate(number)));
        assert_eq!(hedging.next(start, |_| true), NextHedge::At(start + 11 * MS));
        assert_eq!(hedging.next(start, |id| id != 1), NextHedge::At(start + 12 * MS), "the first was answered");
        assert_eq!(hedging.next(start + 12 * MS, |_| true), NextHedge::Due(candidate(2)));
        hedging.remove_first();
        assert_eq!(hedging.next(start + 12 * MS, |_| true), NextHedge::At(start + 13 * MS));
        assert_eq!(hedging.next(start + 94 * MS, |_| true), NextHedge::Due(candidate(4)), "3 would be too late");
        assert_eq!(hedging.next(start + 95 * MS, |_| true), NextHedge::None);
        assert!(hedging.candidates.is_empty());
    }

    #[test]
    fn there_is_no_hedging_before_the_service_times_are_known() {
        let start = Instant::now();
        let mut hedging = Hedging::default();
        hedging.add(Candidate { permit_id: 1, dispatched: start, objective: start + 100 * MS });
        (1..REFRESH).for_each(|_| hedging.record_service_time(10 * MS));
        assert_eq!(hedging.next(start + 50 * MS, |_| true), NextHedge::None);
        hedging.record_service_time(10 * MS);
        assert!(matches!(hedging.next(start + 50 * MS, |_| true), NextHedge::Due(_)));
    }

    #[test]
    fn typical_times_are_those_of_the_last_answers() {
        let mut hedging = after_fast_answers();
        assert_eq!(hedging.typical, Some(TypicalTimes { median: 10 * MS, slow: 10 * MS }));
        (1..=RECENT as u32).for_each(|number| hedging.record_service_time(number * MS));
        assert_eq!(hedging.typical, Some(TypicalTimes { median: 100 * MS, slow: 190 * MS }));
        assert_eq!(hedging.recent.len(), RECENT);
    }
}
