//! The cluster's own HPA against our scaler: one workload and seed, each time with everything fresh.

use crate::check::{ROLL_OUT, measure};
use crate::cluster::{Cluster, until};
use crate::load::Load;
use crate::paths;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::time::Duration;
use tokio::process::Command;

/// For everything of a run to be gone, and for the HPA to know what pods use: two windows, and one of its own looks.
const SETTLE: Duration = Duration::from_secs(120);

/// For the HPA's controller, which looks every 15 s, to notice that an HPA is gone: another of its name would otherwise go by
/// what that one recommended.
const FORGET: Duration = Duration::from_secs(20);

/// The kind with the version whose fields are meant; newer ones call them otherwise.
const AUTOSCALERS: &str = "horizontalpodautoscalers.v1.autoscaling";

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// The HPA, holding so many per cent of what pods request of the processor.
    Hpa(u32),
    /// The scaler, as it comes.
    Slo,
}

/// How.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Requests per second, second by second, as a per cent of what one replica can do here
    #[arg(long, value_name = "FILE")]
    pub workload: Option<PathBuf>,
    /// Multiplies its length; the HPA waits for five minutes before it scales down
    #[arg(long, default_value_t = 1.0)]
    pub time_scale: f64,
    /// Of the arrivals
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Targets of the HPA, per cent
    #[arg(long, value_delimiter = ',', default_value = "50,70,90", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub hpa: Vec<u32>,
    /// Where to write the comparison
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Runs each and compares them.
///
/// # Errors
/// When something does not start or answer.
pub async fn run(cluster: &Cluster, options: &Options) -> Result<()> {
    let laws: Vec<Law> = options.hpa.iter().map(|&target| Law::Hpa(target)).chain([Law::Slo]).collect();
    let (mut scale, mut reports) = (None, Vec::new());
    for (index, law) in laws.iter().enumerate() {
        println!("\n== {} ({} of {})", law.name(), index + 1, laws.len());
        law.set(cluster).await.with_context(|| format!("set up {}", law.name()))?;
        let scale = match scale {
            Some(scale) => scale,
            None => {
                let capacity = measure(cluster).await?;
                println!("one replica: {capacity:.1} pictures/s");
                *scale.insert((capacity * 10.0).round() / 1e3)
            }
        };
        reports.push(law.load(cluster, options, scale).await?);
    }
    println!();
    let html = options.html.clone().unwrap_or_else(|| cluster.folder.join("comparison.html"));
    let mut compare = Command::new(paths::program("loadgen"));
    let status = compare.arg("compare").args(&reports).arg(format!("--html={}", html.display())).status().await?;
    ensure!(status.success(), "loadgen compare failed ({status})");
    Ok(())
}

impl Law {
    fn name(self) -> String {
        match self {
            Self::Hpa(target) => format!("HPA {target} %"),
            Self::Slo => "slo".into(),
        }
    }

    /// Everything anew, and ready.
    async fn set(self, cluster: &Cluster) -> Result<()> {
        let kubectl = &cluster.kubectl;
        let timeout = format!("--timeout={}s", SETTLE.as_secs());
        kubectl.run(&["delete", "namespace", "roundhouse", "--ignore-not-found", &timeout]).await?;
        tokio::time::sleep(FORGET).await;
        let overlay = if self == Self::Slo { "minikube" } else { "hpa" };
        kubectl.apply(&paths::root().join("k8s/overlays").join(overlay)).await?;
        if let Self::Hpa(target) = self {
            let change = format!("{{\"spec\":{{\"targetCPUUtilizationPercentage\":{target}}}}}");
            kubectl.run(&["patch", AUTOSCALERS, "replica", "--type=merge", "-p", &change]).await?;
        }
        for deployment in ["dispatcher", "replica"] {
            cluster.roll_out(deployment, ROLL_OUT).await?;
        }
        match self {
            Self::Slo => cluster.roll_out("scaler", ROLL_OUT).await?,
            Self::Hpa(_) => {
                let used = ["get", AUTOSCALERS, "replica", "-o", "jsonpath={.status.currentCPUUtilizationPercentage}"];
                until("the HPA knows what pods use", SETTLE, async || {
                    Ok((!kubectl.run(&used).await?.is_empty()).then_some(()))
                })
                .await?;
            }
        }
        let replicas = cluster.replicas("replica").await?;
        ensure!(replicas.desired == 1, "there are {} replicas before any load, not one", replicas.desired);
        Ok(())
    }

    /// The workload; the report's file.
    async fn load(self, cluster: &Cluster, options: &Options, scale: f64) -> Result<PathBuf> {
        let url = format!("http://{}/predict", cluster.service("dispatcher").await?);
        let workload = paths::root().join("loadgen/workloads/experiment.txt");
        let workload = options.workload.clone().unwrap_or(workload);
        let flags = [
            format!("--workload={}", workload.display()),
            format!("--rate-scale={scale}"),
            format!("--time-scale={}", options.time_scale),
            format!("--seed={}", options.seed),
            format!("--name={}", self.name()),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let json = cluster.folder.join(format!("{}.json", self.name().replace([' ', '%'], "")));
        let report = Load::start(&url, &flags, json.clone())?.finish().await?;
        println!("{report}");
        Ok(json)
    }
}
