//! The answers per second of two replicas, each on a core of its own, next to twice those of one replica alone.
//! Replicas on one machine share its memory and its last cache.

use super::{RunContext, client, server};
use crate::cores;
use crate::figure::Figure;
use crate::progress;
use anyhow::{Context, Result, bail};
use harness::stack::ServiceProcess;
use std::fs;
use std::thread;

/// Requests to each replica in a measurement.
const REQUESTS: usize = 60;

/// Connections to each replica. While it answers one, the next request waits there.
const CONNECTIONS: usize = 2;

/// Figures about the answers per second of both replicas together, twice those of one alone, and their ratio. The
/// clients take some processor time on the same two cores.
///
/// # Errors
/// If this process may use one core only, or a replica does not start.
pub(super) fn measure(run: &RunContext) -> Result<Vec<Figure>> {
    let [first, second, ..] = cores::allowed()?[..] else {
        bail!("this process may use one core only, and each of the two replicas needs one")
    };
    let small = &run.images().small;
    let image = fs::read(small).with_context(|| format!("read {}", small.display()))?;
    let replicas = [server::start_on(first, run.folder)?, server::start_on(second, run.folder)?];
    let rate = |replica: &ServiceProcess| client::answers_per_second(replica, &image, CONNECTIONS, REQUESTS);
    // The first requests to a replica are slower, so they are not measured.
    for replica in &replicas {
        rate(replica)?;
    }
    let (mut together, mut alone) = (Vec::new(), Vec::new());
    let progress = progress::bar(run.rounds.into(), "two processes");
    for _ in 0..run.rounds {
        let mut one_by_one = 0.0;
        for replica in &replicas {
            one_by_one += rate(replica)?;
        }
        alone.push(one_by_one);
        let rates: [Result<f64>; 2] = thread::scope(|scope| {
            replicas
                .each_ref()
                .map(|replica| scope.spawn(|| rate(replica)))
                .map(|measured| measured.join().expect("no client panics"))
        });
        let [first, second] = rates;
        together.push(first? + second?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(vec![
        Figure::ratio("two_processes_ratio", &together, &alone),
        Figure::median("two_processes_per_second", together, "/s"),
        Figure::median("two_processes_alone_per_second", alone, "/s"),
    ])
}
