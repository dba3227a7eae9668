//! What discovery publishes: endpoints, and the changes of their set. Knows nothing of the state of replicas.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The published address of a replica, `host:port`.
pub type Address = Arc<str>;

/// The identity of the pod behind an address: its UID, or its name. Another pod may get the address of one that is gone.
pub type Pod = Arc<str>;

/// The published endpoints: each address with the pod behind it, or `None` if the source does not tell the pod.
pub type Endpoints = BTreeMap<Address, Option<Pod>>;

/// A change of the published set. The first one that a source sends has the whole set, which may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointChanges {
    /// Endpoints that are new, or that have another pod than before.
    pub added: Vec<(Address, Option<Pod>)>,
    /// Addresses that are no longer published.
    pub removed: Vec<Address>,
}

impl EndpointChanges {
    /// The changes that turn the set `before` into `after`.
    pub fn between(before: &Endpoints, after: &Endpoints) -> Self {
        let added = after.iter().filter(|(address, pod)| before.get(*address) != Some(*pod));
        let removed = before.keys().filter(|address| !after.contains_key(*address));
        Self {
            added: added.map(|(address, pod)| (address.clone(), pod.clone())).collect(),
            removed: removed.cloned().collect(),
        }
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_changes_have_new_addresses_other_pods_and_addresses_that_are_gone() {
        let set = |endpoints: &[(&str, &str)]| -> Endpoints {
            endpoints.iter().map(|&(address, pod)| (address.into(), Some(pod.into()))).collect()
        };
        let before = set(&[("a:1", "p"), ("b:1", "q"), ("c:1", "r")]);
        let after = set(&[("a:1", "p"), ("c:1", "s"), ("d:1", "t")]);
        let changes = EndpointChanges::between(&before, &after);
        assert_eq!(changes.added, [("c:1".into(), Some("s".into())), ("d:1".into(), Some("t".into()))]);
        assert_eq!(changes.removed, ["b:1".into()]);
        assert!(EndpointChanges::between(&after, &after).is_empty());
    }
}
