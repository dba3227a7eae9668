//! How the ceiling is found, how long it holds, and when replicas are withdrawn.

use law::histogram::Histogram;
use law::limits::Limit;
use law::limits::ceiling::{Ceiling, Reached};
use law::observation::{Observation, Replicas};
use std::time::Duration;

const S: fn(u64) -> Duration = Duration::from_secs;

/// An observation of `ready` replicas, all of them desired, that have given `answers` answers.
fn seen(second: u64, ready: usize, queue_length: f64, answers: f64) -> Observation {
    let service = Histogram { buckets: vec![(f64::INFINITY, answers)], sum: 0.0 };
    let replicas = Replicas { desired: ready, ready, ..Replicas::default() };
    Observation { at: S(second), queue_length, service, replicas, ..Observation::default() }
}

/// An observation of `ready` replicas and one more that cannot be placed.
fn blocked(second: u64, ready: usize) -> Observation {
    let replicas = Replicas { desired: ready + 1, ready, starting: 0, blocked: 1 };
    Observation { replicas, ..seen(second, ready, 0.0, 0.0) }
}

#[test]
fn after_a_replica_without_gain_none_is_added_for_a_while() {
    // The third replica should bring 10/s. With 24/s it brings two fifths of that, which is a gain. With 21/s it brings
    // a tenth, which is none.
    for (rate, expected) in [(30.0, None), (24.0, None), (21.0, Some(3)), (15.0, Some(3))] {
        let mut ceiling = Ceiling::default();
        for second in 0..=10 {
            ceiling.watch(&seen(second, 2, 9.0, 20.0 * second as f64));
        }
        for second in 11..=21 {
            ceiling.watch(&seen(second, 3, 9.0, 200.0 + rate * (second - 10) as f64));
        }
        let found = ceiling.at(S(21)).map(|reached| (reached.replicas, reached.limit));
        assert_eq!(found, expected.map(|replicas| (replicas, Limit::NoGain)), "{rate}/s");
    }
}

#[test]
fn missing_answers_of_silent_dispatchers_set_no_ceiling() {
    let mut ceiling = Ceiling::default();
    for second in 0..=10 {
        ceiling.watch(&seen(second, 2, 9.0, 20.0 * second as f64));
    }
    for second in 11..=40 {
        // One of two dispatchers is silent, so half of the answers are missing.
        let is_partial = second < 30;
        let rate = if is_partial { 15.0 } else { 30.0 };
        ceiling.watch(&Observation { is_partial, ..seen(second, 3, 9.0, 200.0 + rate * (second - 10) as f64) });
        assert_eq!(ceiling.at(S(second)), None, "at {second} s");
    }
}

#[test]
fn throughput_sets_no_ceiling_while_the_queue_is_empty() {
    let mut ceiling = Ceiling::default();
    for second in 0..60 {
        ceiling.watch(&seen(second, 1 + second as usize / 20, 0.0, 5.0 * second as f64));
    }
    assert_eq!(ceiling.at(S(60)), None);
}

#[test]
fn each_failed_attempt_makes_the_next_pause_longer() {
    let mut ceiling = Ceiling::default();
    let mut at = 0;
    let mut pause = |rest: u64| {
        at += rest;
        ceiling.watch(&blocked(at, 3));
        let pause = (0..).find(|&pause| ceiling.at(S(at + pause)).is_none()).expect("every pause ends");
        at += pause + 1;
        pause
    };
    assert_eq!([(); 6].map(|()| pause(0)), [15, 30, 60, 120, 120, 120]);
    assert_eq!(pause(240), 15, "the last failure was long ago");
}

#[test]
fn unplaced_replicas_stay_desired_until_a_cluster_autoscaler_has_seen_them() {
    let mut ceiling = Ceiling::default();
    for second in 0..=11 {
        ceiling.watch(&blocked(second, 3));
        let Reached { replicas, limit, is_final, .. } = ceiling.at(S(second)).expect("a replica is blocked");
        assert_eq!((replicas, limit, is_final), (3, Limit::Full, second >= 10), "at {second} s");
    }
    // From 12 s on, no replica is unplaced. The ceiling was last renewed at 11 s and holds for 15 s, until 26 s.
    for second in 12..26 {
        ceiling.watch(&seen(second, 3, 0.0, 0.0));
        assert!(ceiling.at(S(second)).is_some(), "at {second} s");
    }
    assert_eq!(ceiling.at(S(26)), None);
}

#[test]
fn the_ceiling_is_never_below_one_replica() {
    let mut ceiling = Ceiling::default();
    ceiling.watch(&blocked(0, 0));
    assert_eq!(ceiling.at(Duration::ZERO).map(|reached| reached.replicas), Some(1));
}
