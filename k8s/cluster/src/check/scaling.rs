//! The check that a burst scales up, and that its end scales down.

use super::{Fixture, LIGHT_LOAD};
use crate::load::{LoadReport, LoadgenProcess};
use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// The parts of the burst: the length of each part in seconds, and its load as a multiple of the throughput of one
/// replica. The throughput is measured while nothing else runs, so two replicas cannot keep up with the second part:
/// beside others, a replica gives up to a fifth fewer answers. With a higher load, the requests that wait for the
/// second replica reach their deadline on a busy machine.
const BURST: [(usize, f64); 2] = [(10, LIGHT_LOAD), (30, 2.0)];

/// The share of the requests of the burst that must be answered within the objective. Most of the others arrive while the
/// replicas start that the burst needs.
const BURST_ATTAINMENT: f64 = 0.4;

/// The number of replicas that the burst needs.
const NEEDED_REPLICAS: i32 = 3;

/// Time between two queries of the number of replicas.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Sends a burst that needs three replicas while there is one, and then waits until there is one again. No request may
/// fail.
pub(super) async fn check_burst(fixture: &Fixture) -> Result<String> {
    fixture.settle().await?;
    let workload = format!("--workload={}", write_workload(fixture)?.display());
    let load = fixture.start_loadgen("burst", &[&workload])?;
    let (burst, peak) = finish_and_watch(fixture, load).await?;
    burst.ensure_no_failures()?;
    burst.ensure_attainment(BURST_ATTAINMENT)?;
    ensure!(peak >= NEEDED_REPLICAS, "at most {peak} replicas were ready, but the burst needs {NEEDED_REPLICAS}");
    let load = fixture.start_load("scale-in", LIGHT_LOAD)?;
    fixture.wait_for_one_replica().await.context("the scaler does not scale down after the burst")?;
    let rest = load.stop().await?;
    rest.ensure_no_failures()?;
    Ok(format!("{burst}; then {rest}; 1 → {peak} → 1 replicas"))
}

/// Writes the burst to a workload file, which has a line with the rate for each second. Returns the path.
fn write_workload(fixture: &Fixture) -> Result<PathBuf> {
    let mut workload = String::new();
    for (seconds, factor) in BURST {
        for _ in 0..seconds {
            let rate = (fixture.replica_throughput * factor).max(1.0);
            writeln!(workload, "{rate:.0}").expect("writing to a String never fails");
        }
    }
    let path = fixture.cluster.folder.join("burst.txt");
    std::fs::write(&path, workload).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Waits until `load` is over. Returns its report, and the highest number of ready replicas during the load.
async fn finish_and_watch(fixture: &Fixture, load: LoadgenProcess) -> Result<(LoadReport, i32)> {
    let mut peak = 0;
    let mut finish = std::pin::pin!(load.finish());
    loop {
        tokio::select! {
            report = &mut finish => return Ok((report?, peak)),
            () = tokio::time::sleep(POLL_INTERVAL) => {
                peak = peak.max(fixture.cluster.replicas("replica").await?.ready);
            }
        }
    }
}
