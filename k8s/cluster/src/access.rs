//! Access to a Kubernetes cluster: its Deployments, pods and Services in one namespace.
//!
//! [`ClusterOrigin`] alone tells whether this program has started the cluster, or the cluster existed before.

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
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The error where the control plane or the node is needed, and this program has not started them.
const NOT_LOCAL: &str = "this check needs a cluster that is started for it; leave --kubeconfig out";

/// A cluster with a namespace for Roundhouse.
pub struct Cluster {
    /// Whether this program has started the cluster, with the parts that it has started.
    pub origin: ClusterOrigin,
    /// A client with the privileges that the cluster's kubeconfig gives.
    pub client: Client,
    /// kubectl for the namespace of Roundhouse.
    pub kubectl: Kubectl,
    /// The folder for logs and reports.
    pub folder: PathBuf,
    /// The lock on the folder. While it is open, no other process uses the folder.
    pub folder_lock: File,
}

/// The origin of a cluster.
pub enum ClusterOrigin {
    /// This program has started the control plane and the node. They end when this value is dropped.
    Local(Box<LocalCluster>),
    /// The cluster existed before. The namespace is deleted when this value is dropped.
    Existing(TemporaryNamespace),
}

/// The numbers of replicas of a Deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaCounts {
    /// The number of replicas in the Deployment's specification.
    pub desired: i32,
    /// The number of ready replicas.
    pub ready: i32,
}

impl Cluster {
    /// The control plane and the node.
    ///
    /// # Errors
    /// If this program has not started the cluster.
    pub fn local(&self) -> Result<&LocalCluster> {
        match &self.origin {
            ClusterOrigin::Local(local) => Ok(local),
            ClusterOrigin::Existing(_) => bail!(NOT_LOCAL),
        }
    }

    /// The control plane and the node, for changes.
    ///
    /// # Errors
    /// If this program has not started the cluster.
    pub fn local_mut(&mut self) -> Result<&mut LocalCluster> {
        match &mut self.origin {
            ClusterOrigin::Local(local) => Ok(local),
            ClusterOrigin::Existing(_) => bail!(NOT_LOCAL),
        }
    }

    /// The cluster address of the Service `name`.
    ///
    /// # Errors
    /// If there is no such Service, or it has no address.
    pub async fn service_address(&self, name: &str) -> Result<IpAddr> {
        self.service_address_in(self.kubectl.namespace(), name).await
    }

    /// The cluster address of the Service `name` of another namespace.
    ///
    /// # Errors
    /// If there is no such Service, or it has no address.
    pub async fn service_address_in(&self, namespace: &str, name: &str) -> Result<IpAddr> {
        let services = Api::<Service>::namespaced(self.client.clone(), namespace);
        let service = services.get(name).await.with_context(|| format!("get Service {name}"))?;
        let address = service.spec.and_then(|spec| spec.cluster_ip);
        let address = address.with_context(|| format!("Service {name} has no address"))?;
        address.parse().with_context(|| format!("Service {name} has the address {address}, which is no IP address"))
    }

    /// The numbers of replicas of a Deployment.
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

    /// The pods of `component`, without those that are being deleted.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn pods(&self, component: &str) -> Result<Vec<Pod>> {
        let pods = self.pods_and_terminating(component).await?;
        Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// The pods of `component`, including those that are being deleted.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn pods_and_terminating(&self, component: &str) -> Result<Vec<Pod>> {
        let label = format!("app.kubernetes.io/component={component}");
        let pods = self.api::<Pod>().list(&ListParams::default().labels(&label)).await;
        Ok(pods.with_context(|| format!("list the pods with the label {label}"))?.items)
    }

    /// The port `port` of the pod `name`.
    ///
    /// # Errors
    /// If there is no such pod, or it has no address yet.
    pub async fn pod_address(&self, name: &str, port: u16) -> Result<SocketAddr> {
        let pod = self.api::<Pod>().get(name).await.with_context(|| format!("get pod {name}"))?;
        let address = pod_addresses(&pod).first().copied();
        Ok((address.with_context(|| format!("pod {name} has no address"))?, port).into())
    }

    /// Waits until all replicas of a Deployment are ready and have its newest specification.
    ///
    /// # Errors
    /// If that takes longer than `timeout`. The message has the state of the pods.
    pub async fn wait_for_rollout(&self, deployment: &str, timeout: Duration) -> Result<()> {
        let name = format!("deployment/{deployment}");
        let flag = format!("--timeout={}s", timeout.as_secs());
        if let Err(error) = self.kubectl.run(&["rollout", "status", &name, &flag]).await {
            let pods = self.kubectl.run(&["get", "pods", "-o", "wide"]).await?;
            bail!("{error:#}\n{pods}\n{}", self.where_logs_are());
        }
        Ok(())
    }

    /// A sentence that says where the logs of the pods are.
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

/// The addresses of a pod, the primary one first.
pub fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    status.pod_ips.iter().flatten().filter_map(|address| address.ip.parse().ok()).collect()
}
