//! How the ceiling is found, how long it holds, and when replicas are withdrawn.

use law::histogram::Histogram;
use law::observation::{Observation, Replicas};
use limits::Limit;
use limits::ceiling::Ceiling;
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
    let replicas = Replicas { desired: ready + 1, ready, blocked: 1, ..Replicas::default() };
    Observation { replicas, ..seen(second, ready, 0.0, 0.0) }
}

/// Replicas that answer requests while others wait.
#[derive(Default)]
struct Overload {
    ceiling: Ceiling,
    second: u64,
    answers: f64,
}

impl Overload {
    /// Lets `ready` replicas give `rate` answers per second for `seconds`. Returns the first second at which a ceiling
    /// is reached, and its replicas.
    fn run(&mut self, ready: usize, seconds: u64, rate: f64) -> Option<(u64, usize)> {
        let mut found = None;
        for _ in 0..seconds {
            self.ceiling.watch(&seen(self.second, ready, 9.0, self.answers));
            if let Some(reached) = self.ceiling.at(S(self.second)).filter(|_| found.is_none()) {
                assert_eq!(reached.limit, Limit::NoGain);
                found = Some((self.second, reached.replicas));
            }
            self.second += 1;
            self.answers += rate;
        }
        found
    }
}

#[test]
fn replicas_that_certainly_bring_no_gain_are_a_ceiling() {
    /// Ready replicas, seconds, and answers per second.
    type Phase = (usize, u64, f64);
    let cases: [(&[Phase], Option<usize>); 13] = [
        // The third replica should bring 200/s. A quarter of that would be a gain.
        (&[(2, 20, 400.0), (3, 20, 600.0)], None),
        (&[(2, 20, 400.0), (3, 20, 500.0)], None),
        (&[(2, 20, 400.0), (3, 20, 400.0)], Some(3)),
        (&[(2, 20, 400.0), (3, 20, 300.0)], Some(3)),
        (&[(2, 20, 400.0), (3, 20, 0.0)], Some(3)),
        (&[(1, 12, 20.0), (2, 12, 20.0), (4, 12, 20.0)], Some(2)),
        // With fewer answers, chance explains more, so more time or more replicas are needed.
        (&[(1, 12, 5.0), (2, 60, 5.0)], None),
        (&[(1, 12, 5.0), (2, 12, 5.0), (4, 12, 5.0)], Some(4)),
        (&[(1, 45, 5.0), (2, 45, 5.0)], Some(2)),
        // Answers that come unevenly are less certain.
        (&[(1, 12, 20.0), (2, 2, 38.0), (2, 2, 2.0), (2, 2, 38.0), (2, 2, 2.0), (2, 5, 20.0)], None),
        // The replica 21 should bring 20/s, but the images are 4 % larger, or 6 %.
        (&[(20, 60, 400.0), (21, 120, 404.0)], None),
        (&[(20, 60, 400.0), (21, 120, 396.0)], None),
        (&[(20, 60, 400.0), (21, 9, 400.0), (24, 9, 400.0), (30, 15, 400.0)], Some(30)),
    ];
    for (phases, expected) in cases {
        let mut overload = Overload::default();
        let found = phases.iter().filter_map(|&(ready, seconds, rate)| overload.run(ready, seconds, rate)).next();
        assert_eq!(found.map(|(_, replicas)| replicas), expected, "{phases:?}");
    }
}

#[test]
fn the_pause_without_gain_ends_while_requests_still_wait() {
    let mut overload = Overload::default();
    assert_eq!(overload.run(1, 12, 20.0), None);
    // Each attempt brings no gain, and is judged once. Its replicas stay until the next attempt.
    for (ready, pause) in [(2, 60), (4, 120), (8, 240), (16, 480), (32, 900), (64, 900)] {
        let (second, replicas) = overload.run(ready, 20, 20.0).expect("the replicas bring no gain");
        assert_eq!(replicas, ready);
        for after in 0..pause {
            assert!(overload.ceiling.at(S(second + after)).is_some(), "{ready} replicas, {after} s after the ceiling");
        }
        overload.run(ready, second + pause - overload.second, 20.0);
        assert_eq!(overload.run(ready, 30, 20.0), None, "the pause of {pause} s for {ready} replicas is over");
    }
}

#[test]
fn answers_from_before_the_replicas_were_ready_set_no_ceiling() {
    let mut ceiling = Ceiling::default();
    // The figures are 8 s old, as with Prometheus. The third replica is ready, and brings throughput, from 40 s on.
    for second in 8..=100_u64 {
        let ready = if second < 40 { 2 } else { 3 };
        let taken = second - 8;
        let answers = 400.0 * taken as f64 + 200.0 * taken.saturating_sub(40) as f64;
        ceiling.watch(&Observation { age: S(8), ..seen(taken, ready, 9.0, answers) });
        assert_eq!(ceiling.at(S(taken)), None, "at {second} s");
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
        ceiling.watch(&seen(at, 3, 0.0, 0.0));
        let pause = (0..).find(|&pause| ceiling.at(S(at + pause)).is_none()).expect("every pause ends");
        at += pause + 1;
        pause
    };
    assert_eq!([(); 6].map(|()| pause(0)), [15, 30, 60, 120, 120, 120]);
    assert_eq!(pause(240), 15, "the last failure was long ago");
}

#[test]
fn blocked_replicas_are_withdrawn_once_no_node_can_be_expected() {
    for (placement, wait) in [(None, 10), (Some(S(90)), 90)] {
        let mut ceiling = Ceiling::default();
        for second in 0..=wait + 1 {
            ceiling.watch(&Observation { placement, ..blocked(second, 3) });
            let reached = ceiling.at(S(second)).expect("a replica is blocked");
            let hopeless = usize::from(second >= wait);
            assert_eq!(
                (reached.replicas, reached.limit, ceiling.hopeless()),
                (3, Limit::Full, hopeless),
                "at {second} s"
            );
        }
        // From now on, no replica is blocked. The ceiling was last renewed a second ago and holds for 15 s.
        for second in wait + 2..wait + 15 {
            ceiling.watch(&seen(second, 3, 0.0, 0.0));
            assert!(ceiling.at(S(second)).is_some(), "at {second} s");
        }
        assert_eq!((ceiling.at(S(wait + 15)), ceiling.hopeless()), (None, 0));
    }
}

#[test]
fn a_replica_that_stays_blocked_for_ever_does_not_prolong_the_ceiling() {
    let mut ceiling = Ceiling::default();
    let mut attempts = Vec::new();
    let mut more = 0;
    for second in 0..=600 {
        // The cluster never has room for the attempts, and they are withdrawn at once.
        let replicas = Replicas { desired: 4 + more, ready: 3, blocked: 1 + more, ..Replicas::default() };
        ceiling.watch(&Observation { replicas, ..seen(second, 3, 0.0, 0.0) });
        more = usize::from(ceiling.at(S(second)).is_none());
        attempts.extend((more == 1).then_some(second));
    }
    // The first replica is hopeless after 10 s, and stays so. From then on the ceiling holds for 15 s, and after each
    // failed attempt for twice as long, up to 120 s. An attempt is seen to fail after 1 s.
    let pauses: Vec<u64> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!((attempts[0], pauses), (25, vec![31, 61, 121, 121, 121]));
}

#[test]
fn the_ceiling_is_never_below_one_replica() {
    let mut ceiling = Ceiling::default();
    ceiling.watch(&blocked(0, 0));
    assert_eq!(ceiling.at(Duration::ZERO).map(|reached| reached.replicas), Some(1));
}

#[test]
fn lost_replicas_are_below_the_ceiling() {
    let mut ceiling = Ceiling::default();
    ceiling.watch(&seen(0, 4, 0.0, 0.0));
    let replicas = Replicas { desired: 4, ready: 2, lost: 2, ..Replicas::default() };
    ceiling.watch(&Observation { replicas, ..seen(1, 2, 0.0, 0.0) });
    assert_eq!(ceiling.at(S(1)), None);
    let replicas = Replicas { desired: 6, blocked: 1, starting: 1, ..replicas };
    ceiling.watch(&Observation { replicas, ..seen(2, 2, 0.0, 0.0) });
    assert_eq!(ceiling.at(S(2)).map(|reached| reached.replicas), Some(5));
}
