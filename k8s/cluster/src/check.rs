//! What must hold on a cluster, tried on a real one with what is shipped in k8s/base.

mod ceiling;
mod faults;
mod privileges;
mod scaling;

use crate::cluster::{Cluster, NAMESPACE, until};
use crate::load::Load;
use crate::paths;
use anyhow::{Context, Result};
use clap::ValueEnum;
use indicatif::ProgressBar;
use kube::ResourceExt;
use std::time::{Duration, Instant};

/// For a Deployment to be complete.
pub const ROLL_OUT: Duration = Duration::from_secs(120);

/// For the scaler to come down to one replica.
const CALM: Duration = Duration::from_secs(180);

/// One thing that must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Check {
    /// Each account may do what it does, and nothing else
    Privileges,
    /// From one replica to what a burst needs and back, by load alone
    Burst,
    /// Replicas are replaced by new ones
    RollingRestart,
    /// Dispatchers are replaced by new ones
    RollingDispatchers,
    /// A replica's process is killed, and then a whole pod
    KilledPod,
    /// The scaler that leads is killed
    KilledLeader,
    /// The API server is gone for 30 s
    NoApiServer,
    /// The node has room for two replicas only
    Ceiling,
}

/// A cluster with Roundhouse on it.
pub struct Scene {
    /// Where it runs.
    pub cluster: Cluster,
    /// Where pictures are posted.
    pub url: String,
    /// Pictures per second that one replica can do here.
    pub capacity: f64,
}

impl Scene {
    /// Applies k8s/base and waits until everything serves.
    ///
    /// # Errors
    /// When it does not.
    pub async fn set(cluster: Cluster) -> Result<Self> {
        cluster.kubectl.apply(&paths::root().join("k8s/base")).await?;
        for deployment in ["dispatcher", "replica", "scaler"] {
            cluster.roll_out(deployment, ROLL_OUT).await?;
        }
        let url = format!("http://{}/predict", cluster.service("dispatcher").await?);
        let capacity = measure(&cluster).await?;
        Ok(Self { cluster, url, capacity })
    }

    /// Open-loop load of so many times what one replica can do, until it is ended.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn load(&self, name: &str, times: f64) -> Result<Load> {
        let rate = format!("--rate={:.1}", self.capacity * times);
        let json = self.cluster.folder.join(format!("{name}.json"));
        Load::start(&self.url, &[&rate, "--duration=900s", "--generate=60"], json)
    }

    /// Waits until so many replicas serve, or more.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn until_ready(&self, count: i32, limit: Duration) -> Result<()> {
        until(&format!("{count} ready replicas"), limit, async || {
            Ok((self.cluster.replicas("replica").await?.ready >= count).then_some(()))
        })
        .await
    }

    /// Waits until there is one replica again.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn until_calm(&self) -> Result<()> {
        until("one replica", CALM, async || {
            let replicas = self.cluster.replicas("replica").await?;
            Ok((replicas.desired == 1 && replicas.ready == 1).then_some(()))
        })
        .await
    }

    /// The pod that holds the scalers' Lease.
    ///
    /// # Errors
    /// When nobody does.
    pub async fn leader(&self) -> Result<String> {
        let holder = ["get", "lease", "roundhouse-scaler-replica", "-o", "jsonpath={.spec.holderIdentity}"];
        self.cluster.kubectl.run(&holder).await
    }

    /// `/metrics` of a pod on this port.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self, pod: &str, port: u16) -> Result<String> {
        let pods = kube::Api::<k8s_openapi::api::core::v1::Pod>::namespaced(self.cluster.client.clone(), NAMESPACE);
        let status = pods.get(pod).await?.status;
        let address = status.and_then(|status| status.pod_ip).with_context(|| format!("{pod} has no address"))?;
        let asked = service::fetch::get(&format!("{address}:{port}"), "/metrics", Duration::from_secs(2)).await;
        let (_, body) = asked.with_context(|| format!("ask {pod} for its metrics"))?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// All pods by name, and how often each has died.
    async fn survivors(&self) -> Result<Vec<(String, i32)>> {
        let mut all = Vec::new();
        for component in ["dispatcher", "replica", "scaler"] {
            for pod in self.cluster.pods(component).await? {
                let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
                all.push((pod.name_any(), containers.map(|container| container.restart_count).sum()));
            }
        }
        all.sort();
        Ok(all)
    }
}

/// Pictures per second that one replica can do, asked itself, so that no scaler hears of it.
///
/// # Errors
/// When there is none, or it answers nothing.
pub async fn measure(cluster: &Cluster) -> Result<f64> {
    let replicas = cluster.pods("replica").await?;
    let status = replicas.first().and_then(|pod| pod.status.clone()).context("there is no replica")?;
    let url = format!("http://{}:6000/predict", status.pod_ip.context("the replica has no address")?);
    let flags = ["--closed=1", "--duration=4s", "--generate=60"];
    let report = Load::start(&url, &flags, cluster.folder.join("capacity.json"))?.finish().await?;
    report.check()?;
    let seconds = report.whole["setup"]["length_seconds"].as_f64().context("the report has no length")?;
    Ok(report.offered as f64 / seconds)
}

/// Runs these checks, each with a line of figures; all of them, even when one fails.
///
/// # Errors
/// When one failed.
pub async fn run(scene: &mut Scene, checks: &[Check]) -> Result<()> {
    let mut failed = 0;
    for check in checks {
        let possible = check.to_possible_value();
        let name = possible.as_ref().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let spinner = ProgressBar::new_spinner().with_message(name.clone());
        spinner.enable_steady_tick(Duration::from_millis(100));
        let began = Instant::now();
        let outcome = check.run(scene).await;
        spinner.finish_and_clear();
        let seconds = began.elapsed().as_secs();
        match outcome {
            Ok(figures) => println!("ok      {name:<20} {seconds:>4} s  {figures}"),
            Err(error) => {
                failed += 1;
                println!("FAILED  {name:<20} {seconds:>4} s  {error:#}");
            }
        }
    }
    println!("{} passed, {failed} failed", checks.len() - failed);
    anyhow::ensure!(
        failed == 0,
        "{failed} of {} checks failed; logs are in {}",
        checks.len(),
        scene.cluster.folder.display()
    );
    Ok(())
}

impl Check {
    async fn run(self, scene: &mut Scene) -> Result<String> {
        match self {
            Self::Privileges => privileges::check(&scene.cluster.kubectl).await,
            Self::Burst => scaling::burst(scene).await,
            Self::RollingRestart => faults::rolling_restart(scene, "replica").await,
            Self::RollingDispatchers => faults::rolling_restart(scene, "dispatcher").await,
            Self::KilledPod => faults::killed_pod(scene).await,
            Self::KilledLeader => faults::killed_leader(scene).await,
            Self::NoApiServer => faults::no_api_server(scene).await,
            Self::Ceiling => ceiling::check(scene).await,
        }
    }
}
