//! The idle connections to the replicas. The pool opens no connection: a request that finds none in it opens one. Time
//! is an argument.

use crate::forward::ReplicaConnection;
use crate::rotation::Address;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// The longest time for which a connection is kept without a request. It is shorter than the time after which usual
/// servers close idle connections (uvicorn and Node.js after 5 s, a replica later), so that a request hardly ever meets
/// a connection that its replica is closing.
const MAX_IDLE: Duration = Duration::from_secs(4);

/// Open connections that no request uses, by replica. The number of connections to a replica is at most the largest
/// number of requests that it has had in flight at the same time, so its capacity bounds them.
#[derive(Debug, Default)]
pub struct Pool {
    /// The connections to each replica, those that were used last at the end.
    idle: HashMap<Address, Vec<IdleConnection>>,
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
    /// Takes an idle connection to `address`, if there is one that has not expired. It is the one that was used last,
    /// because the replica is least likely to have closed it.
    pub fn take(&mut self, address: &Address, now: Instant) -> Option<ReplicaConnection> {
        let idle = self.idle.get_mut(address)?;
        let last = idle.pop()?;
        if last.is_expired(now) {
            // All others have been idle for longer.
            idle.clear();
            return None;
        }
        Some(last.connection)
    }

    /// Keeps a connection to `address` for the next request.
    pub fn put(&mut self, address: &Address, connection: ReplicaConnection, now: Instant) {
        self.next_expiry.get_or_insert(now + MAX_IDLE);
        let connection = IdleConnection { connection, since: now };
        // `entry` would need a clone of the address for every request.
        match self.idle.get_mut(address) {
            Some(idle) => idle.push(connection),
            None => drop(self.idle.insert(address.clone(), vec![connection])),
        }
    }

    /// Closes the connections that have expired. Without this, a replica that gets no more requests would keep a file
    /// descriptor here for each connection that it has closed.
    pub fn close_expired(&mut self, now: Instant) {
        if self.next_expiry.is_none_or(|at| now < at) {
            return;
        }
        for idle in self.idle.values_mut() {
            let expired = idle.partition_point(|connection| connection.is_expired(now));
            idle.drain(..expired);
        }
        self.idle.retain(|_, idle| !idle.is_empty());
        // Every connection is looked at once in `MAX_IDLE`, so it is closed after at most twice that time.
        self.next_expiry = (!self.idle.is_empty()).then(|| now + MAX_IDLE);
    }

    /// The time at which [`Pool::close_expired`] should be called; `None` if the pool is empty.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.next_expiry
    }

    /// Closes the connections to replicas that are not among `published`.
    pub fn retain(&mut self, published: &BTreeSet<Address>) {
        self.idle.retain(|address, _| published.contains(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn an_idle_connection_expires() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address: Address = listener.local_addr().expect("the socket is bound").to_string().into();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let (mut pool, mut left) = (Pool::default(), Vec::new());
        for put in 0..3 {
            let connection = ReplicaConnection::open(&address).await.expect("the server listens");
            pool.put(&address, connection, start + put * second);
        }
        assert_eq!(pool.next_expiry(), Some(start + MAX_IDLE));
        for seconds in [3, 4, 5, 9] {
            pool.close_expired(start + seconds * second);
            left.push(pool.idle.get(&address).map_or(0, Vec::len));
        }
        // The connections expire after 4, 5 and 6 s. They are looked at after 4 and 8 s.
        assert_eq!(left, [3, 2, 2, 0]);
        assert_eq!(pool.next_expiry(), None);
        for (idle, is_usable) in [(MAX_IDLE - second, true), (MAX_IDLE, false)] {
            for _ in 0..2 {
                let connection = ReplicaConnection::open(&address).await.expect("the server listens");
                pool.put(&address, connection, start);
            }
            assert_eq!(pool.take(&address, start + idle).is_some(), is_usable, "after {idle:?}");
            assert_eq!(pool.idle[&address].len(), usize::from(is_usable), "an older one expires with a younger one");
            pool = Pool::default();
        }
    }
}
