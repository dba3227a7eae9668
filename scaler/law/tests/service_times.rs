//! What the law learns about the time that a request costs a replica.

use law::histogram::Histogram;
use law::observation::{Observation, Replicas};
use law::service_times::{ServiceMeter, ServiceTimes};
use std::time::Duration;

/// The measurement after 20 s of 10 answers per second, and `slow` as many times slower ones in the last 6 s.
fn measured(service: f64, work: f64, ready: usize, slow: f64) -> ServiceTimes {
    let mut meter = ServiceMeter::default();
    let mut times = ServiceMeter::default().learn(&Observation::default());
    let (mut buckets, mut sums) = ([0.0; 3], [0.0; 2]);
    for tick in 0..=40_u32 {
        let factor = if tick > 28 { slow } else { 1.0 };
        buckets[usize::from(tick > 28 && slow != 1.0)] += 5.0;
        sums = [sums[0] + 5.0 * service * factor, sums[1] + 5.0 * work * factor];
        let histogram = |mean: f64, sum: f64| Histogram {
            buckets: vec![
                (mean * 0.999, 0.0),
                (mean * 1.001, buckets[0]),
                (mean * slow.max(1.0) * 1.001, buckets[0] + buckets[1]),
                (f64::INFINITY, buckets[0] + buckets[1]),
            ],
            sum,
        };
        let replicas = Replicas { desired: ready, ready, ..Replicas::default() };
        let (service, work) = (histogram(service, sums[0]), histogram(work, sums[1]));
        let at = Duration::from_millis(500 * u64::from(tick));
        times = meter.learn(&Observation { at, service, work, replicas, ..Observation::default() });
    }
    times
}

#[test]
fn waiting_at_a_replica_is_not_its_work() {
    for (service, work, replicas, mean, response) in [
        (0.08, 0.08, 1, 0.08, 0.08),
        // A full replica computes one request while another one waits there.
        (0.2, 0.1, 1, 0.1, 0.1),
        // A full replica computes many requests in one pass while as many wait there.
        (0.3, 0.02, 1, 0.02, 0.15),
        // Two dispatchers share one replica, and each counts all its work.
        (0.2, 0.2, 1, 0.1, 0.1),
        (0.2, 0.2, 2, 0.2, 0.2),
    ] {
        let found = measured(service, work, replicas, 1.0);
        assert!((found.work - mean).abs() + (found.response - response).abs() < 1e-9, "{found:?}");
    }
}

#[test]
fn replicas_that_become_slower_are_seen_within_seconds() {
    let found = measured(0.05, 0.05, 4, 3.0);
    assert!((found.work - 0.15).abs() < 0.01, "{found:?}");
}

/// The work that is measured for one replica with `slots` slots. It answers 10 requests per second, of 50 ms each,
/// then for 10 s `fast` per second, of 1 ÷ `fast` each, and then for 40 s as at first.
fn work_after_a_burst(slots: f64, fast: f64) -> f64 {
    let (mut meter, mut answers, mut busy, mut work) = (ServiceMeter::default(), 0.0, 0.0, 0.0);
    for tick in 0..=140_u32 {
        let (rate, each) = if (41..=60).contains(&tick) { (fast, 1.0 / fast) } else { (10.0, 0.05) };
        (answers, busy) = (answers + rate / 2.0, busy + rate / 2.0 * each);
        let times = Histogram { buckets: vec![(0.1, answers), (f64::INFINITY, answers)], sum: busy };
        let seen = Observation {
            at: Duration::from_millis(500 * u64::from(tick)),
            capacity: slots,
            service: times.clone(),
            work: times,
            replicas: Replicas { desired: 1, ready: 1, ..Replicas::default() },
            ..Observation::default()
        };
        work = meter.learn(&seen).work;
    }
    work
}

#[test]
fn a_replica_that_computes_several_requests_at_once_is_measured_by_its_busiest_seconds() {
    for (slots, fast, work) in [
        (16.0, 40.0, 1.0 / 40.0),
        // Four slots hold two requests that are computed and two that wait, so 50 ms become 25 ms at most.
        (4.0, 80.0, 0.025),
        // With two slots, one request is computed at a time. The images of the burst were smaller.
        (2.0, 80.0, 0.05),
    ] {
        let found = work_after_a_burst(slots, fast);
        assert!((found - work).abs() < 0.002, "{slots} slots, {fast}/s: {found}");
    }
}

/// The work that is measured for one replica with 16 slots after 30 s. It answers `rate` requests per second, and
/// works `each` seconds for one. It says that full batches cost 12 ms a request. Requests wait in the last 20 s if
/// `is_full`.
fn work_beside_full_batches(rate: f64, each: f64, is_full: bool) -> f64 {
    let (mut meter, mut work) = (ServiceMeter::default(), 0.0);
    for tick in 0..=60_u32 {
        let answers = rate / 2.0 * f64::from(tick);
        let times = Histogram { buckets: vec![(0.1, answers), (f64::INFINITY, answers)], sum: answers * each };
        let seen = Observation {
            at: Duration::from_millis(500 * u64::from(tick)),
            capacity: 16.0,
            queue_length: if is_full && tick > 20 { 9.0 } else { 0.0 },
            service: times.clone(),
            work: times,
            full_work: Some(Duration::from_millis(12)),
            replicas: Replicas { desired: 1, ready: 1, ..Replicas::default() },
            ..Observation::default()
        };
        work = meter.learn(&seen).work;
    }
    work
}

#[test]
fn full_batches_cost_what_the_replica_says_unless_it_gives_less_while_requests_wait() {
    for (rate, each, is_full, work) in [
        (10.0, 0.05, false, 0.012),
        // Half of the 16 slots are computed at once, so 160 ms for a request alone become 20 ms at best.
        (5.0, 0.16, false, 0.02),
        (83.0, 0.012, true, 0.012),
        // Decoding allows 40 requests per second.
        (40.0, 0.025, true, 0.025),
        // Chance explains 74 answers per second where 83 are reported.
        (74.0, 1.0 / 74.0, true, 0.012),
        // A mean that is already lower counts.
        (100.0, 0.010, false, 0.010),
    ] {
        let found = work_beside_full_batches(rate, each, is_full);
        assert!((found - work).abs() < 2e-4, "{rate}/s of {each} s, full {is_full}: {found} for {work}");
    }
}

#[test]
fn a_guess_stands_until_an_answer_was_measured() {
    let guess = ServiceTimes { work: 0.05, variation: 0.22, response: 0.05 };
    assert_eq!(ServiceMeter::default().learn(&Observation::default()), guess);
}
