//! `bench loadgen`: how exactly loadgen keeps to its schedule, whether its report matches the requests that were sent,
//! its memory, and its processor time for a request next to that of oha at the same rate and body. The stub replica
//! that answers runs on one core, the sender on another.

mod oha;

use crate::output::Output;
use crate::statistics::{median, median_ratio, quantile};
use crate::stub::{Record, StubReplicas, StubSettings, ThreadBehavior};
use crate::{cores, images, memory, processor_time, progress};
use anyhow::{Context, Result, ensure};
use harness::{paths, steal};
use oha::Oha;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The core of the stub replica.
const STUB_CORE: u32 = 0;

/// The core of loadgen or oha.
const SENDER_CORE: u32 = 1;

/// Rates at which loadgen is compared with oha, in requests per second. The schedule is measured at the first rate,
/// too.
const RATES: [u32; 3] = [2000, 200, 10_000];

/// Size of the small body that loadgen and oha send, in bytes.
const SMALL_BYTES: usize = 200;

/// A PNG image of one pixel. A server ignores bytes after its end.
const PIXEL: &[u8] =
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x04\0\0\0\xb5\x1c\x0c\x02\0\0\0\x0bIDATx\xdac\
    d`\0\0\0\x06\0\x020\x81\xd0/\0\0\0\0IEND\xaeB`\x82";

/// Requests that are in flight while the memory of loadgen is measured.
const CLOSED: u32 = 16;

/// The rate, in requests per second, at which the gaps between arrivals are compared with an exponential distribution.
/// The gaps are far longer than the delays of waking a thread, which would distort the distribution.
const GAP_RATE: u32 = 100;

/// Time from the first request to the stub replica's stall.
const STALL_AFTER: Duration = Duration::from_secs(2);

/// Length of the stall whose latencies are checked.
const STALL_LENGTH: Duration = Duration::from_secs(1);

/// Length of the stall in the run whose percentiles are checked. Without it, all percentiles would be nearly equal.
const SHORT_STALL: Duration = Duration::from_millis(300);

/// Seconds by which the stub replica's and loadgen's times of one event may differ.
const CLOCK_DIFFERENCE: f64 = 0.01;

/// Flags of `bench loadgen`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    output: Output,
    /// Rounds of the comparison with oha; each figure is the median over the rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds that loadgen and oha send in each round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Seconds for which loadgen sends as fast as it can while its memory is measured
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(4..=86_400))]
    memory_seconds: u32,
}

/// Runs all measurements, prints the figures, and writes them to the file of `--json`.
///
/// # Errors
/// If a program cannot be installed, does not start, or does not answer.
pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = paths::output("bench").join("loadgen");
    images::draw(&folder.join("images"), &["--count=1", "--size=480", "--quality=80"])?;
    let oha = Oha::ensure()?;
    let figures = steal::watch(|| {
        anyhow::Ok(json!({
            "schedule": schedule(&folder)?,
            "stall": stall(&folder)?,
            "log": log(&folder)?,
            "memory": memory(options, &folder)?,
            "cost": cost(options, &oha, &folder)?,
        }))
    })?;
    options.output.write(&figures)
}

/// Starts a stub replica on its own core. It accepts any number of requests at once.
fn start_stub(behavior: ThreadBehavior) -> Result<StubReplicas> {
    StubReplicas::start(StubSettings {
        capacity: usize::MAX,
        behavior,
        core: Some(STUB_CORE),
        ..StubSettings::default()
    })
}

/// Runs `loadgen run` on the sender's core against `stub`, with the large image. Returns loadgen's report.
fn send(folder: &Path, stub: &StubReplicas, flags: &[&str]) -> Result<Value> {
    send_images(&folder.join("images"), &folder.join("report.json"), stub, flags)
}

/// Runs `loadgen run` on the sender's core against `stub`, with the images of a folder. Returns loadgen's report, which
/// it also writes to `report`.
fn send_images(images: &Path, report: &Path, stub: &StubReplicas, flags: &[&str]) -> Result<Value> {
    let url = format!("--url=http://{}/predict", stub.addresses[0]);
    let images = format!("--pictures={}", images.display());
    let loadgen = cores::command_on(SENDER_CORE, paths::program("loadgen"));
    harness::loadgen::run_command(loadgen, &[&[&*url, &*images, "--quiet"], flags].concat(), report)
}

/// Compares the arrivals that the stub replica records with loadgen's schedule, at two rates. Returns the send delays
/// and the distances of the gaps between arrivals from an exponential distribution, as JSON.
fn schedule(folder: &Path) -> Result<Value> {
    println!("\n== loadgen's schedule, next to the arrivals that the server records (one core)");
    let [p50, p99] = wake_up_delays();
    println!("delay with which a thread that only sleeps is woken: p50 {p50:.3} ms, p99 {p99:.3} ms");
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
    // The Kolmogorov-Smirnov test at 1 %: exponential gaps exceed this distance once in a hundred runs.
    let bound = 1.63 / (gaps.len() as f64).sqrt();
    let distance = distance_from_exponential(gaps, 1.0 / f64::from(rate));
    let delay = &report["punctuality"]["send_delay_ms"];
    let delay_ms = |quantile: &str| delay[quantile].as_f64().unwrap_or_default();
    println!(
        "{rate:>5}/s  {offered} sent, {} arrived; send delay p50 {:.3} ms, p99 {:.3} ms (target 1), max {:.2} ms; \
         distance of the gaps from an exponential distribution {distance:.4}",
        records.len(),
        delay_ms("p50"),
        delay_ms("p99"),
        delay_ms("max")
    );
    if rate == GAP_RATE {
        println!("         (exponential gaps exceed {bound:.4} once in a hundred runs)");
    }
    let arrived = records.len();
    ensure!(offered as usize == arrived, "loadgen sent {offered} requests, but {arrived} arrived at the stub replica");
    Ok(json!({
        "requests_per_second": rate, "sent": offered, "seen": records.len(), "send_delay_ms": delay,
        "distance": distance, "bound": bound,
    }))
}

/// The delays with which this machine wakes a thread that sleeps: their median and 99th percentile, in milliseconds. A
/// load generator that sleeps cannot have smaller send delays.
fn wake_up_delays() -> [f64; 2] {
    let start = Instant::now();
    let late = |index: u32| {
        let due = start + Duration::from_secs(1) * index / RATES[0];
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due.elapsed().as_secs_f64() * 1e3
    };
    let mut late: Vec<f64> = (1..=5 * RATES[0]).map(late).collect();
    [0.5, 0.99].map(|q| quantile(&mut late, q).expect("10,000 delays were measured"))
}

/// Checks whether the latencies of all requests that are scheduled during a stall of the stub replica contain the rest
/// of the stall. Returns as JSON the number of these requests, and the number of those whose latencies do.
fn stall(folder: &Path) -> Result<Value> {
    println!("\n== Latencies during a stall of the server of {STALL_LENGTH:?} (wrk2's test)");
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
    // A request that is scheduled during the stall is answered after its end.
    let waited = stalled.iter().filter(|(at, latency)| *latency >= to - at - CLOCK_DIFFERENCE / 2.0).count();
    println!(
        "of {} requests that were scheduled during the stall, {waited} have latencies that reach to its end; \
         p99 {:.0} ms",
        stalled.len(),
        report["summary"]["latency_ms"]["p99"].as_f64().unwrap_or_default()
    );
    Ok(json!({"scheduled": stalled.len(), "shown": waited}))
}

/// Compares the percentiles in loadgen's report with the exact ones, which follow from its log of all requests. Returns
/// the largest relative difference as JSON.
fn log(folder: &Path) -> Result<Value> {
    println!("\n== Percentiles of the report, next to those of the log of all requests");
    let stub = start_stub(ThreadBehavior::Stalls { after: STALL_AFTER, length: SHORT_STALL })?;
    let log = folder.join("requests.csv.gz");
    let report = send(folder, &stub, &["--rate=1000", "--duration=10s", &format!("--log={}", log.display())])?;
    let mut latencies: Vec<f64> = read_log(&log)?.into_iter().map(|(_, latency)| latency * 1e3).collect();
    let mut worst: f64 = 0.0;
    for (name, q) in [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)] {
        let exact = quantile(&mut latencies, q);
        let exact = exact.with_context(|| format!("{} has no requests", log.display()))?;
        let reported = &report["summary"]["latency_ms"][name];
        let reported = reported.as_f64().with_context(|| format!("the report has no summary.latency_ms.{name}"))?;
        let error = (reported / exact - 1.0).abs();
        let percent = 100.0 * error;
        println!("{name:>5} {reported:>9.3} ms, in the log {exact:>9.3} ms: difference {percent:.4} % (target 0.1)");
        worst = worst.max(error);
    }
    Ok(json!({"worst_relative_error": worst}))
}

/// Measures the resident memory of loadgen each second while it sends as many requests as it can. Returns as JSON the
/// number of requests, and the largest memory in the second quarter of the time and in the last one.
fn memory(options: &Options, folder: &Path) -> Result<Value> {
    println!("\n== Memory while loadgen sends as fast as it can for {} s", options.memory_seconds);
    let stub = start_stub(ThreadBehavior::Sleeps)?;
    let report = folder.join("memory.json");
    let mut loadgen = cores::command_on(SENDER_CORE, paths::program("loadgen"))
        .args(["run", "--quiet", &format!("--closed={CLOSED}"), &format!("--duration={}s", options.memory_seconds)])
        .arg(format!("--url=http://{}/predict", stub.addresses[0]))
        .arg(format!("--pictures={}", small_image(folder)?.parent().expect("a file is in a folder").display()))
        .arg(format!("--json={}", report.display()))
        .spawn()
        .context("start loadgen")?;
    let progress = progress::bar(u64::from(options.memory_seconds), "sending");
    let mut bytes = Vec::new();
    let status = loop {
        if let Some(status) = loadgen.try_wait().context("wait for loadgen")? {
            break status;
        }
        // loadgen may end between the two calls.
        bytes.extend(memory::resident(loadgen.id()));
        progress.inc(1);
        std::thread::sleep(Duration::from_secs(1));
    };
    progress.finish_and_clear();
    ensure!(status.success(), "loadgen failed ({status})");
    let text = fs::read_to_string(&report).with_context(|| format!("read {}", report.display()))?;
    let report: Value = serde_json::from_str(&text).context("parse the report of loadgen")?;
    let requests = report["summary"]["answered"].as_u64().context("the report has no summary.answered")?;
    let quarter = bytes.len() / 4;
    let largest = |bytes: &[u64]| bytes.iter().copied().max().map_or(0.0, memory::megabytes);
    let (early, late) = (largest(&bytes[quarter..2 * quarter]), largest(&bytes[3 * quarter..]));
    println!(
        "{requests} requests; {early:.1} MB in the second quarter, {late:.1} MB in the last (target 150, and equal)"
    );
    Ok(json!({"requests": requests, "second_quarter_mb": early, "last_quarter_mb": late}))
}

/// Writes an image of [`SMALL_BYTES`] to a folder of its own. Returns its path.
fn small_image(folder: &Path) -> Result<PathBuf> {
    let folder = folder.join("small");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join("pixel.png");
    let mut file = PIXEL.to_vec();
    file.resize(SMALL_BYTES, 0);
    fs::write(&path, file).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Measures the processor time of loadgen and of oha for a request, with both bodies and at all rates. Returns the
/// figures as JSON.
fn cost(options: &Options, oha: &Oha, folder: &Path) -> Result<Value> {
    let mut figures = Vec::new();
    for image in [folder.join("images/00000.jpg"), small_image(folder)?] {
        let bytes = fs::metadata(&image).with_context(|| format!("read {}", image.display()))?.len();
        println!("\n== Processor time of the whole process for a request of {bytes} B, {} rounds", options.rounds);
        for rate in RATES {
            figures.push(cost_at(rate, &image, bytes, options, oha)?);
        }
    }
    Ok(figures.into())
}

fn cost_at(rate: u32, image: &Path, bytes: u64, options: &Options, oha: &Oha) -> Result<Value> {
    let seconds = options.seconds;
    let folder = image.parent().expect("a file is in a folder");
    let flags = [format!("--rate={rate}"), format!("--duration={seconds}s")];
    let flags = flags.each_ref().map(String::as_str);
    // Microseconds of processor time for a request, by round.
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let stub = start_stub(ThreadBehavior::BusyWaits)?;
        // loadgen and oha begin a round in turns.
        for turn in [round % 2, (round + 1) % 2] {
            let before = processor_time::of_ended_children()?;
            let (sent, times) = if turn == 0 {
                let report = send_images(folder, &folder.with_extension("json"), &stub, &flags)?;
                (report["summary"]["answered"].as_f64().context("the report has no summary.answered")?, &mut own)
            } else {
                (oha.send(SENDER_CORE, rate, seconds, image, stub.addresses[0])?, &mut peer)
            };
            times.push((processor_time::of_ended_children()? - before).as_secs_f64() * 1e6 / sent);
        }
    }
    let ratio = median_ratio(&own, &peer).expect("--rounds is at least 1");
    let [own, peer] = [own, peer].map(|times| median(times).expect("--rounds is at least 1"));
    println!("{rate:>6}/s  loadgen {own:.1} µs, oha {peer:.1} µs, ratio {ratio:.2} (target 1)");
    Ok(json!({"requests_per_second": rate, "body_bytes": bytes, "own_us": own, "oha_us": peer, "ratio": ratio}))
}

/// The scheduled times and latencies of all requests, in seconds, from the file that `loadgen run --log` wrote.
fn read_log(path: &Path) -> Result<Vec<(f64, f64)>> {
    let unpacked = Command::new("gzip").arg("-dc").arg(path).output();
    let unpacked = unpacked.context("run gzip; on Debian and Ubuntu: sudo apt-get install gzip")?;
    let message = String::from_utf8_lossy(&unpacked.stderr);
    ensure!(unpacked.status.success(), "gzip cannot unpack {}: {}", path.display(), message.trim());
    let text = String::from_utf8(unpacked.stdout).with_context(|| format!("read {}", path.display()))?;
    let row = |line: &str| {
        let mut micros = line.split(',').map(|word| word.parse::<f64>().ok());
        let (scheduled, _send_delay, latency) = (micros.next()??, micros.next()??, micros.next()??);
        Some((scheduled / 1e6, latency / 1e6))
    };
    let malformed = |line: &str| format!("{}: expected three numbers at the start of {line:?}", path.display());
    text.lines().skip(1).map(|line| row(line).with_context(|| malformed(line))).collect()
}

/// The largest distance between the distribution function of `gaps` and that of the exponential distribution with the
/// mean `mean`: the statistic of the Kolmogorov-Smirnov test.
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
    fn the_distance_is_small_for_exponential_gaps_and_large_for_equal_gaps() {
        let quantiles = (0..1000).map(|rank| (f64::from(rank) + 0.5) / 1000.0);
        let exponential = quantiles.map(|share| -(1.0 - share).ln()).collect();
        assert!(distance_from_exponential(exponential, 1.0) < 0.001);
        assert!(distance_from_exponential(vec![1.0; 1000], 1.0) > 0.6);
    }
}
