//! The check on a node without room for the replicas that the load needs.

use super::{Fixture, MAX_REPLICAS};
use crate::wait::wait_for;
use anyhow::{Context, Result};
use serde_json::Value;
use std::time::{Duration, Instant};

/// The number of replicas for which the node has room.
const ROOM: i32 = 2;

/// Cores that the other pods request: two dispatchers, two scalers, and a third scaler during a rollout.
const OTHER_CORES: f64 = 2.0 * 0.25 + 3.0 * 0.05;

/// Cores that stay free. They are too few for a third replica.
const SPARE_CORES: f64 = 0.1;

/// The load, as a multiple of the throughput of one replica.
const LOAD: f64 = 3.5;

/// Time in which the scaler must find out that there is room for [`ROOM`] replicas.
const DETECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Time in which the scaler must use room that was added.
const RECOVER_TIMEOUT: Duration = Duration::from_secs(90);

/// Number of characters of the scaler's explanation that are printed.
const EXPLANATION_LENGTH: usize = 300;

/// Sends a load that needs more than three replicas, while the node has room for two. The scaler must export this
/// ceiling as a metric, explain it with the scheduler's reason, and use room that is added.
pub(super) async fn check(fixture: &mut Fixture) -> Result<String> {
    let all_cores = fixture.cluster.local()?.node.cores();
    // Another number than before, since the same number would start no scaler again.
    fixture.set_max_replicas(MAX_REPLICAS + 1).await?;
    fixture.settle().await?;
    let figures = stop_and_recover(fixture, all_cores).await;
    // Also after a failure, which would otherwise make the next checks fail.
    fixture.cluster.local()?.node.set_cores(all_cores).await?;
    fixture.set_max_replicas(MAX_REPLICAS).await?;
    figures
}

/// Takes all room for more than two replicas away, and gives it back once the scaler has found that out.
async fn stop_and_recover(fixture: &Fixture, all_cores: f64) -> Result<String> {
    let node = &fixture.cluster.local()?.node;
    node.set_cores(f64::from(ROOM) + OTHER_CORES + SPARE_CORES).await?;
    let load = fixture.start_load("ceiling", LOAD)?;
    let start = Instant::now();
    let explanation = wait_for_ceiling(fixture).await?;
    let detected = start.elapsed().as_secs();
    node.set_cores(all_cores).await?;
    let start = Instant::now();
    let recovery = fixture.wait_for_ready_replicas(ROOM + 1, RECOVER_TIMEOUT).await;
    recovery.context("the scaler does not use the room that was added")?;
    let recovered = start.elapsed().as_secs();
    let report = load.stop().await?;
    let explanation: String = explanation.chars().take(EXPLANATION_LENGTH).collect();
    Ok(format!(
        "found room for {ROOM} after {detected} s; used added room after {recovered} s; \"{explanation}…\"; {report}"
    ))
}

/// Waits until two replicas serve, and the scaler exports that there is room for two. Returns its explanation, which must
/// have the scheduler's reason. The replicas without room stay desired, since the scaler waits minutes for a node.
async fn wait_for_ceiling(fixture: &Fixture) -> Result<String> {
    let ceiling = format!(" {ROOM}");
    wait_for("the scaler to find room for two replicas", DETECT_TIMEOUT, async || {
        let leader = fixture.leader().await?;
        let metrics = fixture.get(&leader, 5053, "/metrics").await?;
        let line = metrics.lines().find(|line| line.starts_with("scaler_ceiling_replicas{"));
        let line = line.context("the scaler has no metric scaler_ceiling_replicas")?;
        if !line.ends_with(&ceiling) || fixture.cluster.replicas("replica").await?.ready != ROOM {
            return Ok(None);
        }
        let status: Value = serde_json::from_str(&fixture.get(&leader, 5053, "/status").await?)?;
        let explanation = status["targets"][0]["latest"]["explanation"].as_str().unwrap_or_default();
        Ok(explanation.contains("Insufficient cpu").then(|| explanation.to_owned()))
    })
    .await
}
