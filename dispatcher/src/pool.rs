//! The idle connections to the replicas. The pool opens no connection: a request that finds none in it opens one.

use crate::forward::ReplicaConnection;
use crate::rotation::Address;
use std::collections::{BTreeSet, HashMap};

/// Open connections that no request uses, by replica. The number of connections to a replica is at most the largest
/// number of requests that it has had in flight at the same time, so its capacity bounds them.
#[derive(Debug, Default)]
pub struct Pool {
    idle: HashMap<Address, Vec<ReplicaConnection>>,
}

impl Pool {
    /// Takes an idle connection to `address`, if there is one. It is the one that was used last, because the replica is
    /// least likely to have closed it.
    pub fn take(&mut self, address: &Address) -> Option<ReplicaConnection> {
        self.idle.get_mut(address)?.pop()
    }

    /// Keeps a connection to `address` for the next request.
    pub fn put(&mut self, address: &Address, connection: ReplicaConnection) {
        // `entry` would need a clone of the address for every request.
        match self.idle.get_mut(address) {
            Some(idle) => idle.push(connection),
            None => drop(self.idle.insert(address.clone(), vec![connection])),
        }
    }

    /// Closes the connections to replicas that are not among `published`.
    pub fn retain(&mut self, published: &BTreeSet<Address>) {
        self.idle.retain(|address, _| published.contains(address));
    }
}
