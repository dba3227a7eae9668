//! The addresses of the server. A name is looked up again from time to time, and connections go to its addresses in
//! turn.

use anyhow::{Context, Result, ensure};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Longest age of a lookup whose addresses a new connection uses.
const LOOKUP_AGE: Duration = Duration::from_secs(5);

/// Longest time for one lookup while the load is sent. The last addresses stay in use after it.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest time for the first lookup.
const FIRST_LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Most addresses of one lookup that are used. A connection tries them one after another within one time limit.
const MAX_ADDRESSES: usize = 16;

/// Addresses that take the place of a lookup, in curl's notation `HOST:PORT:ADDRESS[,ADDRESS]…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The name in the URL.
    pub host: String,
    /// The port in the URL.
    pub port: u16,
    /// The addresses to connect to, at least one.
    pub addresses: Vec<IpAddr>,
}

impl Override {
    /// Whether the addresses are those of this host and port, as in `a.example:443`.
    pub fn is_of(&self, host_and_port: &str) -> bool {
        let (host, port) = host_and_port.rsplit_once(':').unwrap_or_default();
        self.host.eq_ignore_ascii_case(host) && port.parse() == Ok(self.port)
    }
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed =
            || "write HOST:PORT:ADDRESS, as in example.com:443:127.0.0.1 or example.com:443:[::1]".to_owned();
        let mut parts = text.splitn(3, ':');
        let (Some(host), Some(port), Some(addresses)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed());
        };
        let port = port.parse().map_err(|_| malformed())?;
        let address = |text: &str| {
            let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
            bare.parse().map_err(|_| format!("{text:?} is not an IP address; {}", malformed()))
        };
        let addresses = addresses.split(',').map(address).collect::<Result<Vec<IpAddr>, String>>()?;
        if host.is_empty() || addresses.len() > MAX_ADDRESSES {
            return Err(malformed());
        }
        Ok(Self { host: host.to_owned(), port, addresses })
    }
}

/// The addresses of one host and port.
#[derive(Debug)]
pub struct Addresses {
    /// The name to look up; `None` if the addresses are fixed.
    name: Option<(String, u16)>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The addresses in use, at least one.
    addresses: Vec<SocketAddr>,
    looked_up: Instant,
    /// The number of connections so far, which decides the next address.
    turn: usize,
}

impl Addresses {
    /// The addresses of `host`, which is a name or an IP address without brackets. The `overrides` of this host and
    /// port take the place of a lookup.
    ///
    /// # Errors
    /// If the name has no address, the lookup takes more than 5 s, or there are overrides and none of them is of this
    /// host and port.
    pub async fn find(host: &str, port: u16, overrides: &[Override]) -> Result<Self> {
        let given: Vec<SocketAddr> = overrides
            .iter()
            .filter(|given| given.host.eq_ignore_ascii_case(host) && given.port == port)
            .flat_map(|given| given.addresses.iter().map(|&address| SocketAddr::new(address, port)))
            .collect();
        ensure!(
            overrides.is_empty() || !given.is_empty(),
            "no --resolve is of {host}:{port}, which --url names; write --resolve {host}:{port}:ADDRESS"
        );
        let literal = host.parse::<IpAddr>().map(|address| SocketAddr::new(address, port));
        let (name, addresses) = match (given, literal) {
            (given, Ok(literal)) if given.is_empty() => (None, vec![literal]),
            (given, _) if !given.is_empty() => (None, given),
            _ => {
                let looked_up = tokio::time::timeout(FIRST_LOOKUP_TIMEOUT, lookup(host, port)).await;
                let found = looked_up
                    .with_context(|| format!("the lookup of {host} took more than {FIRST_LOOKUP_TIMEOUT:?}"))?
                    .with_context(|| format!("look up {host}"))?;
                ensure!(!found.is_empty(), "{host} has no address; check --url");
                (Some((host.to_owned(), port)), found)
            }
        };
        Ok(Self { name, state: Mutex::new(State { addresses, looked_up: Instant::now(), turn: 0 }) })
    }

    /// The addresses for a new connection, the one whose turn it is first. Looks the name up again if the last lookup
    /// is older than 5 s. If that fails or takes more than 1 s, the last addresses are used for another 5 s.
    pub async fn in_turn(&self) -> Vec<SocketAddr> {
        // Connections that are opened meanwhile wait here for the same lookup.
        let mut state = self.state.lock().await;
        if let Some((host, port)) = &self.name
            && state.looked_up.elapsed() > LOOKUP_AGE
        {
            if let Ok(Ok(found)) = tokio::time::timeout(LOOKUP_TIMEOUT, lookup(host, *port)).await
                && !found.is_empty()
            {
                state.addresses = found;
            }
            state.looked_up = Instant::now();
        }
        state.turn = state.turn.wrapping_add(1);
        let first = (state.turn - 1) % state.addresses.len();
        let (before, from) = state.addresses.split_at(first);
        [from, before].concat()
    }

    /// Takes addresses that did not answer out of use until the next lookup. Keeps at least one address, and never
    /// drops a fixed one.
    pub async fn avoid(&self, unreachable: &[SocketAddr]) {
        if self.name.is_none() {
            return;
        }
        let mut state = self.state.lock().await;
        if state.addresses.iter().any(|address| !unreachable.contains(address)) {
            state.addresses.retain(|address| !unreachable.contains(address));
        }
    }
}

/// Asks the system for the addresses of a name.
async fn lookup(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in tokio::net::lookup_host((host, port)).await? {
        if !found.contains(&address) && found.len() < MAX_ADDRESSES {
            found.push(address);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_is_a_host_a_port_and_addresses() {
        let parsed = |text: &str| text.parse::<Override>();
        let good = |host: &str, port, addresses: &[&str]| {
            let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
            Ok(Override { host: host.into(), port, addresses })
        };
        assert_eq!(parsed("a.example:443:127.0.0.1"), good("a.example", 443, &["127.0.0.1"]));
        assert_eq!(parsed("a:80:[::1]"), good("a", 80, &["::1"]));
        assert_eq!(parsed("a:80:::1"), good("a", 80, &["::1"]));
        assert_eq!(parsed("a:80:127.0.0.1,[::1]"), good("a", 80, &["127.0.0.1", "::1"]));
        for bad in
            ["", "a", "a:80", "a:80:", "a:x:127.0.0.1", ":80:127.0.0.1", "a:65536:127.0.0.1", "a:80:b", "a:80:[::1"]
        {
            assert!(parsed(bad).expect_err(bad).contains("HOST:PORT:ADDRESS"), "{bad}");
        }
    }

    #[tokio::test]
    async fn connections_take_the_addresses_in_turn_and_a_literal_address_needs_no_lookup() {
        let overrides = ["A.example:80:127.0.0.1,127.0.0.2".parse().expect("an override")];
        let addresses = Addresses::find("a.example", 80, &overrides).await.expect("found");
        let mut firsts = Vec::new();
        for _ in 0..4 {
            let in_turn = addresses.in_turn().await;
            assert_eq!(in_turn.len(), 2);
            firsts.push(in_turn[0].ip().to_string());
        }
        assert_eq!(firsts, ["127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.2"]);
        let literal = Addresses::find("::1", 80, &[]).await.expect("an address");
        assert_eq!(literal.in_turn().await, ["[::1]:80".parse().expect("an address")]);
        let other = Addresses::find("b.example", 80, &overrides).await.expect_err("another host").to_string();
        assert!(other.contains("--resolve b.example:80:ADDRESS"), "{other}");
    }

    #[tokio::test]
    async fn an_address_without_an_answer_is_avoided_until_the_next_lookup() {
        let addresses: Vec<SocketAddr> = ["127.0.0.1:1", "127.0.0.2:1"].map(|text| text.parse().expect("good")).into();
        let (first, second) = (addresses[0], addresses[1]);
        let state = State { addresses, looked_up: Instant::now(), turn: 0 };
        let known = Addresses { name: Some(("a.invalid".into(), 1)), state: Mutex::new(state) };
        known.avoid(&[first]).await;
        assert_eq!(known.in_turn().await, [second]);
        known.avoid(&[second]).await;
        assert_eq!(known.in_turn().await, [second], "the last address stays");
        // A failed lookup keeps the last addresses.
        known.state.lock().await.looked_up = Instant::now() - LOOKUP_AGE - Duration::from_secs(1);
        assert_eq!(known.in_turn().await, [second]);
        assert!(known.state.lock().await.looked_up.elapsed() < LOOKUP_AGE, "the next lookup is due in 5 s");
    }
}
