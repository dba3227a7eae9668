//! The check of an operator's settings: one ConfigMap holds for dispatchers and scalers, and applying the manifests again
//! undoes nothing.

use super::{Fixture, ROLLOUT_TIMEOUT};
use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use std::time::Duration;

/// What is added to the objective.
const CHANGE: Duration = Duration::from_millis(100);

/// The least number of replicas while the check runs.
const LEAST: i32 = 2;

/// Changes the objective and the least number of replicas, and applies the manifests again.
pub(super) async fn check(fixture: &mut Fixture) -> Result<String> {
    let before = fixture.objective;
    let figures = change_and_apply(fixture, before + CHANGE).await;
    // Also after a failure, which would otherwise make the next checks fail.
    fixture.settings.insert("ROUNDHOUSE_MIN", "1".into());
    set_objective(fixture, before).await?;
    figures
}

async fn change_and_apply(fixture: &mut Fixture, objective: Duration) -> Result<String> {
    fixture.settings.insert("ROUNDHOUSE_MIN", LEAST.to_string());
    set_objective(fixture, objective).await?;
    fixture.wait_for_ready_replicas(LEAST, ROLLOUT_TIMEOUT).await.context("the scaler ignores ROUNDHOUSE_MIN")?;
    check_dispatchers(fixture, objective).await?;
    let pods = all_pods(fixture).await?;
    fixture.apply("applied-again", &fixture.manifests).await?;
    let after = all_pods(fixture).await?;
    // The scaler may have removed replicas meanwhile. A pod that is new has replaced another one.
    let is_unchanged = after.iter().all(|pod| pods.contains(pod));
    ensure!(is_unchanged, "applying the manifests again replaced pods: {pods:?} became {after:?}");
    let replicas = fixture.cluster.replicas("replica").await?;
    ensure!(replicas.desired >= LEAST, "applying the manifests again left {} replicas", replicas.desired);
    check_dispatchers(fixture, objective).await?;
    Ok(format!("{} ms and {LEAST} replicas at least, before and after applying again", objective.as_millis()))
}

async fn set_objective(fixture: &mut Fixture, objective: Duration) -> Result<()> {
    let text = format!("{}ms", objective.as_millis());
    fixture.set("ROUNDHOUSE_OBJECTIVE", text, &["dispatcher", "scaler"]).await
}

/// Checks that every dispatcher has the objective.
async fn check_dispatchers(fixture: &Fixture, objective: Duration) -> Result<()> {
    for pod in fixture.pod_names("dispatcher").await? {
        let metrics = fixture.get(&pod, 5052, "/metrics").await?;
        let mut values = metrics.lines().filter_map(|line| line.strip_prefix("dispatcher_objective_seconds "));
        let value: f64 = values.next().context("the dispatcher has no metric dispatcher_objective_seconds")?.parse()?;
        let expected = objective.as_secs_f64();
        ensure!((value - expected).abs() < 1e-6, "{pod} has an objective of {value} s instead of {expected} s");
    }
    Ok(())
}

/// The names of the pods of dispatchers, scalers and replicas.
async fn all_pods(fixture: &Fixture) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for component in ["dispatcher", "scaler", "replica"] {
        names.extend(fixture.cluster.pods(component).await?.iter().map(ResourceExt::name_any));
    }
    names.sort();
    Ok(names)
}
