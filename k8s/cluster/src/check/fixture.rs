//! Roundhouse on a cluster, with the steps and queries that several checks need.

use super::LIGHT_LOAD;
use crate::access::{Cluster, ClusterOrigin};
use crate::kustomization::Kustomization;
use crate::load::{LoadReport, LoadgenProcess};
use crate::route::{self, Route};
use crate::wait::wait_for;
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The Deployments of Roundhouse.
const DEPLOYMENTS: [&str; 3] = ["dispatcher", "replica", "scaler"];

/// Time in which the pods of a Deployment must be replaced and ready.
pub const ROLLOUT_TIMEOUT: Duration = Duration::from_secs(120);

/// Time in which the scaler must scale down to one replica.
const SCALE_DOWN_TIMEOUT: Duration = Duration::from_secs(180);

/// Time for which replicas must have been ready to count as steady.
const STEADY: Duration = Duration::from_secs(5);

/// Time in which a pod must answer a request for its metrics.
const GET_TIMEOUT: Duration = Duration::from_secs(2);

/// The scaler's `--max` on a cluster of this machine. So many replicas share three quarters of the machine's processor
/// time; the check of the ceiling allows one more.
pub const MAX_REPLICAS: u32 = 4;

/// The ConfigMap with the settings of a cluster's operator.
const SETTINGS: &str = "roundhouse-settings";

/// The least objective of the checks, which is the one in k8s/base.
const LEAST_OBJECTIVE: Duration = Duration::from_millis(500);

/// The objective as a multiple of the service time of one replica. On a slow machine, the objective of k8s/base would be
/// two or three service times, and the law would want several replicas for the lightest load.
const OBJECTIVE_SERVICE_TIMES: f64 = 8.0;

/// A cluster on which Roundhouse runs.
pub struct Fixture {
    /// The cluster on which Roundhouse runs.
    pub cluster: Cluster,
    /// The manifests of Roundhouse.
    pub manifests: Kustomization,
    /// The settings in the ConfigMap of the operator.
    pub settings: BTreeMap<&'static str, String>,
    /// The objective of dispatchers, scalers and loads.
    pub objective: Duration,
    /// The route to the dispatcher.
    pub route: Route,
    /// The measured throughput of one replica, in images per second.
    pub replica_throughput: f64,
}

impl Fixture {
    /// Applies `manifests`, waits until all Deployments are ready, measures one replica, and sets the objective.
    ///
    /// # Errors
    /// If a Deployment does not become ready, or the replica does not answer.
    pub async fn deploy(cluster: Cluster, manifests: Kustomization) -> Result<Self> {
        let mut settings = BTreeMap::new();
        if let ClusterOrigin::Local(_) = cluster.origin {
            settings.insert("ROUNDHOUSE_MAX", MAX_REPLICAS.to_string());
            write_settings(&cluster, &settings).await?;
        }
        let folder = cluster.folder.join("manifests");
        manifests.write(&folder)?;
        cluster.kubectl.apply(&folder).await.with_context(|| format!("apply {}", manifests.base.display()))?;
        for deployment in DEPLOYMENTS {
            cluster.wait_for_rollout(deployment, ROLLOUT_TIMEOUT).await?;
        }
        let route = Route::to_dispatcher(&cluster).await?;
        let replica_throughput = measure_throughput(&cluster, &route).await?;
        let objective = objective(replica_throughput);
        let mut fixture = Self { cluster, manifests, settings, objective, route, replica_throughput };
        if objective > LEAST_OBJECTIVE {
            let text = format!("{}ms", objective.as_millis());
            fixture.set("ROUNDHOUSE_OBJECTIVE", text, &["dispatcher", "scaler"]).await?;
        }
        Ok(fixture)
    }

    /// Sets the scaler's `--max`, and waits until the scalers have started again.
    ///
    /// # Errors
    /// If the new scalers do not become ready.
    pub async fn set_max_replicas(&mut self, max: u32) -> Result<()> {
        self.set("ROUNDHOUSE_MAX", max.to_string(), &["scaler"]).await
    }

    /// Changes a setting as an operator would: in the ConfigMap, and by a restart of the Deployments that read it.
    ///
    /// # Errors
    /// If the new pods do not become ready.
    pub async fn set(&mut self, name: &'static str, value: String, deployments: &[&str]) -> Result<()> {
        self.settings.insert(name, value);
        write_settings(&self.cluster, &self.settings).await?;
        for deployment in deployments {
            self.cluster.kubectl.run(&["rollout", "restart", &format!("deployment/{deployment}")]).await?;
        }
        for deployment in deployments {
            self.cluster.wait_for_rollout(deployment, ROLLOUT_TIMEOUT).await?;
        }
        Ok(())
    }

    /// Applies the manifests again. `name` is the name of a new folder for them.
    ///
    /// # Errors
    /// If a Deployment does not become ready.
    pub async fn apply(&self, name: &str, manifests: &Kustomization) -> Result<()> {
        let folder = self.cluster.folder.join(name);
        manifests.write(&folder)?;
        self.cluster.kubectl.apply(&folder).await.with_context(|| format!("apply {}", folder.display()))?;
        for deployment in DEPLOYMENTS {
            self.cluster.wait_for_rollout(deployment, ROLLOUT_TIMEOUT).await?;
        }
        Ok(())
    }

    /// Starts `loadgen run` with the objective and `flags`. The report goes to `NAME.json` in the cluster's folder.
    ///
    /// # Errors
    /// If loadgen cannot be started.
    pub fn start_loadgen(&self, name: &str, flags: &[&str]) -> Result<LoadgenProcess> {
        let objective = format!("--objective={}ms", self.objective.as_millis());
        let report = self.cluster.folder.join(format!("{name}.json"));
        LoadgenProcess::start(&self.route.url, &[&[&objective, "--generate=60"], flags].concat(), report)
    }

    /// Starts an open-loop load at `factor` times the throughput of one replica. It lasts until it is stopped, and 15
    /// minutes at most. The report goes to `NAME.json` in the cluster's folder.
    ///
    /// # Errors
    /// If loadgen cannot be started.
    pub fn start_load(&self, name: &str, factor: f64) -> Result<LoadgenProcess> {
        let rate = format!("--rate={:.1}", self.replica_throughput * factor);
        self.start_loadgen(name, &[&rate, "--duration=900s"])
    }

    /// Waits until at least `count` replicas are ready.
    ///
    /// # Errors
    /// If that takes longer than `timeout`.
    pub async fn wait_for_ready_replicas(&self, count: i32, timeout: Duration) -> Result<()> {
        wait_for(&format!("{count} ready replicas"), timeout, async || {
            Ok((self.cluster.replicas("replica").await?.ready >= count).then_some(()))
        })
        .await
    }

    /// Waits until at least `count` replicas have been desired and ready for some seconds. Replicas that an earlier load
    /// has left may be ready for a moment, and then be removed.
    ///
    /// # Errors
    /// If that takes longer than `timeout`.
    pub async fn wait_for_steady_replicas(&self, count: i32, timeout: Duration) -> Result<()> {
        let mut since = None;
        wait_for(&format!("{count} replicas that stay ready"), timeout, async || {
            let replicas = self.cluster.replicas("replica").await?;
            if replicas.desired < count || replicas.ready < count {
                since = None;
                return Ok(None);
            }
            let is_steady = since.get_or_insert_with(Instant::now).elapsed() >= STEADY;
            Ok(is_steady.then_some(()))
        })
        .await
    }

    /// Waits until the scaler has scaled down to one replica.
    ///
    /// # Errors
    /// If that takes longer than three minutes.
    pub async fn wait_for_one_replica(&self) -> Result<()> {
        wait_for("the Deployment replica to have one replica, which is ready", SCALE_DOWN_TIMEOUT, async || {
            let replicas = self.cluster.replicas("replica").await?;
            Ok((replicas.desired == 1 && replicas.ready == 1).then_some(()))
        })
        .await
    }

    /// Sends a light load until the scaler has come down to one replica, unless it is there already.
    ///
    /// # Errors
    /// If that takes longer than three minutes, or a request fails.
    pub async fn settle(&self) -> Result<()> {
        let replicas = self.cluster.replicas("replica").await?;
        if replicas.desired == 1 && replicas.ready == 1 {
            return Ok(());
        }
        let load = self.start_load("settle", LIGHT_LOAD)?;
        self.wait_for_one_replica().await?;
        load.stop().await?.ensure_no_failures()
    }

    /// The name of the pod of the leading scaler; empty if no scaler leads.
    ///
    /// # Errors
    /// If there is no Lease.
    pub async fn leader(&self) -> Result<String> {
        let holder = ["get", "lease", "roundhouse-scaler-replica", "-o", "jsonpath={.spec.holderIdentity}"];
        self.cluster.kubectl.run(&holder).await
    }

    /// The text of `path` at the port `port` of a pod.
    ///
    /// # Errors
    /// If the pod does not answer.
    pub async fn get(&self, pod: &str, port: u16, path: &str) -> Result<String> {
        let address = self.cluster.pod_address(pod, port).await?.to_string();
        let answer = service::fetch::get(&address, path, GET_TIMEOUT).await;
        let (_, body) = answer.with_context(|| format!("get {path} of pod {pod}"))?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// The names of the pods of `component`.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn pod_names(&self, component: &str) -> Result<Vec<String>> {
        Ok(self.cluster.pods(component).await?.iter().map(ResourceExt::name_any).collect())
    }

    /// The name of each pod with the number of restarts of its container, sorted by name.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn restarts_by_pod(&self) -> Result<Vec<(String, i32)>> {
        let mut all = Vec::new();
        for component in ["dispatcher", "replica", "scaler"] {
            let pods = self.cluster.pods(component).await?;
            all.extend(pods.iter().map(|pod| (pod.name_any(), restarts(pod))));
        }
        all.sort();
        Ok(all)
    }
}

/// Writes the ConfigMap with the settings of the operator.
async fn write_settings(cluster: &Cluster, settings: &BTreeMap<&'static str, String>) -> Result<()> {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": SETTINGS}, "data": settings});
    cluster.kubectl.run_with_input(&["apply", "-f", "-"], &object.to_string()).await.map(drop)
}

/// The objective of the checks on a machine where one replica answers `throughput` images per second, in whole 50 ms.
fn objective(throughput: f64) -> Duration {
    let steps = (OBJECTIVE_SERVICE_TIMES / throughput / 0.05).ceil();
    Duration::from_secs_f64(steps * 0.05).max(LEAST_OBJECTIVE)
}

/// The number of restarts of the containers of a pod.
pub(super) fn restarts(pod: &Pod) -> i32 {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers.map(|container| container.restart_count).sum()
}

/// Whether a pod is ready.
pub(super) fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Measures the throughput of one replica with a single client, in images per second.
///
/// The client posts to the replica directly if its address is reachable, so that the scaler does not see this load.
/// Otherwise the client posts to the dispatcher.
///
/// # Errors
/// If there is no replica, or a request fails.
pub async fn measure_throughput(cluster: &Cluster, route: &Route) -> Result<f64> {
    let replicas = cluster.pods("replica").await?;
    let replica = replicas.first().context("there is no replica")?.name_any();
    let address = cluster.pod_address(&replica, 6000).await?.to_string();
    let url = match route::is_reachable(&address).await {
        true => format!("http://{address}/predict"),
        false => route.url.clone(),
    };
    let flags = ["--closed=1", "--duration=4s", "--generate=60"];
    let report: LoadReport =
        LoadgenProcess::start(&url, &flags, cluster.folder.join("throughput.json"))?.finish().await?;
    report.ensure_no_failures().context("measure one replica")?;
    Ok(report.offered as f64 / report.length_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_objective_is_longer_on_a_slow_machine() {
        for (throughput, milliseconds) in [(100.0, 500), (16.0, 500), (10.0, 800), (7.0, 1150)] {
            assert_eq!(objective(throughput).as_millis(), milliseconds, "{throughput} images/s");
        }
    }
}
