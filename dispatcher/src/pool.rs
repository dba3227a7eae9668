//! The idle connections to the replicas. The pool opens no connection: a request that finds none in it opens one.

use crate::forward::ReplicaConnection;
use crate::rotation::ReplicaId;

/// Open connections that no request uses, by replica. The number of connections to a replica is at most the largest
/// number of requests that it has had in flight at the same time, so its capacity bounds them.
#[derive(Debug, Default)]
pub struct Pool {
    /// The connections to each replica, at the index [`ReplicaId::slot`]. A replica's connections are closed before
    /// another replica gets its slot.
    idle: Vec<Vec<ReplicaConnection>>,
}

impl Pool {
    /// Takes an idle connection to `replica`, if there is one. It is the one that was used last, because the replica is
    /// least likely to have closed it.
    pub fn take(&mut self, replica: ReplicaId) -> Option<ReplicaConnection> {
        self.idle.get_mut(replica.slot())?.pop()
    }

    /// Keeps a connection to `replica`, which is published, for the next request.
    pub fn put(&mut self, replica: ReplicaId, connection: ReplicaConnection) {
        let slot = replica.slot();
        if slot >= self.idle.len() {
            self.idle.resize_with(slot + 1, Vec::new);
        }
        self.idle[slot].push(connection);
    }

    /// Closes the connections to `replica`, which is no longer published.
    pub fn close(&mut self, replica: ReplicaId) {
        if let Some(idle) = self.idle.get_mut(replica.slot()) {
            *idle = Vec::new();
        }
    }
}
