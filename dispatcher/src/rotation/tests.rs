//! Tests of the rotation of replicas: examples and properties. Time and randomness are arguments.

mod by_address;
mod claims;
mod scan;

use super::replica::{BUSY_PAUSE, FIRST_BACKOFF, SLOW_START_SLOTS, SLOW_START_TIME};
use super::{
    Address, Balance, Constraints, Duration, HealthSignal, Instant, MAX_CAPACITY, ProbeAnswer, ProbeEffect,
    ReplicaTotals, SlotNews,
};
use by_address::Rotation;
use proptest::prelude::*;
use scan::ScanRotation;
use std::collections::BTreeSet;

/// A rotation of the replicas `addresses`, which are all ready and have one slot each.
fn rotation(addresses: &[&str]) -> Rotation {
    let (mut rotation, now) = (Rotation::default(), Instant::now());
    rotation.publish(&set(addresses), now);
    join(&mut rotation, 1, now);
    rotation
}

/// Lets every due probe find its replica ready with the given capacity.
fn join(rotation: &mut Rotation, capacity: usize, now: Instant) {
    for address in rotation.due_probes(now) {
        rotation.record_probe(&address, Some(capacity), now, 0.5);
    }
}

fn set(addresses: &[&str]) -> BTreeSet<Address> {
    addresses.iter().map(|&address| address.into()).collect()
}

fn pick(rotation: &mut Rotation, now: Instant) -> Option<Address> {
    rotation.pick(Constraints::default(), now)
}

/// Picks a replica for a request that has failed at `tried`.
fn retry(rotation: &mut Rotation, tried: &str, now: Instant) -> Option<Address> {
    rotation.pick(Constraints { tried: &[tried.into()], is_suspect: false }, now)
}

/// Picks `count` times without freeing a slot. Returns the addresses, and "none" where no slot was free.
fn picks(rotation: &mut Rotation, now: Instant, count: usize) -> Vec<String> {
    (0..count).map(|_| pick(rotation, now).map_or("none".into(), |address| address.to_string())).collect()
}

const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The mean service time of the tests.
const SERVICE_TIME: Duration = Duration::from_millis(200);

const OK: HealthSignal = HealthSignal::Answered { capacity: None };

#[test]
fn replicas_with_a_free_slot_are_picked_in_turn() {
    let now = Instant::now();
    let mut rotation = rotation(&["a", "b", "c"]);
    assert_eq!(picks(&mut rotation, now, 4), ["a", "b", "c", "none"]);
    rotation.release("b", false, HealthSignal::Answered { capacity: Some(2) }, now, 0.5);
    rotation.release("a", false, OK, now, 0.5);
    assert_eq!(picks(&mut rotation, now, 4), ["a", "b", "b", "none"]);
}

#[test]
fn a_retry_goes_to_another_replica_if_there_is_one() {
    let now = Instant::now();
    let mut rotation = rotation(&["a", "b"]);
    assert_eq!(retry(&mut rotation, "a", now), Some("b".into()));
    assert_eq!(retry(&mut rotation, "a", now), None, "the request waits for b, which has no free slot");
    rotation.publish(&set(&["a"]), now);
    assert_eq!(retry(&mut rotation, "a", now), Some("a".into()), "no other replica is left");
}

#[test]
fn an_unreachable_replica_stays_ejected_until_a_probe_succeeds() {
    let start = Instant::now();
    let mut rotation = rotation(&["a"]);
    pick(&mut rotation, start);
    rotation.release("a", false, HealthSignal::Unreachable, start, 0.5);
    assert_eq!(pick(&mut rotation, start), None);
    assert_eq!(rotation.next_wake_up(start, STALL_TIMEOUT), Some(start + FIRST_BACKOFF));
    assert!(rotation.due_probes(start).is_empty());
    let later = start + FIRST_BACKOFF;
    assert_eq!(rotation.due_probes(later), ["a".into()]);
    assert!(rotation.due_probes(later).is_empty(), "one probe at a time");
    rotation.record_probe("a", None, later, 0.5);
    assert_eq!(rotation.next_wake_up(later, STALL_TIMEOUT), Some(later + 2 * FIRST_BACKOFF));
    let last = later + 2 * FIRST_BACKOFF;
    assert_eq!(rotation.due_probes(last), ["a".into()]);
    rotation.record_probe("a", Some(4), last, 0.5);
    assert_eq!(rotation.totals(), ReplicaTotals { ready: 1, capacity: 4, ..ReplicaTotals::default() });
    assert!(pick(&mut rotation, last).is_some());
    assert_eq!(pick(&mut rotation, last), None, "on probation, one request at a time");
    rotation.release("a", false, HealthSignal::Failed, last, 0.5);
    assert_eq!(
        rotation.next_wake_up(last, STALL_TIMEOUT),
        Some(last + 4 * FIRST_BACKOFF),
        "an answered probe does not shorten the pause before the next one"
    );
    let recovered = last + 4 * FIRST_BACKOFF;
    assert_eq!(rotation.due_probes(recovered), ["a".into()]);
    rotation.record_probe("a", Some(4), recovered, 0.5);
    assert!(pick(&mut rotation, recovered).is_some());
    rotation.release("a", false, OK, recovered, 0.5);
    assert_eq!([(); 5].map(|()| pick(&mut rotation, recovered).is_some()), [true, true, true, true, false]);
}

#[test]
fn new_replicas_take_requests_once_a_probe_finds_them_ready() {
    let now = Instant::now();
    let mut rotation = Rotation::default();
    rotation.publish(&set(&["a"]), now);
    assert_eq!(pick(&mut rotation, now), None);
    assert_eq!(rotation.due_probes(now), ["a".into()]);
    assert_eq!(rotation.record_probe("a", Some(2), now, 0.5), ProbeEffect::Joined);
    assert_eq!([(); 3].map(|()| pick(&mut rotation, now).is_some()), [true, true, false]);
}

#[test]
fn three_failures_in_a_row_eject_a_replica_and_busy_never_does() {
    let now = Instant::now();
    let mut rotation = rotation(&["a"]);
    for signal in [HealthSignal::Failed, HealthSignal::Failed, OK, HealthSignal::Failed, HealthSignal::Failed] {
        assert!(pick(&mut rotation, now).is_some());
        rotation.release("a", false, signal, now, 0.5);
    }
    for _ in 0..9 {
        rotation.release("a", false, HealthSignal::Inconclusive, now, 0.5);
        rotation.release("a", false, HealthSignal::Busy, now, 0.5);
    }
    assert_eq!(pick(&mut rotation, now), None, "a busy replica is passed over for a short time");
    assert_eq!(rotation.next_wake_up(now, STALL_TIMEOUT), Some(now + BUSY_PAUSE));
    assert!(pick(&mut rotation, now + BUSY_PAUSE).is_some());
    rotation.release("a", false, HealthSignal::Failed, now, 0.5);
    assert_eq!(rotation.totals().ejected, 1);
}

#[test]
fn requests_in_flight_together_share_the_time_that_the_replica_worked() {
    let mut rotation = Rotation::new(Balance::RoundRobin);
    let start = Instant::now();
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    rotation.publish(&set(&["a"]), start);
    rotation.record_probe("a", Some(2), start, 0.5);
    let mut worked = |taken: &[u64], released: u64| {
        for &taken in taken {
            assert!(pick(&mut rotation, at(taken)).is_some());
        }
        rotation.release("a", false, OK, at(released), 0.5).expect("the replica is published").as_millis()
    };
    // Two requests are sent at 0 ms and answered at 100 and 150 ms. A third is sent at 120 ms and answered at 210 ms.
    // Then the replica is idle until a fourth is sent at 900 ms.
    assert_eq!(worked(&[0, 0], 100), 100);
    assert_eq!(worked(&[120], 150), 50);
    assert_eq!(worked(&[], 210), 60);
    assert_eq!(worked(&[900], 950), 50);
}

#[test]
fn an_unpublished_replica_finishes_the_requests_that_it_holds() {
    let now = Instant::now();
    let mut rotation = rotation(&["a", "b"]);
    pick(&mut rotation, now);
    rotation.publish(&set(&["b"]), now);
    assert_eq!(rotation.totals().draining, 1);
    assert_eq!(pick(&mut rotation, now), Some("b".into()));
    rotation.release("a", false, OK, now, 0.5);
    assert_eq!(rotation.totals(), ReplicaTotals { ready: 1, capacity: 1, ..ReplicaTotals::default() });
}

#[test]
fn a_replica_that_answers_nothing_is_checked_for_liveness() {
    let start = Instant::now();
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let stall_timeout = Duration::from_millis(300);
    let mut rotation = rotation(&["a", "b"]);
    assert_eq!(picks(&mut rotation, start, 2), ["a", "b"]);
    rotation.release("b", false, OK, at(100), 0.5);
    assert_eq!(rotation.next_wake_up(at(100), stall_timeout), Some(at(300)));
    assert!(rotation.due_liveness_checks(at(299), stall_timeout).is_empty());
    assert_eq!(rotation.due_liveness_checks(at(300), stall_timeout), ["a".into()], "b holds no request");
    assert!(rotation.due_liveness_checks(at(300), stall_timeout).is_empty(), "one liveness check at a time");
    assert_eq!(rotation.record_probe("a", Some(1), at(310), 0.5), ProbeEffect::Unchanged, "slow, but alive");
    assert_eq!(rotation.due_liveness_checks(at(610), stall_timeout), ["a".into()]);
    assert_eq!(rotation.record_probe("a", None, at(900), 0.5), ProbeEffect::Stalled);
    assert_eq!(rotation.totals().ejected, 1);
    assert_eq!(rotation.due_liveness_checks(at(1200), stall_timeout), ["a".into()], "a still holds a request");
    assert_eq!(rotation.record_probe("a", None, at(1250), 0.5), ProbeEffect::Stalled);
    rotation.release("a", false, HealthSignal::Inconclusive, at(1250), 0.5);
    assert!(rotation.due_liveness_checks(at(9000), stall_timeout).is_empty());
}

#[test]
fn suspects_never_share_a_replica() {
    let now = Instant::now();
    let mut rotation = Rotation::default();
    rotation.publish(&set(&["a", "b"]), now);
    join(&mut rotation, 3, now);
    let suspect = Constraints { is_suspect: true, ..Constraints::default() };
    let held = [(); 3].map(|()| rotation.pick(suspect, now));
    assert_eq!(held, [Some("a".into()), Some("b".into()), None]);
    assert_eq!(
        picks(&mut rotation, now, 5),
        ["a", "b", "a", "b", "none"],
        "other requests share the replicas with suspects"
    );
    rotation.release("b", true, OK, now, 0.5);
    assert_eq!(rotation.pick(suspect, now), Some("b".into()));
}

#[test]
fn the_replica_with_the_smallest_share_of_slots_in_use_is_picked() {
    let now = Instant::now();
    let mut rotation = Rotation::new(Balance::LeastLoaded);
    rotation.publish(&set(&["a", "b"]), now);
    for (address, capacity) in rotation.due_probes(now).into_iter().zip([1, 4]) {
        rotation.record_probe(&address, Some(capacity), now, 0.5);
    }
    assert_eq!(picks(&mut rotation, now, 6), ["a", "b", "b", "b", "b", "none"]);
}

#[test]
fn only_an_answer_postpones_the_liveness_check() {
    let start = Instant::now();
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let stall_timeout = Duration::from_millis(100);
    for (signal, is_sign_of_life) in [
        (OK, true),
        (HealthSignal::Busy, true),
        (HealthSignal::Failed, true),
        (HealthSignal::Inconclusive, false),
        (HealthSignal::Overdue, false),
    ] {
        let mut rotation = Rotation::default();
        rotation.publish(&set(&["a"]), start);
        join(&mut rotation, 2, start);
        // The second request has a deadline of 60 ms, and its slot is filled again.
        assert_eq!(picks(&mut rotation, start, 2), ["a", "a"]);
        rotation.release("a", false, signal, at(60), 0.5);
        pick(&mut rotation, at(75));
        let expected: &[Address] = if is_sign_of_life { &[] } else { &["a".into()] };
        assert_eq!(rotation.due_liveness_checks(at(100), stall_timeout), expected, "{signal:?}");
    }
}

#[test]
fn a_replica_that_let_its_last_request_expire_is_checked_although_it_holds_none() {
    let start = Instant::now();
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let stall_timeout = Duration::from_millis(100);
    let mut rotation = rotation(&["a"]);
    pick(&mut rotation, start);
    rotation.release("a", false, HealthSignal::Inconclusive, at(50), 0.5);
    assert_eq!(rotation.due_liveness_checks(at(100), stall_timeout), ["a".into()]);
    assert_eq!(rotation.record_probe("a", None, at(700), 0.5), ProbeEffect::Stalled);
    assert_eq!(rotation.totals().ejected, 1);
    assert!(rotation.due_liveness_checks(at(9000), stall_timeout).is_empty(), "it is probed instead");
}

#[test]
fn a_replica_with_a_late_liveness_check_gets_no_request_until_it_gives_a_sign_of_life() {
    let start = Instant::now();
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let stall_timeout = Duration::from_millis(100);
    for answers_the_check in [true, false] {
        let mut rotation = Rotation::default();
        rotation.publish(&set(&["a"]), start);
        join(&mut rotation, 3, start);
        assert_eq!(picks(&mut rotation, start, 2), ["a", "a"]);
        assert_eq!(rotation.due_liveness_checks(at(100), stall_timeout), ["a".into()]);
        assert!(rotation.due_doubts(at(199)).is_empty());
        assert_eq!(rotation.next_wake_up(at(199), stall_timeout), Some(at(200)));
        assert_eq!(rotation.due_doubts(at(200)), ["a".into()]);
        assert!(rotation.due_doubts(at(300)).is_empty(), "once for each check");
        assert_eq!(pick(&mut rotation, at(300)), None);
        if answers_the_check {
            rotation.record_probe("a", Some(3), at(300), 0.5);
        } else {
            rotation.release("a", false, OK, at(300), 0.5);
        }
        assert_eq!(pick(&mut rotation, at(300)), Some("a".into()));
        if !answers_the_check {
            assert_eq!(
                rotation.record_probe("a", None, at(700), 0.5),
                ProbeEffect::Unchanged,
                "a has answered a request"
            );
            assert_eq!(rotation.totals().ready, 1);
        }
    }
}

#[test]
fn a_replica_that_says_it_is_not_ready_keeps_the_requests_that_it_holds() {
    let start = Instant::now();
    let later = start + Duration::from_millis(100);
    let mut rotation = rotation(&["a"]);
    pick(&mut rotation, start);
    assert_eq!(rotation.due_liveness_checks(later, Duration::from_millis(100)), ["a".into()]);
    assert_eq!(rotation.record_answer("a", ProbeAnswer::NotReady, later, 0.5), ProbeEffect::Unchanged);
    assert_eq!(rotation.totals().ejected, 1);
}

#[test]
fn a_replica_that_could_not_be_asked_stays_ready() {
    let start = Instant::now();
    let later = start + Duration::from_millis(100);
    let mut rotation = rotation(&["a"]);
    pick(&mut rotation, start);
    assert_eq!(rotation.due_liveness_checks(later, Duration::from_millis(100)), ["a".into()]);
    assert_eq!(rotation.record_answer("a", ProbeAnswer::Unknown, later, 0.5), ProbeEffect::Unchanged);
    assert_eq!(rotation.totals().ready, 1);
}

#[test]
fn a_replica_that_is_published_again_while_it_drains_is_probed_first() {
    let now = Instant::now();
    let mut rotation = Rotation::default();
    rotation.publish(&set(&["a"]), now);
    join(&mut rotation, 2, now);
    pick(&mut rotation, now);
    rotation.publish(&set(&[]), now);
    rotation.publish(&set(&["a"]), now);
    assert_eq!(pick(&mut rotation, now), None);
    assert_eq!(rotation.due_probes(now), ["a".into()]);
    rotation.record_probe("a", Some(2), now, 0.5);
    assert_eq!(picks(&mut rotation, now, 2), ["a", "none"], "it still holds the first request");
}

#[test]
fn an_address_with_another_pod_is_a_new_replica() {
    let now = Instant::now();
    let pod = |name: &str| [("a".into(), Some(name.into()))].into();
    let mut rotation = Rotation::default();
    rotation.publish_pods(pod("old"), now);
    join(&mut rotation, 3, now);
    assert_eq!(picks(&mut rotation, now, 2), ["a", "a"]);
    rotation.publish_pods(pod("new"), now);
    let totals = ReplicaTotals { ejected: 1, draining: 1, ..ReplicaTotals::default() };
    assert_eq!(rotation.totals(), totals, "the old replica finishes its requests");
    assert_eq!(pick(&mut rotation, now), None, "the new one is not probed yet");
    assert_eq!(rotation.due_probes(now), ["a".into()]);
    rotation.record_probe("a", Some(1), now, 0.5);
    assert_eq!(picks(&mut rotation, now, 2), ["a", "none"], "the old capacity is forgotten");
}

/// A rotation whose replicas, all once ready, have failed so often that they are ejected, except the last `ready` ones.
fn ejected(addresses: &[&str], ready: usize, now: Instant) -> Rotation {
    let mut rotation = rotation(addresses);
    let failing = &addresses[..addresses.len() - ready];
    for _ in 0..3 {
        for address in addresses {
            assert!(pick(&mut rotation, now).is_some());
            let signal = if failing.contains(address) { HealthSignal::Failed } else { OK };
            rotation.release(address, false, signal, now, 0.5);
        }
    }
    assert_eq!((rotation.totals().ready, rotation.totals().ejected), (ready, failing.len()));
    rotation
}

#[test]
fn if_more_than_half_are_ejected_the_live_ones_get_a_request_each_after_a_failed_probe() {
    let start = Instant::now();
    let mut rotation = ejected(&["a", "b", "c"], 1, start);
    assert_eq!(picks(&mut rotation, start, 2), ["c", "none"], "no probe has told yet which of them are alive");
    let later = start + FIRST_BACKOFF;
    assert_eq!(rotation.due_probes(later), ["a".into(), "b".into()]);
    rotation.record_answer("a", ProbeAnswer::NotReady, later, 0.5);
    rotation.record_answer("b", ProbeAnswer::Silent, later, 0.5);
    assert_eq!(retry(&mut rotation, "a", later), None, "a request that has failed at a is not sent there again");
    assert!(rotation.has_free_slot(later));
    assert_eq!(picks(&mut rotation, later, 2), ["a", "none"], "b is dead");
    rotation.release("a", false, HealthSignal::Failed, later, 0.5);
    assert_eq!(pick(&mut rotation, later), None, "not again before the next probe");
    let last = later + 2 * FIRST_BACKOFF;
    assert_eq!(rotation.due_probes(last), ["a".into(), "b".into()]);
    rotation.record_answer("a", ProbeAnswer::NotReady, last, 0.5);
    assert_eq!(pick(&mut rotation, last), Some("a".into()));
    rotation.release("a", false, OK, last, 0.5);
    assert_eq!(rotation.totals().ready, 2, "an answer is better evidence than a probe");
}

#[test]
fn ejected_replicas_get_no_requests_while_at_least_half_are_ready() {
    let start = Instant::now();
    let mut rotation = ejected(&["a", "b"], 1, start);
    let later = start + FIRST_BACKOFF;
    assert_eq!(rotation.due_probes(later), ["a".into()]);
    rotation.record_answer("a", ProbeAnswer::NotReady, later, 0.5);
    assert_eq!(picks(&mut rotation, later, 2), ["b", "none"]);
}

#[test]
fn replicas_that_were_never_ready_get_no_requests_even_if_no_other_is_left() {
    let now = Instant::now();
    let mut rotation = Rotation::default();
    rotation.publish(&set(&["a", "b"]), now);
    for address in rotation.due_probes(now) {
        rotation.record_answer(&address, ProbeAnswer::NotReady, now, 0.5);
    }
    assert!(!rotation.has_free_slot(now));
    assert_eq!(pick(&mut rotation, now), None);
}

#[test]
fn the_slots_of_a_newcomer_open_as_it_answers() {
    let now = Instant::now();
    let mut rotation = Rotation::default();
    rotation.publish(&set(&["a"]), now);
    join(&mut rotation, 10, now);
    let mut taken = 0;
    let mut fill = |rotation: &mut Rotation| {
        while pick(rotation, now).is_some() {
            taken += 1;
        }
        taken
    };
    assert_eq!(fill(&mut rotation), SLOW_START_SLOTS);
    for _ in 0..SLOW_START_SLOTS {
        rotation.release("a", false, OK, now, 0.5);
    }
    assert_eq!(fill(&mut rotation), 3 * SLOW_START_SLOTS, "twice as many are in flight");
    for _ in 0..2 * SLOW_START_SLOTS {
        rotation.release("a", false, OK, now, 0.5);
    }
    assert_eq!(fill(&mut rotation), 3 * SLOW_START_SLOTS + 10, "no more than the capacity");
}

#[test]
fn the_slots_of_a_newcomer_that_answers_slowly_are_open_after_a_while() {
    let start = Instant::now();
    let mut rotation = Rotation::default();
    rotation.publish(&set(&["a"]), start);
    join(&mut rotation, 10, start);
    assert_eq!(picks(&mut rotation, start, 5), ["a", "a", "a", "a", "none"]);
    let opens_at = start + SLOW_START_TIME;
    assert_eq!(rotation.next_wake_up(start, STALL_TIMEOUT), Some(opens_at));
    assert!(rotation.has_free_slot(opens_at));
    assert_eq!(picks(&mut rotation, opens_at, 7), ["a", "a", "a", "a", "a", "a", "none"]);
}

#[test]
fn a_capacity_beyond_the_maximum_counts_as_the_maximum() {
    let now = Instant::now();
    let mut rotation = rotation(&["a"]);
    pick(&mut rotation, now);
    rotation.release("a", false, HealthSignal::Answered { capacity: Some(usize::MAX) }, now, 0.5);
    assert_eq!(rotation.totals().capacity, MAX_CAPACITY);
    rotation.publish(&set(&["a", "b"]), now);
    join(&mut rotation, usize::MAX, now);
    assert_eq!(rotation.totals().capacity, 2 * MAX_CAPACITY);
}

/// A rotation with the ready replica "a", which has `capacity` slots and `held` requests.
fn one_replica(capacity: usize, held: usize, now: Instant) -> Rotation {
    let mut rotation = Rotation::default();
    rotation.publish(&set(&["a"]), now);
    join(&mut rotation, capacity, now);
    assert!((0..held).all(|_| pick(&mut rotation, now).is_some()));
    rotation
}

/// Frees a slot of "a" after an attempt whose answer told that `taken` other slots are taken.
fn told(rotation: &mut Rotation, signal: HealthSignal, taken: usize, now: Instant) {
    rotation.release_told("a", false, signal, SlotNews { taken: Some(taken), ..SlotNews::default() }, now, 0.5);
}

#[test]
fn slots_of_other_dispatchers_count_as_free_one_by_one_as_the_replica_answers() {
    let start = Instant::now();
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let mut rotation = one_replica(4, 1, start);
    told(&mut rotation, OK, 3, start);
    assert_eq!(rotation.own_slots_share(), 0.25);
    assert_eq!(picks(&mut rotation, start, 2), ["a", "none"]);
    // With four slots and a service time of 200 ms, it answers a request every 50 ms.
    assert_eq!(rotation.next_wake_up(start, STALL_TIMEOUT), Some(at(50)));
    assert!(!rotation.has_free_slot(at(49)));
    assert_eq!(picks(&mut rotation, at(50), 2), ["a", "none"]);
    assert_eq!(picks(&mut rotation, at(250), 3), ["a", "a", "none"]);
    assert_eq!(rotation.own_slots_share(), 1.0);
}

#[test]
fn own_requests_are_no_slots_of_other_dispatchers_in_whatever_order_their_answers_are_handled() {
    let now = Instant::now();
    // A replica answers four requests at once. The numbers are those that it tells with its answers.
    for order in [[3, 2, 1, 0], [0, 1, 2, 3], [2, 0, 3, 1], [0, 0, 0, 0]] {
        let mut rotation = one_replica(4, 4, now);
        for taken in order {
            told(&mut rotation, OK, taken, now);
        }
        assert_eq!(picks(&mut rotation, now, 5), ["a", "a", "a", "a", "none"], "{order:?}");
    }
}

#[test]
fn a_busy_replica_is_tried_again_once_at_the_time_that_it_told_within_bounds() {
    let start = Instant::now();
    for (retry, jitter, pause) in [
        (None, 0.5, 10.0),
        (None, 0.0, 8.0),
        (Some(100), 0.5, 100.0),
        (Some(100), 0.0, 80.0),
        (Some(100), 1.0, 120.0),
        (Some(0), 0.5, 1.0),
        (Some(u64::MAX), 0.5, 1000.0),
    ] {
        let mut rotation = one_replica(3, 1, start);
        let news = SlotNews { taken: Some(3), retry: retry.map(Duration::from_millis), ..SlotNews::default() };
        rotation.release_told("a", false, HealthSignal::Busy, news, start, jitter);
        let at = |milliseconds: f64| start + Duration::from_secs_f64(milliseconds / 1e3);
        assert_eq!(pick(&mut rotation, at(pause - 0.01)), None, "{retry:?} {jitter}");
        // One slot is probably free, and the others are still taken.
        assert_eq!(picks(&mut rotation, at(pause + 0.01), 2), ["a", "none"], "{retry:?} {jitter}");
    }
}

#[test]
fn an_answer_that_tells_of_a_free_slot_ends_the_pause_of_a_busy_replica() {
    let start = Instant::now();
    let later = start + Duration::from_millis(9);
    for (taken, expected) in [(1, ["a", "none"]), (2, ["none", "none"])] {
        let mut rotation = one_replica(2, 2, start);
        told(&mut rotation, HealthSignal::Busy, 2, start);
        told(&mut rotation, OK, taken, later);
        assert_eq!(picks(&mut rotation, later, 2), expected, "{taken} slots are taken");
    }
}

#[test]
fn the_least_loaded_replica_is_that_with_the_fewest_requests_of_all_dispatchers() {
    let now = Instant::now();
    let mut rotation = Rotation::new(Balance::LeastLoaded);
    rotation.publish(&set(&["a", "b"]), now);
    join(&mut rotation, 4, now);
    assert_eq!(picks(&mut rotation, now, 2), ["a", "b"]);
    told(&mut rotation, OK, 2, now);
    assert_eq!(picks(&mut rotation, now, 3), ["b", "a", "b"]);
}

/// A step of the comparison of the rotation with its oracle. Numbers choose one of what the step can happen to.
#[derive(Debug, Clone)]
enum Step {
    /// Replicas whose bits are set are published.
    Publish(u8),
    /// A request is sent. The replicas whose bits are set have been tried.
    Pick { tried: u8, is_suspect: bool },
    /// An attempt ends.
    Release(usize, HealthSignal, SlotNews),
    /// Time passes, in milliseconds, and what is due begins.
    Pass(u64),
    /// A probe or a liveness check ends.
    Answer(usize, ProbeAnswer),
}

fn step() -> impl Strategy<Value = Step> {
    let signal = prop_oneof![
        6 => (0..9_usize).prop_map(|capacity| HealthSignal::Answered { capacity: (capacity > 0).then_some(capacity) }),
        1 => Just(HealthSignal::Busy),
        1 => Just(HealthSignal::Inconclusive),
        3 => Just(HealthSignal::Failed),
        1 => Just(HealthSignal::Overdue),
        1 => Just(HealthSignal::Unreachable),
    ];
    let news = (prop::option::of(0..9_usize), prop::option::of(0..300_u64)).prop_map(|(taken, retry)| SlotNews {
        taken,
        retry: retry.map(Duration::from_millis),
        ..SlotNews::default()
    });
    let answer = prop_oneof![
        4 => (0..9_usize).prop_map(|capacity| ProbeAnswer::Ready { capacity }),
        2 => Just(ProbeAnswer::NotReady),
        1 => Just(ProbeAnswer::Silent),
        1 => Just(ProbeAnswer::Unknown),
    ];
    prop_oneof![
        1 => any::<u8>().prop_map(Step::Publish),
        9 => (prop_oneof![2 => Just(0), 1 => any::<u8>()], prop::bool::weighted(0.2))
            .prop_map(|(tried, is_suspect)| Step::Pick { tried, is_suspect }),
        7 => (any::<usize>(), signal, news).prop_map(|(index, signal, news)| Step::Release(index, signal, news)),
        4 => (0..250_u64).prop_map(Step::Pass),
        4 => (any::<usize>(), answer).prop_map(|(index, answer)| Step::Answer(index, answer)),
    ]
}

proptest! {
    #[test]
    fn the_rotation_does_the_same_as_a_scan_of_all_replicas(
        least_loaded in any::<bool>(),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let addresses = |bits: u8| -> Vec<Address> {
            let chosen = NAMES.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0);
            chosen.map(|(_, &name)| name.into()).collect()
        };
        let stall_timeout = Duration::from_millis(100);
        let balance = if least_loaded { Balance::LeastLoaded } else { Balance::RoundRobin };
        let (mut rotation, mut scan, mut now) = (Rotation::new(balance), ScanRotation::new(balance), Instant::now());
        let (mut held, mut asked): (Vec<(Address, bool)>, Vec<Address>) = (Vec::new(), Vec::new());
        let first = addresses(0b0001_1111).into_iter().collect();
        rotation.publish(&first, now);
        scan.publish(&first, now);
        for step in steps {
            match step {
                Step::Publish(bits) => {
                    let set = addresses(bits).into_iter().collect();
                    rotation.publish(&set, now);
                    scan.publish(&set, now);
                }
                Step::Pick { tried, is_suspect } => {
                    let tried = addresses(tried);
                    let constraints = Constraints { tried: &tried, is_suspect };
                    let picked = rotation.pick(constraints, now);
                    prop_assert_eq!(&picked, &scan.pick(constraints, now));
                    held.extend(picked.map(|address| (address, is_suspect)));
                }
                Step::Release(index, signal, news) if !held.is_empty() => {
                    let (address, was_suspect) = held.swap_remove(index % held.len());
                    let worked = rotation.release_told(&address, was_suspect, signal, news, now, 0.5);
                    prop_assert_eq!(worked, scan.release(&address, was_suspect, signal, news, now, 0.5));
                }
                Step::Answer(index, answer) if !asked.is_empty() => {
                    let address = asked.swap_remove(index % asked.len());
                    let effect = rotation.record_answer(&address, answer, now, 0.5);
                    prop_assert_eq!(effect, scan.record_answer(&address, answer, now, 0.5));
                }
                Step::Release(..) | Step::Answer(..) => {}
                Step::Pass(milliseconds) => {
                    now += Duration::from_millis(milliseconds);
                    let due = [
                        (rotation.due_probes(now), scan.due_probes(now)),
                        (rotation.due_liveness_checks(now, stall_timeout), scan.due_liveness_checks(now, stall_timeout)),
                        (rotation.due_doubts(now), scan.due_doubts(now)),
                    ];
                    for (number, (mut due, expected)) in due.into_iter().enumerate() {
                        due.sort();
                        let mut sorted = expected.clone();
                        sorted.sort();
                        prop_assert_eq!(due, sorted);
                        if number < 2 {
                            asked.extend(expected);
                        }
                    }
                }
            }
            prop_assert_eq!(rotation.has_free_slot(now), scan.has_free_slot(now));
            prop_assert_eq!(rotation.totals(), scan.totals());
            prop_assert_eq!(rotation.in_flight(), scan.replicas().iter().map(|replica| replica.in_flight).sum::<usize>());
            let wake_up = rotation.next_wake_up(now, stall_timeout);
            prop_assert!(scan.next_wake_up(now, stall_timeout).is_none_or(|exact| wake_up.is_some_and(|at| at <= exact)));
            prop_assert_eq!(rotation.own_slots_share(), scan.own_slots_share());
            let states = |replicas: Vec<&super::Replica>| -> Vec<_> {
                replicas.iter().map(|r| (r.address.clone(), r.state, r.capacity, r.in_flight, r.silent_since)).collect()
            };
            prop_assert_eq!(states(rotation.replicas()), states(scan.replicas().iter().collect()));
        }
        // Alarms that have no meaning any more are gone at the latest when they ring.
        now += Duration::from_secs(2);
        rotation.publish(&BTreeSet::new(), now);
        for (address, was_suspect) in held {
            rotation.release(&address, was_suspect, HealthSignal::Unreachable, now, 0.5);
        }
        rotation.next_wake_up(now, stall_timeout);
        rotation.due_probes(now);
        rotation.due_liveness_checks(now, stall_timeout);
        rotation.due_doubts(now + Duration::from_secs(1));
        prop_assert_eq!((rotation.replicas().len(), rotation.alarms()), (0, 0));
    }
}

proptest! {
    #[test]
    fn among_free_replicas_of_equal_capacity_the_one_picked_longest_ago_is_next(
        capacity in 1..4_usize,
        steps in prop::collection::vec((any::<bool>(), 0..9_usize), 1..300),
    ) {
        let now = Instant::now();
        let names = ["a", "b", "c", "d", "e"];
        let mut rotation = Rotation::default();
        rotation.publish(&set(&names), now);
        join(&mut rotation, capacity, now);
        // The number of the last pick, and the number of slots in use, for each replica.
        let (mut last_picks, mut held) = ([0; 5], [0; 5]);
        for (number, (takes, which)) in steps.into_iter().enumerate() {
            if takes {
                let free = (0..5).filter(|&index| held[index] < capacity);
                let expected = free.min_by_key(|&index| (last_picks[index], index));
                let picked = pick(&mut rotation, now);
                prop_assert_eq!(picked.as_deref(), expected.map(|index| names[index]));
                if let Some(index) = expected {
                    last_picks[index] = number + 1;
                    held[index] += 1;
                }
            } else if held[which % 5] > 0 {
                held[which % 5] -= 1;
                rotation.release(names[which % 5], false, OK, now, 0.5);
            }
        }
    }

    #[test]
    fn picks_are_proportional_to_capacity(capacities in prop::collection::vec(1..9_usize, 1..6)) {
        let now = Instant::now();
        let names: Vec<Address> = (0..capacities.len()).map(|index| index.to_string().into()).collect();
        let mut rotation = Rotation::default();
        rotation.publish(&names.iter().cloned().collect(), now);
        for (address, &capacity) in rotation.due_probes(now).iter().zip(&capacities) {
            rotation.record_probe(address, Some(capacity), now, 0.5);
        }
        let rounds = 20;
        let total: usize = capacities.iter().sum();
        let mut picks = vec![0_usize; capacities.len()];
        for _ in 0..total * rounds {
            let address = pick(&mut rotation, now).expect("every replica has a free slot");
            picks[address.parse::<usize>().expect("addresses are indices")] += 1;
            rotation.release(&address, false, OK, now, 0.5);
        }
        for (index, &capacity) in capacities.iter().enumerate() {
            prop_assert!(picks[index].abs_diff(capacity * rounds) <= capacity, "{picks:?} for {capacities:?}");
        }
    }

    #[test]
    fn no_replica_ever_holds_more_requests_than_its_capacity(
        steps in prop::collection::vec((0..4_u8, 0..4_usize), 0..300),
    ) {
        let now = Instant::now();
        let names = ["a", "b", "c", "d"];
        let mut rotation = rotation(&names);
        let mut held: Vec<Address> = Vec::new();
        for (action, which) in steps {
            match action {
                0 | 1 => held.extend(pick(&mut rotation, now)),
                2 if !held.is_empty() => {
                    let address = held.remove(which % held.len());
                    rotation.release(&address, false, OK, now, 0.5);
                }
                _ => {
                    rotation.publish(&set(&names[which..]), now);
                    join(&mut rotation, 1, now);
                }
            }
            for replica in rotation.replicas() {
                let holds = held.iter().filter(|&address| *address == replica.address).count();
                prop_assert_eq!(replica.in_flight, holds);
                prop_assert!(replica.in_flight <= replica.capacity);
            }
            prop_assert!(held.iter().all(|address| rotation.replicas().iter().any(|r| r.address == *address)));
        }
    }
}
