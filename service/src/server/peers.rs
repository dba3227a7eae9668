//! Counts the connections of each client address. Does no I/O.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

/// The invariant of the lock around the counts.
const UNPOISONED: &str = "no thread panics while it holds the counts";

/// The connections of all peers of a listener, with a limit for each peer.
#[derive(Debug)]
pub(super) struct Peers {
    limit: u32,
    counts: Mutex<HashMap<IpAddr, u32>>,
}

/// One connection of a peer. Dropping the value ends it.
#[derive(Debug)]
pub(super) struct PeerConnection {
    peers: Arc<Peers>,
    network: IpAddr,
}

impl Peers {
    /// No connections. Each peer may have at most `limit`.
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, counts: Mutex::default() }
    }

    /// Counts a connection from `address`; `None` if its peer has too many.
    pub(super) fn connect(self: &Arc<Self>, address: IpAddr) -> Option<PeerConnection> {
        let network = network(address);
        let mut counts = self.counts.lock().expect(UNPOISONED);
        let count = counts.entry(network).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(PeerConnection { peers: self.clone(), network })
    }
}

impl Drop for PeerConnection {
    fn drop(&mut self) {
        let mut counts = self.peers.counts.lock().expect(UNPOISONED);
        if let Some(count) = counts.get_mut(&self.network) {
            *count -= 1;
            // Without this removal, the map would keep an entry for every address that has ever connected.
            if *count == 0 {
                counts.remove(&self.network);
            }
        }
    }
}

/// The addresses that count as one peer: an IPv4 address, or an IPv6 network of 64 bits, which is the smallest one that
/// a provider gives a customer.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_has_its_own_limit_and_gets_its_connections_back() {
        let peers = Arc::new(Peers::new(2));
        let connect = |text: &str| peers.connect(text.parse().expect("an address"));
        let held = [connect("192.0.2.1"), connect("::ffff:192.0.2.1")];
        assert!(held.iter().all(Option::is_some));
        assert!(connect("192.0.2.1").is_none(), "an IPv4 address is the same peer in both notations");
        assert!(connect("192.0.2.2").is_some(), "another address is another peer");
        let [first, _second] = held;
        drop(first);
        assert!(connect("192.0.2.1").is_some());
        let _network = [connect("2001:db8::1"), connect("2001:db8::2")];
        assert!(connect("2001:db8::3").is_none(), "a network of 64 bits is one peer");
        assert!(connect("2001:db8:0:1::1").is_some());
        drop(_network);
        assert_eq!(peers.counts.lock().expect(UNPOISONED).len(), 1, "peers without connections are forgotten");
    }
}
