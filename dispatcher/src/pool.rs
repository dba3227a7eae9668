//! Idle connections to the replicas. Opens and closes none by itself: a request opens a connection when the pool has
//! none.

use crate::forward::Connection;
use crate::rotation::Address;
use std::collections::{BTreeSet, HashMap};

/// Open connections that no request uses, by replica. A replica has at most as many as it ever had requests in flight
/// at the same time, so its capacity bounds them.
#[derive(Debug, Default)]
pub struct Pool {
    idle: HashMap<Address, Vec<Connection>>,
}

impl Pool {
    /// Takes the connection to `address` that was used last, if one is idle. The replica is least likely to have closed
    /// that one.
    pub fn take(&mut self, address: &Address) -> Option<Connection> {
        self.idle.get_mut(address)?.pop()
    }

    /// Keeps a connection to `address` for the next request.
    pub fn put(&mut self, address: &Address, connection: Connection) {
        // Not `entry`, which would need a clone of the address for every request.
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
