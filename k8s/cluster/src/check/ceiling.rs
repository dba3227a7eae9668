//! The check on a node without room for the replicas that the load needs.

use super::{Fixture, MAX_REPLICAS};
use crate::wait::wait_for;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

/// The number of replicas for which the node has room.
const ROOM: i32 = 2;

/// Cores that the other pods request: two dispatchers, two scalers, and a third scaler during a rollout.
const OTHER_CORES: f64 = 2.0 * 0.25 + 3.0 * 0.05;

/// Cores that stay free. They are too few for a third replica.
const SPARE_CORES: f64 = 0.1;

/// The load, as a multiple of the throughput of one replica.
const LOAD: f64 = 3.5;

/// Time in which the scaler must stop at [`ROOM`] replicas.
const DETECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Time in which the scaler must use room that was added.
const RECOVER_TIMEOUT: Duration = Duration::from_secs(90);

/// Number of characters of the Event's message that are printed.
const MESSAGE_LENGTH: usize = 160;

/// Sends a load that needs more than three replicas, while the node has room for two. The scaler must stop at two, give
/// the reason in an Event, export the ceiling as a metric, and use room that is added.
pub(super) async fn check(fixture: &Fixture) -> Result<String> {
    let node = &fixture.cluster.local()?.node;
    let all_cores = node.cores();
    // Another number than before, since the same number would start no scaler again.
    fixture.set_max_replicas(MAX_REPLICAS + 1).await?;
    fixture.settle().await?;
    let figures = stop_and_recover(fixture, all_cores).await;
    // Also after a failure, which would otherwise make the next checks fail.
    node.set_cores(all_cores).await?;
    fixture.set_max_replicas(MAX_REPLICAS).await?;
    figures
}

/// Takes all room for more than two replicas away, and gives it back once the scaler has stopped there.
async fn stop_and_recover(fixture: &Fixture, all_cores: f64) -> Result<String> {
    let node = &fixture.cluster.local()?.node;
    node.set_cores(f64::from(ROOM) + OTHER_CORES + SPARE_CORES).await?;
    let load = fixture.start_load("ceiling", LOAD)?;
    let start = Instant::now();
    wait_for("the scaler to stop at two replicas", DETECT_TIMEOUT, async || {
        let replicas = fixture.cluster.replicas("replica").await?;
        Ok((replicas.desired == ROOM && replicas.ready == ROOM).then_some(()))
    })
    .await?;
    let detected = start.elapsed().as_secs();
    let event = wait_for_event(fixture).await?;
    ensure_metric_has_ceiling(fixture).await?;
    node.set_cores(all_cores).await?;
    let start = Instant::now();
    let recovery = fixture.wait_for_ready_replicas(ROOM + 1, RECOVER_TIMEOUT).await;
    recovery.context("the scaler does not use the room that was added")?;
    let recovered = start.elapsed().as_secs();
    let report = load.stop().await?;
    let message: String = event.chars().take(MESSAGE_LENGTH).collect();
    Ok(format!("stopped at {ROOM} after {detected} s; used added room after {recovered} s; \"{message}…\"; {report}"))
}

/// Waits until an Event with the reason `CeilingReached` has the scheduler's reason. Returns the messages of all Events
/// with that reason.
async fn wait_for_event(fixture: &Fixture) -> Result<String> {
    let events = ["get", "events", "--field-selector=reason=CeilingReached", "-o", "jsonpath={.items[*].message}"];
    wait_for("an Event CeilingReached with the scheduler's reason", DETECT_TIMEOUT, async || {
        let messages = fixture.cluster.kubectl.run(&events).await?;
        Ok(Some(messages).filter(|text| text.contains("Insufficient cpu")))
    })
    .await
}

async fn ensure_metric_has_ceiling(fixture: &Fixture) -> Result<()> {
    let metrics = fixture.metrics(&fixture.leader().await?, 5053).await?;
    let line = metrics.lines().find(|line| line.starts_with("scaler_ceiling_replicas{"));
    let line = line.context("the scaler has no metric scaler_ceiling_replicas")?;
    ensure!(line.ends_with(&format!(" {ROOM}")), "the scaler's metric must have the value {ROOM}: {line}");
    Ok(())
}
