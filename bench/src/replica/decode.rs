//! The time from a file's bytes to the model's numbers, next to PIL and torchvision's transform.

use super::RunContext;
use super::measuring_process::MeasuringProcess;
use crate::figure::Figure;
use crate::progress;
use crate::statistics::median;
use anyhow::{Context, Result};
use harness::paths;
use std::process::Command;

/// How often the file is decoded in a turn.
const REPEATS: u32 = 10;

/// Ratios and milliseconds, for an image of 38 KB and one of 166 KB.
///
/// # Errors
/// When a worker fails.
pub(super) fn measure(run: &RunContext) -> Result<Vec<Figure>> {
    let files = [&run.images().small, &run.images().large];
    let mut own = Command::new(paths::program("bench-replica"));
    own.arg("decode");
    let commands = [own, run.torchvision()?.script("decode.py")];
    let mut workers = Vec::new();
    for (mut command, name) in commands.into_iter().zip(["decode-replica", "decode-pil"]) {
        command.args(files);
        workers.push(MeasuringProcess::start(name, command, run.folder)?);
    }
    let mut figures = Vec::new();
    for (index, size) in ["38k", "166k"].into_iter().enumerate() {
        let [own, theirs] = time(index, &mut workers, run.rounds)?;
        figures.push(Figure::ratio(format!("decode_ratio_pil_{size}"), &own, &theirs));
        figures.push(Figure::median(format!("decode_ms_replica_{size}"), own, "ms"));
        figures.push(Figure::median(format!("decode_ms_pil_{size}"), theirs, "ms"));
    }
    Ok(figures)
}

/// Milliseconds for the file `index`, by round, of the replica's worker and of the peer's.
fn time(index: usize, workers: &mut [MeasuringProcess], rounds: u32) -> Result<[Vec<f64>; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    let progress = progress::bar(rounds.into(), "decode");
    for round in 0..rounds as usize {
        // The first worker of a round changes from round to round.
        for worker in [round % 2, (round + 1) % 2] {
            let took = workers[worker].ask(&format!("time {index} {REPEATS}"))?;
            times[worker].push(median(took).context("a worker answered without a number")?);
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(times)
}
