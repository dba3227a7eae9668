//! The time that the law takes for a decision with 1,000 replicas, and the speed of the simulator with as many.

use super::comparison::Comparison;
use super::section::Measured;
use crate::figure::{Figure, TargetRange};
use anyhow::Result;
use law::histogram::Histogram;
use law::observation::{Observation, Replicas};
use law::slo::Slo;
use law::table::{Law, Objective, Settings};
use serde_json::Value;
use std::time::{Duration, Instant};

/// The number of replicas.
const REPLICAS: usize = 1000;

/// Requests per second.
const RATE: f64 = 20_000.0;

/// The mean service time, in seconds.
const SERVICE: f64 = 0.045;

/// The time between two decisions.
const INTERVAL: Duration = Duration::from_millis(500);

/// The number of decisions in an hour.
const DECISIONS: u32 = 7200;

/// Measures an hour of decisions of the law alone, and the time that `lab simulate` takes for an hour.
///
/// # Errors
/// If `lab` fails.
pub(super) fn measure() -> Result<Measured> {
    let mut law = Slo::new(&Settings {
        objective: Objective { latency: Duration::from_millis(500), quantile: 0.99 },
        interval: INTERVAL,
        delay: Duration::ZERO,
        starts_per_second: f64::INFINITY,
        min: 1,
        max: REPLICAS,
    });
    let mut longest = Duration::ZERO;
    let mut total = Duration::ZERO;
    for tick in 0..DECISIONS {
        let seen = observation(tick);
        let started = Instant::now();
        std::hint::black_box(law.decide(&seen));
        let taken = started.elapsed();
        (longest, total) = (longest.max(taken), total + taken);
    }
    let started = Instant::now();
    let flags = ["--shape=constant:low=20000,length=3600", "--max=1000", "--service=45ms", "--policy=slo", "--seeds=1"];
    print!("{}", Comparison::run("1,000 replicas", &flags)?.table);
    let milliseconds = |time: Duration| 1e3 * time.as_secs_f64();
    let figures = vec![
        Figure::new("decision_ms", milliseconds(total) / f64::from(DECISIONS), "ms")
            .labelled("1,000 replicas: mean time of a decision")
            .with_target(TargetRange::AtMost(1.0)),
        Figure::new("longest_decision_ms", milliseconds(longest), "ms")
            .labelled("1,000 replicas: longest time of a decision"),
        Figure::new("simulated_hour_s", started.elapsed().as_secs_f64(), "s")
            .labelled("1,000 replicas: time to simulate an hour"),
    ];
    Ok(Measured { figures, details: Value::Null })
}

/// The observation at a tick. The arrivals vary by half a standard deviation of a Poisson process, and the service times
/// by 2 %, so that the law has to compute its table of late requests anew now and then.
fn observation(tick: u32) -> Observation {
    let at = INTERVAL * tick;
    let phase = f64::from(tick);
    let arrivals = RATE * at.as_secs_f64() + RATE.sqrt() * (phase * 1.3).sin();
    let work = SERVICE * (at.as_secs_f64() + 0.5 * (phase / 50.0).sin());
    let buckets = vec![(0.03, 0.05 * arrivals), (0.05, 0.7 * arrivals), (0.1, arrivals), (f64::INFINITY, arrivals)];
    let times = Histogram { buckets, sum: RATE * work };
    Observation {
        at,
        arrivals,
        in_flight: RATE * SERVICE,
        capacity: REPLICAS as f64,
        service: times.clone(),
        work: times,
        replicas: Replicas { desired: REPLICAS, ready: REPLICAS, ..Replicas::default() },
        startup: Some(Duration::from_secs(3)),
        ..Observation::default()
    }
}
