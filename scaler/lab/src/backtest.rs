//! `lab backtest`: compares laws on recorded history. A Prometheus has recorded samples of the dispatchers, the
//! replicas and the scaler. From these samples come the workload, the settings of the plant, and a row of what
//! happened, which stands beside the rows of the laws.

pub mod answers;
pub mod args;
pub mod counter_history;
pub mod history;
pub mod history_reader;
pub mod hpa_reader;
pub mod load;
pub mod outcome;
pub mod period;
pub mod range;
pub mod samples;
pub mod summary;

use crate::laws::LawChoice;
use crate::laws::hpa::Hpa;
use crate::simulate;
use crate::simulate::comparison::{ComparisonRow, LawComparison};
use anyhow::{Context, Result};
use args::Args;
use history::History;
use history_reader::HistoryReader;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::convert::Infallible;
use std::time::{Duration, SystemTime};
use summary::HistorySummary;

/// The time after which a progress bar appears. A history that is read sooner needs no bar.
const BAR_DELAY: Duration = Duration::from_secs(2);

/// Runs `lab backtest`: reads the history, replays it with each law, and prints the comparison.
///
/// # Errors
/// If a flag is out of range, an HPA cannot be read or replayed, the history cannot be read from the Prometheus, or a
/// file cannot be read or written.
pub fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    args.flags.check()?;
    let hpas = runtime.block_on(read_hpas(args))?;
    let history = runtime.block_on(read(args))?;
    replay(args, &history, hpas)
}

/// Reads the HPAs of the flags.
async fn read_hpas(args: &Args) -> Result<Vec<LawChoice>> {
    let mut hpas = Vec::new();
    for name in &args.hpa {
        hpas.push(hpa_reader::from_cluster(name).await.with_context(|| format!("--hpa {name}"))?);
    }
    for path in &args.hpa_file {
        hpas.push(hpa_reader::from_file(path).with_context(|| format!("--hpa-file {}", path.display()))?);
    }
    Ok(hpas)
}

/// Reads the history of the period of the flags from the Prometheus.
///
/// # Errors
/// If a flag is out of range, or the history cannot be read from the Prometheus.
pub async fn read(args: &Args) -> Result<History> {
    args.flags.check()?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .context("this machine's clock is before 1970; set it")?;
    let client = args
        .access
        .client()?
        .context("--prometheus is missing; give the URL of the Prometheus, such as http://localhost:9090")?;
    let reader = HistoryReader { client: &client, selector: args.access.selector()?, period: args.period(now)? };
    let bar = ProgressBar::hidden();
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} queries")?);
    let outcome = tokio::select! {
        outcome = reader.read(&bar) => outcome,
        never = show_later(&bar) => match never {},
    };
    bar.finish_and_clear();
    Ok(outcome?)
}

/// Shows the progress bar after [`BAR_DELAY`]. Never returns.
async fn show_later(bar: &ProgressBar) -> Infallible {
    tokio::time::sleep(BAR_DELAY).await;
    bar.set_draw_target(ProgressDrawTarget::stderr());
    bar.tick();
    std::future::pending().await
}

/// The content of the file of `--json`.
#[derive(Serialize)]
struct BacktestReport<'a> {
    history: &'a HistorySummary,
    #[serde(flatten)]
    comparison: &'a LawComparison,
}

/// Replays the history with each law and each of `hpas`, and prints the comparison with a row of what happened.
///
/// # Errors
/// If a flag is out of range, the service time is neither given nor recorded, or a file cannot be read or written.
pub fn replay(args: &Args, history: &History, hpas: Vec<LawChoice>) -> Result<()> {
    let summary = HistorySummary::of(history, &args.flags)?;
    let name = format!("{} to {}", summary.from, summary.until);
    let mut config = args.flags.config(vec![(name, history.load.workload())], summary.defaults())?;
    let notes: Vec<String> = hpas.iter().filter_map(hpa_note).collect();
    config.laws.extend(hpas);
    let mut comparison = LawComparison::run(&config)?;
    for workload in &mut comparison.workloads {
        let recorded = history.recorded(args.flags.objective);
        let oracle = workload.oracle.as_ref().and_then(|oracle| oracle.replica_seconds);
        let times_oracle = recorded.replica_seconds.zip(oracle).map(|(recorded, oracle)| recorded / oracle);
        workload.notes = [summary.lines(), notes.clone()].concat();
        workload.recorded = Some(ComparisonRow { times_oracle, ..recorded });
    }
    simulate::publish(&args.flags, &comparison, &BacktestReport { history: &summary, comparison: &comparison })
}

/// A line about the law of an HPA: its specification, and the assumption about the cores of its pods. `None` for any
/// other law.
fn hpa_note(law: &LawChoice) -> Option<String> {
    let LawChoice::Hpa(name, Hpa { min, max, parameters }) = law else { return None };
    Some(format!(
        "note      {name} has {min} to {max} replicas, and the target {parameters}; it is assumed that a pod requests one \
         core, and that a forward pass uses one"
    ))
}
