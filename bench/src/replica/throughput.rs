//! The answers per second of a replica on one core, next to the rate at which that core can decode and infer.

use super::measuring_process::MeasuringProcess;
use super::{RunContext, client, server};
use crate::cores::{self, ReservedCore};
use crate::figure::Figure;
use crate::progress;
use crate::statistics::median;
use anyhow::{Context, Result};
use harness::paths;
use std::fs;

/// Requests of each round.
const REQUESTS: usize = 60;

/// Decodings and forward passes that are timed before the requests of a round, and again after them.
const REPEATS: u32 = 10;

/// Most connections to the replica. There are fewer if the replica's capacity is lower.
const MAX_CONNECTIONS: u64 = 4;

/// Figures about the answers per second, the possible rate by the times of decoding and inference, and their ratio.
///
/// # Errors
/// If this process may use one core only, or a program does not start.
pub(super) fn measure(run: &RunContext) -> Result<Vec<Figure>> {
    let core = *cores::allowed()?.first().context("Cpus_allowed_list in /proc/self/status is empty")?;
    let _reserved = ReservedCore::new(core)?;
    let small = &run.images().small;
    let image = fs::read(small).with_context(|| format!("read {}", small.display()))?;
    let replica = server::start_on(core, run.folder)?;
    let connections = server::wait_until_ready(&replica)?.min(MAX_CONNECTIONS) as usize;
    let mut stages = start_stages(run, core)?;
    // The first requests to a replica are slower, so they are not measured.
    client::answers_per_second(&replica, &image, connections, 4 * connections)?;

    let (mut answered, mut possible) = (Vec::new(), Vec::new());
    let progress = progress::bar(run.rounds.into(), "throughput");
    for _ in 0..run.rounds {
        // Both stages are timed before and after the requests. Otherwise a drift of the machine's speed within the
        // round would change the ratio.
        let before = stages_ms(&mut stages)?;
        answered.push(client::answers_per_second(&replica, &image, connections, REQUESTS)?);
        let after = stages_ms(&mut stages)?;
        possible.push(1e3 / f64::midpoint(before, after));
        progress.inc(1);
    }
    progress.finish_and_clear();
    println!("throughput was measured with {connections} connections");
    Ok(vec![
        Figure::ratio("throughput_ratio", &answered, &possible),
        Figure::median("throughput_per_second", answered, "/s"),
        Figure::median("throughput_possible_per_second", possible, "/s"),
    ])
}

/// Starts a process that times inference and one that times decoding, both on `core`. Returns each process with the
/// question to which it answers with the times.
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

/// The median milliseconds of each stage, summed over the stages.
fn stages_ms(stages: &mut [(MeasuringProcess, String)]) -> Result<f64> {
    let mut milliseconds = 0.0;
    for (process, question) in stages {
        milliseconds += median(process.ask(question)?).expect("`ask` returns at least one number");
    }
    Ok(milliseconds)
}
