//! What one worker answers on one core, next to what decoding and inference on that core leave possible.

use super::clients;
use super::cores::{self, Elsewhere};
use super::figure::Figure;
use super::worker::Worker;
use super::{Bench, subject};
use crate::bench::figures::median;
use crate::paths;
use anyhow::{Context, Result};
use std::fs;

/// Requests in a turn, and pictures that are decoded and passed forward in one.
const REQUESTS: usize = 60;
const REPEATS: u32 = 10;

/// Connections at most; no more than the replica has room for.
const CONNECTIONS: u64 = 4;

/// Ratio and both of its parts.
///
/// # Errors
/// When there is one core only, or something does not start.
pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let core = *cores::allowed()?.first().context("there is no core")?;
    let _elsewhere = Elsewhere::than(core)?;
    let pictures = bench.pictures();
    let picture = fs::read(&pictures.small).with_context(|| format!("read {}", pictures.small.display()))?;
    let replica = subject::start_on(core, bench.folder)?;
    let connections = subject::wait(&replica)?.min(CONNECTIONS) as usize;
    let mut forward = cores::command_on(core, paths::program("examples/forward"));
    forward.arg("--weights").arg(subject::weights()).arg("--crops").arg(pictures.crops()?).arg("--threads=1");
    let mut forward = Worker::start("throughput-forward", forward, bench.folder)?;
    let mut decode = cores::command_on(core, paths::program("examples/decode"));
    decode.arg(&pictures.small);
    let mut decode = Worker::start("throughput-decode", decode, bench.folder)?;
    // The first requests find nothing prepared.
    clients::rate(&replica, &picture, connections, 4 * connections)?;

    let (mut answered, mut possible) = (Vec::new(), Vec::new());
    let progress = bench.progress(bench.rounds, "throughput");
    for _ in 0..bench.rounds {
        // What is possible before and after, so that a drift within the round counts for nothing.
        let mut milliseconds = 0.0;
        for half in 0..2 {
            for (worker, question) in [(&mut forward, "time 1"), (&mut decode, "time 0")] {
                let times = worker.ask(&format!("{question} {REPEATS}"))?;
                milliseconds += median(times).context("a worker answers something")? / 2.0;
            }
            if half == 0 {
                answered.push(clients::rate(&replica, &picture, connections, REQUESTS)?);
            }
        }
        possible.push(1e3 / milliseconds);
        progress.inc(1);
    }
    progress.finish_and_clear();
    println!("throughput with {connections} connections");
    Ok(vec![
        Figure::ratio("throughput_ratio", &answered, &possible),
        Figure::median("throughput_per_second", answered, "/s"),
        Figure::median("throughput_possible_per_second", possible, "/s"),
    ])
}
