//! Tests of the rotation of replicas: examples and properties. Time and randomness are arguments.

use super::*;
use proptest::prelude::*;

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
