//! `bench overload`: a load above the capacity, which lasts 30 s by default. Measures how many requests are answered
//! within the objective, how soon the others are refused, and how much memory the dispatcher takes.

use super::client::DispatcherClient;
use super::dispatcher::{DispatcherProcess, MemorySample};
use super::load::{self, RequestOutcome, SentRequest, SentRequests};
use super::stub_flags::StubFlags;
use super::{OBJECTIVE, order, quantile_ms, retry_after};
use crate::figure::{Figure, TargetRange};
use crate::memory::megabytes;
use crate::output::Output;
use crate::stub::StubReplicas;
use admission::Order;
use anyhow::{Context, Result};
use clap::{Args, value_parser};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use workload::Workload;
use workload::arrivals::{ArrivalProcess, schedule};

/// The dispatcher's default deadline.
const DEADLINE: Duration = Duration::from_secs(5);

/// Time between the deadline of a request and the moment at which the client has read the dispatcher's answer.
const RETURN_TIME: Duration = Duration::from_millis(10);

/// The target for goodput divided by capacity, in per cent.
const GOODPUT: TargetRange = TargetRange::AtLeast(95.0);

/// The target for the 99th percentile of the latencies of refusals, in milliseconds.
const REFUSAL_MS: TargetRange = TargetRange::AtMost(10.0);

/// The target for the change of the dispatcher's memory in the last two thirds of the load, in MB.
const MEMORY_CHANGE: TargetRange = TargetRange::Between(-5.0, 5.0);

/// The target of figures that count faults: zero.
const NONE: TargetRange = TargetRange::AtMost(0.0);

/// Seed of the arrivals.
const SEED: u64 = 1;

/// Flags of `bench overload`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Seconds of load
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u32).range(3..=600))]
    seconds: u32,
    /// Load as a multiple of the capacity
    #[arg(long, default_value_t = 2.0)]
    times: f64,
    /// Arrival process: poisson, uniform, replayed or gamma:CV
    #[arg(long, default_value = "poisson")]
    arrivals: ArrivalProcess,
    /// Order of the dispatcher's queue
    #[arg(long, value_enum, default_value = "late-last")]
    order: Order,
    #[command(flatten)]
    stubs: StubFlags,
    /// Backlogs for which Retry-After is checked, one after another: the seconds that the stub replicas need to answer
    /// the backlog, from 1 to 9
    #[arg(long, value_delimiter = ',', default_values_t = [3, 6, 9], value_parser = value_parser!(u32).range(1..=9))]
    backlogs: Vec<u32>,
    #[command(flatten)]
    output: Output,
}

/// Measures an overload, and then compares `Retry-After` with the time until a request is answered.
///
/// # Errors
/// If a request failed: it was not answered with status 200, 503 or 504.
pub(crate) fn run(options: &Options) -> Result<()> {
    super::run(&options.output, |client, figures| {
        let stubs = options.stubs.start()?;
        overload(client, options, &stubs, figures)?;
        for &backlog in &options.backlogs {
            retry_after::measure(client, &options.stubs, &stubs, backlog, figures)?;
        }
        Ok(())
    })
}

fn overload(runtime: &Runtime, options: &Options, stubs: &StubReplicas, figures: &mut Vec<Figure>) -> Result<()> {
    let length = Duration::from_secs(options.seconds.into());
    let workload = Workload::constant(options.times * options.stubs.rate(), length);
    let times = schedule(&workload, options.arrivals, SEED);
    let flags = [format!("--order={}", order::name(options.order))];
    let dispatcher = runtime.block_on(DispatcherProcess::start(&stubs.addresses, &flags))?;
    let memory = dispatcher.watch_memory();
    let offered = load::offer(runtime, &Arc::new(DispatcherClient::new(dispatcher.address)), &times)?;
    let memory = memory.finish();

    figures.extend(goodput(options, &offered, stubs));
    figures.extend(outcomes(&offered));
    figures.extend(memory_change(&memory, offered.start, length)?);
    let refused = Figure::new("overload_beyond_capacity", stubs.refused() as f64, "");
    figures.push(refused.labelled("requests sent to a busy stub replica").with_target(NONE));
    offered.check()
}

fn goodput(options: &Options, offered: &SentRequests, stubs: &StubReplicas) -> Vec<Figure> {
    let records = stubs.take_records();
    let length = Duration::from_secs(options.seconds.into());
    let seconds = length.as_secs_f64();
    let capacity = options.stubs.capacity(&records);
    let utilisation = options.stubs.utilisation(&records, offered.start, offered.start + length);
    // Requests that are answered after the end of the load do not count, since the utilisation ends there, too.
    let is_good = |request: &&SentRequest| {
        request.outcome == RequestOutcome::Answered
            && request.latency <= OBJECTIVE
            && request.due + request.latency <= length
    };
    let good = offered.requests.iter().filter(is_good).count() as f64 / seconds;
    let send_delays: Vec<Duration> = offered.requests.iter().map(|request| request.send_delay).collect();
    let offered_per_second = offered.requests.len() as f64 / seconds;
    let goodput = Figure::new("overload_goodput_of_capacity", good / capacity * 100.0, "%");
    vec![
        Figure::new("overload_offered_per_second", offered_per_second, "/s").labelled("offered"),
        Figure::new("overload_send_delay_p99_ms", quantile_ms(&send_delays, 0.99), "ms").labelled("  send delay, p99"),
        Figure::new("overload_capacity_per_second", capacity, "/s").labelled("capacity by measured service times"),
        Figure::new("overload_utilisation", utilisation * 100.0, "%").labelled("utilisation of the stub replicas"),
        Figure::new("overload_goodput_per_second", good, "/s").labelled("goodput: answered within 500 ms"),
        goodput.labelled("goodput ÷ capacity").with_target(GOODPUT),
    ]
}

fn outcomes(offered: &SentRequests) -> Vec<Figure> {
    let shed = offered.latencies(RequestOutcome::is_shed);
    let without_retry_after = offered.count(|outcome| *outcome == RequestOutcome::Shed { retry_after: None });
    let admitted = offered.latencies(|outcome| matches!(outcome, RequestOutcome::Answered | RequestOutcome::Expired));
    let answered = offered.latencies(|outcome| *outcome == RequestOutcome::Answered);
    let late = answered.iter().filter(|latency| **latency > OBJECTIVE).count();
    let expired = offered.count(|outcome| *outcome == RequestOutcome::Expired);
    let count = |name: &str, count: usize, label: &str| Figure::new(name, count as f64, "").labelled(label);
    let time = |name: &str, times: &[Duration], q: f64, label: &str| {
        Figure::new(name, quantile_ms(times, q), "ms").labelled(label)
    };
    let admitted_ms = TargetRange::AtMost((DEADLINE + RETURN_TIME).as_secs_f64() * 1e3);
    vec![
        count("overload_shed", shed.len(), "shed (503)"),
        time("overload_shed_p50_ms", &shed, 0.5, "  latency of the refusal, p50"),
        time("overload_shed_p99_ms", &shed, 0.99, "  latency of the refusal, p99").with_target(REFUSAL_MS),
        count("overload_shed_silent", without_retry_after, "  shed without Retry-After").with_target(NONE),
        count("overload_admitted", admitted.len(), "admitted"),
        time("overload_admitted_p50_ms", &admitted, 0.5, "  latency, p50"),
        time("overload_admitted_p99_ms", &admitted, 0.99, "  latency, p99").with_target(admitted_ms),
        count("overload_late", late, "  answered later than 500 ms"),
        count("overload_expired", expired, "  expired (504)"),
    ]
}

fn memory_change(samples: &[MemorySample], start: Instant, length: Duration) -> Result<[Figure; 3]> {
    let (third, end) = (memory_at(samples, start + length / 3)?, memory_at(samples, start + length)?);
    let change = megabytes(end) - megabytes(third);
    Ok([
        Figure::new("overload_rss_third", megabytes(third), "MB").labelled("RSS after a third of the load"),
        Figure::new("overload_rss_end", megabytes(end), "MB").labelled("RSS at the end of the load"),
        Figure::new("overload_rss_change", change, "MB").labelled("change of RSS").with_target(MEMORY_CHANGE),
    ])
}

/// The resident memory in the last sample before `instant`, in bytes.
fn memory_at(samples: &[MemorySample], instant: Instant) -> Result<u64> {
    let before = samples.iter().take_while(|(at, _)| *at <= instant);
    before
        .last()
        .map(|(_, bytes)| *bytes)
        .context("there is no sample of the dispatcher's memory; the dispatcher may have ended")
}
