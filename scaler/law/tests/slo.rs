//! What the law `slo` recommends under steady, rising and falling load.

use law::histogram::Histogram;
use law::observation::{Observation, Replicas};
use law::slo::{Plan, Slo};
use law::table::{Law, Objective, Recommendation, Settings};
use proptest::prelude::*;
use std::time::Duration;

const S: fn(f64) -> Duration = Duration::from_secs_f64;

/// The settings of [`law`]. The platform adds any number of replicas at once.
fn settings() -> Settings {
    let objective = Objective { latency: S(0.5), quantile: 0.99 };
    Settings { objective, interval: S(1.0), delay: Duration::ZERO, starts_per_second: f64::INFINITY, min: 0, max: 50 }
}

fn law() -> Slo {
    Slo::new(&settings())
}

fn ready(ready: usize) -> Replicas {
    Replicas { desired: ready, ready, ..Replicas::default() }
}

/// The observation at `second` after `arrivals`, of which each took 0.1 s.
fn observation(second: f64, arrivals: f64, replicas: Replicas) -> Observation {
    let service =
        Histogram { buckets: vec![(0.099, 0.0), (0.101, arrivals), (f64::INFINITY, arrivals)], sum: 0.1 * arrivals };
    let startup = Some(S(3.0));
    Observation { at: S(second), arrivals, service, replicas, startup, ..Observation::default() }
}

/// All recommendations of a law that observes once a second. `arrivals` has one number for each second.
fn run(arrivals: &[f64], replicas: Replicas) -> Vec<Recommendation> {
    let (mut law, mut total) = (law(), 0.0);
    let decide = |(second, count): (usize, &f64)| {
        total += count;
        law.decide(&observation(second as f64, total, replicas))
    };
    arrivals.iter().enumerate().map(decide).collect()
}

fn last(arrivals: &[f64], replicas: Replicas) -> (Option<usize>, &'static str) {
    run(arrivals, replicas).last().map(|found| (found.replicas, found.reason)).expect("there is a second")
}

#[test]
fn a_steady_load_gets_the_replicas_that_are_worth_their_price() {
    for (rate, replicas) in [(5.0, 1), (9.0, 2), (13.0, 2), (18.0, 3), (40.0, 5)] {
        assert_eq!(last(&[rate; 300], ready(replicas)), (Some(replicas), "objective"), "{rate}/s");
        assert_eq!(last(&[rate; 300], ready(10)), (Some(replicas), "surplus"), "{rate}/s");
    }
}

#[test]
fn a_jump_starts_all_replicas_for_it_within_two_seconds() {
    let mut arrivals = [5.0; 102];
    arrivals[100..].fill(40.0);
    let found = run(&arrivals, ready(10));
    assert_eq!(found[99].replicas, Some(1));
    assert!(found[101].replicas >= Some(5), "{:?}", found[101]);
    let plan = found[101].plan.clone().expect("there are figures");
    assert!(plan.arrivals_low < 40.0 && 40.0 < plan.arrivals_high, "{plan:?}");
}

#[test]
fn the_delay_of_another_autoscaler_makes_the_lead_longer_and_a_start_no_dearer() {
    let plan = |delay| {
        let (mut law, mut total) = (Slo::new(&Settings { delay, ..settings() }), 0.0);
        let decide = |second| {
            total += 5.0 + f64::from(second);
            law.decide(&observation(f64::from(second), total, ready(10))).plan
        };
        (0..60).filter_map(decide).last().expect("there are figures")
    };
    let (at_once, delayed) = (plan(S(0.0)), plan(S(15.0)));
    assert_eq!(delayed.lead_seconds, at_once.lead_seconds + 15.0);
    assert!(delayed.planned_per_second > at_once.planned_per_second + 5.0, "{delayed:?}");
    let prices = |plan: &Plan| plan.levels.iter().map(|level| level.starts_at).collect::<Vec<_>>();
    assert_eq!(prices(&delayed)[0], prices(&at_once)[0]);
}

#[test]
fn a_rise_that_goes_on_is_extrapolated_over_the_lead() {
    let arrivals: Vec<f64> = (0..60).map(|second| 5.0 + f64::from(second)).collect();
    let found = run(&arrivals, ready(10)).pop().expect("there is a second");
    let plan = found.plan.expect("there are figures");
    assert!(plan.planned_per_second > plan.arrivals_per_second + 2.0, "{plan:?}");
    assert!(plan.planned_per_second < 80.0, "{plan:?}");
}

#[test]
fn a_fresh_law_expects_no_loads_far_above_those_that_it_has_seen() {
    for (startup, most) in [(3.0, 3), (40.0, 12)] {
        let mut law = Slo::new(&Settings { interval: S(0.5), min: 1, max: 500, ..settings() });
        for tick in 0..600 {
            let second = 0.5 * f64::from(tick);
            let seen = Observation { startup: Some(S(startup)), ..observation(second, 10.0 * second, ready(2)) };
            let found = law.decide(&seen);
            assert!(found.replicas <= Some(most), "start-up {startup} s, at {second} s: {found:?}");
        }
    }
}

/// A law that starts with one replica, whose recommendations the target follows at once, up to `most` replicas.
/// `arrivals` are the requests until each half second since the start. One replica answers, at 0.2 s for a request.
fn follow(startup: f64, most: usize, arrivals: impl Iterator<Item = f64>) -> Vec<Recommendation> {
    let mut law = Slo::new(&Settings { interval: S(0.5), min: 1, max: 10, ..settings() });
    let (mut desired, mut answers) = (1, 0.0_f64);
    let decide = |(tick, arrivals): (u32, f64)| {
        answers = (answers + 2.5).min(arrivals);
        let buckets = vec![(0.19, 0.0), (0.21, answers), (f64::INFINITY, answers)];
        let seen = Observation {
            at: S(0.5 * f64::from(tick)),
            arrivals,
            service: Histogram { buckets, sum: 0.2 * answers },
            replicas: Replicas { desired, ready: 1, starting: desired - 1, ..Replicas::default() },
            startup: Some(S(startup)),
            queue_length: (arrivals - answers - 1.0).max(0.0),
            in_flight: (arrivals - answers).min(1.0),
            capacity: 1.0,
            ..Observation::default()
        };
        let found = law.decide(&seen);
        desired = found.replicas.unwrap_or(desired).clamp(1, most);
        found
    };
    (0..).zip(arrivals).map(decide).collect()
}

#[test]
fn a_burst_just_after_the_start_is_not_taken_for_the_usual_load() {
    // Eight requests at once, and then 4.6 per second, which are 0.9 erlangs.
    for quiet in [9, 19, 59] {
        for startup in [5.0, 10.0, 20.0, 40.0] {
            let arrivals = (0..quiet + 60)
                .map(|tick| if tick < quiet { 0.0 } else { 8.0 + (2.3 * f64::from(tick - quiet)).floor() });
            let found = follow(startup, 10, arrivals);
            let most = found.iter().max_by_key(|found| found.replicas).expect("there are decisions");
            assert!(most.replicas <= Some(5), "start-up {startup} s, quiet for {quiet} ticks: {most:?}");
        }
    }
}

#[test]
fn a_replica_that_never_came_is_not_started_for_a_load_that_has_gone() {
    let burst = |tick: u32| if tick < 100 { 0.0 } else { 10.0 * f64::from(tick.min(160) - 100) };
    let found = follow(3.0, 3, (0..400).map(burst));
    assert!(found[150].replicas > Some(3), "the cluster has room for 3: {:?}", found[150]);
    for (tick, found) in found.iter().enumerate().skip(180) {
        let needed = found.plan.as_ref().map(|plan| plan.needed);
        assert!(found.replicas <= needed.max(Some(3)), "at tick {tick}: {found:?}");
    }
}

#[test]
fn the_words_are_true_while_no_request_comes() {
    let burst = |tick: u32| if tick < 100 { 0.0 } else { 10.0 * f64::from(tick.min(160) - 100) };
    let found = follow(3.0, 10, (0..600).map(burst));
    let (mut desired, mut reasons) = (1, std::collections::BTreeSet::new());
    for found in &found {
        let replicas = found.replicas.unwrap_or(desired);
        assert!(!found.text.starts_with("0.0 requests/s") && !found.text.contains("and 0.0/s"), "{}", found.text);
        if replicas < desired {
            assert!(found.reason != "rising" && !found.text.contains("would save"), "{found:?}");
            reasons.insert(found.reason);
        }
        if replicas > desired {
            let needed = found.plan.as_ref().map(|plan| plan.needed);
            assert!(needed >= Some(replicas), "{found:?}");
        }
        desired = replicas.max(1);
    }
    assert!(reasons.contains("surplus"), "{reasons:?}");
    let quiet = found.iter().find(|found| found.text.contains("no request has arrived or waited for 30 s"));
    assert!(quiet.is_some(), "{found:?}");
}

#[test]
fn the_longer_a_node_takes_the_more_replicas_may_be_needed_until_then() {
    // The load is low for the most part, and high for half a minute now and then.
    let needed = [10, 60, 600].map(|node| {
        let (mut law, mut total, mut needed) = (law(), 0.0, None);
        for second in 0..600 {
            total += if second % 200 < 170 { 5.0 } else { 40.0 };
            let seen = observation(f64::from(second), total, ready(10));
            let found = law.decide(&Observation { node_time: Some(Duration::from_secs(node)), ..seen });
            if second == 560 {
                needed = found.plan.map(|plan| (plan.needed, plan.needed_with_node));
            }
        }
        needed.expect("the law has planned")
    });
    assert!(needed.is_sorted() && needed[2].1 > needed[0].1 && needed[2].1 > needed[2].0, "{needed:?}");
}

#[test]
fn chance_is_no_rise() {
    let mut arrivals = [4.0; 100];
    arrivals[99] = 9.0;
    assert_eq!(last(&arrivals, ready(10)).0, Some(1));
}

#[test]
fn replicas_stay_for_a_while_after_a_burst() {
    let arrivals = [vec![5.0; 600], vec![40.0; 30], vec![5.0; 120]].concat();
    let found = run(&arrivals, ready(10));
    assert!(found[629].replicas >= Some(5) && found[640].replicas >= Some(4), "{:?}", found[640]);
    let is_kept = |decision: &Recommendation| decision.text.contains("in case that the load comes back");
    assert!(found[630..].iter().any(is_kept), "some replicas are kept: {:?}", found[640]);
    assert_eq!(found[749].replicas, Some(1));
}

#[test]
fn the_shown_levels_are_those_next_to_the_recommendation() {
    let found = run(&[18.0; 300], ready(10)).pop().expect("there is a second");
    let plan = found.plan.expect("there are figures");
    let shown: Vec<(usize, bool)> = plan.levels.iter().map(|level| (level.replicas, level.is_on)).collect();
    assert_eq!(shown, [(2, true), (3, true), (4, false), (5, false)]);
    assert!(plan.levels[1].worth > 1.0 && plan.levels[2].worth < 1.0 && plan.levels[3].worth < plan.levels[2].worth);
    assert_eq!(plan.needed, 3);
    assert!((plan.late_price - 10.0).abs() < 1e-9 && plan.predicted_late < 0.01, "{plan:?}");
}

#[test]
fn silence_needs_no_replica_and_the_first_request_wakes_one() {
    assert_eq!(last(&[0.0], ready(3)), (None, "no_data"));
    assert_eq!(last(&[0.0; 100], ready(1)).0, Some(1));
    assert_eq!(last(&[0.0; 130], ready(3)), (Some(0), "idle"));
    // A fresh start without any replica and without any request wakes none.
    assert_eq!(last(&[0.0; 2], ready(0)), (Some(0), "idle"));
    assert_eq!(last(&[7.0, 0.0], ready(0)), (Some(0), "idle"), "the first count is from before the start");
    assert_eq!(last(&[0.0, 1.0], ready(0)), (Some(1), "waking"));
    assert_eq!(last(&[vec![0.0; 200], vec![1.0]].concat(), ready(0)), (Some(1), "waking"));
}

#[test]
fn a_replica_that_starts_slowly_is_not_removed_before_it_serves() {
    let mut law = law();
    let starting = Replicas { desired: 1, starting: 1, ..Replicas::default() };
    for second in 0..400 {
        let arrivals = if second == 0 { 0.0 } else { 1.0 };
        let seen = observation(f64::from(second), arrivals, if second < 2 { ready(0) } else { starting });
        let found = law.decide(&Observation { startup: Some(S(200.0)), ..seen });
        assert!(second < 2 || found.replicas != Some(0), "at {second} s");
    }
}

#[test]
fn waiting_requests_wake_a_replica_although_none_arrives() {
    let mut law = law();
    law.decide(&observation(0.0, 0.0, ready(0)));
    let found = law.decide(&Observation { queue_length: 3.0, ..observation(1.0, 0.0, ready(0)) });
    assert_eq!(found.replicas, Some(1));
    assert!(found.text.contains("3 requests wait"), "{}", found.text);
}

#[test]
fn missing_arrivals_of_a_partial_observation_are_no_fall() {
    let (mut law, mut total) = (law(), 0.0);
    for second in 0..200 {
        let is_partial = second >= 100;
        total += if is_partial { 10.0 } else { 40.0 };
        let seen = Observation { is_partial, ..observation(f64::from(second), total, ready(10)) };
        let found = law.decide(&seen);
        assert!(second < 20 || found.replicas >= Some(5), "at {second} s: {found:?}");
    }
}

#[test]
fn more_arrivals_of_a_partial_observation_are_a_rise() {
    let (mut law, mut total, mut found) = (law(), 0.0, None);
    for tick in 0..260 {
        let is_partial = tick >= 200;
        total += if is_partial { 25.0 } else { 15.0 };
        let seen = observation(0.5 * f64::from(tick), total, ready(10));
        found = law.decide(&Observation { is_partial, ..seen }).plan.or(found);
    }
    let rate = found.expect("there are figures").arrivals_per_second;
    assert!((44.0..56.0).contains(&rate), "{rate}");
}

#[test]
fn an_objective_below_the_service_time_is_named_and_the_load_is_served() {
    let objective = Objective { latency: S(0.08), quantile: 0.99 };
    let mut law = Slo::new(&Settings {
        objective,
        interval: S(1.0),
        delay: Duration::ZERO,
        starts_per_second: f64::INFINITY,
        min: 1,
        max: 50,
    });
    let mut decide = |second: u32| law.decide(&observation(second.into(), 40.0 * f64::from(second), ready(10)));
    let found = (0..60).map(&mut decide).last().expect("there is a second");
    assert_eq!(found.reason, "unattainable");
    assert!((5..=12).contains(&found.replicas.expect("a number")), "{found:?}");
    assert!(found.text.contains("100 ms") && found.text.contains("80ms"), "{}", found.text);
}

proptest! {
    #[test]
    fn no_observations_make_the_law_panic_or_leave_the_bounds(
        max in 1..40_usize,
        steps in proptest::collection::vec(
            (0..4000_u64, 0.0..1e4, 0.0..1e6, 0.0..100.0, 0..50_usize, 0.0..100.0, any::<bool>()), 1..60
        ),
    ) {
        let objective = Objective { latency: S(0.5), quantile: 0.999 };
        let mut law = Slo::new(&Settings { objective, interval: S(0.5), delay: Duration::ZERO, starts_per_second: f64::INFINITY, min: 0, max });
        let (mut at, mut total) = (0, 0.0);
        for (milliseconds, arrivals, queue_length, in_flight, replicas, startup, is_partial) in steps {
            (at, total) = (at + milliseconds, total + arrivals);
            let seen = observation(at as f64 / 1e3, total, ready(replicas));
            let found =
                law.decide(&Observation { queue_length, in_flight, startup: Some(S(startup)), is_partial, ..seen });
            prop_assert!(found.replicas.is_none_or(|replicas| replicas <= max), "{found:?}");
            if let Some(plan) = found.plan {
                let figures = [plan.arrivals_per_second, plan.planned_per_second, plan.predicted_late, plan.late_price];
                prop_assert!(figures.iter().all(|figure| figure.is_finite() && *figure >= 0.0), "{plan:?}");
            }
        }
    }
}

#[test]
fn a_silent_dispatcher_is_no_silence() {
    let mut law = law();
    for second in 0..600 {
        let arrivals = 5.0 * f64::from(second.min(60));
        let seen = Observation { is_partial: second > 60, ..observation(second.into(), arrivals, ready(1)) };
        let found = law.decide(&seen);
        assert_ne!(found.replicas, Some(0), "at {second} s: {found:?}");
    }
}

#[test]
fn a_pause_of_the_scaler_is_no_idle_time_of_replicas() {
    let mut law = law();
    let mut total = 0.0;
    // The load comes back soon, so replicas are then held for minutes.
    for second in 0..440 {
        total += if (300..330).contains(&second) || (400..430).contains(&second) { 40.0 } else { 5.0 };
        law.decide(&observation(second.into(), total, ready(8)));
    }
    let before = law.decide(&observation(440.0, total, ready(8)));
    assert!(before.replicas >= Some(4), "{before:?}");
    // Nothing was observed for an hour.
    let after = law.decide(&observation(4040.0, total + 5.0 * 3600.0, ready(8)));
    assert!(after.replicas >= Some(3), "{after:?}");
}

/// The first second in which the law recommends `replicas`, at a load that is steady for a minute and then rises by
/// `erlangs` per second. All recommended replicas serve at once.
fn planned_at(starts_per_second: f64, erlangs: f64, replicas: usize) -> Option<u32> {
    let objective = Objective { latency: S(0.5), quantile: 0.99 };
    let settings =
        Settings { objective, interval: S(1.0), delay: Duration::ZERO, starts_per_second, min: 1, max: 2000 };
    let (mut law, mut total, mut desired) = (Slo::new(&settings), 0.0, 500);
    (0..160).find(|&second| {
        total += 10.0 * (400.0 + erlangs * f64::from(second).max(60.0) - erlangs * 60.0);
        let found = law.decide(&observation(second.into(), total, ready(desired)));
        desired = found.replicas.unwrap_or(desired).max(1);
        second > 60 && desired >= replicas
    })
}

#[test]
fn the_law_plans_earlier_for_a_large_rise_if_the_platform_adds_few_replicas_per_second() {
    // The load rises by 8 erlangs per second, from 400.
    let found = [f64::INFINITY, 20.0, 10.0].map(|rate| planned_at(rate, 8.0, 900).expect("the load reaches 1200"));
    assert!(found[1] + 2 <= found[0] && found[2] + 10 <= found[0], "{found:?}");
    // A rise for which the first new replicas are enough is planned as before.
    let found = [f64::INFINITY, 20.0].map(|rate| planned_at(rate, 0.1, 405));
    assert_eq!(found[0], found[1]);
}

#[test]
fn a_fresh_law_adds_no_replicas_for_jumps_within_the_lead_of_the_last_replica() {
    let objective = Objective { latency: S(0.5), quantile: 0.99 };
    let bounds = |starts_per_second| Settings {
        objective,
        interval: S(0.5),
        delay: Duration::ZERO,
        starts_per_second,
        min: 1,
        max: 10_000,
    };
    let most = [f64::INFINITY, 20.0].map(|rate| {
        let mut law = Slo::new(&bounds(rate));
        let decide = |tick: u32| {
            let second = 0.5 * f64::from(tick);
            law.decide(&observation(second, 5000.0 * second, ready(500))).replicas
        };
        (0..60).filter_map(decide).max()
    });
    assert_eq!(most[0], most[1]);
}
