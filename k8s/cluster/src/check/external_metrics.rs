//! The check that an HPA scales by the scaler's recommendation, which it gets through the API server.

use super::{Fixture, LIGHT_LOAD};
use crate::kustomization::Kustomization;
use crate::paths;
use crate::wait::wait_for;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The load, as a multiple of the throughput of one replica.
const LOAD: f64 = 1.5;

/// The replicas that the load needs.
const NEEDED_REPLICAS: i32 = 2;

/// Time in which the HPA must get the metric: the API server tries a new APIService at once, and the HPA's controller
/// asks every 15 s.
const METRIC_TIMEOUT: Duration = Duration::from_secs(60);

/// Time in which the scaler must recommend more replicas.
const ADVICE_TIMEOUT: Duration = Duration::from_secs(30);

/// Time in which the HPA must act on a recommendation: its period of 15 s, and a margin for a busy machine.
const HPA_TIMEOUT: Duration = Duration::from_secs(15 + 15);

/// Time in which one replica must be left after the load. The more requests were late while the HPA had not acted, the longer
/// the law keeps the replicas. In three runs it took 28 to 104 s.
const DOWN_TIMEOUT: Duration = Duration::from_secs(240);

/// The objects of the overlay that k8s/base does not have.
const OWN_OBJECTS: [&str; 5] = [
    "horizontalpodautoscaler/replica",
    "service/external-metrics",
    "apiservice/v1beta1.external.metrics.k8s.io",
    "role/external-metrics",
    "rolebinding/external-metrics",
];

/// Actions for which the scaler must have no permission while it advises.
const FORBIDDEN: [&str; 3] = [
    "patch deployments.apps/replica --subresource=scale",
    "create events.events.k8s.io",
    "update leases.coordination.k8s.io/roundhouse-scaler-replica",
];

/// Applies the overlay with the HPA, sends a load, and lets the HPA scale up and down.
pub(super) async fn check(fixture: &Fixture) -> Result<String> {
    fixture.settle().await?;
    let figures = scale_by_hpa(fixture).await;
    // Also after a failure, which would otherwise make the next checks fail.
    let delete = [&["delete", "--ignore-not-found"], &OWN_OBJECTS[..]].concat();
    fixture.cluster.kubectl.run(&delete).await?;
    fixture.apply("external-metrics-removed", &fixture.manifests).await?;
    figures
}

async fn scale_by_hpa(fixture: &Fixture) -> Result<String> {
    let base = paths::root().join("k8s/overlays/external-metrics");
    fixture.apply("external-metrics", &Kustomization { base, ..fixture.manifests.clone() }).await?;
    check_permissions(fixture).await?;
    let metric = wait_for_metric(fixture).await?;
    let load = fixture.start_load("external-metrics-load", LOAD)?;
    let (recommended, acted, after) = scale_up(fixture).await?;
    let report = load.stop().await?;
    let load = fixture.start_load("external-metrics-rest", LIGHT_LOAD)?;
    let start = Instant::now();
    wait_for("the HPA to scale down to one replica", DOWN_TIMEOUT, async || {
        Ok((fixture.cluster.replicas("replica").await?.desired == 1).then_some(()))
    })
    .await?;
    let down = start.elapsed().as_secs();
    load.stop().await?;
    check_events(fixture, &recommended).await?;
    Ok(format!(
        "the HPA had the metric ({metric}) after the rollout; scaled 1 → {acted} {:.1} s after the recommendation, and \
         to 1 {down} s after the load; {report}",
        after.as_secs_f64()
    ))
}

/// Checks that the scaler cannot scale, so that only the HPA can have done so.
async fn check_permissions(fixture: &Fixture) -> Result<()> {
    for action in FORBIDDEN {
        ensure!(!fixture.cluster.kubectl.can_i("scaler", action).await?, "the scaler may {action}");
    }
    Ok(())
}

/// Waits until the HPA reports the metric. Returns its value.
async fn wait_for_metric(fixture: &Fixture) -> Result<String> {
    let kubectl = &fixture.cluster.kubectl;
    // kubectl prefers the version v1 on old API servers, whose status has no such metrics.
    let version = if kubectl.serves("autoscaling/v2").await? { "v2" } else { "v2beta2" };
    let resource = format!("horizontalpodautoscalers.{version}.autoscaling");
    let get = ["get", &resource, "replica", "-o", "json"];
    let found = wait_for("the HPA to report the metric", METRIC_TIMEOUT, async || {
        let status: Value = serde_json::from_str(&kubectl.run(&get).await?)?;
        let metric = &status["status"]["currentMetrics"][0]["external"]["current"];
        Ok(metric["averageValue"].as_str().map(str::to_owned))
    })
    .await;
    if found.is_err() {
        let conditions = kubectl.run(&["get", &resource, "replica", "-o", "jsonpath={.status.conditions}"]).await?;
        return found.context(format!("the HPA has no metric; its conditions are {conditions}"));
    }
    found
}

/// Waits until the scaler recommends the replicas that the load needs, and then until the HPA has acted. Returns all
/// numbers that were recommended, the number that the HPA has set, and the time between both.
async fn scale_up(fixture: &Fixture) -> Result<(BTreeSet<i32>, i32, Duration)> {
    let mut recommended = BTreeSet::new();
    wait_for("the scaler to recommend more replicas", ADVICE_TIMEOUT, async || {
        let advice = advice(fixture).await?;
        recommended.extend(advice);
        Ok(advice.filter(|&replicas| replicas >= NEEDED_REPLICAS))
    })
    .await?;
    let start = Instant::now();
    let acted = wait_for("the HPA to act on the recommendation", HPA_TIMEOUT, async || {
        recommended.extend(advice(fixture).await?);
        let desired = fixture.cluster.replicas("replica").await?.desired;
        Ok((desired >= NEEDED_REPLICAS).then_some(desired))
    })
    .await?;
    let after = start.elapsed();
    ensure!(recommended.contains(&acted), "the HPA set {acted} replicas, but {recommended:?} were recommended");
    Ok((recommended, acted, after))
}

/// The number of replicas that the scaler recommends; `None` without figures.
async fn advice(fixture: &Fixture) -> Result<Option<i32>> {
    let pods = fixture.pod_names("scaler").await?;
    let [pod] = &pods[..] else { bail!("there must be one scaler, not {pods:?}") };
    let status: Value = serde_json::from_str(&fixture.get(pod, 5053, "/status").await?)?;
    Ok(status["targets"][0]["advice"].as_i64().and_then(|replicas| i32::try_from(replicas).ok()))
}

/// Checks that the Events of the HPA have a change to more replicas, which was recommended, and one to one replica.
async fn check_events(fixture: &Fixture, recommended: &BTreeSet<i32>) -> Result<()> {
    let selector = "--field-selector=involvedObject.kind=HorizontalPodAutoscaler,reason=SuccessfulRescale";
    let messages =
        fixture.cluster.kubectl.run(&["get", "events", selector, "-o", "jsonpath={.items[*].message}"]).await?;
    let has = |replicas: &i32| messages.contains(&format!("New size: {replicas};"));
    ensure!(has(&1) && recommended.range(NEEDED_REPLICAS..).any(has), "the HPA reports other changes: {messages}");
    Ok(())
}
