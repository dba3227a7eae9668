//! The node's packet filter. It forwards connections to Services, and drops what NetworkPolicies do not permit. The
//! program `nft` of nftables puts the rules into the cluster's network namespace.

use super::network_policy::{PolicyInput, PolicyPod, namespace_labels};
use super::service_table::ServiceTable;
use super::{RETRY_INTERVAL, ruleset};
use crate::network::IpFamilies;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use std::net::IpAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::watch;

/// The objects of which the rules are made. Clones share them.
#[derive(Clone)]
pub(super) struct PacketFilter {
    families: IpFamilies,
    services: ServiceTable,
    policies: Arc<Mutex<PolicyInput>>,
    /// The number of changes of the objects.
    changed: watch::Sender<u64>,
    /// The number of changes that the rules contain.
    applied: watch::Sender<u64>,
}

impl PacketFilter {
    /// A filter for the Services in `services`. It has no rules until [`Self::run`] is called.
    pub(super) fn new(families: IpFamilies, services: ServiceTable) -> Self {
        Self {
            families,
            services,
            policies: Arc::default(),
            changed: watch::Sender::new(0),
            applied: watch::Sender::new(0),
        }
    }

    /// The Services for which the filter forwards connections.
    pub(super) fn services(&self) -> &ServiceTable {
        &self.services
    }

    /// Makes the rules again, after the Services or their endpoints have changed.
    pub(super) fn update(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Adds a pod that has just been given its addresses, and waits until the rules contain it. If the container started
    /// before, its first connections would be permitted, whatever the policies say.
    pub(super) async fn add_pod(&self, pod: &Pod, addresses: &[IpAddr]) {
        let policy_pod = PolicyPod::new(pod);
        self.policies().pods.extend(addresses.iter().map(|&address| (address, policy_pod.clone())));
        self.update();
        let count = *self.changed.borrow();
        // An error means that the sender is gone, but `self` has it.
        let _ = self.applied.subscribe().wait_for(|applied| *applied >= count).await;
    }

    /// Removes the pod with these addresses.
    pub(super) fn remove_pod(&self, addresses: &[IpAddr]) {
        self.policies().pods.retain(|address, _pod| !addresses.contains(address));
        self.update();
    }

    /// Replaces all namespaces.
    pub(super) fn set_namespaces(&self, namespaces: &[Arc<Namespace>]) {
        self.policies().namespaces = namespace_labels(namespaces);
        self.update();
    }

    /// Replaces all NetworkPolicies.
    pub(super) fn set_policies(&self, policies: Vec<Arc<NetworkPolicy>>) {
        self.policies().policies = policies;
        self.update();
    }

    /// Applies the rules again whenever they have changed. Never ends.
    pub(super) async fn run(self) {
        let mut changes = self.changed.subscribe();
        let mut applied = String::new();
        loop {
            let count = *changes.borrow_and_update();
            let rules = ruleset::text(self.families, &self.services.ports(), &self.policies().isolations());
            let result = if rules == applied { Ok(()) } else { apply(&rules).await };
            match result {
                Ok(()) => {
                    applied = rules;
                    self.applied.send_replace(count);
                    // An error means that the sender is gone, but `self` has it.
                    let _ = changes.changed().await;
                }
                Err(error) => {
                    eprintln!("cannot change the node's packet filter, and try again: {error:#}");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    fn policies(&self) -> MutexGuard<'_, PolicyInput> {
        self.policies.lock().expect("no thread panics while it holds the lock")
    }
}

/// Replaces all rules at once. Connections that exist already are not affected.
async fn apply(rules: &str) -> Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("run nft; on Debian and Ubuntu: apt-get install nftables")?;
    let mut stdin = child.stdin.take().expect("standard input is piped");
    stdin.write_all(rules.as_bytes()).await.context("write to nft")?;
    drop(stdin);
    let output = child.wait_with_output().await.context("wait for nft")?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "nft failed: {}", message.trim());
    Ok(())
}
