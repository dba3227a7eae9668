//! The autoscalers of a comparison, and how each is set up.

use crate::access::Cluster;
use crate::check::ROLLOUT_TIMEOUT;
use crate::paths;
use crate::wait::wait_for;
use anyhow::{Result, ensure};
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// Time in which the old namespace must be deleted, and in which the HPA must know the utilisation of the pods. For the
/// utilisation, the HPA needs two windows of metrics.k8s.io and one period of its controller.
const SETUP_TIMEOUT: Duration = Duration::from_secs(120);

/// The resource of HPAs with its API version. Later versions have other fields than those that are patched and read
/// here.
const HPA_RESOURCE: &str = "horizontalpodautoscalers.v1.autoscaling";

/// The window of a tuned HPA: it scales down only to the highest recommendation within this time, in seconds.
const TUNED_WINDOW: u64 = 60;

/// The tolerance of a tuned HPA. The field `tolerance` of `behavior` needs Kubernetes 1.35; this flag of the controller
/// manager has the same effect with every version.
const TUNED_TOLERANCE: &str = "--horizontal-pod-autoscaler-tolerance=0.0";

/// The program that scales the replicas in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Autoscaler {
    /// The HPA, which is part of Kubernetes.
    Hpa {
        /// The HPA's target utilisation, in per cent of the processor time that pods request.
        target: u32,
        /// Whether the HPA is tuned to follow the load, instead of as shipped.
        is_tuned: bool,
    },
    /// The scaler with its default law, `slo`.
    Scaler,
}

impl Autoscaler {
    /// The name in reports.
    pub(super) fn name(self) -> String {
        match self {
            Self::Hpa { target, is_tuned: false } => format!("HPA {target} %"),
            Self::Hpa { target, is_tuned: true } => format!("HPA {target} % tuned"),
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

    /// Deletes the namespace, restarts the controllers, and deploys Roundhouse again. Waits until the autoscaler can act.
    ///
    /// # Errors
    /// If a Deployment does not become ready, or this program has not started the cluster.
    pub(super) async fn deploy(self, cluster: &mut Cluster) -> Result<()> {
        let kubectl = cluster.kubectl.clone();
        let timeout = format!("--timeout={}s", SETUP_TIMEOUT.as_secs());
        kubectl.run(&["delete", "namespace", kubectl.namespace(), "--ignore-not-found", &timeout]).await?;
        // The HPA's controller would start from the recommendations for the last HPA of this name.
        let flags = if matches!(self, Self::Hpa { is_tuned: true, .. }) { &[TUNED_TOLERANCE][..] } else { &[] };
        cluster.local_mut()?.control_plane.restart_controller_manager(flags)?;
        kubectl.apply(&paths::root().join(self.overlay())).await?;
        if let Self::Hpa { target, is_tuned } = self {
            patch(cluster, HPA_RESOURCE, &json!({"targetCPUUtilizationPercentage": target})).await?;
            if is_tuned {
                let behavior = json!({"scaleDown": {"stabilizationWindowSeconds": TUNED_WINDOW}});
                patch(cluster, behavior_resource(cluster).await?, &json!({"behavior": behavior})).await?;
            }
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

/// The resource of HPAs with the newest API version of the cluster that has `behavior`.
async fn behavior_resource(cluster: &Cluster) -> Result<&'static str> {
    let versions = cluster.kubectl.run(&["api-versions"]).await?;
    let is_served = |version: &str| versions.lines().any(|line| line == version);
    Ok(match is_served("autoscaling/v2") {
        true => "horizontalpodautoscalers.v2.autoscaling",
        false => "horizontalpodautoscalers.v2beta2.autoscaling",
    })
}

/// Changes the specification of the HPA.
async fn patch(cluster: &Cluster, resource: &str, spec: &serde_json::Value) -> Result<()> {
    let change = json!({"spec": spec}).to_string();
    cluster.kubectl.run(&["patch", resource, "replica", "--type=merge", "-p", &change]).await.map(drop)
}

/// Waits until the HPA knows the utilisation of the pods. Before that, it does not scale.
async fn wait_for_utilization(cluster: &Cluster) -> Result<()> {
    let utilization = ["get", HPA_RESOURCE, "replica", "-o", "jsonpath={.status.currentCPUUtilizationPercentage}"];
    wait_for("the HPA to know the utilisation of the pods", SETUP_TIMEOUT, async || {
        Ok((!cluster.kubectl.run(&utilization).await?.is_empty()).then_some(()))
    })
    .await
}
