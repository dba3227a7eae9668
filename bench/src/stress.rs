//! Measurements of the dispatcher apart from its speed: memory, the order of the queue, and overload. Each measurement
//! starts a dispatcher as a process, in front of stub replicas that run in this process.

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
use anyhow::{Context, Result};
use harness::steal;
use std::time::Duration;
use tokio::runtime::Runtime;

/// The dispatcher's default objective.
const OBJECTIVE: Duration = Duration::from_millis(500);

/// The target for the memory that a waiting request takes beyond its body, in bytes.
const BYTES_PER_REQUEST: TargetRange = TargetRange::AtMost(2048.0);

/// Time in which the dispatcher gives back memory that it no longer needs.
const SETTLE: Duration = Duration::from_secs(1);

/// Threads of the client's runtime. The stub replicas have threads of their own.
const CLIENT_THREADS: usize = 2;

/// Calls `measure` with a runtime for the client and with an empty list, to which it adds figures. Prints and writes
/// the figures, even if `measure` fails.
fn run(output: &Output, measure: impl FnOnce(&Runtime, &mut Vec<Figure>) -> Result<()>) -> Result<()> {
    let client = tokio::runtime::Builder::new_multi_thread().worker_threads(CLIENT_THREADS).enable_all().build();
    let client = client.context("start the runtime of the client; see ulimit -u and ulimit -n")?;
    let mut figures = Vec::new();
    let measured = steal::watch(|| measure(&client, &mut figures));
    // After a failure, the figures that were measured before it may explain it.
    figure::print(&figures);
    output.write(&figure::json(&figures))?;
    // After a failure, requests may still be in flight. Their answers are not awaited.
    client.shutdown_background();
    measured
}

/// The quantile `q`, 0 to 1, of `times`, in milliseconds; 0 if there are no times.
fn quantile_ms(times: &[Duration], q: f64) -> f64 {
    let mut milliseconds: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    quantile(&mut milliseconds, q).unwrap_or_default()
}
