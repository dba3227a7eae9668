//! Laws tried on recorded history: what a Prometheus recorded of dispatchers, replicas and scaler becomes a workload, a
//! plant, and a row of its own beside those of the laws.

pub mod account;
pub mod answers;
pub mod archive;
pub mod args;
pub mod load;
pub mod period;
pub mod range;
pub mod record;
pub mod recorded;
pub mod summary;

use crate::simulate;
use crate::simulate::comparison::{Comparison, Row};
use anyhow::{Context, Result};
use archive::{Archive, History};
use args::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::convert::Infallible;
use std::time::{Duration, SystemTime};
use summary::Summary;

/// What takes longer shows how far it is.
const QUIET: Duration = Duration::from_secs(2);

/// Asks the Prometheus for all that is needed, tries the laws on it, and prints what came of them.
///
/// # Errors
/// When a flag makes no sense, the Prometheus has no such figures, or a file cannot be read or written.
pub fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let history = runtime.block_on(read(args))?;
    replay(args, &history)
}

/// Asks the Prometheus for all that is needed.
///
/// # Errors
/// When a flag makes no sense, or the Prometheus has no such figures.
pub async fn read(args: &Args) -> Result<History> {
    args.flags.check()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("read this machine's clock")?;
    let client = args.access.client()?.context("--prometheus URL is missing")?;
    let archive = Archive { client: &client, selector: args.access.selector()?, period: args.period(now)? };
    let bar = ProgressBar::hidden();
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} queries")?);
    let outcome = tokio::select! {
        outcome = archive.read(&bar) => outcome,
        never = reveal(&bar) => match never {},
    };
    bar.finish_and_clear();
    Ok(outcome?)
}

async fn reveal(bar: &ProgressBar) -> Infallible {
    tokio::time::sleep(QUIET).await;
    bar.set_draw_target(ProgressDrawTarget::stderr());
    bar.tick();
    std::future::pending().await
}

/// All there is to tell.
#[derive(Serialize)]
struct Told<'a> {
    history: &'a Summary,
    #[serde(flatten)]
    comparison: &'a Comparison,
}

/// Tries the laws on it, and prints what came of them beside what really happened.
///
/// # Errors
/// When a flag makes no sense, the plant is not known, or a file cannot be read or written.
pub fn replay(args: &Args, history: &History) -> Result<()> {
    let summary = Summary::of(history, &args.flags)?;
    let name = format!("{} to {}", summary.from, summary.until);
    let plan = args.flags.plan(vec![(name, history.load.workload())], summary.defaults())?;
    let mut comparison = Comparison::run(&plan)?;
    for rows in &mut comparison.workloads {
        let recorded = history.recorded(args.flags.objective);
        let oracle = rows.oracle.as_ref().and_then(|oracle| oracle.replica_seconds);
        let times_oracle = recorded.replica_seconds.zip(oracle).map(|(recorded, oracle)| recorded / oracle);
        rows.notes = summary.lines();
        rows.recorded = Some(Row { times_oracle, ..recorded });
    }
    simulate::publish(&args.flags, &comparison, &Told { history: &summary, comparison: &comparison })
}
