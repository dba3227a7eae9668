//! Times the forward passes of networks in three engines, at two batch sizes, on one thread and on two.

use super::RunContext;
use super::forward_setting::{ForwardSetting, processor};
use super::measuring_process::MeasuringProcess;
use crate::figure::Figure;
use crate::python::Python;
use crate::statistics::median;
use crate::{cores, progress};
use anyhow::{Result, ensure};
use harness::paths;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The names of the engines. The first is the replica's.
const ENGINES: [&str; 3] = ["replica", "onnxruntime", "openvino"];

/// The batch sizes, each with the number of forward passes in a turn. A turn takes about a fifth of a second.
const BATCHES: [(u32, u32); 2] = [(1, 5), (8, 2)];

/// The largest accepted difference of logits, relative to the largest logit. Engines that differ more compute different
/// networks.
const TOLERANCE: f64 = 1e-3;

/// Time between two turns, in which the threads of the engine that had the last turn stop waiting in busy loops.
const SETTLE: Duration = Duration::from_millis(50);

/// A measured combination of engine, batch size and threads. Each has its own process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct EngineCase {
    /// The engine's index in [`ENGINES`].
    engine: usize,
    /// The number of images of a forward pass.
    batch: u32,
    /// The number of threads of a forward pass.
    threads: u32,
}

/// The milliseconds for one image in each round, by case.
type Times = BTreeMap<EngineCase, Vec<f64>>;

/// Figures about the milliseconds of each engine for one image, the ratios of the replica's to those of each peer, and
/// the differences of the logits, under each setting of the run.
///
/// # Errors
/// If an engine does not start, or computes another network.
pub(super) fn measure(run: &RunContext) -> Result<Vec<Figure>> {
    println!("{}", processor());
    let mut figures = Vec::new();
    for setting in run.settings {
        let ForwardSetting { network, instructions } = setting;
        println!("{network:?}, instructions: {instructions:?} (ONNX Runtime: all of the processor)");
        figures.extend(measure_setting(run, *setting)?);
    }
    Ok(figures)
}

/// The figures under one setting.
fn measure_setting(run: &RunContext, setting: ForwardSetting) -> Result<Vec<Figure>> {
    let crops = run.images().crops()?;
    let python = run.engines()?;
    let weights = setting.network.weights(run, &python)?;
    let cores = cores::allowed().map_or(1, |cores| cores.len());
    let threads: Vec<u32> = [1, 2].into_iter().filter(|&threads| threads as usize <= cores).collect();
    let mut processes = BTreeMap::new();
    for (engine, name) in ENGINES.into_iter().enumerate() {
        for (threads, (batch, _)) in threads.iter().flat_map(|&threads| BATCHES.map(|batch| (threads, batch))) {
            let case = EngineCase { engine, batch, threads };
            let log = format!("forward-{name}-{batch}-{threads}{}", setting.suffix());
            let command = command(case, setting, &python, [&weights, &crops]);
            let process = MeasuringProcess::start(&log, command, run.folder)?;
            println!("{name:<12} batch {batch}, threads {threads}: {}", process.description);
            processes.insert(case, process);
        }
    }
    let mut measured = differences(&mut processes, setting)?;
    measured.extend(figures(&time(run.rounds, &threads, &mut processes)?, &setting.suffix()));
    Ok(measured)
}

/// The command that starts the process of a case, with the files of weights and of crops.
fn command(case: EngineCase, setting: ForwardSetting, python: &Python, [weights, crops]: [&Path; 2]) -> Command {
    let EngineCase { engine, batch, threads } = case;
    if engine == 0 {
        let mut command = Command::new(paths::program("bench-replica"));
        command.arg("forward").arg("--weights").arg(weights).arg("--crops").arg(crops);
        command.args([format!("--threads={threads}"), format!("--max-batch={batch}")]);
        setting.restrict_replica(&mut command);
        return command;
    }
    let mut command = python.script("forward.py");
    command.arg(ENGINES[engine]).arg(weights).arg(crops).arg(threads.to_string());
    setting.restrict_peer(&mut command);
    command
}

/// Figures about the largest difference between each peer's logits and the replica's, relative to the largest logit.
///
/// # Errors
/// If a difference is larger than [`TOLERANCE`].
fn differences(processes: &mut BTreeMap<EngineCase, MeasuringProcess>, setting: ForwardSetting) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (batch, _) in BATCHES {
        let mut logits = BTreeMap::new();
        for (&case, process) in processes.iter_mut().filter(|(case, _)| case.batch == batch) {
            logits.insert(case, process.ask(&format!("logits {batch}"))?);
        }
        for (engine, name) in ENGINES.into_iter().enumerate().skip(1) {
            let mut largest: f64 = 0.0;
            for (&case, theirs) in logits.iter().filter(|(case, _)| case.engine == engine) {
                let own = &logits[&EngineCase { engine: 0, ..case }];
                largest = largest.max(difference(own, theirs).unwrap_or(f64::INFINITY));
            }
            println!("the logits of {name} differ by {largest:.1e} at most, at batch size {batch}");
            ensure!(
                largest <= TOLERANCE,
                "the logits of {name} differ from the replica's by {largest:.1e} of the largest logit at batch size \
                 {batch}, more than {TOLERANCE:.0e}: {name} computes another network"
            );
            figures.push(Figure::new(format!("forward_difference_{name}_b{batch}{}", setting.suffix()), largest, ""));
        }
    }
    Ok(figures)
}

/// The largest difference between `own` and `theirs`, relative to the largest of `theirs`. `None` if the lengths
/// differ, a number is not finite, or all of `theirs` are zero.
fn difference(own: &[f64], theirs: &[f64]) -> Option<f64> {
    let largest = |numbers: &mut dyn Iterator<Item = f64>| numbers.fold(0.0_f64, |a, b| a.max(b.abs()));
    let apart = largest(&mut own.iter().zip(theirs).map(|(own, theirs)| own - theirs));
    let scale = largest(&mut theirs.iter().copied());
    let finite = own.iter().chain(theirs).all(|number| number.is_finite());
    (own.len() == theirs.len() && finite && scale > 0.0).then_some(apart / scale)
}

fn time(rounds: u32, threads: &[u32], processes: &mut BTreeMap<EngineCase, MeasuringProcess>) -> Result<Times> {
    let mut times = Times::new();
    let progress = progress::bar(rounds.into(), "forward");
    for round in 0..rounds as usize {
        for &threads in threads {
            for (batch, repeats) in BATCHES {
                // The engines take turns in being the first of a round.
                for turn in 0..ENGINES.len() {
                    let case = EngineCase { engine: (turn + round) % ENGINES.len(), batch, threads };
                    let process = processes.get_mut(&case).expect("every case has a process");
                    std::thread::sleep(SETTLE);
                    let passes = process.ask(&format!("time {batch} {repeats}"))?;
                    let pass = median(passes).expect("`ask` returns at least one number");
                    times.entry(case).or_default().push(pass / f64::from(batch));
                }
            }
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(times)
}

fn figures(times: &Times, setting: &str) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (&case, passes) in times {
        let EngineCase { engine, batch, threads } = case;
        let suffix = match threads {
            1 => format!("b{batch}{setting}"),
            _ => format!("b{batch}_t{threads}{setting}"),
        };
        let name = ENGINES[engine];
        figures.push(Figure::median(format!("forward_ms_{name}_{suffix}"), passes.iter().copied(), "ms"));
        if engine > 0 {
            let own = &times[&EngineCase { engine: 0, ..case }];
            figures.push(Figure::ratio(format!("forward_ratio_{name}_{suffix}"), own, passes));
        } else if let Some(best) = best_peer(times, case) {
            figures.push(Figure::ratio(format!("forward_ratio_best_{suffix}"), passes, &best));
        }
    }
    figures
}

/// For each round, the time of the peer that is the fastest in the median of all rounds. `None` if no peer was timed.
fn best_peer(times: &Times, case: EngineCase) -> Option<Vec<f64>> {
    let peers = (1..ENGINES.len()).filter_map(|engine| times.get(&EngineCase { engine, ..case }));
    let median_of = |passes: &&Vec<f64>| median(passes.to_vec()).unwrap_or(f64::INFINITY);
    peers.min_by(|a, b| median_of(a).total_cmp(&median_of(b))).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_of_logits_is_relative_to_the_largest() {
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
        let figures = figures(&times.into_iter().collect(), "_avx2");
        let found: BTreeMap<String, f64> = figures.into_iter().map(|figure| (figure.name, figure.value)).collect();
        for (name, value) in [
            ("forward_ms_replica_b1_avx2", 30.0),
            ("forward_ms_onnxruntime_b1_avx2", 40.0),
            ("forward_ratio_onnxruntime_b1_avx2", 0.75),
            ("forward_ms_replica_b8_t2_avx2", 15.0),
            ("forward_ms_openvino_b8_t2_avx2", 20.0),
            ("forward_ratio_openvino_b8_t2_avx2", 0.75),
            ("forward_ratio_best_b1_avx2", 0.75),
            ("forward_ratio_best_b8_t2_avx2", 0.75),
        ] {
            assert_eq!(found.get(name), Some(&value), "{name}");
        }
        assert_eq!(found.len(), 8);
    }
}
