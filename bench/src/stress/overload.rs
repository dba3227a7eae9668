//! More load than there is capacity, for a while: what is answered in time, how soon the others are refused, and what
//! that costs in memory.

use crate::arrivals::{Process, Stretch, schedule};
use crate::client::Client;
use crate::figures::{Figures, Target, megabytes, quantile_ms};
use crate::load::{self, Offered, Outcome};
use crate::stub::{Served, Stubs, Work};
use crate::subject::{Dispatcher, Sample};
use crate::{Bench, retry_after};
use admission::Order;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum, value_parser};
use service::options::positive_duration;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The dispatcher's own defaults.
const OBJECTIVE: Duration = Duration::from_millis(500);
const DEADLINE: Duration = Duration::from_secs(5);

/// From the dispatcher's deadline to the client's knowing.
const WAY_BACK: Duration = Duration::from_millis(10);

/// Percent of the capacity that is to be goodput.
const GOODPUT: f64 = 95.0;

/// Milliseconds for a refusal at p99.
const REFUSAL_MS: f64 = 10.0;

/// MB by which the memory may change in the last two thirds.
const FLAT: f64 = 5.0;

/// Flags of `overload`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Seconds of load
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u32).range(3..=600))]
    seconds: u32,
    /// Load as a multiple of the capacity
    #[arg(long, default_value_t = 2.0)]
    times: f64,
    /// How arrivals are spread
    #[arg(long, value_enum, default_value = "poisson")]
    arrivals: Process,
    /// The dispatcher's
    #[arg(long, value_enum, default_value = "late-last")]
    order: Order,
    /// What stands behind it
    #[command(flatten)]
    replicas: Replicas,
    /// Seconds of backlog after which Retry-After is tried, each in turn; fewer than 10, the deadline then
    #[arg(long, value_delimiter = ',', default_values_t = [3, 6, 9], value_parser = value_parser!(u32).range(1..=9))]
    backlogs: Vec<u32>,
}

/// The stubs.
#[derive(Debug, Args)]
pub(crate) struct Replicas {
    /// Stubs, each for one request at a time
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u8).range(1..=100))]
    pub(crate) replicas: u8,
    /// What a stub takes for a request
    #[arg(long, default_value = "20ms", value_parser = positive_duration)]
    pub(crate) service_time: Duration,
}

impl Replicas {
    /// Starts them.
    ///
    /// # Errors
    /// When loopback has no ports left.
    pub(crate) fn start(&self) -> Result<Stubs> {
        Stubs::start(self.replicas.into(), &Work::Takes(self.service_time))
    }

    /// Requests a second that they are meant for.
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.replicas) / self.service_time.as_secs_f64()
    }

    /// Requests a second of which they were capable, by the time that they took.
    pub(crate) fn capacity(&self, served: &[Served]) -> f64 {
        f64::from(self.replicas) * served.len() as f64 / busy(served, Instant::now()).as_secs_f64()
    }
}

/// Time that stubs worked before `end`.
fn busy(served: &[Served], end: Instant) -> Duration {
    served.iter().map(|served| served.until.min(end).saturating_duration_since(served.since)).sum()
}

/// Measures.
///
/// # Errors
/// When a request got neither an answer nor a refusal.
pub(crate) fn run(bench: &Bench, options: &Options, figures: &mut Figures) -> Result<()> {
    let stubs = options.replicas.start()?;
    sustained(bench, options, &stubs, figures)?;
    for &backlog in &options.backlogs {
        retry_after::measure(bench, &options.replicas, &stubs, backlog, figures)?;
    }
    Ok(())
}

fn sustained(bench: &Bench, options: &Options, stubs: &Stubs, figures: &mut Figures) -> Result<()> {
    let length = Duration::from_secs(options.seconds.into());
    let stretch = Stretch { length, rate: options.times * options.replicas.rate() };
    let times = schedule(&[stretch], options.arrivals, 1);
    let order = options.order.to_possible_value().expect("no order is hidden");
    let flags = [format!("--order={}", order.get_name())];
    let dispatcher = bench.client.block_on(Dispatcher::start(&bench.program, &stubs.addresses, &flags))?;
    let memory = dispatcher.watch_memory();
    let offered = load::offer(bench.client.handle(), &Arc::new(Client::new(dispatcher.address)), &times)?;
    let memory = memory.finish();
    let served = stubs.take_served();

    let capacity = options.replicas.capacity(&served);
    let end = offered.start + length;
    let utilisation = busy(&served, end).as_secs_f64() / length.as_secs_f64() / f64::from(options.replicas.replicas);
    // Only what is answered while the load lasts, as the stubs' time counts for no longer either.
    let is_good = |sample: &&load::Sample| {
        sample.outcome == Outcome::Answered && sample.latency <= OBJECTIVE && sample.at + sample.latency <= length
    };
    let good = offered.samples.iter().filter(is_good).count() as f64 / length.as_secs_f64();
    figures.add("overload_offered_per_second", "offered", times.len() as f64 / length.as_secs_f64(), "/s");
    let delays = offered.samples.iter().map(|sample| sample.delay).collect();
    figures.add("overload_send_delay_p99_ms", "  sent late by, p99", quantile_ms(delays, 0.99), "ms");
    figures.add("overload_capacity_per_second", "capacity: stubs ÷ their service time", capacity, "/s");
    figures.add("overload_utilisation", "time that the stubs worked", utilisation * 100.0, "%");
    figures.add("overload_goodput_per_second", "goodput: answered within 500 ms", good, "/s");
    figures.add("overload_goodput_of_capacity", "goodput of capacity", good / capacity * 100.0, "%");
    figures.target(Target::AtLeast(GOODPUT));
    outcomes(&offered, figures);
    let (third, last) = (at(&memory, offered.start + length / 3)?, at(&memory, end)?);
    figures.size("overload_rss_third", "RSS after a third of the time", third);
    figures.size("overload_rss_end", "RSS at the end", last);
    figures.add("overload_rss_change", "change", megabytes(last) - megabytes(third), "MB");
    figures.target(Target::Between(-FLAT, FLAT));
    figures.add("overload_beyond_capacity", "sent to a stub that was busy", stubs.refused() as f64, "");
    figures.target(Target::AtMost(0.0));
    offered.check()
}

fn outcomes(offered: &Offered, figures: &mut Figures) {
    let is_shed = |outcome: &Outcome| matches!(outcome, Outcome::Shed(_));
    let is_admitted = |outcome: &Outcome| matches!(outcome, Outcome::Answered | Outcome::Expired);
    let sheds = offered.latencies(is_shed);
    figures.add("overload_shed", "shed (503)", sheds.len() as f64, "");
    figures.add("overload_shed_p50_ms", "  answered after, p50", quantile_ms(sheds.clone(), 0.5), "ms");
    figures.add("overload_shed_p99_ms", "  answered after, p99", quantile_ms(sheds, 0.99), "ms");
    figures.target(Target::AtMost(REFUSAL_MS));
    let silent = offered.count(|outcome| *outcome == Outcome::Shed(None));
    figures.add("overload_shed_silent", "  without Retry-After", silent as f64, "");
    figures.target(Target::AtMost(0.0));
    let admitted = offered.latencies(is_admitted);
    figures.add("overload_admitted", "admitted", admitted.len() as f64, "");
    figures.add("overload_admitted_p50_ms", "  answered after, p50", quantile_ms(admitted.clone(), 0.5), "ms");
    figures.add("overload_admitted_p99_ms", "  answered after, p99", quantile_ms(admitted, 0.99), "ms");
    figures.target(Target::AtMost((DEADLINE + WAY_BACK).as_secs_f64() * 1e3));
    let late = offered.samples.iter().filter(|sample| sample.latency > OBJECTIVE);
    let late = late.filter(|sample| sample.outcome == Outcome::Answered).count();
    figures.add("overload_late", "  of those, answered later than 500 ms", late as f64, "");
    let expired = offered.count(|outcome| *outcome == Outcome::Expired);
    figures.add("overload_expired", "  of those, not answered in time (504)", expired as f64, "");
}

/// The last sample before `instant`.
fn at(samples: &[Sample], instant: Instant) -> Result<u64> {
    let before = samples.iter().take_while(|(at, _)| *at <= instant);
    before.last().map(|(_, bytes)| *bytes).context("the dispatcher's memory was not sampled")
}
