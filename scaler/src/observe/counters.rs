//! The counters of all dispatchers, continued over restarts and added up. Pure.
//!
//! The counters of each dispatcher are continued by themselves, so that a restart of one leaves the others alone. The first
//! snapshot of a dispatcher that appears later adds nothing: it may have counted for days, which is no burst. Counts of a
//! dispatcher that has left stay in the sum.

use super::Reading;
use super::snapshot::{Fault, Snapshot};
use law::histogram::Histogram;
use law::observation::Observation;
use service::wire::metric;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// No dispatcher counts faster, per second.
const FASTEST: f64 = 1e7;

/// Two snapshots are taken to lie at least so far apart, seconds: clocks of two machines are not that exact.
const LEAST_STEP: f64 = 0.1;

/// A dispatcher that exports its uptime exports another value at each scrape: without a change for so long it is stuck.
/// Seconds.
const STUCK_AFTER: f64 = 1.0;

/// Without its uptime a dispatcher is stuck if it holds requests and nothing changes for so long: requests have deadlines,
/// of 5 s by default. Less than the time for which the law keeps replicas that are no longer needed. Seconds.
const FROZEN_AFTER: f64 = 10.0;

/// A dispatcher that has restarted more often than `RESTARTS` within so many seconds may be several behind one address, which
/// answer in turns: each turn would count as arrivals.
const RESTARTS: usize = 2;
const RESTARTS_WITHIN: f64 = 60.0;

/// How a snapshot follows from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The snapshot is the dispatcher's first, or the dispatcher has counted on.
    Continued,
    /// The dispatcher has restarted.
    Restarted,
}

/// The counters of all dispatchers.
#[derive(Debug, Default)]
pub struct Counters {
    open: BTreeMap<String, Dispatcher>,
    /// Counts of dispatchers that have left.
    closed: Counted,
    /// Whether a sum was made: dispatchers that appear after that start at zero.
    has_summed: bool,
}

/// The counters of one dispatcher. Times are seconds since any fixed instant.
#[derive(Debug)]
struct Dispatcher {
    last: Snapshot,
    /// When the last snapshot was taken.
    taken: f64,
    /// When the last change was seen.
    changed: f64,
    /// The last restarts, at most `RESTARTS + 1`.
    restarts: VecDeque<f64>,
    counted: Counted,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Counted {
    arrivals: f64,
    service: Histogram,
    work: Histogram,
    latency: Histogram,
}

impl Counters {
    /// Enters a snapshot of the dispatcher `endpoint`. `taken` is in seconds of any clock that does not go back; a snapshot
    /// that is older than the last one is ignored.
    ///
    /// # Errors
    /// When the snapshot does not follow from the last one. The next snapshot is compared with this one, except that a
    /// frozen dispatcher stays frozen until something changes.
    pub fn enter(&mut self, endpoint: &str, taken: f64, snapshot: Snapshot) -> Result<Entry, Fault> {
        if let Some(known) = self.open.get_mut(endpoint) {
            return if taken < known.taken { Ok(Entry::Continued) } else { known.enter(taken, snapshot) };
        }
        let counted = if self.has_summed { Counted::default() } else { Counted::of(&snapshot) };
        let known = Dispatcher { last: snapshot, taken, changed: taken, restarts: VecDeque::new(), counted };
        self.open.insert(endpoint.into(), known);
        Ok(Entry::Continued)
    }

    /// Closes the counters of a dispatcher that has left: its queue no longer counts, its counts stay.
    pub fn close(&mut self, endpoint: &str) {
        if let Some(known) = self.open.remove(endpoint) {
            self.closed.add(&known.counted);
        }
    }

    /// The dispatchers that have not left.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.open.keys().map(String::as_str)
    }

    /// The figures of all dispatchers together, which are `age` old.
    pub fn sum(&mut self, age: Duration) -> Reading {
        self.has_summed = true;
        let mut all = self.closed.clone();
        let mut figures = Observation::default();
        for Dispatcher { last, counted, .. } in self.open.values() {
            all.add(counted);
            figures.queue_length += last.queue_length;
            figures.in_flight += last.in_flight;
            figures.capacity = figures.capacity.max(last.capacity);
        }
        let Counted { arrivals, service, work, latency } = all;
        let request_seconds = latency.sum;
        Reading { figures: Observation { arrivals, request_seconds, service, work, latency, ..figures }, age }
    }
}

impl Dispatcher {
    fn enter(&mut self, taken: f64, snapshot: Snapshot) -> Result<Entry, Fault> {
        let seconds = taken - self.taken;
        let last = std::mem::replace(&mut self.last, snapshot);
        self.taken = taken;
        if self.last == last {
            return self.check_frozen().map(|()| Entry::Continued);
        }
        self.changed = taken;
        let is_restarted = self.last.enqueued < last.enqueued;
        if is_restarted {
            self.restarts.push_back(taken);
        }
        self.check_crash_loop()?;
        let step = if is_restarted { Counted::of(&self.last) } else { Counted::between(&last, &self.last)? };
        step.check_speed(seconds.max(LEAST_STEP))?;
        self.counted.add(&step);
        Ok(if is_restarted { Entry::Restarted } else { Entry::Continued })
    }

    fn check_frozen(&self) -> Result<(), Fault> {
        let unchanged = self.taken - self.changed;
        let limit = match (self.last.uptime, self.last.queue_length + self.last.in_flight) {
            (Some(_), _) => STUCK_AFTER,
            (None, held) if held > 0.0 => FROZEN_AFTER,
            (None, _) => return Ok(()),
        };
        if unchanged >= limit { Err(Fault::Frozen(unchanged)) } else { Ok(()) }
    }

    fn check_crash_loop(&mut self) -> Result<(), Fault> {
        if self.restarts.len() > RESTARTS + 1 {
            self.restarts.pop_front();
        }
        let times = self.restarts.len();
        let within = self.restarts.front().map_or(f64::INFINITY, |first| self.taken - first);
        if times > RESTARTS && within <= RESTARTS_WITHIN { Err(Fault::CrashLooping(times, within)) } else { Ok(()) }
    }
}

impl Counted {
    /// The counts since the start of the dispatcher's process.
    fn of(snapshot: &Snapshot) -> Self {
        let Snapshot { service, work, latency, .. } = snapshot.clone();
        Self { arrivals: snapshot.arrivals(), service, work, latency }
    }

    /// The counts of one process between two snapshots.
    fn between(then: &Snapshot, now: &Snapshot) -> Result<Self, Fault> {
        if now.shed < then.shed {
            return Err(Fault::Backwards(metric::SHED));
        }
        let step = |now: &Histogram, then, metric| now.checked_since(then).ok_or(Fault::Backwards(metric));
        Ok(Self {
            arrivals: now.arrivals() - then.arrivals(),
            service: step(&now.service, &then.service, metric::UPSTREAM_DURATION)?,
            work: step(&now.work, &then.work, metric::REPLICA_WORK)?,
            latency: step(&now.latency, &then.latency, metric::REQUEST_DURATION)?,
        })
    }

    fn check_speed(&self, seconds: f64) -> Result<(), Fault> {
        let steps = [
            (metric::ENQUEUED, self.arrivals),
            (metric::UPSTREAM_DURATION, self.service.count()),
            (metric::REPLICA_WORK, self.work.count()),
            (metric::REQUEST_DURATION, self.latency.count()),
        ];
        match steps.into_iter().find(|(_, by)| *by > FASTEST * seconds) {
            Some((metric, by)) => Err(Fault::Leap(metric, by, seconds)),
            None => Ok(()),
        }
    }

    fn add(&mut self, step: &Self) {
        self.arrivals += step.arrivals;
        self.service.add(&step.service);
        self.work.add(&step.work);
        self.latency.add(&step.latency);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A snapshot with so many admitted requests, each answered within 0.1 s.
    fn snapshot(enqueued: f64) -> Snapshot {
        let buckets = vec![(0.1, enqueued), (f64::INFINITY, enqueued)];
        let service = Histogram { buckets, sum: enqueued * 0.05 };
        let latency = service.clone();
        Snapshot { queue_length: 1.0, capacity: 4.0, enqueued, latency, service, ..Snapshot::default() }
    }

    /// The arrivals after each row of admitted requests of the dispatchers a and b, which lie a second apart. `None` has
    /// left, or is not there yet.
    fn arrivals<const N: usize>(rows: [[Option<f64>; 2]; N]) -> [f64; N] {
        let (mut counters, mut second) = (Counters::default(), 0.0);
        rows.map(|row| {
            second += 1.0;
            for (endpoint, enqueued) in ["a", "b"].into_iter().zip(row) {
                match enqueued {
                    Some(enqueued) => _ = counters.enter(endpoint, second, snapshot(enqueued)).expect("plausible"),
                    None => counters.close(endpoint),
                }
            }
            let sum = counters.sum(Duration::ZERO).figures;
            assert_eq!((sum.service.count(), sum.latency.count()), (sum.arrivals, sum.arrivals));
            assert!((sum.service.sum - sum.arrivals * 0.05).abs() < 1e-6);
            sum.arrivals
        })
    }

    #[test]
    fn counting_goes_on_when_dispatchers_restart_appear_and_leave() {
        let (a, both) = (|a| [Some(a), None], |a, b| [Some(a), Some(b)]);
        assert_eq!(arrivals([a(10.0), a(12.0), a(3.0), a(5.0)]), [10.0, 12.0, 15.0, 17.0]);
        let one_restarted = arrivals([both(1e6, 10.0), both(1e6 + 5.0, 2.0), both(1e6 + 6.0, 3.0)]);
        assert_eq!(one_restarted, [1e6 + 10.0, 1e6 + 17.0, 1e6 + 19.0], "the other one goes on");
        let appeared = arrivals([a(10.0), both(11.0, 1e9), both(12.0, 1e9 + 3.0)]);
        assert_eq!(appeared, [10.0, 11.0, 15.0], "without its history");
        let left = arrivals([both(10.0, 20.0), a(11.0), both(12.0, 90.0), both(12.0, 91.0), [None, None]]);
        assert_eq!(left, [30.0, 31.0, 32.0, 33.0, 33.0], "counts of a dispatcher that has left stay");
    }

    #[test]
    fn waiting_requests_add_up_and_capacity_does_not() {
        let mut counters = Counters::default();
        for (endpoint, queue_length, in_flight, capacity) in [("a", 3.0, 1.0, 4.0), ("b", 5.0, 2.0, 6.0)] {
            let snapshot = Snapshot { queue_length, in_flight, capacity, ..snapshot(1.0) };
            counters.enter(endpoint, 0.0, snapshot).expect("plausible");
        }
        let Reading { figures, age } = counters.sum(Duration::from_secs(3));
        let found = (figures.queue_length, figures.in_flight, figures.capacity, age.as_secs());
        assert_eq!(found, (8.0, 3.0, 6.0, 3));
        counters.close("b");
        assert_eq!(counters.sum(Duration::ZERO).figures.queue_length, 3.0);
    }

    #[test]
    fn implausible_steps_are_reported_once_and_left_out() {
        let mut counters = Counters::default();
        assert_eq!(counters.enter("a", 0.0, snapshot(10.0)), Ok(Entry::Continued));
        assert_eq!(counters.sum(Duration::ZERO).figures.arrivals, 10.0);
        assert_eq!(counters.enter("a", 2.0, snapshot(1e12)), Err(Fault::Leap(metric::ENQUEUED, 1e12 - 10.0, 2.0)));
        assert_eq!(counters.enter("a", 4.0, snapshot(1e12 + 7.0)), Ok(Entry::Continued));
        assert_eq!(counters.sum(Duration::ZERO).figures.arrivals, 17.0);
        assert_eq!(counters.enter("a", 5.0, snapshot(3.0)), Ok(Entry::Restarted));
        // An older snapshot than the last one is ignored.
        assert_eq!(counters.enter("a", 4.5, snapshot(1e12 + 8.0)), Ok(Entry::Continued));
        assert_eq!(counters.sum(Duration::ZERO).figures.arrivals, 20.0);
    }

    #[test]
    fn counters_that_go_back_in_part_are_no_restart() {
        let shed = |shed| Snapshot { shed, ..snapshot(10.0) };
        let mut counters = Counters::default();
        counters.enter("a", 0.0, shed(500.0)).expect("the first");
        assert_eq!(counters.enter("a", 1.0, shed(0.0)), Err(Fault::Backwards(metric::SHED)));
        let fewer = Snapshot { service: snapshot(4.0).service, ..shed(0.0) };
        assert_eq!(counters.enter("a", 2.0, fewer.clone()), Err(Fault::Backwards(metric::UPSTREAM_DURATION)));
        counters.enter("a", 3.0, Snapshot { enqueued: 13.0, ..fewer }).expect("on from there");
        assert_eq!(counters.sum(Duration::ZERO).figures.arrivals, 513.0);
    }

    #[test]
    fn several_dispatchers_behind_one_address_are_found_out_and_rare_restarts_are_not() {
        let mut counters = Counters::default();
        let turns = (0..8_u32).map(|turn| {
            let enqueued = if turn.is_multiple_of(2) { 10_000.0 } else { 9000.0 } + f64::from(turn);
            counters.enter("service", 2.0 * f64::from(turn), snapshot(enqueued)).is_ok()
        });
        assert_eq!(turns.collect::<Vec<_>>(), [true, true, true, true, true, false, false, false]);
        for day in 0..9_u32 {
            for (second, enqueued) in [(0.0, 5.0), (1.0, 9.0)] {
                counters.enter("a", 86_400.0 * f64::from(day) + second, snapshot(enqueued)).expect("plausible");
            }
        }
    }

    #[test]
    fn a_dispatcher_that_holds_requests_and_never_changes_is_frozen() {
        let idle = Snapshot { queue_length: 0.0, ..snapshot(10.0) };
        let busy = Snapshot { in_flight: 1.0, ..idle.clone() };
        let more = Snapshot { in_flight: 1.0, ..snapshot(11.0) };
        let up = |seconds| Snapshot { uptime: Some(seconds), ..idle.clone() };
        let stuck = |uptime| Snapshot { in_flight: 1.0, ..up(uptime) };
        let mut counters = Counters::default();
        for (endpoint, at, snapshot, frozen) in [
            ("idle", 0.0, &idle, None),
            ("idle", 200.0, &idle, None),
            ("busy", 300.0, &busy, None),
            ("busy", 309.0, &busy, None),
            ("busy", 310.0, &busy, Some(10.0)),
            ("busy", 401.0, &busy, Some(101.0)),
            ("busy", 402.0, &more, None),
            ("busy", 403.0, &more, None),
            ("up", 0.0, &up(50.0), None),
            // The same sample again, as Prometheus gives it.
            ("up", 0.0, &up(50.0), None),
            ("up", 0.5, &up(50.0), None),
            ("up", 1.0, &up(50.0), Some(1.0)),
            ("up", 1.5, &up(51.5), None),
            ("up", 100.0, &up(150.0), None),
            // Its replicas are stuck, not the dispatcher.
            ("up", 101.0, &stuck(101.0), None),
            ("up", 200.0, &stuck(200.0), None),
        ] {
            let outcome = counters.enter(endpoint, at, snapshot.clone());
            assert_eq!(outcome.err(), frozen.map(Fault::Frozen), "{endpoint} at {at} s");
        }
    }

    proptest! {
        /// Dispatchers come, leave, count and restart at random. The sum never goes back, and never grows by more than what
        /// was counted since the last sum or, by a dispatcher that restarted, since its start.
        #[test]
        fn the_sum_follows_what_was_counted(
            steps in proptest::collection::vec(
                proptest::collection::vec((any::<bool>(), 0..20_u32, proptest::bool::weighted(0.1)), 3), 1..40,
            ),
        ) {
            let mut counters = Counters::default();
            let mut counts = [1000_u32, 0, 77];
            let mut before: Option<f64> = None;
            for (index, step) in steps.iter().enumerate() {
                let mut possible = 0;
                for (which, &(is_there, more, is_restarted)) in step.iter().enumerate() {
                    counts[which] = if is_restarted { more } else { counts[which] + more };
                    if !is_there {
                        counters.close(&which.to_string());
                        continue;
                    }
                    // What was counted unseen is counted when it comes to light.
                    possible += counts[which];
                    // An hour apart, so that restarts are no crash loop.
                    let (at, snapshot) = (3600.0 * index as f64, snapshot(f64::from(counts[which])));
                    let outcome = counters.enter(&which.to_string(), at, snapshot);
                    prop_assert!(matches!(outcome, Ok(_) | Err(Fault::Frozen(_))));
                }
                let sum = counters.sum(Duration::ZERO).figures.arrivals;
                if let Some(before) = before {
                    prop_assert!(sum >= before && sum - before <= f64::from(possible), "{before} → {sum}");
                }
                before = Some(sum);
            }
        }
    }
}
