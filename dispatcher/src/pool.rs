//! The idle connections to the replicas. The pool opens no connection: a request that finds none in it opens one. Time
//! is an argument.

use crate::forward::ReplicaConnection;
use crate::rotation::ReplicaId;
use std::time::{Duration, Instant};

/// The longest time for which a connection is kept without a request. It is shorter than the time after which usual
/// servers close idle connections (uvicorn and Node.js after 5 s, a replica later), so that a request hardly ever meets
/// a connection that its replica is closing.
const MAX_IDLE: Duration = Duration::from_secs(4);

/// Open connections that no request uses, by replica. The number of connections to a replica is at most the largest
/// number of requests that it has had in flight at the same time, so its capacity bounds them.
#[derive(Debug, Default)]
pub struct Pool {
    /// The connections to each replica, at the index [`ReplicaId::slot`], those that were used last at the end. A
    /// replica's connections are closed before another replica gets its slot.
    idle: Vec<Vec<IdleConnection>>,
    /// The time at which [`Pool::close_expired`] next has something to do; `None` if the pool is empty.
    next_expiry: Option<Instant>,
}

/// A connection, and the time since which no request has used it.
#[derive(Debug)]
struct IdleConnection {
    connection: ReplicaConnection,
    since: Instant,
}

impl IdleConnection {
    fn is_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= MAX_IDLE
    }
}

impl Pool {
    /// Takes an idle connection to `replica`, if there is one that has not expired. It is the one that was used last,
    /// because the replica is least likely to have closed it.
    pub fn take(&mut self, replica: ReplicaId, now: Instant) -> Option<ReplicaConnection> {
        let idle = self.idle.get_mut(replica.slot())?;
        let last = idle.pop()?;
        if last.is_expired(now) {
            // All others have been idle for longer.
            idle.clear();
            return None;
        }
        Some(last.connection)
    }

    /// Keeps a connection to `replica`, which is published, for the next request.
    pub fn put(&mut self, replica: ReplicaId, connection: ReplicaConnection, now: Instant) {
        self.next_expiry.get_or_insert(now + MAX_IDLE);
        let slot = replica.slot();
        if slot >= self.idle.len() {
            self.idle.resize_with(slot + 1, Vec::new);
        }
        self.idle[slot].push(IdleConnection { connection, since: now });
    }

    /// Closes the connections that have expired. Without this, a replica that gets no more requests would keep a file
    /// descriptor here for each connection that it has closed.
    pub fn close_expired(&mut self, now: Instant) {
        if self.next_expiry.is_none_or(|at| now < at) {
            return;
        }
        let mut is_empty = true;
        for idle in &mut self.idle {
            let expired = idle.partition_point(|connection| connection.is_expired(now));
            idle.drain(..expired);
            is_empty &= idle.is_empty();
        }
        // Every connection is looked at once in `MAX_IDLE`, so it is closed after at most twice that time.
        self.next_expiry = (!is_empty).then(|| now + MAX_IDLE);
    }

    /// The time at which [`Pool::close_expired`] should be called; `None` if the pool is empty.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.next_expiry
    }

    /// Closes the connections to `replica`, which is no longer published.
    pub fn close(&mut self, replica: ReplicaId) {
        if let Some(idle) = self.idle.get_mut(replica.slot()) {
            *idle = Vec::new();
        }
    }
}
