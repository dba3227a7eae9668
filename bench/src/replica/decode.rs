//! From a file's bytes to the model's numbers, next to PIL and torchvision's transform.

use super::Bench;
use super::figure::Figure;
use super::worker::Worker;
use crate::bench::figures::median;
use crate::paths;
use anyhow::{Context, Result};
use std::process::Command;

/// Pictures in a turn.
const REPEATS: u32 = 10;

/// Ratios and milliseconds, for either size.
///
/// # Errors
/// When a worker fails.
pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let pictures = bench.pictures();
    let files = [&pictures.small, &pictures.large];
    let commands = [Command::new(paths::program("examples/decode")), bench.torchvision()?.script("decode.py")];
    let mut workers = Vec::new();
    for (mut command, name) in commands.into_iter().zip(["decode-replica", "decode-pil"]) {
        command.args(files);
        workers.push(Worker::start(name, command, bench.folder)?);
    }
    let mut figures = Vec::new();
    for (index, size) in ["38k", "166k"].into_iter().enumerate() {
        let mut times = [Vec::new(), Vec::new()];
        let progress = bench.progress(bench.rounds, "decode");
        for round in 0..bench.rounds as usize {
            // Neither is always the first.
            for turn in [round % 2, (round + 1) % 2] {
                let took = workers[turn].ask(&format!("time {index} {REPEATS}"))?;
                times[turn].push(median(took).context("a worker answers something")?);
            }
            progress.inc(1);
        }
        progress.finish_and_clear();
        let [own, theirs] = times;
        figures.push(Figure::ratio(format!("decode_ratio_pil_{size}"), &own, &theirs));
        figures.push(Figure::median(format!("decode_ms_replica_{size}"), own, "ms"));
        figures.push(Figure::median(format!("decode_ms_pil_{size}"), theirs, "ms"));
    }
    Ok(figures)
}
