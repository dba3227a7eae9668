//! PURE: what each dispatcher has counted, continued over restarts, and the sum of all.
//!
//! Every dispatcher has an account of its own, so that one that starts again is one that starts again. An account
//! counts what is added between two snapshots. The first snapshot of one that appears later adds nothing: it may have
//! counted for days before, which is no burst. What a dispatcher that left had counted stays in the sum.

use super::Reading;
use super::snapshot::{Fault, Snapshot};
use law::histogram::Histogram;
use service::wire::metric;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// No dispatcher counts faster, per second.
const FASTEST: f64 = 1e7;

/// Two snapshots are taken to lie at least this far apart, seconds: clocks of two machines are not that exact.
const LEAST_STEP: f64 = 0.1;

/// One that tells its uptime says something else each time that it is asked, seconds.
const STUCK_AFTER: f64 = 1.0;

/// Requests have deadlines, of 5 s by default: where some are there, something happens within this time, seconds. Less
/// than how long replicas are kept that seem no longer needed.
const FROZEN_AFTER: f64 = 10.0;

/// A dispatcher that started again more often than `RESTARTS` within so many seconds may be several behind one address,
/// which answer in turns; each turn would count as arrivals whatever the other has ever counted.
const RESTARTS: usize = 2;
const RESTARTS_WITHIN: f64 = 60.0;

/// How a snapshot follows from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It is the first, or goes on.
    Continued,
    /// Its dispatcher has started again.
    Restarted,
}

/// All accounts.
#[derive(Debug, Default)]
pub struct Ledger {
    open: BTreeMap<String, Account>,
    /// Of dispatchers that left.
    closed: Counted,
    /// From then on, newcomers start at zero.
    has_summed: bool,
}

#[derive(Debug)]
struct Account {
    last: Snapshot,
    /// When it was taken, seconds since any fixed instant.
    taken: f64,
    /// When the last change was seen, likewise.
    changed: f64,
    /// When it started again, likewise; the last `RESTARTS + 1`.
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

impl Ledger {
    /// Enters what `endpoint` said at `taken`, in seconds of any clock that does not go back; an older snapshot than
    /// the last is ignored.
    ///
    /// # Errors
    /// When it does not follow from the last one. It is the last one from then on, except that one that is frozen stays
    /// so until something changes.
    pub fn enter(&mut self, endpoint: &str, taken: f64, snapshot: Snapshot) -> Result<Entry, Fault> {
        if let Some(account) = self.open.get_mut(endpoint) {
            return if taken < account.taken { Ok(Entry::Continued) } else { account.enter(taken, snapshot) };
        }
        let counted = if self.has_summed { Counted::default() } else { Counted::of(&snapshot) };
        let account = Account { last: snapshot, taken, changed: taken, restarts: VecDeque::new(), counted };
        self.open.insert(endpoint.into(), account);
        Ok(Entry::Continued)
    }

    /// The dispatcher has left: nothing waits there any more, and what it counted stays.
    pub fn close(&mut self, endpoint: &str) {
        if let Some(account) = self.open.remove(endpoint) {
            self.closed.add(&account.counted);
        }
    }

    /// Whose accounts are open.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.open.keys().map(String::as_str)
    }

    /// What all say together, `age` ago.
    pub fn sum(&mut self, age: Duration) -> Reading {
        self.has_summed = true;
        let mut counted = self.closed.clone();
        let mut sum = Reading { age, ..Reading::default() };
        for account in self.open.values() {
            counted.add(&account.counted);
            sum.queue_length += account.last.queue_length;
            sum.in_flight += account.last.in_flight;
            sum.capacity = sum.capacity.max(account.last.capacity);
        }
        let Counted { arrivals, service, work, latency } = counted;
        Reading { arrivals, service, work, latency, ..sum }
    }
}

impl Account {
    fn enter(&mut self, taken: f64, snapshot: Snapshot) -> Result<Entry, Fault> {
        let seconds = taken - self.taken;
        let last = std::mem::replace(&mut self.last, snapshot);
        self.taken = taken;
        if self.last == last {
            let frozen = taken - self.changed;
            let is_busy = last.queue_length + last.in_flight > 0.0;
            let is_frozen = frozen >= if last.uptime.is_some() { STUCK_AFTER } else { FROZEN_AFTER };
            return match is_frozen && (is_busy || last.uptime.is_some()) {
                true => Err(Fault::Frozen { seconds: frozen }),
                false => Ok(Entry::Continued),
            };
        }
        self.changed = taken;
        let is_restarted = self.last.enqueued < last.enqueued;
        self.restless(is_restarted, taken)?;
        let step = if is_restarted { Counted::of(&self.last) } else { Counted::between(&last, &self.last)? };
        step.plausible(seconds.max(LEAST_STEP))?;
        self.counted.add(&step);
        Ok(if is_restarted { Entry::Restarted } else { Entry::Continued })
    }

    fn restless(&mut self, is_restarted: bool, taken: f64) -> Result<(), Fault> {
        if is_restarted {
            self.restarts.push_back(taken);
        }
        if self.restarts.len() > RESTARTS + 1 {
            self.restarts.pop_front();
        }
        let times = self.restarts.len();
        match self.restarts.front() {
            Some(first) if times > RESTARTS && taken - first <= RESTARTS_WITHIN => {
                Err(Fault::Restless { times, seconds: taken - first })
            }
            _ => Ok(()),
        }
    }
}

impl Counted {
    /// Everything since the dispatcher's own start.
    fn of(snapshot: &Snapshot) -> Self {
        let Snapshot { service, work, latency, .. } = snapshot.clone();
        Self { arrivals: snapshot.arrivals(), service, work, latency }
    }

    /// What one process counted from one snapshot to the next.
    fn between(then: &Snapshot, now: &Snapshot) -> Result<Self, Fault> {
        if now.shed < then.shed {
            return Err(Fault::Backwards(metric::SHED));
        }
        Ok(Self {
            arrivals: now.arrivals() - then.arrivals(),
            service: now.service.checked_since(&then.service).ok_or(Fault::Backwards(metric::UPSTREAM_DURATION))?,
            work: now.work.checked_since(&then.work).ok_or(Fault::Backwards(metric::REPLICA_WORK))?,
            latency: now.latency.checked_since(&then.latency).ok_or(Fault::Backwards(metric::REQUEST_DURATION))?,
        })
    }

    fn plausible(&self, seconds: f64) -> Result<(), Fault> {
        let steps = [
            (metric::ENQUEUED, self.arrivals),
            (metric::UPSTREAM_DURATION, self.service.count()),
            (metric::REPLICA_WORK, self.work.count()),
            (metric::REQUEST_DURATION, self.latency.count()),
        ];
        match steps.into_iter().find(|(_, by)| *by > FASTEST * seconds) {
            Some((metric, by)) => Err(Fault::Leap { metric, by, seconds }),
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

    /// As many admitted, and answered within 0.1 s each.
    fn says(enqueued: f64) -> Snapshot {
        let buckets = vec![(0.1, enqueued), (f64::INFINITY, enqueued)];
        let service = Histogram { buckets, sum: enqueued * 0.05 };
        Snapshot {
            queue_length: 1.0,
            capacity: 4.0,
            enqueued,
            latency: service.clone(),
            service,
            ..Snapshot::default()
        }
    }

    /// Enters rows of (endpoint, admitted) a second apart from one row to the next; sums after each.
    fn arrivals(rows: &[&[(&str, f64)]]) -> Vec<f64> {
        let mut ledger = Ledger::default();
        let sums = rows.iter().enumerate().map(|(second, row)| {
            for &(endpoint, enqueued) in *row {
                ledger.enter(endpoint, second as f64, says(enqueued)).expect("plausible");
            }
            let gone: Vec<String> = ledger
                .endpoints()
                .filter(|open| row.iter().all(|(endpoint, _)| endpoint != open))
                .map(ToString::to_string)
                .collect();
            gone.iter().for_each(|endpoint| ledger.close(endpoint));
            let sum = ledger.sum(Duration::ZERO);
            assert_eq!((sum.service.count(), sum.latency.count()), (sum.arrivals, sum.arrivals));
            assert!((sum.service.sum - sum.arrivals * 0.05).abs() < 1e-6);
            sum.arrivals
        });
        sums.collect()
    }

    #[test]
    fn a_restarted_dispatcher_goes_on_counting() {
        let mut ledger = Ledger::default();
        for (second, enqueued, entry) in [(0.0, 10.0, Entry::Continued), (1.0, 3.0, Entry::Restarted)] {
            assert_eq!(ledger.enter("a", second, says(enqueued)), Ok(entry));
        }
        assert_eq!(arrivals(&[&[("a", 10.0)], &[("a", 12.0)], &[("a", 3.0)], &[("a", 5.0)]]), [10.0, 12.0, 15.0, 17.0]);
    }

    #[test]
    fn one_that_starts_again_leaves_the_others_as_they_are() {
        let rows: [&[_]; 3] =
            [&[("a", 1e6), ("b", 10.0)], &[("a", 1e6 + 5.0), ("b", 2.0)], &[("a", 1e6 + 6.0), ("b", 3.0)]];
        assert_eq!(arrivals(&rows), [1e6 + 10.0, 1e6 + 17.0, 1e6 + 19.0]);
    }

    #[test]
    fn one_that_appears_brings_no_history() {
        assert_eq!(
            arrivals(&[&[("a", 10.0)], &[("a", 11.0), ("b", 1e9)], &[("a", 12.0), ("b", 1e9 + 3.0)]]),
            [10.0, 11.0, 15.0]
        );
    }

    #[test]
    fn one_that_leaves_keeps_what_it_counted_and_may_come_back() {
        let rows: [&[_]; 5] = [
            &[("a", 10.0), ("b", 20.0)],
            &[("a", 11.0)],
            &[("a", 12.0), ("b", 90.0)],
            &[("a", 12.0), ("b", 91.0)],
            &[],
        ];
        assert_eq!(arrivals(&rows), [30.0, 31.0, 32.0, 33.0, 33.0]);
    }

    #[test]
    fn waiting_requests_add_up_and_capacity_does_not() {
        let mut ledger = Ledger::default();
        for (endpoint, queue_length, in_flight, capacity) in [("a", 3.0, 1.0, 4.0), ("b", 5.0, 2.0, 6.0)] {
            let snapshot = Snapshot { queue_length, in_flight, capacity, ..says(1.0) };
            ledger.enter(endpoint, 0.0, snapshot).expect("plausible");
        }
        let sum = ledger.sum(Duration::from_secs(3));
        assert_eq!((sum.queue_length, sum.in_flight, sum.capacity), (8.0, 3.0, 6.0));
        assert_eq!(sum.age, Duration::from_secs(3));
        ledger.close("b");
        assert_eq!(ledger.sum(Duration::ZERO).queue_length, 3.0);
    }

    #[test]
    fn a_leap_is_reported_once_and_left_out() {
        let mut ledger = Ledger::default();
        ledger.enter("a", 0.0, says(10.0)).expect("the first");
        assert_eq!(ledger.sum(Duration::ZERO).arrivals, 10.0);
        let fault = ledger.enter("a", 2.0, says(1e12)).expect_err("too fast");
        assert!(matches!(fault, Fault::Leap { seconds: 2.0, .. }), "{fault}");
        ledger.enter("a", 4.0, says(1e12 + 7.0)).expect("on from there");
        assert_eq!(ledger.sum(Duration::ZERO).arrivals, 17.0);
    }

    #[test]
    fn part_of_the_counters_going_back_is_no_restart() {
        let shed = |shed| Snapshot { shed, ..says(10.0) };
        let mut ledger = Ledger::default();
        ledger.enter("a", 0.0, shed(500.0)).expect("the first");
        assert_eq!(ledger.enter("a", 1.0, shed(0.0)), Err(Fault::Backwards(metric::SHED)));
        let fewer = Snapshot { service: says(4.0).service, ..shed(0.0) };
        assert_eq!(ledger.enter("a", 2.0, fewer.clone()), Err(Fault::Backwards(metric::UPSTREAM_DURATION)));
        ledger.enter("a", 3.0, Snapshot { enqueued: 13.0, ..fewer }).expect("on from there");
        assert_eq!(ledger.sum(Duration::ZERO).arrivals, 513.0);
    }

    #[test]
    fn several_dispatchers_behind_one_address_are_found_out() {
        let mut ledger = Ledger::default();
        let turns = (0..8_u32).map(|turn| {
            let enqueued = if turn.is_multiple_of(2) { 10_000.0 } else { 9000.0 } + f64::from(turn);
            ledger.enter("service", 2.0 * f64::from(turn), says(enqueued)).is_ok()
        });
        assert_eq!(turns.collect::<Vec<_>>(), [true, true, true, true, true, false, false, false]);
    }

    #[test]
    fn a_dispatcher_that_starts_again_now_and_then_is_no_crowd() {
        let mut ledger = Ledger::default();
        for day in 0..9_u32 {
            for (second, enqueued) in [(0.0, 5.0), (1.0, 9.0)] {
                ledger.enter("a", 86_400.0 * f64::from(day) + second, says(enqueued)).expect("plausible");
            }
        }
    }

    #[test]
    fn a_dispatcher_that_holds_requests_and_never_changes_is_frozen() {
        let mut ledger = Ledger::default();
        let mut outcome = |at, snapshot| ledger.enter("a", at, snapshot).map_err(|fault| fault.to_string());
        let idle = Snapshot { queue_length: 0.0, ..says(10.0) };
        for at in [0.0, 100.0, 200.0] {
            assert_eq!(outcome(at, idle.clone()), Ok(Entry::Continued), "nothing to do");
        }
        let busy = Snapshot { in_flight: 1.0, ..idle };
        for (at, is_fine) in [(300.0, true), (309.0, true), (310.0, false), (400.0, false)] {
            assert_eq!(outcome(at, busy.clone()).is_ok(), is_fine, "{at}");
        }
        assert!(outcome(401.0, busy.clone()).expect_err("frozen").contains("101 s"));
        assert_eq!(outcome(402.0, Snapshot { in_flight: 1.0, ..says(11.0) }), Ok(Entry::Continued));
        assert_eq!(outcome(403.0, Snapshot { in_flight: 1.0, ..says(11.0) }), Ok(Entry::Continued));
    }

    #[test]
    fn a_dispatcher_whose_uptime_stands_still_is_frozen_even_if_it_holds_nothing() {
        let mut ledger = Ledger::default();
        let up = |seconds| Snapshot { queue_length: 0.0, uptime: Some(seconds), ..says(10.0) };
        for (at, uptime, is_fine) in [
            (0.0, 50.0, true),
            // The same sample again, as Prometheus gives it.
            (0.0, 50.0, true),
            (0.5, 50.0, true),
            (1.0, 50.0, false),
            (1.5, 51.5, true),
            (100.0, 150.0, true),
        ] {
            assert_eq!(ledger.enter("a", at, up(uptime)).is_ok(), is_fine, "{at}");
        }
        let busy = |uptime| Snapshot { in_flight: 1.0, ..up(uptime) };
        for at in [101.0, 200.0] {
            assert!(ledger.enter("a", at, busy(at)).is_ok(), "its replicas are stuck, not the dispatcher");
        }
    }

    #[test]
    fn an_older_snapshot_than_the_last_is_ignored() {
        let mut ledger = Ledger::default();
        for (taken, enqueued) in [(10.0, 10.0), (20.0, 20.0), (15.0, 15.0), (30.0, 30.0)] {
            ledger.enter("a", taken, says(enqueued)).expect("plausible");
        }
        assert_eq!(ledger.sum(Duration::ZERO).arrivals, 30.0);
    }

    mod properties {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            /// However dispatchers come, go, count and start again: the sum never goes back, and never grows by more
            /// than what was counted since the last look or, by one that started again, since its start.
            #[test]
            fn the_sum_follows_what_was_counted(
                steps in proptest::collection::vec(
                    proptest::collection::vec((any::<bool>(), 0..20_u32, proptest::bool::weighted(0.1)), 3), 1..40,
                ),
            ) {
                let mut ledger = Ledger::default();
                let mut counters = [1000_u32, 0, 77];
                let mut before: Option<f64> = None;
                for (index, step) in steps.iter().enumerate() {
                    let mut possible = 0;
                    for (which, &(is_there, more, is_restarted)) in step.iter().enumerate() {
                        counters[which] = if is_restarted { more } else { counters[which] + more };
                        let name = which.to_string();
                        if is_there {
                            // What was counted unseen is counted when it comes to light.
                            possible += counters[which];
                            // An hour apart, so that restarts are no crowd.
                            let outcome = ledger.enter(&name, 3600.0 * index as f64, says(f64::from(counters[which])));
                            let is_fine = matches!(outcome, Ok(_) | Err(Fault::Frozen { .. }));
                            prop_assert!(is_fine);
                        } else {
                            ledger.close(&name);
                        }
                    }
                    let sum = ledger.sum(Duration::ZERO).arrivals;
                    if let Some(before) = before {
                        prop_assert!(sum >= before && sum - before <= f64::from(possible), "{before} → {sum}");
                    }
                    before = Some(sum);
                }
            }
        }
    }
}
