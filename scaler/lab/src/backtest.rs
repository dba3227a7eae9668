//! `lab backtest`: laws on recorded history. The samples that a Prometheus has of dispatchers, replicas and scaler
//! become a workload, a plant, and a row of what happened beside the rows of the laws.

pub mod answers;
pub mod args;
pub mod counter_history;
pub mod history;
pub mod history_reader;
pub mod load;
pub mod outcome;
pub mod period;
pub mod range;
pub mod samples;
pub mod summary;

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

/// A progress bar appears after this time, so that a quick reading shows none.
const BAR_DELAY: Duration = Duration::from_secs(2);

/// Runs `lab backtest`: reads the history, replays it with each law, and prints the comparison.
///
/// # Errors
/// When a flag is out of its range, the Prometheus has no such history, or a file cannot be read or written.
pub fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let history = runtime.block_on(read(args))?;
    replay(args, &history)
}

/// Reads the history from the Prometheus.
///
/// # Errors
/// When a flag is out of its range, or the Prometheus has no such history.
pub async fn read(args: &Args) -> Result<History> {
    args.flags.check()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("read this machine's clock")?;
    let client = args.access.client()?.context("--prometheus URL is missing")?;
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

/// Shows the bar after [`BAR_DELAY`], and never returns.
async fn show_later(bar: &ProgressBar) -> Infallible {
    tokio::time::sleep(BAR_DELAY).await;
    bar.set_draw_target(ProgressDrawTarget::stderr());
    bar.tick();
    std::future::pending().await
}

/// The content of the JSON file.
#[derive(Serialize)]
struct BacktestReport<'a> {
    history: &'a HistorySummary,
    #[serde(flatten)]
    comparison: &'a LawComparison,
}

/// Replays the history with each law, and prints the comparison with a row of what happened.
///
/// # Errors
/// When a flag is out of its range, the service time is not known, or a file cannot be read or written.
pub fn replay(args: &Args, history: &History) -> Result<()> {
    let summary = HistorySummary::of(history, &args.flags)?;
    let name = format!("{} to {}", summary.from, summary.until);
    let config = args.flags.config(vec![(name, history.load.workload())], summary.defaults())?;
    let mut comparison = LawComparison::run(&config)?;
    for workload in &mut comparison.workloads {
        let recorded = history.recorded(args.flags.objective);
        let oracle = workload.oracle.as_ref().and_then(|oracle| oracle.replica_seconds);
        let times_oracle = recorded.replica_seconds.zip(oracle).map(|(recorded, oracle)| recorded / oracle);
        workload.notes = summary.lines();
        workload.recorded = Some(ComparisonRow { times_oracle, ..recorded });
    }
    simulate::publish(&args.flags, &comparison, &BacktestReport { history: &summary, comparison: &comparison })
}
