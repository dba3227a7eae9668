//! When a level starts and stops.

use law::level::{Level, Saving, Terms};

/// A late request costs 5 replica-seconds, and a start takes 3.5 s.
const TERMS: Terms = Terms { elapsed: 0.5, price: 5.0, start: 3.5, lead: 3.5 };

/// Lets the level learn `seconds` with these late requests per second that it would save. Returns the seconds in which
/// the replica should be there.
fn run(level: &mut Level, seconds: f64, late: f64) -> f64 {
    let saving = Saving { expected: late, cautious: late, since_last_tick: late * TERMS.elapsed };
    let ticks = (seconds / TERMS.elapsed) as usize;
    TERMS.elapsed * (0..ticks).filter(|_| level.tick(&TERMS, &saving, true)).count() as f64
}

#[test]
fn a_level_starts_once_its_absence_has_cost_most_of_a_start() {
    for (late, seconds) in [
        // Worth less than it costs.
        (0.19, 0.0),
        // Each second costs 0.25 replica-seconds more than the replica would, so 2.1 take 8.5 s.
        (0.25, 12.0),
        // Ten late requests per second cost 24.5 replica-seconds in the first half second.
        (10.0, 20.0),
    ] {
        assert_eq!(run(&mut Level::new(false), 20.0, late), seconds, "{late} late requests per second");
    }
}

#[test]
fn a_load_that_comes_back_makes_the_hold_longer() {
    let mut level = Level::new(false);
    run(&mut level, 10.0, 0.0);
    run(&mut level, 60.0, 10.0);
    run(&mut level, 300.0, 0.0);
    run(&mut level, 60.0, 10.0);
    // In the lead of 3.5 s, 40 requests came late for lack of the replica. With the start they cost
    // 203.5 replica-seconds. The first hold is a sixth of that.
    assert_eq!(run(&mut level, 100.0, 0.0), 33.5);
    // The load was away for 100 s, which is less than 203.5 s: it was worth waiting for it.
    run(&mut level, 60.0, 10.0);
    assert_eq!(run(&mut level, 300.0, 0.0), 203.0);
    // It was away for 300 s, which was not worth it.
    run(&mut level, 60.0, 10.0);
    assert_eq!(run(&mut level, 100.0, 0.0), 33.5);
}

#[test]
fn what_an_absence_costs_is_measured_anew_each_time_the_load_comes_back() {
    let mut level = Level::new(false);
    run(&mut level, 10.0, 0.0);
    run(&mut level, 60.0, 10.0);
    run(&mut level, 600.0, 0.0);
    run(&mut level, 60.0, 0.5);
    // The second time only 2 requests came late. That counts for 0.35: 40 − 0.35 · 38 = 26.7 requests.
    assert_eq!(run(&mut level, 100.0, 0.0), 22.5);
}

#[test]
fn a_level_that_is_used_is_on_even_if_starts_take_no_time() {
    let terms = Terms { start: 0.0, lead: 0.0, ..TERMS };
    let saving = Saving { expected: 1.0, cautious: 1.0, since_last_tick: 0.0 };
    let mut level = Level::new(false);
    assert!((0..9).all(|_| level.tick(&terms, &saving, true)));
}

#[test]
fn replicas_that_are_there_at_the_start_are_no_reason_to_keep_them() {
    assert_eq!(run(&mut Level::new(true), 20.0, 0.0), 1.5);
    assert_eq!(run(&mut Level::new(true), 20.0, 1.0), 20.0);
}

#[test]
fn a_replica_that_is_not_there_is_not_held() {
    let used = Saving { expected: 10.0, cautious: 10.0, since_last_tick: 5.0 };
    let idle = Saving { expected: 0.0, cautious: 0.0, since_last_tick: 0.0 };
    let mut level = Level::new(false);
    assert!((0..9).all(|_| level.tick(&TERMS, &used, false)), "it is worth its cost, although no limit grants it");
    assert!(!level.tick(&TERMS, &idle, false), "it would be started for a load that has gone");
    assert!(level.tick(&TERMS, &used, false));
    assert!(level.tick(&TERMS, &idle, true), "a replica that is there is held");
}
