//! Both orders at the same load, which is more than the capacity now and then: who is answered in time.

use crate::Bench;
use crate::arrivals::{Process, Stretch, schedule};
use crate::client::Client;
use crate::figures::{Figures, Target, quantile_ms};
use crate::load::{self, Outcome};
use crate::overload::Replicas;
use crate::subject::Dispatcher;
use admission::Order;
use anyhow::{Result, ensure};
use clap::{Args, ValueEnum, value_parser};
use std::sync::Arc;
use std::time::Duration;

/// The dispatcher's default.
const OBJECTIVE: Duration = Duration::from_millis(500);

/// Seconds, and whether that is a peak.
const PROFILE: [(u32, bool); 3] = [(5, false), (10, true), (10, false)];

/// Flags of `order`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Load at the peaks, as a multiple of the capacity
    #[arg(long, default_value_t = 1.2)]
    peak: f64,
    /// ... and otherwise
    #[arg(long, default_value_t = 0.6)]
    base: f64,
    /// Repetitions of 25 s: 5 s of base, 10 s of peak, 10 s of base
    #[arg(long, default_value_t = 2, value_parser = value_parser!(u32).range(1..=20))]
    repeat: u32,
    /// Of the arrivals, which are the same for both
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What stands behind the dispatcher
    #[command(flatten)]
    replicas: Replicas,
}

/// Measures.
///
/// # Errors
/// When a request got neither an answer nor a refusal.
pub(crate) fn run(bench: &Bench, options: &Options, figures: &mut Figures) -> Result<()> {
    let stubs = options.replicas.start()?;
    let round = PROFILE.map(|(seconds, is_peak)| Stretch {
        length: Duration::from_secs(seconds.into()),
        rate: options.replicas.rate() * if is_peak { options.peak } else { options.base },
    });
    let times = schedule(&round.repeat(options.repeat as usize), Process::Poisson, options.seed);
    ensure!(!times.is_empty(), "at this load there are no requests");
    figures.add("order_offered", "requests offered, to each", times.len() as f64, "");
    let mut attainments = Vec::new();
    for order in [Order::Fifo, Order::LateLast] {
        let value = order.to_possible_value().expect("no order is hidden");
        let order = value.get_name();
        eprintln!("{order}: {} requests", times.len());
        let flags = [format!("--order={order}")];
        let dispatcher = bench.client.block_on(Dispatcher::start(&bench.program, &stubs.addresses, &flags))?;
        let offered = load::offer(bench.client.handle(), &Arc::new(Client::new(dispatcher.address)), &times)?;
        let answered = offered.latencies(|outcome| *outcome == Outcome::Answered);
        let good = answered.iter().filter(|latency| **latency <= OBJECTIVE).count();
        let attainment = good as f64 / times.len() as f64 * 100.0;
        attainments.push(attainment);
        let name = |what| format!("order_{what}_{order}");
        let mut add = |key, what: &str, value, unit| figures.add(name(key), format!("{order}: {what}"), value, unit);
        add("capacity", "capacity by the stubs' time", options.replicas.capacity(&stubs.take_served()), "/s");
        add("attainment", "answered within 500 ms, of all", attainment, "%");
        add("late", "answered later", (answered.len() - good) as f64, "");
        add("shed", "shed (503)", offered.count(|outcome| matches!(outcome, Outcome::Shed(_))) as f64, "");
        add("expired", "expired (504)", offered.count(|outcome| *outcome == Outcome::Expired) as f64, "");
        add("p50_ms", "p50 of those answered", quantile_ms(answered.clone(), 0.5), "ms");
        add("p99_ms", "p99 of those answered", quantile_ms(answered, 0.99), "ms");
        offered.check()?;
    }
    let [fifo, late_last] = attainments[..] else { unreachable!("there are two orders") };
    figures.add("order_gain", "late-last − fifo", late_last - fifo, "points");
    figures.target(Target::AtLeast(0.0));
    figures.add("order_ratio", "late-last ÷ fifo", late_last / fifo, "");
    Ok(())
}
