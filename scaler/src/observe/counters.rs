//! Continues the counters of each dispatcher over its restarts, and adds up those of all dispatchers. Pure.
//!
//! A dispatcher that appears after the first sum starts at zero: it may have counted for days, which would look like a
//! burst. The counts of a dispatcher that has left stay in the sum.

use super::Reading;
use super::snapshot::{FigureFault, Snapshot};
use law::histogram::Histogram;
use law::observation::Observation;
use service::wire::metric;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The fastest growth of a counter that is believed, per second.
const MAX_PER_SECOND: f64 = 1e7;

/// The least time that counts as having passed between two snapshots, in seconds. Clocks of two machines are not more
/// exact, and a smaller step would make any growth look like a leap.
const MIN_STEP: f64 = 0.1;

/// Seconds without a change after which a dispatcher that exports its uptime is stuck: its uptime should have changed.
const STUCK_AFTER: f64 = 1.0;

/// Seconds without a change after which a dispatcher that holds requests, but exports no uptime, is stuck. Requests
/// have deadlines, of 5 s by default, so one should have ended. After a longer time, the law would remove replicas.
const FROZEN_AFTER: f64 = 10.0;

/// A dispatcher that restarts more often than this within [`RESTARTS_WITHIN`] is taken for several dispatchers behind
/// one address, which answer in turns. Each turn would count as arrivals.
const RESTARTS: usize = 2;
/// Seconds over which restarts are counted for [`RESTARTS`].
const RESTARTS_WITHIN: f64 = 60.0;

/// Whether a dispatcher has restarted between two snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// The dispatcher has not restarted since the last snapshot, or the snapshot is its first.
    Continued,
    /// The dispatcher has restarted since the last snapshot.
    Restarted,
}

/// The counters of all dispatchers.
#[derive(Debug, Default)]
pub struct Counters {
    open: BTreeMap<String, DispatcherCounters>,
    /// The counts of dispatchers that have left.
    closed: Counts,
    /// Whether a sum was made. Dispatchers that appear after that start at zero.
    has_summed: bool,
}

/// The counters of one dispatcher. Times are in seconds since any fixed instant.
#[derive(Debug)]
struct DispatcherCounters {
    last: Snapshot,
    /// The time of the last snapshot.
    taken: f64,
    /// The time of the last snapshot with a changed figure.
    changed: f64,
    /// The times of the last restarts, at most `RESTARTS + 1`.
    restarts: VecDeque<f64>,
    counted: Counts,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Counts {
    arrivals: f64,
    service: Histogram,
    work: Histogram,
    latency: Histogram,
}

impl Counters {
    /// Enters a snapshot of the dispatcher `endpoint`. `taken` is the time of the snapshot, in seconds of any clock
    /// that does not go back. A snapshot that is older than the last one is ignored.
    ///
    /// # Errors
    /// If the snapshot cannot follow from the last one. The next snapshot is compared with this one.
    pub fn enter(&mut self, endpoint: &str, taken: f64, snapshot: Snapshot) -> Result<Continuity, FigureFault> {
        if let Some(known) = self.open.get_mut(endpoint) {
            return if taken < known.taken { Ok(Continuity::Continued) } else { known.enter(taken, snapshot) };
        }
        let counted = if self.has_summed { Counts::default() } else { Counts::of(&snapshot) };
        let known = DispatcherCounters { last: snapshot, taken, changed: taken, restarts: VecDeque::new(), counted };
        self.open.insert(endpoint.into(), known);
        Ok(Continuity::Continued)
    }

    /// Closes the counters of a dispatcher that has left. Its counts stay in the sum, and its queue does not.
    pub fn close(&mut self, endpoint: &str) {
        if let Some(known) = self.open.remove(endpoint) {
            self.closed.add(&known.counted);
        }
    }

    /// The endpoints of the dispatchers that have not left.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.open.keys().map(String::as_str)
    }

    /// The sum of the figures of all dispatchers. `age` is the age of the oldest figure.
    pub fn sum(&mut self, age: Duration) -> Reading {
        self.has_summed = true;
        let mut all = self.closed.clone();
        let mut figures = Observation::default();
        for DispatcherCounters { last, counted, .. } in self.open.values() {
            all.add(counted);
            figures.queue_length += last.queue_length;
            figures.in_flight += last.in_flight;
            figures.capacity = figures.capacity.max(last.capacity);
        }
        let Counts { arrivals, service, work, latency } = all;
        let request_seconds = latency.sum;
        Reading { figures: Observation { arrivals, request_seconds, service, work, latency, ..figures }, age }
    }
}

impl DispatcherCounters {
    fn enter(&mut self, taken: f64, snapshot: Snapshot) -> Result<Continuity, FigureFault> {
        let seconds = taken - self.taken;
        let last = std::mem::replace(&mut self.last, snapshot);
        self.taken = taken;
        if self.last == last {
            return self.check_frozen().map(|()| Continuity::Continued);
        }
        self.changed = taken;
        let is_restarted = self.last.enqueued < last.enqueued;
        if is_restarted {
            self.restarts.push_back(taken);
        }
        self.check_crash_loop()?;
        let step = if is_restarted { Counts::of(&self.last) } else { Counts::between(&last, &self.last)? };
        step.check_speed(seconds.max(MIN_STEP))?;
        self.counted.add(&step);
        Ok(if is_restarted { Continuity::Restarted } else { Continuity::Continued })
    }

    fn check_frozen(&self) -> Result<(), FigureFault> {
        let unchanged = self.taken - self.changed;
        let limit = match (self.last.uptime, self.last.queue_length + self.last.in_flight) {
            (Some(_), _) => STUCK_AFTER,
            (None, held) if held > 0.0 => FROZEN_AFTER,
            (None, _) => return Ok(()),
        };
        if unchanged >= limit { Err(FigureFault::Frozen(unchanged)) } else { Ok(()) }
    }

    fn check_crash_loop(&mut self) -> Result<(), FigureFault> {
        if self.restarts.len() > RESTARTS + 1 {
            self.restarts.pop_front();
        }
        let times = self.restarts.len();
        let within = self.restarts.front().map_or(f64::INFINITY, |first| self.taken - first);
        let is_loop = times > RESTARTS && within <= RESTARTS_WITHIN;
        if is_loop { Err(FigureFault::CrashLooping(times, within)) } else { Ok(()) }
    }
}

impl Counts {
    /// The counts since the start of the dispatcher's process.
    fn of(snapshot: &Snapshot) -> Self {
        let Snapshot { service, work, latency, .. } = snapshot.clone();
        Self { arrivals: snapshot.arrivals(), service, work, latency }
    }

    /// The counts of one process between two snapshots.
    fn between(then: &Snapshot, now: &Snapshot) -> Result<Self, FigureFault> {
        if now.shed < then.shed {
            return Err(FigureFault::Backwards(metric::SHED));
        }
        let step = |now: &Histogram, then, metric| now.checked_since(then).ok_or(FigureFault::Backwards(metric));
        Ok(Self {
            arrivals: now.arrivals() - then.arrivals(),
            service: step(&now.service, &then.service, metric::UPSTREAM_DURATION)?,
            work: step(&now.work, &then.work, metric::REPLICA_WORK)?,
            latency: step(&now.latency, &then.latency, metric::REQUEST_DURATION)?,
        })
    }

    fn check_speed(&self, seconds: f64) -> Result<(), FigureFault> {
        let steps = [
            (metric::ENQUEUED, self.arrivals),
            (metric::UPSTREAM_DURATION, self.service.count()),
            (metric::REPLICA_WORK, self.work.count()),
            (metric::REQUEST_DURATION, self.latency.count()),
        ];
        match steps.into_iter().find(|(_, by)| *by > MAX_PER_SECOND * seconds) {
            Some((metric, by)) => Err(FigureFault::Leap(metric, by, seconds)),
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

    /// A snapshot with `enqueued` admitted requests, each answered within 0.1 s.
    fn snapshot(enqueued: f64) -> Snapshot {
        let buckets = vec![(0.1, enqueued), (f64::INFINITY, enqueued)];
        let service = Histogram { buckets, sum: enqueued * 0.05 };
        let latency = service.clone();
        Snapshot { queue_length: 1.0, capacity: 4.0, enqueued, latency, service, ..Snapshot::default() }
    }

    /// The arrivals after each row. A row has the admitted requests of the dispatchers a and b, or `None` for a
    /// dispatcher that is absent. Rows are a second apart.
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
        assert_eq!(counters.enter("a", 0.0, snapshot(10.0)), Ok(Continuity::Continued));
        assert_eq!(counters.sum(Duration::ZERO).figures.arrivals, 10.0);
        assert_eq!(
            counters.enter("a", 2.0, snapshot(1e12)),
            Err(FigureFault::Leap(metric::ENQUEUED, 1e12 - 10.0, 2.0))
        );
        assert_eq!(counters.enter("a", 4.0, snapshot(1e12 + 7.0)), Ok(Continuity::Continued));
        assert_eq!(counters.sum(Duration::ZERO).figures.arrivals, 17.0);
        assert_eq!(counters.enter("a", 5.0, snapshot(3.0)), Ok(Continuity::Restarted));
        // This snapshot is older than the last one, so it is ignored.
        assert_eq!(counters.enter("a", 4.5, snapshot(1e12 + 8.0)), Ok(Continuity::Continued));
        assert_eq!(counters.sum(Duration::ZERO).figures.arrivals, 20.0);
    }

    #[test]
    fn a_counter_that_goes_back_alone_is_no_restart() {
        let shed = |shed| Snapshot { shed, ..snapshot(10.0) };
        let mut counters = Counters::default();
        counters.enter("a", 0.0, shed(500.0)).expect("the first");
        assert_eq!(counters.enter("a", 1.0, shed(0.0)), Err(FigureFault::Backwards(metric::SHED)));
        let fewer = Snapshot { service: snapshot(4.0).service, ..shed(0.0) };
        assert_eq!(counters.enter("a", 2.0, fewer.clone()), Err(FigureFault::Backwards(metric::UPSTREAM_DURATION)));
        counters.enter("a", 3.0, Snapshot { enqueued: 13.0, ..fewer }).expect("on from there");
        assert_eq!(counters.sum(Duration::ZERO).figures.arrivals, 513.0);
    }

    #[test]
    fn several_dispatchers_behind_one_address_are_refused_and_rare_restarts_are_not() {
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
            // Prometheus returns one sample until its next scrape.
            ("up", 0.0, &up(50.0), None),
            ("up", 0.5, &up(50.0), None),
            ("up", 1.0, &up(50.0), Some(1.0)),
            ("up", 1.5, &up(51.5), None),
            ("up", 100.0, &up(150.0), None),
            // This dispatcher's replicas are stuck, but the dispatcher is not.
            ("up", 101.0, &stuck(101.0), None),
            ("up", 200.0, &stuck(200.0), None),
        ] {
            let outcome = counters.enter(endpoint, at, snapshot.clone());
            assert_eq!(outcome.err(), frozen.map(FigureFault::Frozen), "{endpoint} at {at} s");
        }
    }

    proptest! {
        /// Dispatchers come, leave, count and restart at random. The sum never goes back. It grows by no more than the
        /// counts since the last sum or, for a restarted dispatcher, since its start.
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
                    // The counts of an absent dispatcher are added when it is seen again.
                    possible += counts[which];
                    // Snapshots are an hour apart, so that restarts are no crash loop.
                    let (at, snapshot) = (3600.0 * index as f64, snapshot(f64::from(counts[which])));
                    let outcome = counters.enter(&which.to_string(), at, snapshot);
                    prop_assert!(matches!(outcome, Ok(_) | Err(FigureFault::Frozen(_))));
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
