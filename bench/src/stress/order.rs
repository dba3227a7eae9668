//! `bench order`: both orders of the queue under the same load, which exceeds the capacity now and then.

use super::client::DispatcherClient;
use super::dispatcher::DispatcherProcess;
use super::load::{self, RequestOutcome, SentRequests};
use super::stub_flags::StubFlags;
use super::{OBJECTIVE, quantile_ms};
use crate::figure::{Figure, TargetRange};
use crate::output::Output;
use crate::stub::Record;
use admission::Order;
use anyhow::{Result, ensure};
use clap::{Args, ValueEnum, value_parser};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use workload::Workload;
use workload::arrivals::{ArrivalProcess, schedule};

/// The parts of a repetition: the length of each part in seconds, and whether the load is at its peak.
const PROFILE: [(usize, bool); 3] = [(5, false), (10, true), (10, false)];

/// Flags of `bench order`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Load at the peaks, as a multiple of the capacity
    #[arg(long, default_value_t = 1.2)]
    peak: f64,
    /// Load between the peaks, as a multiple of the capacity
    #[arg(long, default_value_t = 0.6)]
    base: f64,
    /// Repetitions of 25 s: 5 s of base, 10 s of peak, 10 s of base
    #[arg(long, default_value_t = 2, value_parser = value_parser!(u32).range(1..=20))]
    repeat: u32,
    /// Seed of the arrivals, which are the same for both orders
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    stubs: StubFlags,
    #[command(flatten)]
    output: Output,
}

impl Options {
    /// The times at which requests are sent, since the start.
    fn times(&self) -> Vec<Duration> {
        let per_second = PROFILE.iter().flat_map(|&(seconds, is_peak)| {
            let rate = self.stubs.rate() * if is_peak { self.peak } else { self.base };
            std::iter::repeat_n(rate, seconds)
        });
        let workload = Workload { per_second: per_second.collect() }.repeated(self.repeat as usize);
        schedule(&workload, ArrivalProcess::Poisson, self.seed)
    }
}

/// Measures both orders.
///
/// # Errors
/// If a request failed: it was not answered with status 200, 503 or 504.
pub(crate) fn run(options: &Options) -> Result<()> {
    super::run(&options.output, |client, figures| measure(client, options, figures))
}

fn measure(runtime: &Runtime, options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    let stubs = options.stubs.start()?;
    let times = options.times();
    ensure!(!times.is_empty(), "the load has no requests; raise --peak or --base");
    figures.push(Figure::new("order_offered", times.len() as f64, "").labelled("requests offered, for each order"));
    let mut attainments = Vec::new();
    for order in [Order::Fifo, Order::LateLast] {
        let name = name(order);
        eprintln!("{name}: {} requests", times.len());
        let flags = [format!("--order={name}")];
        let dispatcher = runtime.block_on(DispatcherProcess::start(&stubs.addresses, &flags))?;
        let offered = load::offer(runtime, &Arc::new(DispatcherClient::new(dispatcher.address)), &times)?;
        attainments.push(attainment(&offered));
        figures.extend(describe(&name, &offered, &stubs.take_records(), options));
        offered.check()?;
    }
    let [fifo, late_last] = attainments[..] else { unreachable!("there are two orders") };
    let gain = Figure::new("order_gain", late_last - fifo, "points").labelled("late-last − fifo");
    figures.push(gain.with_target(TargetRange::AtLeast(0.0)));
    figures.push(Figure::new("order_ratio", late_last / fifo, "").labelled("late-last ÷ fifo"));
    Ok(())
}

/// The value of the dispatcher's flag `--order` for an order.
pub(super) fn name(order: Order) -> String {
    order.to_possible_value().expect("clap hides no variant of Order").get_name().to_owned()
}

/// The share of all requests that were answered within the objective, in per cent.
fn attainment(offered: &SentRequests) -> f64 {
    let answered = offered.latencies(|outcome| *outcome == RequestOutcome::Answered);
    let good = answered.iter().filter(|latency| **latency <= OBJECTIVE).count();
    good as f64 / offered.requests.len() as f64 * 100.0
}

fn describe(order: &str, offered: &SentRequests, records: &[Record], options: &Options) -> Vec<Figure> {
    let answered = offered.latencies(|outcome| *outcome == RequestOutcome::Answered);
    let late = answered.iter().filter(|latency| **latency > OBJECTIVE).count();
    let shed = offered.count(RequestOutcome::is_shed);
    let expired = offered.count(|outcome| *outcome == RequestOutcome::Expired);
    let rows = [
        ("capacity", "capacity by measured service times", options.stubs.capacity(records), "/s"),
        ("attainment", "share of all requests answered within 500 ms", attainment(offered), "%"),
        ("late", "answered later than 500 ms", late as f64, ""),
        ("shed", "shed (503)", shed as f64, ""),
        ("expired", "expired (504)", expired as f64, ""),
        ("p50_ms", "latency of answered requests, p50", quantile_ms(&answered, 0.5), "ms"),
        ("p99_ms", "latency of answered requests, p99", quantile_ms(&answered, 0.99), "ms"),
    ];
    let figure = |(key, label, value, unit)| {
        Figure::new(format!("order_{key}_{order}"), value, unit).labelled(format!("{order}: {label}"))
    };
    rows.map(figure).into()
}
