//! Requests per second of one worker on one core, next to what decoding and inference on that core leave possible.

use super::measuring_process::MeasuringProcess;
use super::{RunContext, client, server};
use crate::cores::{self, ReservedCore};
use crate::figure::Figure;
use crate::progress;
use crate::statistics::median;
use anyhow::{Context, Result};
use harness::paths;
use std::fs;

/// Requests in a turn.
const REQUESTS: usize = 60;

/// How often an image is decoded and classified in a turn.
const REPEATS: u32 = 10;

/// Connections at most; fewer if the replica's capacity is lower.
const MAX_CONNECTIONS: u64 = 4;

/// The ratio and both of its parts.
///
/// # Errors
/// When there is one core only, or a program does not start.
pub(super) fn measure(run: &RunContext) -> Result<Vec<Figure>> {
    let core = *cores::allowed()?.first().context("this process may use no core")?;
    let _elsewhere = ReservedCore::new(core)?;
    let small = &run.images().small;
    let image = fs::read(small).with_context(|| format!("read {}", small.display()))?;
    let replica = server::start_on(core, run.folder)?;
    let connections = server::wait_until_ready(&replica)?.min(MAX_CONNECTIONS) as usize;
    let mut stages = start_stages(run, core)?;
    // The first requests are slower, so they are not measured.
    client::answers_per_second(&replica, &image, connections, 4 * connections)?;

    let (mut answered, mut possible) = (Vec::new(), Vec::new());
    let progress = progress::bar(run.rounds.into(), "throughput");
    for _ in 0..run.rounds {
        // The stages are timed before and after, so that a drift within the round has no effect.
        let before = stages_ms(&mut stages)?;
        answered.push(client::answers_per_second(&replica, &image, connections, REQUESTS)?);
        let after = stages_ms(&mut stages)?;
        possible.push(1e3 / f64::midpoint(before, after));
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

/// Starts workers that time decoding and inference by themselves on `core`, with the question for each.
fn start_stages(run: &RunContext, core: u32) -> Result<[(MeasuringProcess, String); 2]> {
    let bench_replica = || cores::command_on(core, paths::program("bench-replica"));
    let mut forward = bench_replica();
    forward.arg("forward").arg("--weights").arg(server::weights());
    forward.arg("--crops").arg(run.images().crops()?).arg("--threads=1");
    let mut decode = bench_replica();
    decode.arg("decode").arg(&run.images().small);
    Ok([
        (MeasuringProcess::start("throughput-forward", forward, run.folder)?, format!("time 1 {REPEATS}")),
        (MeasuringProcess::start("throughput-decode", decode, run.folder)?, format!("time 0 {REPEATS}")),
    ])
}

/// Milliseconds of all stages together.
fn stages_ms(stages: &mut [(MeasuringProcess, String)]) -> Result<f64> {
    let mut milliseconds = 0.0;
    for (worker, question) in stages {
        milliseconds += median(worker.ask(question)?).context("a worker answered without a number")?;
    }
    Ok(milliseconds)
}
