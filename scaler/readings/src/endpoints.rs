//! The endpoints of the dispatchers: given addresses, and given names that are resolved again every few seconds.

use super::SnapshotError;
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// Time between two look-ups. The system's resolver does not say how long an answer is valid.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(1);

/// Longest time for one look-up.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Time for which the last addresses of a name are used while look-ups fail. It is long enough to replace a resolver,
/// and too short for many dispatchers to come and go unnoticed.
const KEEP: Duration = Duration::from_secs(60);

/// The largest number of addresses of a name. All are scraped at the same time, at every tick.
const MAX_ADDRESSES: usize = 256;

/// The value of `--dispatcher`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DispatcherFlag {
    /// The address of one dispatcher, `HOST:PORT`.
    Address(String),
    /// `NAME:PORT`, given as `dns:NAME:PORT`: there is a dispatcher at each address of the name.
    Name(String),
}

/// A text that is not in the form of `--dispatcher`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is neither HOST:PORT, such as 127.0.0.1:5052, nor dns:NAME:PORT, such as dns:dispatcher.shop:5052")]
pub struct InvalidDispatcherFlag(String);

impl FromStr for DispatcherFlag {
    type Err = InvalidDispatcherFlag;

    fn from_str(text: &str) -> Result<Self, InvalidDispatcherFlag> {
        let invalid = || InvalidDispatcherFlag(text.into());
        let (address, is_name) = match text.strip_prefix("dns:") {
            // `dns:80` is port 80 of the host `dns`.
            Some(name) if name.contains(':') => (name, true),
            _ => (text, false),
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
        let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
        let is_host = (1..=253).contains(&host.len())
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        let is_ipv6 = || text.parse::<SocketAddr>().is_ok_and(|address| address.port() > 0);
        match (is_host && is_port, is_name) {
            (true, true) => Ok(Self::Name(address.into())),
            (true, false) => Ok(Self::Address(address.into())),
            (false, false) if is_ipv6() => Ok(Self::Address(text.into())),
            (false, _) => Err(invalid()),
        }
    }
}

impl fmt::Display for DispatcherFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => write!(f, "dns:{name}"),
        }
    }
}

/// The endpoints of all dispatchers.
#[derive(Debug)]
pub struct Endpoints {
    addresses: BTreeSet<String>,
    names: Vec<ResolvedName>,
}

impl Endpoints {
    /// The endpoints that `flags` name. No name is resolved yet.
    pub fn new(flags: impl IntoIterator<Item = DispatcherFlag>) -> Self {
        let mut endpoints = Self { addresses: BTreeSet::new(), names: Vec::new() };
        for flag in flags {
            match flag {
                DispatcherFlag::Address(address) => _ = endpoints.addresses.insert(address),
                DispatcherFlag::Name(name) => endpoints.names.push(ResolvedName { name, ..ResolvedName::default() }),
            }
        }
        endpoints
    }

    /// The endpoints that are published at `at`, and an error for each name, as the flag gives it, that has no addresses
    /// less than a minute old.
    pub async fn published(&mut self, at: Duration) -> (BTreeSet<String>, BTreeMap<String, SnapshotError>) {
        // All at the same time, so that names that cannot be resolved delay a reading by one time limit.
        join_all(self.names.iter_mut().filter(|name| name.is_due(at)).map(async |name| {
            let found = match tokio::time::timeout(TIMEOUT, tokio::net::lookup_host(name.name.clone())).await {
                Ok(found) => found.map(Vec::from_iter).map_err(|error| error.to_string()),
                Err(_elapsed) => Err(format!("no answer within {TIMEOUT:?}")),
            };
            name.note(at, found);
        }))
        .await;
        let (mut all, mut unresolved) = (self.addresses.clone(), BTreeMap::new());
        for name in &self.names {
            match name.addresses(at) {
                Ok(addresses) => all.extend(addresses.iter().map(ToString::to_string)),
                Err(error) => _ = unresolved.insert(format!("dns:{}", name.name), error),
            }
        }
        (all, unresolved)
    }
}

/// A name and the results of its last look-ups.
#[derive(Debug, Default)]
struct ResolvedName {
    name: String,
    addresses: BTreeSet<SocketAddr>,
    /// The time of the last look-up.
    looked_up: Option<Duration>,
    /// The time of the last look-up that succeeded.
    resolved: Option<Duration>,
    /// The reason why the last failed look-up failed.
    reason: String,
}

impl ResolvedName {
    fn is_due(&self, at: Duration) -> bool {
        self.looked_up.is_none_or(|then| at.saturating_sub(then) >= LOOKUP_INTERVAL)
    }

    /// Notes the result of a look-up. Keeps addresses of one IP version only, since a dispatcher with addresses of both
    /// would be counted twice.
    fn note(&mut self, at: Duration, found: Result<Vec<SocketAddr>, String>) {
        self.looked_up = Some(at);
        let found = found.and_then(|found| match found.len() {
            0 => Err("it has no addresses".into()),
            count if count > MAX_ADDRESSES => Err(format!("it has {count} addresses, more than {MAX_ADDRESSES}")),
            _ => Ok(found),
        });
        match found {
            Ok(found) => {
                let has_v4 = found.iter().any(SocketAddr::is_ipv4);
                self.addresses = found.into_iter().filter(|address| address.is_ipv4() == has_v4).collect();
                self.resolved = Some(at);
            }
            Err(reason) => self.reason = reason,
        }
    }

    fn addresses(&self, at: Duration) -> Result<&BTreeSet<SocketAddr>, SnapshotError> {
        match self.resolved {
            Some(then) if at.saturating_sub(then) <= KEEP => Ok(&self.addresses),
            _ => Err(SnapshotError::Name(self.name.clone(), self.reason.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dispatcher_is_given_by_its_address_or_by_a_name() {
        for (text, expected) in [
            ("127.0.0.1:5052", DispatcherFlag::Address("127.0.0.1:5052".into())),
            ("[::1]:5052", DispatcherFlag::Address("[::1]:5052".into())),
            ("dispatcher:80", DispatcherFlag::Address("dispatcher:80".into())),
            ("dns:80", DispatcherFlag::Address("dns:80".into())),
            ("dns:dispatcher.shop.svc:80", DispatcherFlag::Name("dispatcher.shop.svc:80".into())),
        ] {
            let place: DispatcherFlag = text.parse().expect("a place");
            assert_eq!((&place, place.to_string().as_str()), (&expected, text));
        }
        let bad = ["", ":", "a", "a:", ":1", "a:x", "a:0", "a:70000", "a:+1", "a b:1", "a/b:1", "http://a:1"];
        let bad_names = ["dns:a:", "dns::1", "dns:a:b", "dns:a:0", "dns:[::1]:1", "::1:5052", "[::1]"];
        for bad in bad.into_iter().chain(bad_names) {
            let error = bad.parse::<DispatcherFlag>().expect_err(bad).to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[tokio::test]
    async fn a_name_becomes_its_addresses_of_one_ip_version() {
        let endpoints = |places: &[&str]| Endpoints::new(places.iter().map(|place| place.parse().expect("a place")));
        let places = ["dns:localhost:6000", "dns:no-such-host.invalid:1", "a:1"];
        let (published, unresolved) = endpoints(&places).published(Duration::ZERO).await;
        assert_eq!(published, ["127.0.0.1:6000", "a:1"].map(String::from).into());
        assert_eq!(unresolved.keys().collect::<Vec<_>>(), ["dns:no-such-host.invalid:1"]);
    }

    #[test]
    fn the_last_answer_is_used_for_a_minute() {
        let seconds = Duration::from_secs;
        let [one, two, six] = ["10.0.0.1:1", "10.0.0.2:1", "[::1]:1"].map(|it| it.parse().expect("an address"));
        let mut name = ResolvedName { name: "a:1".into(), ..ResolvedName::default() };
        name.note(seconds(0), Err("refused".into()));
        assert!(name.is_due(seconds(1)) && name.addresses(seconds(1)).is_err());
        name.note(seconds(1), Ok(vec![one, two, six]));
        assert_eq!(name.addresses(seconds(1)).expect("known"), &[one, two].into());
        assert!(!name.is_due(Duration::from_millis(1999)) && name.is_due(seconds(2)));
        name.note(seconds(6), Ok(vec![two]));
        assert_eq!(name.addresses(seconds(6)).expect("known"), &[two].into());
        name.note(seconds(11), Ok(Vec::new()));
        name.note(seconds(16), Ok(vec![one; MAX_ADDRESSES + 1]));
        assert_eq!(name.addresses(seconds(66)).expect("still used"), &[two].into());
        let error = name.addresses(seconds(67)).expect_err("too old").to_string();
        assert!(error.contains("257 addresses"), "{error}");
    }
}
