//! A node that has no room for what is wanted.

use super::{ROLL_OUT, Scene};
use crate::cluster::until;
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// Replicas for which there is room.
const ROOM: i32 = 2;

/// Cores that the two dispatchers and the two scalers request, and one more scaler while they are replaced.
const OTHERS: f64 = 2.0 * 0.25 + 3.0 * 0.05;

/// For the scaler to find out.
const FIND: Duration = Duration::from_secs(60);

/// For it to notice that there is room.
const RECOVER: Duration = Duration::from_secs(90);

/// It stops there, says why, and goes on when there is room.
pub(super) async fn check(scene: &Scene) -> Result<String> {
    scene.until_calm().await?;
    let kubectl = &scene.cluster.kubectl;
    kubectl.run(&["set", "env", "deployment/scaler", "ROUNDHOUSE_MAX=6"]).await?;
    scene.cluster.roll_out("scaler", ROLL_OUT).await?;
    let all = scene.cluster.node.cores();
    scene.cluster.node.offer(f64::from(ROOM) + OTHERS + 0.1).await?;
    let load = scene.load("ceiling", 3.5)?;
    let began = Instant::now();
    until("the scaler stops at two", FIND, async || {
        let replicas = scene.cluster.replicas("replica").await?;
        Ok((replicas.desired == ROOM && replicas.ready == ROOM).then_some(()))
    })
    .await?;
    let found = began.elapsed().as_secs();
    let of_ceiling = ["get", "events", "--field-selector=reason=CeilingReached", "-o", "jsonpath={.items[*].message}"];
    let event = until("an Event says why", FIND, async || {
        Ok(Some(kubectl.run(&of_ceiling).await?).filter(|text| text.contains("Insufficient cpu")))
    })
    .await?;
    let metrics = scene.metrics(&scene.leader().await?, 5053).await?;
    let line = metrics.lines().find(|line| line.starts_with("scaler_ceiling_replicas{"));
    let line = line.context("there is no metric of the ceiling")?;
    anyhow::ensure!(line.ends_with(&format!(" {ROOM}")), "the metric says {line}");
    scene.cluster.node.offer(all).await?;
    let room = Instant::now();
    scene.until_ready(ROOM + 1, RECOVER).await.context("there is room, and it is not used")?;
    let recovered = room.elapsed().as_secs();
    let report = load.end().await?;
    kubectl.run(&["set", "env", "deployment/scaler", "ROUNDHOUSE_MAX=10"]).await?;
    scene.cluster.roll_out("scaler", ROLL_OUT).await?;
    let said = event.chars().take(160).collect::<String>();
    Ok(format!("stopped at {ROOM} after {found} s; used room {recovered} s after it was there; \"{said}…\"; {report}"))
}
