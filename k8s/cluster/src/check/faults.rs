//! Faults and restarts under load, in which no request may fail.

use super::fixture::{is_ready, restarts};
use super::{Fixture, LIGHT_LOAD, ROLLOUT_TIMEOUT};
use crate::wait::wait_for;
use anyhow::{Context, Result, bail, ensure};
use kube::ResourceExt;
use std::time::{Duration, Instant};

/// Load that needs a second replica, as a multiple of the throughput of one. It is so low that no request is shed in
/// the time that the second replica takes to start.
const LOAD_FOR_TWO: f64 = 1.3;

/// Time that the scaler has to have more replicas ready.
const SCALE_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// Time under load before and after a fault.
const MARGIN: Duration = Duration::from_secs(5);

/// Length of the outage of the API server.
const OUTAGE: Duration = Duration::from_secs(30);

/// Time in which another scaler must lead. A lease lasts 15 s from when it was last seen renewed, which was up to 2 s
/// after the renewal; another scaler looks every 2 s; 1 s is left for kubectl.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(20);

/// Replaces all pods of a Deployment under load.
pub(super) async fn check_rolling_restart(fixture: &Fixture, deployment: &str) -> Result<String> {
    let load = fixture.start_load(&format!("rolling-{deployment}"), LOAD_FOR_TWO)?;
    fixture.wait_for_ready_replicas(2, SCALE_UP_TIMEOUT).await?;
    let old_pods = fixture.pod_names(deployment).await?;
    let start = Instant::now();
    fixture.cluster.kubectl.run(&["rollout", "restart", &format!("deployment/{deployment}")]).await?;
    fixture.cluster.wait_for_rollout(deployment, ROLLOUT_TIMEOUT).await?;
    // The rollout is over before the last old pod has drained.
    wait_for("the old pods to be gone", ROLLOUT_TIMEOUT, async || {
        let pods = fixture.cluster.pods_and_terminating(deployment).await?;
        Ok(pods.iter().all(|pod| !old_pods.contains(&pod.name_any())).then_some(()))
    })
    .await?;
    let seconds = start.elapsed().as_secs();
    tokio::time::sleep(MARGIN).await;
    let report = load.stop().await?;
    report.ensure_no_failures()?;
    Ok(format!("{report}; {} pods replaced in {seconds} s", old_pods.len()))
}

/// Kills the process of a replica, and then deletes the pod of another one without grace.
pub(super) async fn check_killed_pod(fixture: &Fixture) -> Result<String> {
    let load = fixture.start_load("killed-pod", LOAD_FOR_TWO)?;
    fixture.wait_for_ready_replicas(2, SCALE_UP_TIMEOUT).await?;
    tokio::time::sleep(MARGIN).await;
    let replicas = fixture.pod_names("replica").await?;
    let [first, second, ..] = &replicas[..] else { bail!("two replicas are needed, there are {}", replicas.len()) };
    fixture.cluster.local()?.node.kill(first)?;
    wait_for("the killed replica to be ready again", SCALE_UP_TIMEOUT, async || {
        let pods = fixture.cluster.pods("replica").await?;
        let killed = pods.iter().find(|pod| pod.name_any() == *first);
        // The scaler may have removed the pod meanwhile.
        Ok(killed.is_none_or(|pod| restarts(pod) > 0 && is_ready(pod)).then_some(()))
    })
    .await?;
    fixture.cluster.kubectl.run(&["delete", "pod", second, "--force", "--grace-period=0"]).await?;
    fixture.wait_for_ready_replicas(2, SCALE_UP_TIMEOUT).await?;
    tokio::time::sleep(MARGIN).await;
    let report = load.stop().await?;
    report.ensure_no_failures()?;
    Ok(report.to_string())
}

/// Deletes the pod of the leading scaler without grace, just before more replicas are needed.
pub(super) async fn check_killed_leader(fixture: &Fixture) -> Result<String> {
    fixture.wait_for_one_replica().await?;
    let leader = fixture.leader().await?;
    ensure!(!leader.is_empty(), "no scaler leads");
    let light_load = fixture.start_load("killed-leader-light", LIGHT_LOAD)?;
    tokio::time::sleep(MARGIN).await;
    fixture.cluster.kubectl.run(&["delete", "pod", &leader, "--force", "--grace-period=0"]).await?;
    let start = Instant::now();
    wait_for("another scaler to lead", TAKEOVER_TIMEOUT, async || {
        let holder = fixture.leader().await?;
        Ok((!holder.is_empty() && holder != leader).then_some(()))
    })
    .await?;
    let seconds = start.elapsed().as_secs_f64();
    let light = light_load.stop().await?;
    light.ensure_no_failures()?;
    let heavy_load = fixture.start_load("killed-leader-heavy", LOAD_FOR_TWO)?;
    fixture.wait_for_ready_replicas(2, SCALE_UP_TIMEOUT).await.context("the new leader does not scale")?;
    tokio::time::sleep(MARGIN).await;
    let heavy = heavy_load.stop().await?;
    heavy.ensure_no_failures()?;
    Ok(format!("{light}, then {heavy}; another scaler led after {seconds:.1} s"))
}

/// Takes the API server away under a load that needs no scaling. When it is back, scaling must go on.
pub(super) async fn check_no_api_server(fixture: &mut Fixture) -> Result<String> {
    fixture.wait_for_one_replica().await?;
    let before = fixture.restarts_by_pod().await?;
    let load = fixture.start_load("no-api-server", LIGHT_LOAD)?;
    tokio::time::sleep(MARGIN).await;
    let control_plane = &mut fixture.cluster.local_mut()?.control_plane;
    control_plane.kill_api_server()?;
    tokio::time::sleep(OUTAGE).await;
    control_plane.start_api_server().await?;
    let back = Instant::now();
    tokio::time::sleep(MARGIN).await;
    let outage = load.stop().await?;
    outage.ensure_no_failures()?;
    let after = fixture.restarts_by_pod().await?;
    let is_unharmed = before.iter().all(|pod| after.contains(pod));
    ensure!(is_unharmed, "pods were lost or restarted: {before:?} before, {after:?} after");
    let load = fixture.start_load("api-server-back", LOAD_FOR_TWO)?;
    fixture.wait_for_ready_replicas(2, SCALE_UP_TIMEOUT).await.context("nothing is scaled after the outage")?;
    let seconds = back.elapsed().as_secs();
    tokio::time::sleep(MARGIN).await;
    let scaled = load.stop().await?;
    scaled.ensure_no_failures()?;
    Ok(format!("{outage}, then {scaled}; a second replica {seconds} s after the API server was back"))
}
