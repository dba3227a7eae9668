//! Times decoding and the transform, from the bytes of an image file to the model's input, next to PIL and torchvision.
//! Times the JPEG decoder alone, to RGB, next to libjpeg-turbo.

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

/// Figures about the milliseconds of the replica and of PIL, of the JPEG decoder and of libjpeg-turbo, and their ratios,
/// for a file of 38 KB and one of 166 KB.
///
/// # Errors
/// If a measuring process fails.
pub(super) fn measure(run: &RunContext) -> Result<Vec<Figure>> {
    let files = [&run.images().small, &run.images().large];
    let own = |decoder: &str| {
        let mut command = Command::new(paths::program("bench-replica"));
        command.args(["decode", "--decoder", decoder]);
        command
    };
    let mut figures = Vec::new();
    for (stage, names, commands) in [
        ("decode", ["replica", "pil"], [own("replica"), run.torchvision()?.script("decode.py")]),
        ("jpeg", ["jpeg", "libjpeg_turbo"], [own("jpeg"), own("libjpeg-turbo")]),
    ] {
        let mut processes = Vec::new();
        for (mut command, name) in commands.into_iter().zip(names) {
            command.args(files);
            processes.push(MeasuringProcess::start(&format!("{stage}-{name}"), command, run.folder)?);
        }
        for (index, size) in ["38k", "166k"].into_iter().enumerate() {
            let [own, theirs] = time(index, &mut processes, run.rounds)?;
            figures.push(Figure::ratio(format!("{stage}_ratio_{}_{size}", names[1]), &own, &theirs));
            figures.push(Figure::median(format!("{stage}_ms_{}_{size}", names[0]), own, "ms"));
            figures.push(Figure::median(format!("{stage}_ms_{}_{size}", names[1]), theirs, "ms"));
        }
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
