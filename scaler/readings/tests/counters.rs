//! How the counters of several dispatchers are dated, continued and added up.

use law::histogram::Histogram;
use law::observation::Observation;
use proptest::prelude::*;
use readings::counters::{Continuity, Counters};
use readings::snapshot::{FigureFault, Snapshot};
use service::wire::metric;
use std::time::Duration;

/// A snapshot with `enqueued` admitted requests, each answered within 0.1 s.
fn snapshot(enqueued: f64) -> Snapshot {
    let buckets = vec![(0.1, enqueued), (f64::INFINITY, enqueued)];
    let service = Histogram { buckets, sum: enqueued * 0.05 };
    let latency = service.clone();
    Snapshot { queue_length: 1.0, capacity: 4.0, enqueued, latency, service, ..Snapshot::default() }
}

/// The arrivals of all dispatchers, none of which is silent.
fn total(counters: &mut Counters) -> f64 {
    counters.sum(|_| false).expect("all are known").arrivals
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
        let sum = counters.sum(|_| false).expect("all are known");
        assert_eq!(sum.at, Duration::from_secs_f64(second));
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
    let left = arrivals([both(10.0, 20.0), a(11.0), both(12.0, 90.0), both(12.0, 91.0), a(13.0)]);
    assert_eq!(left, [30.0, 31.0, 32.0, 33.0, 34.0], "counts of a dispatcher that has left stay");
}

#[test]
fn a_sum_is_partial_while_counts_of_a_new_or_a_left_dispatcher_are_unknown() {
    let up = |seconds, enqueued| Snapshot { uptime: Some(seconds), ..snapshot(enqueued) };
    // A row has the second, the snapshots of a and b, `None` for an absent one, the sum, and whether it is partial.
    type Row = (f64, Option<Snapshot>, Option<Snapshot>, f64, bool);
    let cases: [&[Row]; 5] = [
        // The dispatcher b is older than the last sum.
        &[
            (0.0, Some(up(50.0, 10.0)), None, 10.0, false),
            (2.0, Some(up(52.0, 12.0)), Some(up(9.0, 7.0)), 12.0, true),
            (4.0, Some(up(54.0, 12.0)), Some(up(11.0, 8.0)), 13.0, false),
        ],
        // It started after the last sum.
        &[(0.0, Some(up(50.0, 10.0)), None, 10.0, false), (2.0, Some(up(52.0, 12.0)), Some(up(1.5, 7.0)), 19.0, false)],
        // It is older, but has counted nothing yet.
        &[(0.0, Some(up(50.0, 10.0)), None, 10.0, false), (2.0, Some(up(52.0, 12.0)), Some(up(9.0, 0.0)), 12.0, false)],
        // It leaves after a pause without arrivals, and then comes back.
        &[
            (0.0, Some(up(50.0, 10.0)), Some(up(9.0, 7.0)), 17.0, false),
            (2.0, Some(up(52.0, 12.0)), Some(up(11.0, 7.0)), 19.0, false),
            (4.0, Some(up(54.0, 14.0)), None, 21.0, false),
            (6.0, Some(up(56.0, 16.0)), Some(up(15.0, 9.0)), 23.0, true),
            (8.0, Some(up(58.0, 16.0)), Some(up(17.0, 9.0)), 23.0, false),
        ],
        // It leaves in the middle of its work.
        &[
            (0.0, Some(up(50.0, 10.0)), Some(up(9.0, 7.0)), 17.0, false),
            (2.0, Some(up(52.0, 12.0)), Some(up(11.0, 9.0)), 21.0, false),
            (4.0, Some(up(54.0, 14.0)), None, 23.0, true),
            (6.0, Some(up(56.0, 16.0)), None, 25.0, false),
        ],
    ];
    for (case, rows) in cases.into_iter().enumerate() {
        let mut counters = Counters::default();
        for (second, a, b, arrivals, is_partial) in rows {
            for (endpoint, snapshot) in [("a", a), ("b", b)] {
                match snapshot {
                    Some(snapshot) => _ = counters.enter(endpoint, *second, snapshot.clone()).expect("plausible"),
                    None => counters.close(endpoint),
                }
            }
            let sum = counters.sum(|_| false).expect("all are known");
            assert_eq!((sum.arrivals, sum.is_partial), (*arrivals, *is_partial), "case {case} at {second} s");
        }
    }
}

#[test]
fn waiting_requests_add_up_and_capacity_does_not() {
    let mut counters = Counters::default();
    for (endpoint, queue_length, in_flight, capacity) in [("a", 3.0, 1.0, 4.0), ("b", 5.0, 2.0, 6.0)] {
        let snapshot = Snapshot { queue_length, in_flight, capacity, ..snapshot(1.0) };
        counters.enter(endpoint, 0.0, snapshot).expect("plausible");
    }
    let figures = counters.sum(|_| false).expect("both are known");
    assert_eq!((figures.queue_length, figures.in_flight, figures.capacity), (8.0, 3.0, 6.0));
    let of_a = counters.sum(|endpoint| endpoint == "b").expect("a is known");
    assert_eq!((of_a.queue_length, of_a.in_flight, of_a.capacity), (3.0, 1.0, 4.0), "b is silent");
    counters.close("b");
    assert_eq!(counters.sum(|_| false), Some(of_a), "b has left");
    assert_eq!(counters.sum(|_| true), None);
}

#[test]
fn work_in_full_batches_below_a_microsecond_counts_as_absent() {
    for (full_work, expected) in [(0.0, None), (9e-10, None), (1e-6, Some(1000)), (0.012, Some(12_000_000))] {
        let mut counters = Counters::default();
        counters.enter("a", 0.0, Snapshot { full_work, ..snapshot(1.0) }).expect("plausible");
        let found = counters.sum(|_| false).expect("a is known").full_work;
        assert_eq!(found, expected.map(Duration::from_nanos), "{full_work}");
    }
}

#[test]
fn implausible_steps_are_reported_once_and_left_out() {
    let mut counters = Counters::default();
    assert_eq!(counters.enter("a", 0.0, snapshot(10.0)), Ok(Continuity::Continued));
    assert_eq!(total(&mut counters), 10.0);
    assert_eq!(counters.enter("a", 2.0, snapshot(1e12)), Err(FigureFault::Leap(metric::ENQUEUED, 1e12 - 10.0, 2.0)));
    assert_eq!(counters.enter("a", 4.0, snapshot(1e12 + 7.0)), Ok(Continuity::Continued));
    assert_eq!(total(&mut counters), 17.0);
    assert_eq!(counters.enter("a", 5.0, snapshot(3.0)), Ok(Continuity::Restarted));
    // This snapshot is older than the last one, so it is ignored.
    assert_eq!(counters.enter("a", 4.5, snapshot(1e12 + 8.0)), Ok(Continuity::Continued));
    assert_eq!(total(&mut counters), 20.0);
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
    assert_eq!(total(&mut counters), 513.0);
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
        ("up", 101.0, &stuck(151.0), None),
        ("up", 200.0, &stuck(250.0), None),
    ] {
        let outcome = counters.enter(endpoint, at, snapshot.clone());
        assert_eq!(outcome.err(), frozen.map(FigureFault::Frozen), "{endpoint} at {at} s");
    }
}

/// A dispatcher that admits `rate` requests a second from its start on.
#[derive(Debug, Clone, Copy)]
struct Steady {
    rate: f64,
    started: f64,
}

impl Steady {
    /// The snapshot of the dispatcher at `now`.
    fn at(self, now: f64) -> Snapshot {
        let up = now - self.started;
        Snapshot { uptime: Some(up), ..snapshot(self.rate * up) }
    }
}

/// The rates from reading to reading, at least a quarter of a second apart.
#[derive(Default)]
struct Rates {
    last: Option<(f64, f64)>,
    rates: Vec<f64>,
}

impl Rates {
    fn push(&mut self, sum: Option<Observation>) {
        let Some(sum) = sum else { return };
        let now = (sum.at.as_secs_f64(), sum.arrivals);
        match self.last {
            Some(last) if now.0 < last.0 + 0.25 => {}
            Some(last) => {
                self.rates.push((now.1 - last.1) / (now.0 - last.0));
                self.last = Some(now);
            }
            None => self.last = Some(now),
        }
    }
}

#[test]
fn the_clock_of_the_dispatcher_dates_its_figures() {
    let (mut counters, mut rates) = (Counters::default(), Rates::default());
    let steady = Steady { rate: 20.0, started: -1000.0 };
    // The third scrape begins late, and the fourth answer is delayed. The first answer was delayed, too.
    for (taken, received) in [(0.0, 0.9), (1.5, 1.5), (3.0, 3.0), (3.5, 4.5), (5.0, 5.0)] {
        counters.enter("a", received, steady.at(taken)).expect("plausible");
        rates.push(counters.sum(|_| false));
        assert!((counters.newest("a").expect("known") - taken).abs() < 0.901, "{taken}");
    }
    assert!(rates.rates.len() == 4 && rates.rates.iter().all(|rate| (19.9..20.1).contains(rate)), "{:?}", rates.rates);
}

#[test]
fn a_younger_process_has_restarted_even_if_it_has_counted_more() {
    let mut counters = Counters::default();
    for (received, uptime, enqueued, arrivals, continuity) in [
        (0.0, Some(50.0), 10.0, 10.0, Continuity::Continued),
        (2.0, Some(52.0), 12.0, 12.0, Continuity::Continued),
        (4.0, Some(1.0), 15.0, 27.0, Continuity::Restarted),
        // Another dispatcher behind the same address: of the 12 requests in its 100 s, those of the last 2 s count.
        (6.0, Some(100.0), 12.0, 27.24, Continuity::Restarted),
        // The dispatcher is replaced by an old version.
        (8.0, None, 16.0, 31.24, Continuity::Continued),
        (10.0, None, 18.0, 33.24, Continuity::Continued),
    ] {
        let found = counters.enter("a", received, Snapshot { uptime, ..snapshot(enqueued) });
        assert_eq!(found, Ok(continuity), "at {received} s");
        assert!((total(&mut counters) - arrivals).abs() < 1e-6, "at {received} s");
    }
}

#[test]
fn phases_of_scrapes_and_unequal_loads_do_not_change_the_rate() {
    let (mut counters, mut rates) = (Counters::default(), Rates::default());
    for second in 0..120_u32 {
        let now = f64::from(second);
        for (endpoint, phase, rate) in [("a", 0, 90.0), ("b", 14, 10.0)] {
            if second % 15 == phase {
                // Dispatchers without an uptime are dated by the time of the scrape.
                counters.enter(endpoint, now, snapshot(rate * (now + 1000.0))).expect("plausible");
            }
        }
        if counters.endpoints().count() == 2 {
            rates.push(counters.sum(|_| false));
        }
    }
    assert!(rates.rates.len() > 10 && rates.rates.iter().all(|rate| (rate - 100.0).abs() < 1e-6), "{:?}", rates.rates);
}

#[test]
fn a_silent_dispatcher_is_left_out_and_its_return_is_no_burst() {
    let (mut counters, mut rates) = (Counters::default(), Rates::default());
    let steady = |rate| Steady { rate, started: -100.0 };
    for second in 0..40_u32 {
        let (now, is_silent) = (f64::from(second), (10..30).contains(&second));
        counters.enter("a", now, steady(5.0).at(now)).expect("plausible");
        if !is_silent {
            counters.enter("b", now, steady(50.0).at(now)).expect("plausible");
        }
        rates.push(counters.sum(|endpoint| is_silent && endpoint == "b"));
    }
    let expected = (1..40).map(|second| if (10..30).contains(&second) { 5.0 } else { 55.0 });
    assert!(
        rates.rates.iter().zip(expected).all(|(rate, expected)| (rate - expected).abs() < 1e-6),
        "{:?}",
        rates.rates
    );
}

/// What happens to a dispatcher between two scrapes.
#[derive(Debug, Clone, Copy)]
enum Event {
    Nothing,
    Restarts,
    Leaves,
    Silent,
    /// Its clock jumps ahead by this many seconds.
    Jumps(f64),
    /// Its machine stands still for a while, with its clock.
    Pauses,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => Just(Event::Nothing), 1 => Just(Event::Restarts), 1 => Just(Event::Leaves), 4 => Just(Event::Silent),
        1 => (0.0..100.0).prop_map(Event::Jumps), 1 => Just(Event::Pauses),
    ]
}

proptest! {
    /// Whatever the delays, intervals and phases of scrapes, the rate of steady dispatchers is that of the truth. The
    /// scaler dates a scrape by its end, and Prometheus by its beginning.
    #[test]
    fn the_rate_of_steady_dispatchers_is_exact_within_a_few_per_cent(
        dispatchers in proptest::collection::vec((1.0..1000.0, -1e6..0.0, 0.0..15.0, 0.5..15.0), 1..5),
        delays in proptest::collection::vec((0.0..1.0, 0.0..1.0), 300),
        by_prometheus in any::<bool>(),
    ) {
        let mut delays = delays.into_iter().cycle();
        let mut scrapes = Vec::new();
        for (index, &(rate, started, phase, interval)) in dispatchers.iter().enumerate() {
            let mut begin: f64 = phase;
            while begin < 100.0 {
                let (before, after) = delays.next().expect("endless");
                let (taken, received): (f64, f64) = (begin + before, begin + before + after);
                let stamp = if by_prometheus { begin } else { received };
                scrapes.push((received, stamp, index, Steady { rate, started }.at(taken)));
                begin = received.max(begin + interval);
            }
        }
        scrapes.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut counters, mut rates) = (Counters::default(), Rates::default());
        for (_, stamp, index, snapshot) in scrapes {
            counters.enter(&index.to_string(), stamp, snapshot).expect("plausible");
            // The scaler first reads when all are there.
            if counters.endpoints().count() == dispatchers.len() {
                rates.push(counters.sum(|_| false));
            }
        }
        let truth: f64 = dispatchers.iter().map(|dispatcher| dispatcher.0).sum();
        prop_assert!(rates.rates.len() > 2);
        prop_assert!(rates.rates.iter().all(|rate| (rate / truth - 1.0).abs() < 0.04), "{truth}: {:?}", rates.rates);
    }

    /// Dispatchers join, restart, leave and are silent, and their clocks jump. The rate never exceeds the truth.
    #[test]
    fn no_event_looks_like_a_burst(
        rows in proptest::collection::vec(proptest::collection::vec((event(), 0.0..1.0), 3), 5..60),
    ) {
        let (mut counters, mut rates) = (Counters::default(), Rates::default());
        let mut fleet = [10.0, 20.0, 30.0].map(|rate| Steady { rate, started: -50.0 });
        // The seconds by which each clock is ahead.
        let mut ahead = [0.0; 3];
        for (index, row) in rows.iter().enumerate() {
            let now = 2.0 * index as f64;
            let mut silent = Vec::new();
            for (which, &(event, delay)) in row.iter().enumerate() {
                let endpoint = which.to_string();
                match event {
                    Event::Nothing => {}
                    Event::Restarts => (fleet[which].started, ahead[which]) = (now, 0.0),
                    Event::Leaves => counters.close(&endpoint),
                    Event::Silent => silent.push(endpoint.clone()),
                    Event::Jumps(seconds) => ahead[which] += seconds,
                    Event::Pauses => fleet[which].started += 1.5,
                }
                if matches!(event, Event::Leaves | Event::Silent) {
                    continue;
                }
                let snapshot = fleet[which].at(now);
                let uptime = snapshot.uptime.map(|uptime| uptime + ahead[which]);
                // Many restarts look like several dispatchers, and a pause like a dispatcher that is stuck.
                let _outcome = counters.enter(&endpoint, now + delay, Snapshot { uptime, ..snapshot });
            }
            rates.push(counters.sum(|endpoint| silent.iter().any(|silent| silent == endpoint)));
        }
        prop_assert!(rates.rates.iter().all(|rate| (0.0..62.0).contains(rate)), "{:?}", rates.rates);
    }

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
        let mut possible = 0;
        for (index, step) in steps.iter().enumerate() {
            let mut frozen = Vec::new();
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
                frozen.extend(outcome.is_err().then(|| which.to_string()));
            }
            let sum = counters.sum(|endpoint| frozen.iter().any(|frozen| frozen == endpoint));
            let Some(sum) = sum.map(|sum| sum.arrivals) else { continue };
            if let Some(before) = before {
                prop_assert!(sum >= before && sum - before <= f64::from(possible), "{before} → {sum}");
            }
            (before, possible) = (Some(sum), 0);
        }
    }
}
