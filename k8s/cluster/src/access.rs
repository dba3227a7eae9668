//! Access to a Kubernetes cluster, and questions about the Deployments and pods in one namespace of it.
//!
//! Only [`ClusterOrigin`] knows whether this program has started the cluster or found it.

use crate::existing::TemporaryNamespace;
use crate::kubectl::Kubectl;
use crate::local::LocalCluster;
use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use std::fmt::Debug;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

/// The error of a check that needs a cluster of its own.
const NOT_LOCAL: &str = "this needs the control plane and the node of a cluster that was started for the checks";

/// A cluster, and the namespace in it that Roundhouse is in.
pub struct Cluster {
    /// Whether this program runs the cluster.
    pub origin: ClusterOrigin,
    /// A client with the privileges of the cluster's kubeconfig.
    pub client: Client,
    /// kubectl in the namespace.
    pub kubectl: Kubectl,
    /// The folder for logs and reports.
    pub folder: PathBuf,
    /// Keeps other processes out of the folder.
    pub folder_lock: File,
}

/// Where a cluster comes from.
pub enum ClusterOrigin {
    /// This program runs the control plane and the node, and ends them with this value.
    Local(Box<LocalCluster>),
    /// The cluster existed before. The namespace is deleted with this value.
    Existing(TemporaryNamespace),
}

/// The replicas of a Deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaCounts {
    /// Replicas that the Deployment asks for.
    pub desired: i32,
    /// Replicas that can serve.
    pub ready: i32,
}

impl Cluster {
    /// The control plane and the node, which a check may break.
    ///
    /// # Errors
    /// If this program has not started the cluster.
    pub fn local(&self) -> Result<&LocalCluster> {
        match &self.origin {
            ClusterOrigin::Local(local) => Ok(local),
            ClusterOrigin::Existing(_) => bail!(NOT_LOCAL),
        }
    }

    /// The control plane and the node for changes. See [`Cluster::local`].
    ///
    /// # Errors
    /// If this program has not started the cluster.
    pub fn local_mut(&mut self) -> Result<&mut LocalCluster> {
        match &mut self.origin {
            ClusterOrigin::Local(local) => Ok(local),
            ClusterOrigin::Existing(_) => bail!(NOT_LOCAL),
        }
    }

    /// The cluster address of a Service.
    ///
    /// # Errors
    /// If there is no such Service, or it has no address.
    pub async fn service_address(&self, name: &str) -> Result<Ipv4Addr> {
        let service = self.api::<Service>().get(name).await.with_context(|| format!("get Service {name}"))?;
        let address = service.spec.and_then(|spec| spec.cluster_ip);
        let address = address.with_context(|| format!("Service {name} has no address"))?;
        address.parse().with_context(|| format!("Service {name} has the address {address}, which is not of IPv4"))
    }

    /// The number of replicas of a Deployment.
    ///
    /// # Errors
    /// If there is no such Deployment.
    pub async fn replicas(&self, deployment: &str) -> Result<ReplicaCounts> {
        let found = self.api::<Deployment>().get(deployment).await;
        let found = found.with_context(|| format!("get Deployment {deployment}"))?;
        let desired = found.spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let ready = found.status.and_then(|status| status.ready_replicas).unwrap_or(0);
        Ok(ReplicaCounts { desired, ready })
    }

    /// The pods of a component, without those that are being deleted.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn pods(&self, component: &str) -> Result<Vec<Pod>> {
        let pods = self.pods_and_terminating(component).await?;
        Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// The pods of a component, with those that are being deleted.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn pods_and_terminating(&self, component: &str) -> Result<Vec<Pod>> {
        let component = ListParams::default().labels(&format!("app.kubernetes.io/component={component}"));
        Ok(self.api::<Pod>().list(&component).await.context("list pods")?.items)
    }

    /// The address of a pod.
    ///
    /// # Errors
    /// If there is no such pod, or it has no address yet.
    pub async fn pod_address(&self, name: &str) -> Result<String> {
        let pod = self.api::<Pod>().get(name).await.with_context(|| format!("get pod {name}"))?;
        pod.status.and_then(|status| status.pod_ip).with_context(|| format!("pod {name} has no address"))
    }

    /// Waits until all replicas of a Deployment, as many as it asks for, are of its newest version and ready.
    ///
    /// # Errors
    /// If that takes longer than `timeout`, with the state of the pods.
    pub async fn wait_for_rollout(&self, deployment: &str, timeout: Duration) -> Result<()> {
        let name = format!("deployment/{deployment}");
        let flag = format!("--timeout={}s", timeout.as_secs());
        if let Err(error) = self.kubectl.run(&["rollout", "status", &name, &flag]).await {
            let pods = self.kubectl.run(&["get", "pods", "-o", "wide"]).await?;
            bail!("{error:#}\n{pods}\n{}", self.where_logs_are());
        }
        Ok(())
    }

    /// A sentence that tells where the logs of the pods are.
    pub fn where_logs_are(&self) -> String {
        match &self.origin {
            ClusterOrigin::Local(local) => {
                format!("The logs of the pods are in {}.", local.node.log_folder().display())
            }
            ClusterOrigin::Existing(_) => "`kubectl logs` shows the logs of the pods.".to_owned(),
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()> + Clone + Debug,
    {
        Api::namespaced(self.client.clone(), self.kubectl.namespace())
    }
}
