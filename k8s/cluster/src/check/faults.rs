//! The checks of faults and restarts under load. No request may fail.

use super::controllers;
use super::fixture::{is_ready, restarts};
use super::{Fixture, LIGHT_LOAD, ROLLOUT_TIMEOUT};
use crate::wait::wait_for;
use anyhow::{Context, Result, bail, ensure};
use kube::ResourceExt;
use std::time::{Duration, Instant};

/// A load that needs two replicas, as a multiple of the throughput of one replica. It is low enough that no request is
/// shed while the second replica starts.
const LOAD_FOR_TWO: f64 = 1.3;

/// The load after the outage of the API server, as a multiple of the throughput of one replica. The objective needs two
/// replicas for it, but one replica answers all requests.
const LOAD_AFTER_OUTAGE: f64 = 0.85;

/// Time in which the second replica must be ready.
const SCALE_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// Length of the load before and after a fault.
const MARGIN: Duration = Duration::from_secs(5);

/// Length of the outage of the API server.
const OUTAGE: Duration = Duration::from_secs(30);

/// Time in which another scaler must lead after the leader was killed. The other scaler reads the Lease every 2 s. It
/// sees the last renewal up to 2 s late, waits for 15 s after that, and then acts up to 2 s late. One second is added
/// for kubectl.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(20);

/// Replaces all pods of a Deployment under load. No request may fail.
pub(super) async fn check_rolling_restart(fixture: &Fixture, deployment: &str) -> Result<String> {
    let load = fixture.start_load(&format!("rolling-{deployment}"), LOAD_FOR_TWO)?;
    fixture.wait_for_steady_replicas(2, SCALE_UP_TIMEOUT).await?;
    let old_pods = fixture.pod_names(deployment).await?;
    let start = Instant::now();
    fixture.cluster.kubectl.run(&["rollout", "restart", &format!("deployment/{deployment}")]).await?;
    fixture.cluster.wait_for_rollout(deployment, ROLLOUT_TIMEOUT).await?;
    // `kubectl rollout status` returns before the last old pod has drained.
    wait_for("the end of the old pods", ROLLOUT_TIMEOUT, async || {
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

/// Kills the process of a replica under load, and then deletes the pod of another replica without grace. No request may
/// fail.
pub(super) async fn check_killed_pod(fixture: &Fixture) -> Result<String> {
    let load = fixture.start_load("killed-pod", LOAD_FOR_TWO)?;
    fixture.wait_for_steady_replicas(2, SCALE_UP_TIMEOUT).await?;
    let replicas = fixture.pod_names("replica").await?;
    let [first, _second, ..] = &replicas[..] else {
        bail!("this check needs two replicas, but there are {}", replicas.len())
    };
    fixture.cluster.local()?.node.kill(first)?;
    wait_for("the killed replica to be ready again", SCALE_UP_TIMEOUT, async || {
        let pods = fixture.cluster.pods("replica").await?;
        let killed = pods.iter().find(|pod| pod.name_any() == *first);
        // The scaler may have removed the pod since then.
        Ok(killed.is_none_or(|pod| restarts(pod) > 0 && is_ready(pod)).then_some(()))
    })
    .await?;
    // With the requests that wait for the killed replica, a second loss would be an overload, which is refused by design.
    wait_for("the dispatchers' queues to be empty", SCALE_UP_TIMEOUT, async || {
        Ok((queue_length(fixture).await? == 0.0).then_some(()))
    })
    .await?;
    // The scaler may have replaced pods since then.
    let replicas = fixture.pod_names("replica").await?;
    let second = replicas.iter().find(|name| *name != first).context("there is no other replica")?;
    fixture.cluster.kubectl.run(&["delete", "pod", second, "--force", "--grace-period=0"]).await?;
    fixture.wait_for_ready_replicas(2, SCALE_UP_TIMEOUT).await?;
    tokio::time::sleep(MARGIN).await;
    let report = load.stop().await?;
    report.ensure_no_failures()?;
    Ok(report.to_string())
}

/// The number of requests that wait in all dispatchers.
async fn queue_length(fixture: &Fixture) -> Result<f64> {
    let mut sum = 0.0;
    for pod in fixture.pod_names("dispatcher").await? {
        let metrics = fixture.get(&pod, 5052, "/metrics").await?;
        let line = metrics.lines().find_map(|line| line.strip_prefix("dispatcher_queue_length "));
        sum += line.context("a dispatcher has no dispatcher_queue_length")?.trim().parse::<f64>()?;
    }
    Ok(sum)
}

/// Deletes the pod of the leading scaler without grace. Another scaler must lead, and then scale. No request may fail.
pub(super) async fn check_killed_leader(fixture: &Fixture) -> Result<String> {
    fixture.wait_for_one_replica().await?;
    let leader = fixture.leader().await?;
    ensure!(!leader.is_empty(), "the Lease roundhouse-scaler-replica has no holder");
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

/// Kills the API server under a load that needs no scaling, and starts it again. No request may fail, no pod may be
/// restarted, and scaling must go on afterwards.
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
    controllers::wait(fixture).await.context("the controllers do not act after the outage of the API server")?;
    let acting = back.elapsed().as_secs();
    let outage = load.stop().await?;
    outage.ensure_no_failures()?;
    let after = fixture.restarts_by_pod().await?;
    let is_unharmed = before.iter().all(|pod| after.contains(pod));
    ensure!(
        is_unharmed,
        "pods were lost or restarted during the outage of the API server; restarts by pod before: {before:?}, after: \
         {after:?}"
    );
    let load = fixture.start_load("api-server-back", LOAD_AFTER_OUTAGE)?;
    fixture
        .wait_for_ready_replicas(2, SCALE_UP_TIMEOUT)
        .await
        .context("the scaler does not scale after the outage of the API server")?;
    let seconds = back.elapsed().as_secs();
    tokio::time::sleep(MARGIN).await;
    let scaled = load.stop().await?;
    scaled.ensure_no_failures()?;
    Ok(format!(
        "{outage}, then {scaled}; controllers acted {acting} s after the API server was back, a second replica was ready \
         after {seconds} s"
    ))
}
