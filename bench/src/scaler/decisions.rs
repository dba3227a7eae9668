//! The time that the law takes for a decision with up to 10,000 replicas, and the speed of the simulator with 1,000.

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

/// The numbers of replicas.
const SIZES: [usize; 3] = [1000, 3500, 10_000];

/// Requests per second for each replica.
const RATE_FOR_EACH: f64 = 20.0;

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
    let mut figures = Vec::new();
    for replicas in SIZES {
        let (mean, longest) = decision_times(replicas);
        let milliseconds = |time: Duration| 1e3 * time.as_secs_f64();
        figures.extend([
            Figure::new(format!("decision_ms_{replicas}"), milliseconds(mean), "ms")
                .labelled(format!("{replicas} replicas: mean time of a decision"))
                .with_target(TargetRange::AtMost(5.0)),
            Figure::new(format!("longest_decision_ms_{replicas}"), milliseconds(longest), "ms")
                .labelled(format!("{replicas} replicas: longest time of a decision"))
                .with_target(TargetRange::AtMost(50.0)),
        ]);
    }
    let started = Instant::now();
    let flags = ["--shape=constant:low=20000,length=3600", "--max=1000", "--service=45ms", "--policy=slo", "--seeds=1"];
    print!("{}", Comparison::run("1,000 replicas", &flags)?.table);
    figures.push(
        Figure::new("simulated_hour_s", started.elapsed().as_secs_f64(), "s")
            .labelled("1,000 replicas: time to simulate an hour"),
    );
    Ok(Measured { figures, details: Value::Null })
}

/// The mean and the longest time of a decision with `replicas` replicas. Two thirds of them serve, and the others would
/// be added one after the other.
fn decision_times(replicas: usize) -> (Duration, Duration) {
    let mut law = Slo::new(&Settings {
        objective: Objective { latency: Duration::from_millis(500), quantile: 0.99 },
        interval: INTERVAL,
        delay: Duration::ZERO,
        starts_per_second: 20.0,
        min: 1,
        max: replicas,
    });
    let (mut longest, mut total) = (Duration::ZERO, Duration::ZERO);
    for tick in 0..DECISIONS {
        let seen = observation(tick, replicas * 2 / 3);
        let started = Instant::now();
        std::hint::black_box(law.decide(&seen));
        let taken = started.elapsed();
        (longest, total) = (longest.max(taken), total + taken);
    }
    (total / DECISIONS, longest)
}

/// The observation of `replicas` replicas at a tick. The arrivals vary by half a standard deviation of a Poisson process,
/// and the service times by 2 %, so that the law has to compute its table of late requests anew now and then.
fn observation(tick: u32, replicas: usize) -> Observation {
    let (at, rate) = (INTERVAL * tick, RATE_FOR_EACH * replicas as f64);
    let phase = f64::from(tick);
    let arrivals = rate * at.as_secs_f64() + rate.sqrt() * (phase * 1.3).sin();
    let work = SERVICE * (at.as_secs_f64() + 0.5 * (phase / 50.0).sin());
    let buckets = vec![(0.03, 0.05 * arrivals), (0.05, 0.7 * arrivals), (0.1, arrivals), (f64::INFINITY, arrivals)];
    let times = Histogram { buckets, sum: rate * work };
    Observation {
        at,
        arrivals,
        in_flight: rate * SERVICE,
        capacity: replicas as f64,
        service: times.clone(),
        work: times,
        replicas: Replicas { desired: replicas, ready: replicas, ..Replicas::default() },
        startup: Some(Duration::from_secs(3)),
        ..Observation::default()
    }
}
