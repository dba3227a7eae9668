//! What the dispatcher is judged by beyond its speed: memory, order, and its behaviour under too much load. Each
//! measurement starts the dispatcher as a process of its own, in front of stub replicas that live in this process.

mod client;
pub(crate) mod connections;
mod dispatcher;
mod load;
pub(crate) mod order;
pub(crate) mod overload;
pub(crate) mod queue;
mod retry_after;
mod stub_flags;

use crate::figure::{self, Figure, TargetRange};
use crate::output::Output;
use crate::statistics::quantile;
use anyhow::Result;
use harness::steal;
use std::time::Duration;
use tokio::runtime::Runtime;

/// The dispatcher's default objective.
const OBJECTIVE: Duration = Duration::from_millis(500);

/// Memory that a waiting request may take beyond its body, bytes.
const BYTES_PER_REQUEST: TargetRange = TargetRange::AtMost(2048.0);

/// Time for memory that is no longer needed to be given back.
const SETTLE: Duration = Duration::from_secs(1);

/// Threads of the client. The stubs have threads of their own.
const CLIENT_THREADS: usize = 2;

/// Measures, prints the figures and writes them. `measure` gets the client's runtime, and adds figures as it finds
/// them.
fn run(output: &Output, measure: impl FnOnce(&Runtime, &mut Vec<Figure>) -> Result<()>) -> Result<()> {
    let client = tokio::runtime::Builder::new_multi_thread().worker_threads(CLIENT_THREADS).enable_all().build()?;
    let mut figures = Vec::new();
    let measured = steal::watch(|| measure(&client, &mut figures));
    // The figures from before a failure may explain it.
    figure::print(&figures);
    output.write(&figure::json(&figures))?;
    // After a failure, requests may still be in flight; nothing needs their answers.
    client.shutdown_background();
    measured
}

/// The quantile `q`, 0 to 1, of `times` in milliseconds; 0 without a time.
fn quantile_ms(times: &[Duration], q: f64) -> f64 {
    let mut milliseconds: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    quantile(&mut milliseconds, q).unwrap_or_default()
}
