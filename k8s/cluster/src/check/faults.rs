//! What may happen while requests come, and must not be noticed by those who send them.

use super::{ROLL_OUT, Scene};
use crate::cluster::until;
use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use std::time::{Duration, Instant};

/// For more replicas to serve.
const SCALE: Duration = Duration::from_secs(60);

/// Before and after what happens.
const MARGIN: Duration = Duration::from_secs(5);

/// Without the API server.
const OUTAGE: Duration = Duration::from_secs(30);

/// For another scaler to lead: a lease lasts 15 s from when it was last seen renewed, up to two after that was done; that it
/// is over is seen in another two; and one for kubectl to tell.
const TAKEOVER: Duration = Duration::from_secs(20);

/// All pods of a Deployment are replaced.
pub(super) async fn rolling_restart(scene: &Scene, deployment: &str) -> Result<String> {
    let load = scene.load(&format!("rolling-{deployment}"), 1.3)?;
    scene.until_ready(2, SCALE).await?;
    let before = names(scene, deployment).await?;
    let began = Instant::now();
    scene.cluster.kubectl.run(&["rollout", "restart", &format!("deployment/{deployment}")]).await?;
    scene.cluster.roll_out(deployment, ROLL_OUT).await?;
    // Until the last old one has drained, too.
    until("the old pods are gone", ROLL_OUT, async || {
        let there = scene.cluster.all_pods(deployment).await?;
        Ok(there.iter().all(|pod| !before.contains(&pod.name_any())).then_some(()))
    })
    .await?;
    let took = began.elapsed().as_secs();
    tokio::time::sleep(MARGIN).await;
    let report = load.end().await?;
    report.check()?;
    Ok(format!("{report}; {} pods replaced in {took} s", before.len()))
}

/// A process dies, and a pod is deleted without any grace.
pub(super) async fn killed_pod(scene: &Scene) -> Result<String> {
    let load = scene.load("killed-pod", 1.3)?;
    scene.until_ready(2, SCALE).await?;
    tokio::time::sleep(MARGIN).await;
    let replicas = names(scene, "replica").await?;
    let [first, second, ..] = &replicas[..] else { anyhow::bail!("there are no two replicas") };
    scene.cluster.node.kill(first)?;
    until("the killed one serves again", SCALE, async || {
        let pods = scene.cluster.pods("replica").await?;
        let restarted = pods.iter().find(|pod| pod.name_any() == *first);
        // It may have been scaled away meanwhile.
        Ok(restarted.is_none_or(|pod| restarts(pod) > 0 && is_ready(pod)).then_some(()))
    })
    .await?;
    scene.cluster.kubectl.run(&["delete", "pod", second, "--force", "--grace-period=0"]).await?;
    scene.until_ready(2, SCALE).await?;
    tokio::time::sleep(MARGIN).await;
    let report = load.end().await?;
    report.check()?;
    Ok(report.to_string())
}

/// The one that leads is gone at once, just when more replicas are needed.
pub(super) async fn killed_leader(scene: &Scene) -> Result<String> {
    scene.until_calm().await?;
    let leader = scene.leader().await?;
    ensure!(!leader.is_empty(), "nobody leads");
    let calm = scene.load("killed-leader-calm", 0.3)?;
    tokio::time::sleep(MARGIN).await;
    scene.cluster.kubectl.run(&["delete", "pod", &leader, "--force", "--grace-period=0"]).await?;
    let began = Instant::now();
    until("another scaler leads", TAKEOVER, async || {
        let holder = scene.leader().await?;
        Ok((!holder.is_empty() && holder != leader).then_some(()))
    })
    .await?;
    let took = began.elapsed().as_secs_f64();
    let calm = calm.end().await?;
    calm.check()?;
    // Less than what would be shed from one replica within the time that another takes to start.
    let more = scene.load("killed-leader-more", 1.3)?;
    scene.until_ready(2, SCALE).await.context("the new leader does not scale")?;
    tokio::time::sleep(MARGIN).await;
    let more = more.end().await?;
    more.check()?;
    Ok(format!("{calm}, then {more}; another led after {took:.1} s"))
}

/// Nobody can change anything, and nobody needs to; when it is back, everything goes on.
pub(super) async fn no_api_server(scene: &mut Scene) -> Result<String> {
    scene.until_calm().await?;
    let before = scene.survivors().await?;
    let load = scene.load("no-api-server", 0.6)?;
    tokio::time::sleep(MARGIN).await;
    scene.cluster.control_plane.kill_api()?;
    tokio::time::sleep(OUTAGE).await;
    scene.cluster.control_plane.start_api().await?;
    let back = Instant::now();
    tokio::time::sleep(MARGIN).await;
    let outage = load.end().await?;
    outage.check()?;
    let after = scene.survivors().await?;
    ensure!(before.iter().all(|pod| after.contains(pod)), "pods were lost or died: {before:?} before, {after:?} after");
    let more = scene.load("api-server-back", 1.3)?;
    scene.until_ready(2, SCALE).await.context("nothing is scaled after the outage")?;
    let took = back.elapsed().as_secs();
    tokio::time::sleep(MARGIN).await;
    let more = more.end().await?;
    more.check()?;
    Ok(format!("{outage}, then {more}; a second replica {took} s after the API server was back"))
}

async fn names(scene: &Scene, component: &str) -> Result<Vec<String>> {
    Ok(scene.cluster.pods(component).await?.iter().map(ResourceExt::name_any).collect())
}

fn restarts(pod: &k8s_openapi::api::core::v1::Pod) -> i32 {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers.map(|container| container.restart_count).sum()
}

fn is_ready(pod: &k8s_openapi::api::core::v1::Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
