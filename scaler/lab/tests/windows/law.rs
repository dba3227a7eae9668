//! What the law `windows` recommends under steady, rising and falling load.

use lab::laws::windows::Windows;
use law::histogram::Histogram;
use law::observation::{Observation, Replicas};
use law::table::{Law, Objective, Recommendation, Settings};
use std::time::Duration;

const S: fn(u64) -> Duration = Duration::from_secs;

fn ready(ready: usize) -> Replicas {
    Replicas { desired: ready, ready, ..Replicas::default() }
}

/// The last recommendation of a law that decides once a second. `arrivals` has one number for each second, and every
/// request takes 0.1 s.
fn run(arrivals: &[f64], queue_length: f64, replicas: Replicas) -> Recommendation {
    let objective = Objective { latency: Duration::from_millis(500), quantile: 0.99 };
    let mut law = Windows::new(&Settings {
        objective,
        interval: S(1),
        delay: Duration::ZERO,
        starts_per_second: f64::INFINITY,
        min: 1,
        max: 50,
    });
    let mut total = 0.0;
    let decisions = arrivals.iter().enumerate().map(|(second, count)| {
        total += count;
        law.decide(&Observation {
            at: S(second as u64),
            queue_length,
            in_flight: queue_length.min(1.0),
            arrivals: total,
            service: Histogram {
                buckets: vec![(0.0999, 0.0), (0.1001, total), (f64::INFINITY, total)],
                sum: 0.1 * total,
            },
            replicas,
            startup: Some(S(1)),
            ..Observation::default()
        })
    });
    decisions.reduce(|_, last| last).expect("there is at least one second")
}

fn decided(arrivals: &[f64], queue_length: f64, replicas: Replicas) -> (Option<usize>, &'static str) {
    let found = run(arrivals, queue_length, replicas);
    (found.replicas, found.reason)
}

#[test]
fn steady_load_gets_the_replicas_of_queueing_theory() {
    // A request may wait 0.4 s. At 5/s one server leaves 0.5·e⁻⁴ = 0.9 % late, and at 6/s 0.6·e^−3.2 = 2.4 %.
    for (rate, replicas) in [(5.0, 1), (6.0, 2), (13.0, 2), (40.0, 5)] {
        // Four ready replicas can answer all requests. One desired replica keeps doubtful replicas out of the answer.
        let enough = Replicas { desired: 1, ready: 4, ..Replicas::default() };
        assert_eq!(decided(&[rate; 40], 0.0, enough), (Some(replicas), "objective"), "{rate}/s");
    }
}

#[test]
fn a_rise_is_seen_in_its_first_second_and_extrapolated() {
    let mut arrivals = [5.0; 40];
    arrivals[39] = 20.0;
    let found = run(&arrivals, 0.0, ready(1));
    // 20 requests/s arrive, 15/s more than before. The law adds 0.7 of that jump.
    assert!(found.text.contains("risen to 20.0/s, and may reach 30.5/s"), "{}", found.text);
    assert_eq!((found.replicas, found.reason), (Some(4), "rising"));
}

#[test]
fn chance_is_no_rise() {
    let mut arrivals = [4.0; 40];
    arrivals[39] = 10.0;
    assert_eq!(run(&arrivals, 0.0, ready(1)).replicas, Some(1));
}

#[test]
fn a_backlog_is_worked_off_unless_starting_replicas_suffice() {
    // 60 + 5·2 − 1·2/0.1 = 50 requests would be left, and (5 + 50/2)·0.1 = 3 replicas work them off.
    assert_eq!(decided(&[5.0; 40], 60.0, ready(1)), (Some(3), "backlog"));
    let found = run(&[3.0; 40], 60.0, Replicas { desired: 7, ready: 1, starting: 6, ..Replicas::default() });
    assert_eq!(found.reason, "objective");
}

#[test]
fn a_replica_is_removed_only_if_clearly_fewer_are_needed() {
    // One replica holds the objective up to 5.1 requests/s. A measured 4.9/s may be a true 5.1/s, so both replicas
    // stay. A measured 3/s cannot be, so one goes.
    assert_eq!(run(&[4.9; 200], 0.0, ready(2)).replicas, Some(2));
    assert_eq!(run(&[3.0; 200], 0.0, ready(2)).replicas, Some(1));
}

#[test]
fn replicas_that_were_needed_are_kept_for_a_while() {
    let arrivals = [vec![20.0; 60], vec![2.0; 35]].concat();
    let recommended = |seconds| run(&arrivals[..seconds], 0.0, ready(5)).replicas;
    assert_eq!((recommended(75), recommended(95)), (recommended(60), Some(1)));
}

#[test]
fn silence_needs_no_replica_and_the_first_request_wakes_one() {
    assert_eq!(decided(&[0.0], 0.0, ready(3)), (None, "waiting"));
    assert_eq!(decided(&[0.0; 40], 3.0, ready(3)), (None, "no_data"));
    assert_eq!(decided(&[0.0; 130], 0.0, ready(3)), (Some(0), "idle"));
    assert_eq!(decided(&[0.0; 130], 0.0, ready(0)), (Some(0), "idle"));
    assert_eq!(decided(&[0.0, 1.0], 1.0, ready(0)), (Some(1), "waking"));
}
