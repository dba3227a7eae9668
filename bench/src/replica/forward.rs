//! Forward passes of one ResNet-18 in three engines, at two batch sizes, on one thread and on two.

use super::figure::Figure;
use super::subject;
use super::worker::Worker;
use super::{Bench, cores};
use crate::bench::figures::median;
use crate::paths;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

/// Ours is the first.
const ENGINES: [&str; 3] = ["replica", "onnxruntime", "openvino"];

/// Pictures in a pass, and passes in a turn: a fifth of a second or so.
const BATCHES: [(u32, u32); 2] = [(1, 5), (8, 2)];

/// Logits that differ by more than this, next to the largest, belong to another network.
const TOLERANCE: f64 = 1e-3;

/// Until the threads of whoever had the last turn no longer spin.
const SETTLE: Duration = Duration::from_millis(50);

/// Engine (an index of [`ENGINES`]), pictures in a pass, threads; each has a process of its own.
type Cell = (usize, u32, u32);

/// Ratios to either peer, milliseconds for one picture, and how far the logits are apart.
///
/// # Errors
/// When an engine does not start, or computes something else.
pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let crops = bench.pictures().crops()?;
    let python = bench.engines()?;
    let threads: Vec<u32> = [1, 2].into_iter().filter(|&threads| threads as usize <= cores().len()).collect();
    let mut workers = BTreeMap::new();
    for (engine, name) in ENGINES.into_iter().enumerate() {
        for (threads, (batch, _)) in threads.iter().flat_map(|&threads| BATCHES.map(|batch| (threads, batch))) {
            let mut command;
            if engine == 0 {
                command = Command::new(paths::program("examples/forward"));
                command.arg("--weights").arg(subject::weights()).arg("--crops").arg(&crops);
                command.args([format!("--threads={threads}"), format!("--max-batch={batch}")]);
            } else {
                command = python.script("forward.py");
                command.arg(name).arg(subject::weights()).arg(&crops).arg(threads.to_string());
            }
            let worker = Worker::start(&format!("forward-{name}-{batch}-{threads}"), command, bench.folder)?;
            println!("{name:<12} batch {batch}, threads {threads}: {}", worker.description);
            workers.insert((engine, batch, threads), worker);
        }
    }
    let mut figures = differences(&mut workers)?;
    figures.extend(name(&time(bench, &threads, &mut workers)?));
    Ok(figures)
}

fn cores() -> Vec<u32> {
    cores::allowed().unwrap_or_else(|_| vec![0])
}

/// How far the peers' logits are from ours, next to the largest.
fn differences(workers: &mut BTreeMap<Cell, Worker>) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (batch, _) in BATCHES {
        let mut logits = BTreeMap::new();
        for (&(engine, of, threads), process) in workers.iter_mut() {
            if of == batch {
                logits.insert((engine, threads), process.ask(&format!("logits {batch}"))?);
            }
        }
        for (engine, name) in ENGINES.into_iter().enumerate().skip(1) {
            let pairs = logits.iter().filter(|((of, _), _)| *of == engine);
            let largest = pairs
                .map(|((_, threads), theirs)| difference(&logits[&(0, *threads)], theirs))
                .fold(0.0_f64, |largest, difference| largest.max(difference.unwrap_or(f64::INFINITY)));
            println!("logits of {name} differ by {largest:.1e} at most, at batch {batch}");
            ensure!(largest <= TOLERANCE, "{name} does not compute the same network");
            figures.push(Figure { name: format!("forward_difference_{name}_b{batch}"), value: largest, unit: "" });
        }
    }
    Ok(figures)
}

/// The largest difference, next to the largest number of theirs.
fn difference(own: &[f64], theirs: &[f64]) -> Option<f64> {
    let largest = |numbers: &mut dyn Iterator<Item = f64>| numbers.fold(0.0_f64, |a, b| a.max(b.abs()));
    let apart = largest(&mut own.iter().zip(theirs).map(|(own, theirs)| own - theirs));
    let scale = largest(&mut theirs.iter().copied());
    let finite = own.iter().chain(theirs).all(|number| number.is_finite());
    (own.len() == theirs.len() && finite && scale > 0.0).then_some(apart / scale)
}

/// Milliseconds for one picture, by cell and round.
fn time(bench: &Bench, threads: &[u32], workers: &mut BTreeMap<Cell, Worker>) -> Result<BTreeMap<Cell, Vec<f64>>> {
    let mut times: BTreeMap<Cell, Vec<f64>> = BTreeMap::new();
    let progress = bench.progress(bench.rounds, "forward");
    for round in 0..bench.rounds {
        for &threads in threads {
            for (batch, repeats) in BATCHES {
                // Nobody is always the first.
                for turn in 0..ENGINES.len() {
                    let engine = (turn + round as usize) % ENGINES.len();
                    let worker = workers.get_mut(&(engine, batch, threads)).context("every engine was started")?;
                    std::thread::sleep(SETTLE);
                    let passes = worker.ask(&format!("time {batch} {repeats}"))?;
                    let pass = median(passes).context("a worker answers something")?;
                    times.entry((engine, batch, threads)).or_default().push(pass / f64::from(batch));
                }
            }
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(times)
}

fn name(times: &BTreeMap<Cell, Vec<f64>>) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (&(engine, batch, threads), passes) in times {
        let suffix = if threads == 1 { format!("b{batch}") } else { format!("b{batch}_t{threads}") };
        let peer = ENGINES[engine];
        figures.push(Figure::median(format!("forward_ms_{peer}_{suffix}"), passes.iter().copied(), "ms"));
        if engine > 0 {
            let own = &times[&(0, batch, threads)];
            figures.push(Figure::ratio(format!("forward_ratio_{peer}_{suffix}"), own, passes));
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
        let times = [((0, 1, 1), 30.0), ((1, 1, 1), 40.0), ((0, 8, 2), 15.0), ((2, 8, 2), 20.0)];
        let times = times.map(|(cell, pass)| (cell, vec![pass])).into_iter().collect();
        let found: BTreeMap<String, f64> = name(&times).into_iter().map(|figure| (figure.name, figure.value)).collect();
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
