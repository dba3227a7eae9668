//! Times decoding and the transform, from the bytes of an image file to the model's input, next to PIL and torchvision.

use super::RunContext;
use super::measuring_process::MeasuringProcess;
use crate::figure::Figure;
use crate::progress;
use crate::statistics::median;
use anyhow::Result;
use harness::paths;
use std::process::Command;

/// Number of times that the file is decoded in a turn.
const REPEATS: u32 = 10;

/// Figures about the milliseconds of the replica and of PIL, and their ratio, for a file of 38 KB and one of 166 KB.
///
/// # Errors
/// If a measuring process fails.
pub(super) fn measure(run: &RunContext) -> Result<Vec<Figure>> {
    let files = [&run.images().small, &run.images().large];
    let mut own = Command::new(paths::program("bench-replica"));
    own.arg("decode");
    let commands = [own, run.torchvision()?.script("decode.py")];
    let mut processes = Vec::new();
    for (mut command, name) in commands.into_iter().zip(["decode-replica", "decode-pil"]) {
        command.args(files);
        processes.push(MeasuringProcess::start(name, command, run.folder)?);
    }
    let mut figures = Vec::new();
    for (index, size) in ["38k", "166k"].into_iter().enumerate() {
        let [own, theirs] = time(index, &mut processes, run.rounds)?;
        figures.push(Figure::ratio(format!("decode_ratio_pil_{size}"), &own, &theirs));
        figures.push(Figure::median(format!("decode_ms_replica_{size}"), own, "ms"));
        figures.push(Figure::median(format!("decode_ms_pil_{size}"), theirs, "ms"));
    }
    Ok(figures)
}

/// The milliseconds for the file with the number `index` in each round, of the replica's process and of the peer's.
fn time(index: usize, processes: &mut [MeasuringProcess], rounds: u32) -> Result<[Vec<f64>; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    let progress = progress::bar(rounds.into(), "decode");
    for round in 0..rounds as usize {
        // The two processes begin a round in turns.
        for process in [round % 2, (round + 1) % 2] {
            let took = processes[process].ask(&format!("time {index} {REPEATS}"))?;
            times[process].push(median(took).expect("`ask` returns at least one number"));
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(times)
}
