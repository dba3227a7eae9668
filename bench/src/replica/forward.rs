//! Forward passes of one ResNet-18 in three engines, at two batch sizes, on one thread and on two.

use super::measuring_process::MeasuringProcess;
use super::{RunContext, server};
use crate::figure::Figure;
use crate::python::Python;
use crate::statistics::median;
use crate::{cores, progress};
use anyhow::{Context, Result, ensure};
use harness::paths;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The names of the engines; the replica is the first.
const ENGINES: [&str; 3] = ["replica", "onnxruntime", "openvino"];

/// Images in a pass, and passes in a turn, which then takes about a fifth of a second.
const BATCHES: [(u32, u32); 2] = [(1, 5), (8, 2)];

/// Logits that differ by more than this, relative to the largest, are those of another network.
const TOLERANCE: f64 = 1e-3;

/// Time until the threads of the engine that had the last turn no longer spin.
const SETTLE: Duration = Duration::from_millis(50);

/// A combination that is measured, in a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct EngineCase {
    /// Index of [`ENGINES`].
    engine: usize,
    /// Images in a pass.
    batch: u32,
    /// Threads of a pass.
    threads: u32,
}

/// Milliseconds for one image, by cell and round.
type Times = BTreeMap<EngineCase, Vec<f64>>;

/// Milliseconds for one image, their ratios to those of either peer, and the differences of the logits.
///
/// # Errors
/// When an engine does not start, or computes another network.
pub(super) fn measure(run: &RunContext) -> Result<Vec<Figure>> {
    let crops = run.images().crops()?;
    let python = run.engines()?;
    let cores = cores::allowed().map_or(1, |cores| cores.len());
    let threads: Vec<u32> = [1, 2].into_iter().filter(|&threads| threads as usize <= cores).collect();
    let mut workers = BTreeMap::new();
    for (engine, name) in ENGINES.into_iter().enumerate() {
        for (threads, (batch, _)) in threads.iter().flat_map(|&threads| BATCHES.map(|batch| (threads, batch))) {
            let cell = EngineCase { engine, batch, threads };
            let log = format!("forward-{name}-{batch}-{threads}");
            let worker = MeasuringProcess::start(&log, command(cell, &python, &crops), run.folder)?;
            println!("{name:<12} batch {batch}, threads {threads}: {}", worker.description);
            workers.insert(cell, worker);
        }
    }
    let mut measured = differences(&mut workers)?;
    measured.extend(figures(&time(run.rounds, &threads, &mut workers)?));
    Ok(measured)
}

/// The command that starts the worker of a cell.
fn command(cell: EngineCase, python: &Python, crops: &Path) -> Command {
    let EngineCase { engine, batch, threads } = cell;
    if engine == 0 {
        let mut command = Command::new(paths::program("bench-replica"));
        command.arg("forward").arg("--weights").arg(server::weights()).arg("--crops").arg(crops);
        command.args([format!("--threads={threads}"), format!("--max-batch={batch}")]);
        return command;
    }
    let mut command = python.script("forward.py");
    command.arg(ENGINES[engine]).arg(server::weights()).arg(crops).arg(threads.to_string());
    command
}

/// The largest difference between each peer's logits and the replica's, relative to the largest logit.
fn differences(workers: &mut BTreeMap<EngineCase, MeasuringProcess>) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (batch, _) in BATCHES {
        let mut logits = BTreeMap::new();
        for (&cell, worker) in workers.iter_mut().filter(|(cell, _)| cell.batch == batch) {
            logits.insert(cell, worker.ask(&format!("logits {batch}"))?);
        }
        for (engine, name) in ENGINES.into_iter().enumerate().skip(1) {
            let mut largest: f64 = 0.0;
            for (&cell, theirs) in logits.iter().filter(|(cell, _)| cell.engine == engine) {
                let own = &logits[&EngineCase { engine: 0, ..cell }];
                largest = largest.max(difference(own, theirs).unwrap_or(f64::INFINITY));
            }
            println!("logits of {name} differ by {largest:.1e} at most, at batch {batch}");
            ensure!(largest <= TOLERANCE, "{name} does not compute the same network");
            figures.push(Figure::new(format!("forward_difference_{name}_b{batch}"), largest, ""));
        }
    }
    Ok(figures)
}

/// The largest difference, relative to the largest of `theirs`. `None` if the numbers cannot be compared.
fn difference(own: &[f64], theirs: &[f64]) -> Option<f64> {
    let largest = |numbers: &mut dyn Iterator<Item = f64>| numbers.fold(0.0_f64, |a, b| a.max(b.abs()));
    let apart = largest(&mut own.iter().zip(theirs).map(|(own, theirs)| own - theirs));
    let scale = largest(&mut theirs.iter().copied());
    let finite = own.iter().chain(theirs).all(|number| number.is_finite());
    (own.len() == theirs.len() && finite && scale > 0.0).then_some(apart / scale)
}

fn time(rounds: u32, threads: &[u32], workers: &mut BTreeMap<EngineCase, MeasuringProcess>) -> Result<Times> {
    let mut times = Times::new();
    let progress = progress::bar(rounds.into(), "forward");
    for round in 0..rounds as usize {
        for &threads in threads {
            for (batch, repeats) in BATCHES {
                // The first engine changes from round to round.
                for turn in 0..ENGINES.len() {
                    let cell = EngineCase { engine: (turn + round) % ENGINES.len(), batch, threads };
                    let worker = workers.get_mut(&cell).expect("every cell has a worker");
                    std::thread::sleep(SETTLE);
                    let passes = worker.ask(&format!("time {batch} {repeats}"))?;
                    let pass = median(passes).context("a worker answered without a number")?;
                    times.entry(cell).or_default().push(pass / f64::from(batch));
                }
            }
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(times)
}

fn figures(times: &Times) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (&cell, passes) in times {
        let EngineCase { engine, batch, threads } = cell;
        let suffix = if threads == 1 { format!("b{batch}") } else { format!("b{batch}_t{threads}") };
        let name = ENGINES[engine];
        figures.push(Figure::median(format!("forward_ms_{name}_{suffix}"), passes.iter().copied(), "ms"));
        if engine > 0 {
            let own = &times[&EngineCase { engine: 0, ..cell }];
            figures.push(Figure::ratio(format!("forward_ratio_{name}_{suffix}"), own, passes));
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_are_compared_with_the_largest() {
        for (own, theirs, expected) in [
            (vec![10.0, 1.0], vec![10.0, 2.0], Some(0.1)),
            (vec![-10.0, 1.0], vec![-10.0, 1.0], Some(0.0)),
            (vec![1.0], vec![1.0, 2.0], None),
            (vec![f64::NAN], vec![1.0], None),
            (vec![], vec![], None),
        ] {
            assert_eq!(difference(&own, &theirs), expected, "{own:?} {theirs:?}");
        }
    }

    #[test]
    fn figures_are_named_by_engine_batch_and_threads() {
        let times = [(0, 1, 1, 30.0), (1, 1, 1, 40.0), (0, 8, 2, 15.0), (2, 8, 2, 20.0)];
        let times = times.map(|(engine, batch, threads, pass)| (EngineCase { engine, batch, threads }, vec![pass]));
        let figures = figures(&times.into_iter().collect());
        let found: BTreeMap<String, f64> = figures.into_iter().map(|figure| (figure.name, figure.value)).collect();
        for (name, value) in [
            ("forward_ms_replica_b1", 30.0),
            ("forward_ms_onnxruntime_b1", 40.0),
            ("forward_ratio_onnxruntime_b1", 0.75),
            ("forward_ms_replica_b8_t2", 15.0),
            ("forward_ms_openvino_b8_t2", 20.0),
            ("forward_ratio_openvino_b8_t2", 0.75),
        ] {
            assert_eq!(found.get(name), Some(&value), "{name}");
        }
        assert_eq!(found.len(), 6);
    }
}
