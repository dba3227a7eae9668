//! `bench loadgen`: how exactly loadgen keeps to its schedule, whether its report matches what happened, and the
//! processor time of a request, next to oha at the same rate and body. The stub that answers has one core, the sender
//! another.

mod oha;

use crate::output::Output;
use crate::statistics::{median, median_ratio, quantile};
use crate::stub::{Record, StubReplicas, StubSettings, ThreadBehavior};
use crate::{cores, images, processor_time};
use anyhow::{Context, Result, ensure};
use harness::{paths, steal};
use oha::Oha;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The core of the stub.
const STUB_CORE: u32 = 0;

/// The core of the sender.
const SENDER_CORE: u32 = 1;

/// Requests per second at which loadgen is compared with oha. The schedule is judged at the first of them.
const RATES: [u32; 2] = [2000, 200];

/// Requests per second at which the distribution of the gaps is judged: enough requests, and gaps far longer than the
/// difference between the clocks of two processes.
const GAP_RATE: u32 = 100;

/// In one run, the time from the first request to the server's stall, and the length of the stall.
const STALL_AFTER: Duration = Duration::from_secs(2);
const STALL_LENGTH: Duration = Duration::from_secs(1);

/// The stall that gives the percentiles of another run something to show.
const SHORT_STALL: Duration = Duration::from_millis(300);

/// Seconds by which the clocks of stub and loadgen may differ at the ends of the stall.
const CLOCK_DIFFERENCE: f64 = 0.01;

/// Flags of `bench loadgen`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    output: Output,
    /// Rounds of the comparison with oha; figures are their medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each side in each round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

/// Measures, prints and writes.
///
/// # Errors
/// When a program cannot be installed, does not start, or does not answer.
pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = paths::output("bench").join("loadgen");
    images::draw(&folder.join("images"), &["--count=1", "--size=480", "--quality=80"])?;
    let oha = Oha::ensure()?;
    let figures = steal::watch(|| {
        anyhow::Ok(json!({
            "schedule": schedule(&folder)?,
            "stall": stall(&folder)?,
            "log": log(&folder)?,
            "cost": cost(options, &oha, &folder)?,
        }))
    })?;
    options.output.write(&figures)
}

fn start_stub(behavior: ThreadBehavior) -> Result<StubReplicas> {
    StubReplicas::start(StubSettings {
        capacity: usize::MAX,
        behavior,
        core: Some(STUB_CORE),
        ..StubSettings::default()
    })
}

/// Runs `loadgen run` on the sender's core. Returns its report.
fn send(folder: &Path, stub: &StubReplicas, flags: &[&str]) -> Result<Value> {
    let url = format!("--url=http://{}/predict", stub.addresses[0]);
    let images = format!("--pictures={}", folder.join("images").display());
    let loadgen = cores::command_on(SENDER_CORE, paths::program("loadgen"));
    harness::loadgen::run_command(
        loadgen,
        &[&[&*url, &*images, "--quiet"], flags].concat(),
        &folder.join("report.json"),
    )
}

/// Whether the stub saw the requests as they were scheduled.
fn schedule(folder: &Path) -> Result<Value> {
    println!("\n== The schedule, by the server's own record (one core)");
    let [p50, p99] = wake_up_delays();
    println!("a thread that only sleeps wakes late by p50 {p50:.3} ms, p99 {p99:.3} ms");
    let rates = [(RATES[0], 10), (GAP_RATE, 40)];
    let rates = rates.map(|(rate, seconds)| schedule_at(rate, seconds, folder));
    let rates = rates.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(json!({"bare_sleep_ms": {"p50": p50, "p99": p99}, "rates": rates}))
}

fn schedule_at(rate: u32, seconds: u32, folder: &Path) -> Result<Value> {
    let stub = start_stub(ThreadBehavior::Sleeps)?;
    let report = send(folder, &stub, &[&format!("--rate={rate}"), &format!("--duration={seconds}s")])?;
    let mut records = stub.take_records();
    records.sort_unstable_by_key(|record| record.arrived);
    let offered = report["summary"]["offered"].as_u64().context("the report has no summary.offered")?;
    let gap = |pair: &[Record]| (pair[1].arrived - pair[0].arrived).as_secs_f64();
    let gaps: Vec<f64> = records.windows(2).map(gap).collect();
    // Kolmogorov and Smirnov: chance alone exceeds this once in a hundred times.
    let bound = 1.63 / (gaps.len() as f64).sqrt();
    let distance = distance_from_exponential(gaps, 1.0 / f64::from(rate));
    let delay = &report["punctuality"]["send_delay_ms"];
    let delay_ms = |quantile: &str| delay[quantile].as_f64().unwrap_or_default();
    println!(
        "{rate:>5}/s  {offered} sent, {} seen; send delay p50 {:.3} ms, p99 {:.3} ms (target 1), max {:.2} ms; \
         gaps off the exponential by {distance:.4}",
        records.len(),
        delay_ms("p50"),
        delay_ms("p99"),
        delay_ms("max")
    );
    if rate == GAP_RATE {
        println!("         (chance alone exceeds {bound:.4} once in a hundred times)");
    }
    ensure!(offered as usize == records.len(), "loadgen sent {offered} requests, but the stub saw {}", records.len());
    Ok(json!({
        "requests_per_second": rate, "sent": offered, "seen": records.len(), "send_delay_ms": delay,
        "distance": distance, "bound": bound,
    }))
}

/// How late this machine wakes a thread that sleeps, as median and 99th percentile in milliseconds. No load generator
/// can do better.
fn wake_up_delays() -> [f64; 2] {
    let start = Instant::now();
    let late = |index: u32| {
        let due = start + Duration::from_secs(1) * index / RATES[0];
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due.elapsed().as_secs_f64() * 1e3
    };
    let mut late: Vec<f64> = (1..=5 * RATES[0]).map(late).collect();
    [0.5, 0.99].map(|q| quantile(&mut late, q).expect("there are delays"))
}

/// Whether every request that was scheduled during a stall of the server shows it.
fn stall(folder: &Path) -> Result<Value> {
    println!("\n== A server that stands still for {STALL_LENGTH:?} (wrk2's test)");
    let stub = start_stub(ThreadBehavior::Stalls { after: STALL_AFTER, length: STALL_LENGTH })?;
    let log = folder.join("stall.csv.gz");
    let flags = ["--rate=200", "--duration=5s", "--arrivals=uniform", &format!("--log={}", log.display())];
    let report = send(folder, &stub, &flags)?;
    // The first request is sent half a gap after the start.
    let from = STALL_AFTER.as_secs_f64() + 0.0025;
    let to = from + STALL_LENGTH.as_secs_f64();
    let requests = read_log(&log)?;
    let stalled: Vec<_> =
        requests.iter().filter(|(at, _)| (from + CLOCK_DIFFERENCE..to - CLOCK_DIFFERENCE).contains(at)).collect();
    // Its latency is at least the rest of the stall.
    let shown = stalled.iter().filter(|(at, latency)| *latency >= to - at - CLOCK_DIFFERENCE / 2.0).count();
    println!(
        "{shown} of {} requests scheduled in it waited for its end; p99 {:.0} ms",
        stalled.len(),
        report["summary"]["latency_ms"]["p99"].as_f64().unwrap_or_default()
    );
    Ok(json!({"scheduled": stalled.len(), "shown": shown}))
}

/// Whether the reported percentiles match the log of every request.
fn log(folder: &Path) -> Result<Value> {
    println!("\n== Percentiles, next to the log of every request");
    let stub = start_stub(ThreadBehavior::Stalls { after: STALL_AFTER, length: SHORT_STALL })?;
    let log = folder.join("requests.csv.gz");
    let report = send(folder, &stub, &["--rate=1000", "--duration=10s", &format!("--log={}", log.display())])?;
    let mut latencies: Vec<f64> = read_log(&log)?.into_iter().map(|(_, latency)| latency * 1e3).collect();
    let mut worst: f64 = 0.0;
    for (name, q) in [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)] {
        let exact = quantile(&mut latencies, q).context("the log is empty")?;
        let reported = &report["summary"]["latency_ms"][name];
        let reported = reported.as_f64().with_context(|| format!("the report has no summary.latency_ms.{name}"))?;
        let error = (reported / exact - 1.0).abs();
        let percent = 100.0 * error;
        println!("{name:>5} {reported:>9.3} ms, by the log {exact:>9.3} ms: off by {percent:.4} % (target 0.1)");
        worst = worst.max(error);
    }
    Ok(json!({"worst_relative_error": worst}))
}

/// Processor time of a request, next to oha's.
fn cost(options: &Options, oha: &Oha, folder: &Path) -> Result<Value> {
    let image = folder.join("images/00000.jpg");
    let bytes = fs::metadata(&image).with_context(|| format!("read {}", image.display()))?.len();
    println!("\n== Processor time of a request of {bytes} B, whole process, {} rounds", options.rounds);
    let rates = RATES.map(|rate| cost_at(rate, options, oha, folder));
    Ok(rates.into_iter().collect::<Result<Vec<_>>>()?.into())
}

fn cost_at(rate: u32, options: &Options, oha: &Oha, folder: &Path) -> Result<Value> {
    let image = folder.join("images/00000.jpg");
    let seconds = options.seconds;
    // Microseconds of a request, by round.
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let stub = start_stub(ThreadBehavior::BusyWaits)?;
        // The first sender of a round changes from round to round.
        for turn in [round % 2, (round + 1) % 2] {
            let before = processor_time::of_ended_children()?;
            let (sent, times) = if turn == 0 {
                let report = send(folder, &stub, &[&format!("--rate={rate}"), &format!("--duration={seconds}s")])?;
                (report["summary"]["answered"].as_f64().context("the report has no summary.answered")?, &mut own)
            } else {
                (oha.send(SENDER_CORE, rate, seconds, &image, stub.addresses[0])?, &mut peer)
            };
            times.push((processor_time::of_ended_children()? - before).as_secs_f64() * 1e6 / sent);
        }
    }
    let ratio = median_ratio(&own, &peer).context("there was no round")?;
    let [own, peer] = [own, peer].map(|times| median(times).expect("the ratios have a median"));
    println!("{rate:>5}/s  loadgen {own:.1} µs, oha {peer:.1} µs, ratio {ratio:.2} (target 1)");
    Ok(json!({"requests_per_second": rate, "own_us": own, "oha_us": peer, "ratio": ratio}))
}

/// Scheduled times and latencies in seconds, from a log of `loadgen run --log`.
fn read_log(path: &Path) -> Result<Vec<(f64, f64)>> {
    let unpacked = Command::new("gzip").arg("-dc").arg(path).output().context("run gzip")?;
    ensure!(unpacked.status.success(), "gzip cannot unpack {}", path.display());
    let text = String::from_utf8(unpacked.stdout).with_context(|| format!("read {}", path.display()))?;
    let row = |line: &str| {
        let mut micros = line.split(',').map(|word| word.parse::<f64>().ok());
        let (scheduled, _send_delay, latency) = (micros.next()??, micros.next()??, micros.next()??);
        Some((scheduled / 1e6, latency / 1e6))
    };
    text.lines().skip(1).map(|line| row(line).with_context(|| format!("read a line of the log: {line:?}"))).collect()
}

/// The largest distance between the distribution of `gaps` and the exponential one with this mean (Kolmogorov,
/// Smirnov).
fn distance_from_exponential(mut gaps: Vec<f64>, mean: f64) -> f64 {
    gaps.sort_by(f64::total_cmp);
    let n = gaps.len() as f64;
    let distances = gaps.iter().enumerate().map(|(rank, gap)| {
        let exact = 1.0 - (-gap / mean).exp();
        (exact - rank as f64 / n).abs().max(((rank + 1) as f64 / n - exact).abs())
    });
    distances.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_tells_even_gaps_from_exponential_ones() {
        let quantiles = (0..1000).map(|rank| (f64::from(rank) + 0.5) / 1000.0);
        let exponential = quantiles.map(|share| -(1.0 - share).ln()).collect();
        assert!(distance_from_exponential(exponential, 1.0) < 0.001);
        assert!(distance_from_exponential(vec![1.0; 1000], 1.0) > 0.6);
    }
}
