//! `cargo xtask bench loadgen`: how exactly loadgen keeps to its schedule, whether what it reports is what happened, and
//! what a request costs it, next to oha at the same rate and body. The server that answers has one core, whoever sends
//! the other.

mod oha;
mod recorder;

use super::figures::median;
use crate::steal::Watch;
use crate::{build, loadgen, paths};
use anyhow::{Context, Result, ensure};
use oha::Oha;
use recorder::{Habit, Recorder};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// For whoever sends.
const CORE: &str = "1";

/// Requests per second at which the two are compared, and the first at which the schedule is judged.
const RATES: [u32; 2] = [2000, 200];

/// For the distribution of gaps: enough requests, and gaps far above what a clock in another process is off by.
const GAP_RATE: u32 = 100;

/// When the server stands still, in one run.
const STALL_AFTER: Duration = Duration::from_secs(2);
const STALL_FOR: Duration = Duration::from_secs(1);

/// Flags of `bench loadgen`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Write all figures here as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds of the comparison; figures are their medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each side in each round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

/// Measures and prints.
///
/// # Errors
/// When something does not build, start or answer.
pub fn run(options: &Options) -> Result<()> {
    build::programs()?;
    build::example("recorder")?;
    let folder = paths::output("bench").join("loadgen");
    let pictures = folder.join("pictures");
    let drawn = Command::new(paths::program("loadgen"))
        .arg("pictures")
        .arg(&pictures)
        .args(["--count=1", "--size=480", "--quality=80"])
        .output()
        .context("run loadgen")?;
    ensure!(drawn.status.success(), "loadgen could not draw pictures: {}", String::from_utf8_lossy(&drawn.stderr));
    let oha = Oha::ensure()?;
    let watch = Watch::start();
    let schedule = schedule(&folder)?;
    let stall = stall(&folder)?;
    let log = log(&folder)?;
    let cost = cost(options, &oha, &folder)?;
    let stolen = watch.finish();
    if stolen.is_notable() {
        println!("\n{stolen}");
    }
    if let Some(path) = &options.json {
        let found = json!({"schedule": schedule, "stall": stall, "log": log, "cost": cost});
        fs::write(path, serde_json::to_string_pretty(&found)?).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// `loadgen run` on a core of its own; its report.
fn send(folder: &Path, recorder: &Recorder, flags: &[&str]) -> Result<Value> {
    let url = format!("--url=http://{}/predict", recorder.address());
    let pictures = format!("--pictures={}", folder.join("pictures").display());
    loadgen::run_on(Some(CORE), &[&[url.as_str(), &pictures, "--quiet"], flags].concat(), &folder.join("report.json"))
}

/// Whether the server saw what was scheduled.
fn schedule(folder: &Path) -> Result<Value> {
    println!("\n== The schedule, by the server's own record (one core)");
    let [median, p99] = sleep();
    println!("a thread that does nothing but sleep wakes late by p50 {median:.3} ms, p99 {p99:.3} ms");
    let mut found = Vec::new();
    for (rate, seconds) in [(RATES[0], 10), (GAP_RATE, 40)] {
        let recorder = Recorder::start(folder, Habit::Plain)?;
        let report = send(folder, &recorder, &[&format!("--rate={rate}"), &format!("--duration={seconds}s")])?;
        let arrivals = recorder.finish()?;
        let offered = report["summary"]["offered"].as_u64().context("no count")?;
        let gaps: Vec<f64> = arrivals.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let bound = 1.63 / (gaps.len() as f64).sqrt();
        let distance = distance_from_exponential(gaps, 1.0 / f64::from(rate));
        let delay = &report["punctuality"]["send_delay_ms"];
        println!(
            "{rate:>5}/s  {offered} sent, {} seen; send delay p50 {:.3} ms, p99 {:.3} ms (target 1), max {:.2} ms; \
             gaps off the exponential by {distance:.4}",
            arrivals.len(),
            delay["p50"].as_f64().unwrap_or_default(),
            delay["p99"].as_f64().unwrap_or_default(),
            delay["max"].as_f64().unwrap_or_default()
        );
        if rate == GAP_RATE {
            println!("         (chance alone exceeds {bound:.4} once in a hundred times)");
        }
        ensure!(offered as usize == arrivals.len(), "{offered} were sent and {} seen", arrivals.len());
        found.push(json!({
            "requests_per_second": rate, "sent": offered, "seen": arrivals.len(), "send_delay_ms": delay,
            "distance": distance, "bound": bound,
        }));
    }
    Ok(json!({"bare_sleep_ms": {"p50": median, "p99": p99}, "rates": found}))
}

/// How late this machine wakes a thread, median and 99th percentile in milliseconds: no generator can do better.
fn sleep() -> [f64; 2] {
    let start = Instant::now();
    let late = |index: u32| {
        let at = start + Duration::from_secs(1) * index / RATES[0];
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        at.elapsed().as_secs_f64() * 1e3
    };
    let mut late: Vec<f64> = (1..=5 * RATES[0]).map(late).collect();
    late.sort_by(f64::total_cmp);
    [0.5, 0.99].map(|quantile| late[(quantile * late.len() as f64) as usize])
}

/// Whether a server that stands still shows in every request that was scheduled meanwhile.
fn stall(folder: &Path) -> Result<Value> {
    println!("\n== A server that stands still for {STALL_FOR:?} (wrk2's test)");
    let recorder = Recorder::start(folder, Habit::Stalls(STALL_AFTER, STALL_FOR))?;
    let log = folder.join("stall.csv.gz");
    let flags = ["--rate=200", "--duration=5s", "--arrivals=uniform", &format!("--log={}", log.display())];
    let report = send(folder, &recorder, &flags)?;
    recorder.finish()?;
    // The first request is sent half a gap after the start.
    let from = STALL_AFTER.as_secs_f64() + 0.0025;
    let to = from + STALL_FOR.as_secs_f64();
    let requests: Vec<(f64, f64)> = read_log(&log)?;
    let meanwhile: Vec<_> = requests.iter().filter(|(at, _)| (from + 0.01..to - 0.01).contains(at)).collect();
    // As much as was left of it, but for what clocks differ by.
    let shown = meanwhile.iter().filter(|(at, latency)| *latency >= to - at - 0.005).count();
    println!(
        "{shown} of {} requests scheduled in it waited for its end; p99 {:.0} ms",
        meanwhile.len(),
        report["summary"]["latency_ms"]["p99"].as_f64().unwrap_or_default()
    );
    Ok(json!({"scheduled": meanwhile.len(), "shown": shown}))
}

/// Whether percentiles are those of the log.
fn log(folder: &Path) -> Result<Value> {
    println!("\n== Percentiles, next to the log of every request");
    let recorder = Recorder::start(folder, Habit::Stalls(STALL_AFTER, Duration::from_millis(300)))?;
    let log = folder.join("requests.csv.gz");
    let report = send(folder, &recorder, &["--rate=1000", "--duration=10s", &format!("--log={}", log.display())])?;
    recorder.finish()?;
    let mut latencies: Vec<f64> = read_log(&log)?.into_iter().map(|(_, latency)| latency * 1e3).collect();
    latencies.sort_by(f64::total_cmp);
    let mut worst: f64 = 0.0;
    for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)] {
        let exact = latencies[(quantile * latencies.len() as f64).ceil() as usize - 1];
        let reported = report["summary"]["latency_ms"][name].as_f64().with_context(|| format!("no {name}"))?;
        let off = (reported / exact - 1.0).abs();
        println!("{name:>5} {reported:>9.3} ms, by the log {exact:>9.3} ms: off by {:.4} % (target 0.1)", 100.0 * off);
        worst = worst.max(off);
    }
    Ok(json!({"worst_relative_error": worst}))
}

/// Processor time of a request, next to oha's.
fn cost(options: &Options, oha: &Oha, folder: &Path) -> Result<Value> {
    let picture = folder.join("pictures/00000.jpg");
    let bytes = fs::metadata(&picture).with_context(|| format!("read {}", picture.display()))?.len();
    println!("\n== Processor time of a request of {bytes} B, whole process, {} rounds", options.rounds);
    let mut found = Vec::new();
    for rate in RATES {
        let (mut own, mut peer) = (Vec::new(), Vec::new());
        for round in 0..options.rounds {
            let recorder = Recorder::start(folder, Habit::NeverSleeps)?;
            // Neither is always the first of its round.
            for turn in [round % 2, (round + 1) % 2] {
                let before = children()?;
                if turn == 0 {
                    let flags = [&*format!("--rate={rate}"), &format!("--duration={}s", options.seconds)];
                    let report = send(folder, &recorder, &flags)?;
                    let sent = report["summary"]["answered"].as_f64().context("no count")?;
                    own.push((children()? - before) / sent);
                } else {
                    let sent = oha.send(CORE, rate, options.seconds, &picture, recorder.address())?;
                    peer.push((children()? - before) / sent);
                }
            }
            recorder.finish()?;
        }
        let ratios = own.iter().zip(&peer).map(|(own, peer)| own / peer).collect();
        let middle = |values: Vec<f64>| median(values).context("there were rounds");
        let (own, peer, ratio) = (middle(own)?, middle(peer)?, middle(ratios)?);
        println!("{rate:>5}/s  loadgen {:.1} µs, oha {:.1} µs, ratio {ratio:.2} (target 1)", own * 1e6, peer * 1e6);
        found.push(json!({"requests_per_second": rate, "own_us": own * 1e6, "oha_us": peer * 1e6, "ratio": ratio}));
    }
    Ok(found.into())
}

/// Processor time in seconds of all children that have ended, in ticks of 10 ms (proc(5): cutime and cstime).
fn children() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    let numbers =
        stat.rsplit_once(')').map(|(_, numbers)| numbers).context("/proc/self/stat is not as it should be")?;
    let mut ticks = numbers.split_whitespace().skip(13).map(str::parse::<u64>);
    let mut next = || ticks.next().context("/proc/self/stat is short")?.context("/proc/self/stat holds no number");
    Ok((next()? + next()?) as f64 / 100.0)
}

/// Scheduled times and latencies, seconds.
fn read_log(path: &Path) -> Result<Vec<(f64, f64)>> {
    let unpacked = Command::new("gzip").arg("-dc").arg(path).output().context("run gzip")?;
    ensure!(unpacked.status.success(), "{} cannot be unpacked", path.display());
    let text = String::from_utf8(unpacked.stdout).with_context(|| format!("read {}", path.display()))?;
    let row = |line: &str| {
        let mut micros = line.split(',').map(|word| word.parse::<f64>().ok());
        let (scheduled, _delay, latency) = (micros.next()??, micros.next()??, micros.next()??);
        Some((scheduled / 1e6, latency / 1e6))
    };
    text.lines().skip(1).map(|line| row(line).with_context(|| format!("a line of the log: {line:?}"))).collect()
}

/// Largest distance between the distribution of `gaps` and the exponential one with this mean (Kolmogorov, Smirnov).
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
