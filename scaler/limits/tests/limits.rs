//! What each limit makes of recommendations.

use law::histogram::Histogram;
use law::observation::{Observation, Replicas};
use limits::Limit::{self, Bounded, Full, Granted, Occupied, Paced, Partial, Stabilised};
use limits::{Guard, Limiter, Limits};
use std::time::Duration;

const S: fn(u64) -> Duration = Duration::from_secs;

fn seen(second: u64, current: usize) -> Observation {
    let replicas = Replicas { desired: current, ready: current, ..Replicas::default() };
    Observation { at: S(second), replicas, capacity: current as f64, ..Observation::default() }
}

fn guarded(min: usize, max: usize) -> Limits {
    Limits { guard: Guard::On, ..Limits::bounds(min, max) }
}

/// Limits with a stabilisation window, an outage and a pause after it of ten seconds each.
fn stabilised() -> Limits {
    Limits { down_window: S(10), outage: S(10), settle: S(10), ..guarded(1, 5) }
}

/// Applies the limits to rows of (second, present replicas, recommended replicas, desired replicas, limit).
fn check(limits: Limits, rows: impl IntoIterator<Item = (u64, usize, usize, usize, Limit)>) {
    let mut limiter = Limiter::new(limits);
    for (second, current, recommended, desired, limit) in rows {
        let found = limiter.apply(&seen(second, current), Some(recommended));
        assert_eq!(found, (desired, limit), "at {second} s");
    }
}

#[test]
fn replicas_are_added_at_once_and_removed_after_the_stabilisation_window() {
    let up = [(0, 1, 4, 4, Granted), (2, 4, 9, 5, Bounded), (4, 5, 2, 5, Stabilised), (12, 5, 2, 5, Stabilised)];
    let down = [(13, 5, 3, 3, Granted), (20, 3, 0, 3, Stabilised), (24, 3, 0, 1, Bounded)];
    check(stabilised(), up.into_iter().chain(down));
}

#[test]
fn nothing_is_removed_just_after_a_start_or_an_outage() {
    check(stabilised(), (0..10).map(|second| (second, 4, 1, 4, Stabilised)).chain([(10, 4, 1, 1, Granted)]));
    check(stabilised(), [(0, 4, 4, 4, Granted), (60, 4, 1, 4, Stabilised)]);
    // The outage ended at 38 s. It was shorter than the 20 s of the pause that follows.
    let settling = [0, 19, 38, 39].into_iter().chain(40..58).map(|second| (second, 4, 1, 4, Stabilised));
    let limits = Limits { outage: S(2), settle: S(20), ..Limits::bounds(1, 5) };
    check(limits, settling.chain([(58, 4, 1, 1, Granted), (59, 4, 1, 1, Granted)]));
}

#[test]
fn a_law_without_an_opinion_recommends_nothing() {
    let mut limiter = Limiter::new(stabilised());
    for second in 0..30 {
        assert_eq!(limiter.apply(&seen(second, 4), None), (4, Granted));
    }
    assert_eq!(limiter.apply(&seen(30, 4), Some(3)), (3, Granted));
}

#[test]
fn a_partial_observation_adds_replicas_and_removes_none_until_the_pause_after_it_is_over() {
    let limits = Limits { outage: S(20), settle: S(20), ..guarded(1, 5) };
    let mut limiter = Limiter::new(limits);
    for (second, is_partial, current, recommended, expected) in [
        (0, false, 2, 2, (2, Granted)),
        (20, false, 3, 2, (2, Granted)),
        (21, true, 3, 2, (3, Partial)),
        (22, true, 3, 4, (4, Granted)),
        (23, true, 9, 2, (5, Partial)),
        (24, false, 4, 2, (4, Stabilised)),
        (42, false, 4, 2, (4, Stabilised)),
        (43, false, 4, 2, (2, Granted)),
    ] {
        let seen = Observation { is_partial, ..seen(second, current) };
        assert_eq!(limiter.apply(&seen, Some(recommended)), expected, "at {second} s");
    }
}

#[test]
fn bounds_hold_at_once_despite_the_window() {
    check(stabilised(), [(0, 9, 7, 5, Bounded), (1, 0, 0, 1, Bounded)]);
}

#[test]
fn replicas_at_work_stay() {
    let mut limiter = Limiter::new(guarded(1, 9));
    let busy = Observation { in_flight: 3.0, queue_length: 1.0, ..seen(5, 6) };
    assert_eq!(limiter.apply(&busy, Some(2)), (4, Occupied));
    let batching = Observation { at: S(6), capacity: 24.0, ..busy };
    assert_eq!(limiter.apply(&batching, Some(1)), (1, Granted), "four requests fit into the four slots of one replica");
}

#[test]
fn rates_are_per_minute() {
    let limits = Limits { up_rate: 3, down_rate: 2, ..Limits::bounds(1, 20) };
    let up = [(0, 1, 9, 4, Paced), (30, 4, 9, 4, Paced), (60, 4, 9, 7, Paced)];
    check(limits, up.into_iter().chain([(61, 7, 1, 5, Paced), (62, 5, 1, 5, Paced), (121, 5, 1, 3, Paced)]));
    // While another scaler leads, this one's decisions change nothing, so they do not count.
    check(limits, (0..30).map(|second| (second, 1, 9, 4, Paced)).chain([(30, 4, 9, 4, Paced)]));
}

#[test]
fn nothing_is_added_while_replicas_cannot_be_placed() {
    let mut limiter = Limiter::new(guarded(1, 9));
    let replicas = Replicas { desired: 4, ready: 3, blocked: 1, ..Replicas::default() };
    assert_eq!(limiter.apply(&Observation { replicas, ..seen(5, 4) }, Some(6)), (4, Full));
    assert_eq!(limiter.apply(&seen(10, 4), Some(6)), (4, Full), "there may be room for a moment only");
    assert_eq!(limiter.apply(&seen(30, 4), Some(6)), (6, Granted));
}

#[test]
fn replicas_that_cannot_be_placed_are_withdrawn() {
    let mut limiter = Limiter::new(guarded(1, 9));
    // All ready replicas are busy, and requests wait. Blocked replicas do not work on them.
    let replicas = Replicas { desired: 6, ready: 2, blocked: 4, ..Replicas::default() };
    let busy = Observation { replicas, in_flight: 2.0, queue_length: 20.0, capacity: 2.0, ..seen(0, 6) };
    let full = |second| Observation { at: S(second), ..busy.clone() };
    for second in 0..10 {
        assert_eq!(limiter.apply(&full(second), Some(7)), (6, Full), "at {second} s");
    }
    assert_eq!(limiter.apply(&full(10), Some(7)), (2, Full));
    assert_eq!(limiter.ceiling(S(10)), Some(2));
    assert_eq!(limiter.apply(&full(11), Some(1)), (2, Occupied), "no more than can be placed");
    assert_eq!(limiter.apply(&seen(12, 2), Some(7)), (2, Full));
    assert_eq!(limiter.apply(&seen(26, 2), Some(7)), (7, Granted), "a new attempt");
    assert_eq!(limiter.ceiling(S(26)), None);
    let mut least = Limiter::new(guarded(5, 9));
    least.apply(&full(0), Some(7));
    assert_eq!(least.apply(&full(10), Some(7)), (5, Full), "never below --min");
}

/// A ReplicaSet with one pod that crashes and two that are ready.
struct ReplicaSet {
    /// The seconds at which the other pods were created.
    created: Vec<u64>,
    ready: usize,
    crashing: usize,
    /// Whether the other pods become ready [`Self::START`] seconds after their creation. Otherwise they crash then.
    is_sound: bool,
}

impl ReplicaSet {
    const START: u64 = 5;

    fn observe(&mut self, second: u64) -> Observation {
        let before = self.created.len();
        self.created.retain(|created| created + Self::START > second);
        let started = before - self.created.len();
        *(if self.is_sound { &mut self.ready } else { &mut self.crashing }) += started;
        let starting = self.created.len();
        let desired = self.ready + starting + self.crashing;
        let replicas = Replicas { desired, ready: self.ready, starting, blocked: self.crashing, lost: 0 };
        Observation { replicas, capacity: self.ready as f64, ..seen(second, desired) }
    }

    /// Creates or deletes pods. Starting pods are deleted first, then crashing ones, and ready ones last.
    fn set(&mut self, second: u64, replicas: usize) {
        let present = self.ready + self.created.len() + self.crashing;
        self.created.extend(std::iter::repeat_n(second, replicas.saturating_sub(present)));
        for _ in replicas..present {
            if self.created.pop().is_none() {
                *(if self.crashing > 0 { &mut self.crashing } else { &mut self.ready }) -= 1;
            }
        }
    }
}

#[test]
fn replicas_are_added_beside_one_that_stays_blocked() {
    for (is_sound, expected) in [
        // Three pods start beside the crashing one, which is withdrawn once they are ready. Then another one is added.
        (true, vec![(25, 6), (30, 5), (31, 6)]),
        // Three pods crash, and are withdrawn after 10 s. The next attempt follows after a pause, which doubles.
        (false, vec![(25, 6), (40, 3), (70, 6), (85, 3), (145, 6), (160, 3), (280, 6), (295, 3)]),
    ] {
        let mut pods = ReplicaSet { created: vec![], ready: 2, crashing: 1, is_sound };
        let mut limiter = Limiter::new(guarded(3, 9));
        let mut changes = Vec::new();
        for second in 0..400 {
            let seen = pods.observe(second);
            let (desired, _) = limiter.apply(&seen, Some(6));
            changes.extend((desired != seen.replicas.desired).then_some((second, desired)));
            pods.set(second, desired);
        }
        assert_eq!(changes, expected, "new pods are sound: {is_sound}");
    }
}

#[test]
fn replicas_that_are_no_longer_blocked_stay() {
    let mut limiter = Limiter::new(guarded(1, 9));
    let replicas = Replicas { desired: 6, ready: 2, blocked: 4, ..Replicas::default() };
    for second in 0..10 {
        limiter.apply(&Observation { replicas, ..seen(second, 6) }, Some(7));
    }
    // A node comes just when the blocked replicas are to be withdrawn.
    let replicas = Replicas { ready: 5, blocked: 1, ..replicas };
    assert_eq!(limiter.apply(&Observation { replicas, ..seen(10, 6) }, Some(7)), (5, Full));
    assert_eq!(limiter.apply(&seen(11, 6), Some(7)), (6, Full));
}

#[test]
fn lost_replicas_are_replaced() {
    let replicas = Replicas { desired: 4, ready: 2, lost: 2, ..Replicas::default() };
    let observed = Observation { replicas, ..seen(0, 4) };
    for (limits, recommended, expected) in [
        (guarded(1, 9), 4, (6, Granted)),
        (guarded(1, 9), 2, (4, Granted)),
        (guarded(1, 9), 1, (3, Granted)),
        (guarded(3, 9), 1, (5, Bounded)),
        (guarded(1, 5), 4, (5, Bounded)),
        (guarded(1, 4), 4, (4, Bounded)),
        (guarded(0, 9), 0, (0, Granted)),
        (guarded(1, 9), 0, (3, Bounded)),
        (Limits::bounds(1, 9), 4, (4, Granted)),
    ] {
        let found = Limiter::new(limits).apply(&observed, Some(recommended));
        assert_eq!(found, expected, "{recommended} recommended, with {limits:?}");
    }
}

#[test]
fn a_thousand_replicas_that_are_added_one_after_the_other_reach_no_ceiling() {
    let mut limiter = Limiter::new(Limits { settle: S(20), outage: S(2), ..guarded(1, 10_000) });
    let mut answers = 0.0;
    let mut apply = |second: u64, desired: usize, ready: usize, recommended: usize| {
        // More requests wait than the ready replicas can answer, until nearly all of the new ones serve.
        let queue_length = if ready < 3400 { 500.0 } else { 0.0 };
        answers += 33.0 * ready as f64;
        let service = Histogram { buckets: vec![(f64::INFINITY, answers)], sum: 0.03 * answers };
        let replicas = Replicas { desired, ready, starting: desired - ready, ..Replicas::default() };
        let capacity = ready as f64;
        let in_flight = capacity;
        let seen =
            Observation { at: S(second), queue_length, in_flight, capacity, service, replicas, ..seen(second, 0) };
        limiter.apply(&seen, Some(recommended))
    };
    for second in 0..60 {
        assert_eq!(apply(second, 2500, 2500, 2500), (2500, Granted));
    }
    // Twenty replicas per second are created, and take 3 s to start.
    for second in 60..130 {
        let ready = 2500 + 20 * (second as usize).saturating_sub(63).min(50);
        assert_eq!(apply(second, 3500, ready, 3500), (3500, Granted), "at {second} s");
    }
    assert_eq!(apply(130, 3500, 3500, 3600), (3600, Granted));
}
