//! Times the forward passes of the bundled ResNet-18 in 8-bit integers, next to the same network in two peers: in 8-bit
//! integers, and in the precision that they choose by themselves. One thread, two batch sizes.

use super::measuring_process::MeasuringProcess;
use super::{RunContext, server};
use crate::figure::Figure;
use crate::images;
use crate::progress;
use crate::python::Python;
use crate::statistics::median;
use anyhow::{Context, Result, ensure};
use harness::paths;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The engines, each with its precision. The first is the replica's.
const ENGINES: [(&str, &str); 5] = [
    ("replica", "int8"),
    ("openvino", "int8"),
    ("onnxruntime", "int8"),
    ("openvino", "default"),
    ("onnxruntime", "default"),
];

/// The batch sizes, each with the number of forward passes in a turn.
const BATCHES: [(u32, u32); 2] = [(1, 5), (8, 2)];

/// Number of drawn images of which the likeliest class must be the same in every engine. An engine with other classes
/// computes another network.
const SAME_CLASS: usize = 7;

/// Time between two turns, in which the threads of the engine that had the last turn stop waiting in busy loops.
const SETTLE: Duration = Duration::from_millis(50);

/// Figures about the milliseconds of each engine for one image, and the ratios of the replica's in 8-bit integers to them.
///
/// # Errors
/// If an engine does not start, or gives other classes.
pub(super) fn measure(run: &RunContext) -> Result<Vec<Figure>> {
    let crops = run.images().crops()?;
    let python = run.engines()?;
    let weights = quantised(run.folder)?;
    let mut processes = BTreeMap::new();
    for (engine, (name, precision)) in ENGINES.into_iter().enumerate() {
        for (batch, _) in BATCHES {
            let command = match engine {
                0 => own(&weights, &crops, batch),
                _ => peer(&python, (name, precision), &crops),
            };
            let process = MeasuringProcess::start(&format!("{name}-{precision}-{batch}"), command, run.folder)?;
            println!("{name:<12} {precision}, batch {batch}: {}", process.description);
            processes.insert((engine, batch), process);
        }
    }
    compare(&mut processes)?;
    let mut times: BTreeMap<(u32, usize), Vec<f64>> = BTreeMap::new();
    let progress = progress::bar(run.rounds.into(), "precisions");
    for round in 0..run.rounds as usize {
        for (batch, repeats) in BATCHES {
            // The engines take turns in being the first of a round.
            for turn in 0..ENGINES.len() {
                let engine = (turn + round) % ENGINES.len();
                let process = processes.get_mut(&(engine, batch)).expect("every engine has a process");
                std::thread::sleep(SETTLE);
                let passes = process.ask(&format!("time {batch} {repeats}"))?;
                let pass = median(passes).expect("`ask` returns at least one number");
                times.entry((batch, engine)).or_default().push(pass / f64::from(batch));
            }
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(figures(&times))
}

/// Writes the bundled weights in 8-bit integers, calibrated with drawn images. Returns the file's path.
fn quantised(folder: &Path) -> Result<PathBuf> {
    let (pictures, weights) = (folder.join("calibration"), folder.join("int8.safetensors"));
    images::draw(&pictures, &["--count=100", "--seed=11"])?;
    let mut replica = Command::new(paths::program("replica"));
    replica.arg("quantize").arg("--weights").arg(server::weights());
    replica.arg("--calibrate").arg(&pictures).arg("--output").arg(&weights);
    let status = replica.status().context("run replica quantize; build it: cargo build --release --workspace")?;
    ensure!(status.success(), "replica quantize failed ({status})");
    Ok(weights)
}

/// The command that starts the replica's process.
fn own(weights: &Path, crops: &Path, batch: u32) -> Command {
    let mut command = Command::new(paths::program("bench-replica"));
    command.arg("forward").arg("--weights").arg(weights).arg("--crops").arg(crops);
    command.args(["--precision=int8".to_owned(), format!("--max-batch={batch}")]);
    command
}

/// The command that starts a peer's process, with one thread.
fn peer(python: &Python, (name, precision): (&str, &str), crops: &Path) -> Command {
    let mut command = python.script("precisions.py");
    command.arg(name).arg(precision).arg(server::weights()).arg(crops).arg("1");
    command
}

/// Checks that every engine gives the same likeliest class for [`SAME_CLASS`] images.
fn compare(processes: &mut BTreeMap<(usize, u32), MeasuringProcess>) -> Result<()> {
    let mut reference = None;
    for (engine, (name, precision)) in ENGINES.into_iter().enumerate() {
        let process = processes.get_mut(&(engine, 8)).expect("every engine has a process");
        let classes = likeliest(&process.ask("logits 8")?);
        let reference = reference.get_or_insert_with(|| classes.clone());
        let same = classes.iter().zip(&*reference).filter(|(ours, theirs)| ours == theirs).count();
        ensure!(
            same >= SAME_CLASS,
            "{name} in {precision} gives the replica's class for {same} of 8 images: it computes another network"
        );
    }
    Ok(())
}

/// The likeliest class of each of eight images.
fn likeliest(logits: &[f64]) -> Vec<Option<usize>> {
    let rows = logits.chunks_exact((logits.len() / 8).max(1));
    rows.map(|row| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]))).collect()
}

fn figures(times: &BTreeMap<(u32, usize), Vec<f64>>) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (&(batch, engine), passes) in times {
        let (name, precision) = ENGINES[engine];
        figures.push(Figure::median(format!("{precision}_ms_{name}_b{batch}"), passes.iter().copied(), "ms"));
        if engine > 0 {
            let own = &times[&(batch, 0)];
            let against = if precision == "int8" { "" } else { "_default" };
            figures.push(Figure::ratio(format!("int8_ratio_{name}{against}_b{batch}"), own, passes));
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_named_by_precision_engine_and_batch() {
        let times = [((1, 0), vec![8.0]), ((1, 1), vec![10.0]), ((1, 3), vec![20.0])];
        let figures = figures(&times.into_iter().collect());
        let found: BTreeMap<String, f64> = figures.into_iter().map(|figure| (figure.name, figure.value)).collect();
        for (name, value) in [
            ("int8_ms_replica_b1", 8.0),
            ("int8_ms_openvino_b1", 10.0),
            ("int8_ratio_openvino_b1", 0.8),
            ("default_ms_openvino_b1", 20.0),
            ("int8_ratio_openvino_default_b1", 0.4),
        ] {
            assert_eq!(found.get(name), Some(&value), "{name}");
        }
        assert_eq!(found.len(), 5);
    }

    #[test]
    fn the_likeliest_class_is_that_of_the_highest_logit_of_each_image() {
        let logits: Vec<f64> = (0..8).flat_map(|image| [0.0, f64::from(image) - 3.5, 1.0]).collect();
        let expected = [2, 2, 2, 2, 2, 1, 1, 1].map(Some);
        assert_eq!(likeliest(&logits), expected);
    }
}
