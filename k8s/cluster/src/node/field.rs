//! The fields of a pod that environment variables and files of volumes can refer to. Pure.

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use std::net::IpAddr;

/// A pod, with the fields of its status that the node decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct PodFields<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The pod's address.
    pub address: IpAddr,
    /// The node's address.
    pub node: IpAddr,
}

impl PodFields<'_> {
    /// The value of the field `path`, such as `metadata.name`.
    ///
    /// # Errors
    /// If this node does not know the field.
    pub(super) fn get(&self, path: &str) -> Result<String> {
        let metadata = &self.pod.metadata;
        Ok(match path {
            "metadata.name" => metadata.name.clone().unwrap_or_default(),
            "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
            "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
            "status.podIP" => self.address.to_string(),
            "status.hostIP" => self.node.to_string(),
            "spec.nodeName" => self.pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            _ => bail!("fieldPath {path} is not known to this node"),
        })
    }
}
