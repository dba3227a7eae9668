//! The endpoints of the dispatchers: addresses as they were given, and names that are resolved anew every few seconds.

use super::Error;
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// Time between two look-ups. The system's resolver does not tell how long an answer holds.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);

/// Time limit of one look-up.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How long the last answer is used when there is no new one: long enough to replace a resolver, and too short for many
/// dispatchers to come and go unseen.
const KEPT: Duration = Duration::from_secs(60);

/// The most addresses of a name: all are scraped at the same time, at every tick.
const MOST: usize = 256;

/// A place where dispatchers are, as `--dispatcher` names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// `HOST:PORT`, one dispatcher.
    Address(String),
    /// `dns:NAME:PORT`, one dispatcher at each address of the name.
    Name(String),
}

/// A text that names no place.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is neither HOST:PORT, such as 127.0.0.1:5052, nor dns:NAME:PORT, such as dns:dispatcher.shop:5052")]
pub struct NoPlace(String);

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let no_place = || NoPlace(text.into());
        let (place, is_name) = match text.strip_prefix("dns:") {
            // A host may be called dns.
            Some(name) if name.contains(':') => (name, true),
            _ => (text, false),
        };
        let (host, port) = place.rsplit_once(':').ok_or_else(no_place)?;
        let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
        let is_host = (1..=253).contains(&host.len())
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        let is_ipv6 = || text.parse::<SocketAddr>().is_ok_and(|address| address.port() > 0);
        match (is_host && is_port, is_name) {
            (true, true) => Ok(Self::Name(place.into())),
            (true, false) => Ok(Self::Address(place.into())),
            (false, false) if is_ipv6() => Ok(Self::Address(text.into())),
            (false, _) => Err(no_place()),
        }
    }
}

impl fmt::Display for Place {
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
    names: Vec<Name>,
}

impl Endpoints {
    /// The endpoints at these places; no name is resolved yet.
    pub fn new(places: impl IntoIterator<Item = Place>) -> Self {
        let mut endpoints = Self { addresses: BTreeSet::new(), names: Vec::new() };
        for place in places {
            match place {
                Place::Address(address) => _ = endpoints.addresses.insert(address),
                Place::Name(name) => endpoints.names.push(Name { name, ..Name::default() }),
            }
        }
        endpoints
    }

    /// The endpoints that are published at present.
    ///
    /// # Errors
    /// When a name was never resolved, or not for a minute, or has more addresses than can be scraped.
    pub async fn published(&mut self, at: Duration) -> Result<BTreeSet<String>, Error> {
        for name in self.names.iter_mut().filter(|name| name.is_due(at)) {
            let found = match tokio::time::timeout(TIMEOUT, tokio::net::lookup_host(name.name.clone())).await {
                Ok(found) => found.map(Vec::from_iter).map_err(|error| error.to_string()),
                Err(_elapsed) => Err(format!("no answer within {TIMEOUT:?}")),
            };
            name.note(at, found);
        }
        let mut all = self.addresses.clone();
        for name in &self.names {
            all.extend(name.addresses(at)?.iter().map(ToString::to_string));
        }
        Ok(all)
    }
}

/// A name and the last answers about it.
#[derive(Debug, Default)]
struct Name {
    name: String,
    addresses: BTreeSet<SocketAddr>,
    /// When the resolver was last asked.
    asked: Option<Duration>,
    /// When the resolver last had an answer.
    answered: Option<Duration>,
    /// Why the resolver had no answer, when it last had none.
    reason: String,
}

impl Name {
    fn is_due(&self, at: Duration) -> bool {
        // Without any address, each tick is another chance.
        self.addresses.is_empty() || self.asked.is_none_or(|asked| at.saturating_sub(asked) >= LOOKUP_INTERVAL)
    }

    /// Notes what the resolver answered. A dispatcher with addresses of both IP versions would be counted twice, so those of
    /// one version are taken.
    fn note(&mut self, at: Duration, found: Result<Vec<SocketAddr>, String>) {
        self.asked = Some(at);
        let found = found.and_then(|found| match found.len() {
            0 => Err("it has no addresses".into()),
            count if count > MOST => Err(format!("it has {count} addresses, and at most {MOST} can be scraped")),
            _ => Ok(found),
        });
        match found {
            Ok(found) => {
                let has_v4 = found.iter().any(SocketAddr::is_ipv4);
                self.addresses = found.into_iter().filter(|address| address.is_ipv4() == has_v4).collect();
                self.answered = Some(at);
            }
            Err(reason) => self.reason = reason,
        }
    }

    fn addresses(&self, at: Duration) -> Result<&BTreeSet<SocketAddr>, Error> {
        match self.answered {
            Some(answered) if at.saturating_sub(answered) <= KEPT => Ok(&self.addresses),
            _ => Err(Error::Name(self.name.clone(), self.reason.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_addresses_and_names() {
        for (text, expected) in [
            ("127.0.0.1:5052", Place::Address("127.0.0.1:5052".into())),
            ("[::1]:5052", Place::Address("[::1]:5052".into())),
            ("dispatcher:80", Place::Address("dispatcher:80".into())),
            ("dns:80", Place::Address("dns:80".into())),
            ("dns:dispatcher.shop.svc:80", Place::Name("dispatcher.shop.svc:80".into())),
        ] {
            let place: Place = text.parse().expect("a place");
            assert_eq!((&place, place.to_string().as_str()), (&expected, text));
        }
        let bad = ["", ":", "a", "a:", ":1", "a:x", "a:0", "a:70000", "a:+1", "a b:1", "a/b:1", "http://a:1"];
        let bad_names = ["dns:a:", "dns::1", "dns:a:b", "dns:a:0", "dns:[::1]:1", "::1:5052", "[::1]"];
        for bad in bad.into_iter().chain(bad_names) {
            let error = bad.parse::<Place>().expect_err(bad).to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[tokio::test]
    async fn a_name_becomes_its_addresses_of_one_ip_version() {
        let endpoints = |places: &[&str]| Endpoints::new(places.iter().map(|place| place.parse().expect("a place")));
        let published = endpoints(&["dns:localhost:6000", "a:1"]).published(Duration::ZERO).await;
        assert_eq!(published.expect("localhost is known"), ["127.0.0.1:6000", "a:1"].map(String::from).into());
        let error = endpoints(&["dns:no-such-host.invalid:1"]).published(Duration::ZERO).await.expect_err("unknown");
        assert!(error.to_string().contains("dns:no-such-host.invalid:1"), "{error}");
    }

    #[test]
    fn the_last_answer_is_used_for_a_minute() {
        let seconds = Duration::from_secs;
        let [one, two, six] = ["10.0.0.1:1", "10.0.0.2:1", "[::1]:1"].map(|it| it.parse().expect("an address"));
        let mut name = Name { name: "a:1".into(), ..Name::default() };
        name.note(seconds(0), Err("refused".into()));
        assert!(name.is_due(seconds(1)) && name.addresses(seconds(1)).is_err());
        name.note(seconds(1), Ok(vec![one, two, six]));
        assert_eq!(name.addresses(seconds(1)).expect("known"), &[one, two].into());
        assert!(!name.is_due(seconds(5)) && name.is_due(seconds(6)));
        name.note(seconds(6), Ok(vec![two]));
        assert_eq!(name.addresses(seconds(6)).expect("known"), &[two].into());
        name.note(seconds(11), Ok(Vec::new()));
        name.note(seconds(16), Ok(vec![one; MOST + 1]));
        assert_eq!(name.addresses(seconds(66)).expect("still used"), &[two].into());
        let error = name.addresses(seconds(67)).expect_err("too old").to_string();
        assert!(error.contains("257 addresses"), "{error}");
    }
}
