//! Compares the HPA with the scaler. Each scales the replicas in a new namespace, while loadgen replays the same
//! workload with the same seed.

use crate::access::Cluster;
use crate::check::{ROLLOUT_TIMEOUT, measure_throughput};
use crate::load::LoadgenProcess;
use crate::paths;
use crate::route::Route;
use crate::wait::wait_for;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// Time in which the old namespace must be deleted, and in which the HPA must know the utilisation of the pods. For the
/// utilisation, the HPA needs two windows of metrics.k8s.io and one period of its controller.
const SETUP_TIMEOUT: Duration = Duration::from_secs(120);

/// Time in which the HPA's controller, whose period is 15 s, notices that an HPA was deleted. Without this pause, the
/// next HPA of the same name would start from the recommendations of the deleted one.
const HPA_PERIOD: Duration = Duration::from_secs(20);

/// The resource of HPAs with its API version. Later versions have other fields than those that are patched here.
const HPA_RESOURCE: &str = "horizontalpodautoscalers.v1.autoscaling";

/// Flags of `cluster compare`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Workload file, one number for each second: requests per second in per cent of the throughput of one replica on
    /// this machine; by default loadgen/workloads/experiment.txt
    #[arg(long, value_name = "FILE")]
    pub workload: Option<PathBuf>,
    /// Factor of the workload's length; with a longer workload, the HPA's wait of five minutes before it scales down
    /// matters less
    #[arg(long, default_value_t = 1.0)]
    pub time_scale: f64,
    /// Seed of the arrivals, which are the same in all runs
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Target utilisations of the HPA, in per cent of the processor time that pods request; each gets a run
    #[arg(long, value_delimiter = ',', default_value = "50,70,90")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
    pub hpa: Vec<u32>,
    /// File for the comparison; by default target/roundhouse/compare/comparison.html
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// The program that scales the replicas in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Autoscaler {
    /// The HPA, which is part of Kubernetes.
    Hpa {
        /// The HPA's target utilisation, in per cent of the processor time that pods request.
        target: u32,
    },
    /// The scaler with its default law, `slo`.
    Scaler,
}

/// Replays the workload with each HPA target and with the scaler, and writes a comparison of the reports.
///
/// # Errors
/// If a Deployment does not become ready, or loadgen fails.
pub async fn run(cluster: &Cluster, options: &Options) -> Result<()> {
    let hpas = options.hpa.iter().map(|&target| Autoscaler::Hpa { target });
    let autoscalers: Vec<Autoscaler> = hpas.chain([Autoscaler::Scaler]).collect();
    let mut rate_scale = None;
    let mut reports = Vec::new();
    for (index, autoscaler) in autoscalers.iter().enumerate() {
        let name = autoscaler.name();
        println!("\n== {name} ({} of {})", index + 1, autoscalers.len());
        autoscaler.deploy(cluster).await.with_context(|| format!("set up {name}"))?;
        let route = Route::to_dispatcher(cluster).await?;
        // The factor is measured in the first run only, so that every run replays the same rates.
        let scale = match rate_scale {
            Some(scale) => scale,
            None => measure_rate_scale(cluster, &route).await?,
        };
        rate_scale = Some(scale);
        let report = cluster.folder.join(format!("{}.json", name.replace([' ', '%'], "")));
        replay(&route, options, &name, scale, report.clone()).await?;
        reports.push(report);
    }
    write_comparison(cluster, options, &reports).await
}

/// The factor that turns per cent of one replica's throughput into requests per second, rounded to thousandths.
async fn measure_rate_scale(cluster: &Cluster, route: &Route) -> Result<f64> {
    let throughput = measure_throughput(cluster, route).await?;
    println!("the throughput of one replica is {throughput:.1} images/s");
    Ok((throughput * 10.0).round() / 1e3)
}

/// Replays the workload and prints its figures. loadgen writes its JSON report to `report`.
async fn replay(route: &Route, options: &Options, name: &str, rate_scale: f64, report: PathBuf) -> Result<()> {
    let default = || paths::root().join("loadgen/workloads/experiment.txt");
    let workload = options.workload.clone().unwrap_or_else(default);
    let flags = [
        format!("--workload={}", workload.display()),
        format!("--rate-scale={rate_scale}"),
        format!("--time-scale={}", options.time_scale),
        format!("--seed={}", options.seed),
        format!("--name={name}"),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    println!("{}", LoadgenProcess::start(&route.url, &flags, report)?.finish().await?);
    Ok(())
}

/// Has loadgen compare the reports: it prints a table and writes an HTML page.
async fn write_comparison(cluster: &Cluster, options: &Options, reports: &[PathBuf]) -> Result<()> {
    println!();
    let html = options.html.clone().unwrap_or_else(|| cluster.folder.join("comparison.html"));
    let mut loadgen = Command::new(paths::program("loadgen"));
    loadgen.arg("compare").args(reports).arg(format!("--html={}", html.display()));
    let status = loadgen.status().await.context("run loadgen compare; build it: cargo build --release --workspace")?;
    ensure!(status.success(), "loadgen compare failed ({status})");
    Ok(())
}

impl Autoscaler {
    fn name(self) -> String {
        match self {
            Self::Hpa { target } => format!("HPA {target} %"),
            Self::Scaler => "slo".into(),
        }
    }

    /// The folder of the overlay that deploys Roundhouse with this autoscaler.
    fn overlay(self) -> &'static Path {
        match self {
            Self::Hpa { .. } => Path::new("k8s/overlays/hpa"),
            Self::Scaler => Path::new("k8s/overlays/minikube"),
        }
    }

    /// Deletes the namespace and deploys Roundhouse again. Waits until the autoscaler can act.
    async fn deploy(self, cluster: &Cluster) -> Result<()> {
        let kubectl = &cluster.kubectl;
        let timeout = format!("--timeout={}s", SETUP_TIMEOUT.as_secs());
        kubectl.run(&["delete", "namespace", kubectl.namespace(), "--ignore-not-found", &timeout]).await?;
        tokio::time::sleep(HPA_PERIOD).await;
        kubectl.apply(&paths::root().join(self.overlay())).await?;
        if let Self::Hpa { target } = self {
            let change = format!("{{\"spec\":{{\"targetCPUUtilizationPercentage\":{target}}}}}");
            kubectl.run(&["patch", HPA_RESOURCE, "replica", "--type=merge", "-p", &change]).await?;
        }
        for deployment in ["dispatcher", "replica"] {
            cluster.wait_for_rollout(deployment, ROLLOUT_TIMEOUT).await?;
        }
        match self {
            Self::Scaler => cluster.wait_for_rollout("scaler", ROLLOUT_TIMEOUT).await?,
            Self::Hpa { .. } => wait_for_utilization(cluster).await?,
        }
        let replicas = cluster.replicas("replica").await?;
        ensure!(
            replicas.desired == 1,
            "the Deployment replica must have one replica before the load starts, not {}",
            replicas.desired
        );
        Ok(())
    }
}

/// Waits until the HPA knows the utilisation of the pods. Before that, it does not scale.
async fn wait_for_utilization(cluster: &Cluster) -> Result<()> {
    let utilization = ["get", HPA_RESOURCE, "replica", "-o", "jsonpath={.status.currentCPUUtilizationPercentage}"];
    wait_for("the HPA to know the utilisation of the pods", SETUP_TIMEOUT, async || {
        Ok((!cluster.kubectl.run(&utilization).await?.is_empty()).then_some(()))
    })
    .await
}
