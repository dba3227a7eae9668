//! Which dispatchers there are: addresses as they were given, and names, resolved anew every few seconds.

use super::Error;
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// Between two look-ups. The system's resolver does not tell how long an answer holds.
const EVERY: Duration = Duration::from_secs(5);

/// For one look-up.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How long the last answer is believed when there is no new one: long enough for a resolver to be replaced, too short
/// for many dispatchers to come and go unseen.
const BELIEVED: Duration = Duration::from_secs(60);

/// Each is scraped at every tick, all at the same time.
const MOST: usize = 256;

/// `--dispatcher`: where to look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// `HOST:PORT`, one dispatcher.
    Address(String),
    /// `dns:NAME:PORT`, one dispatcher at each address of the name.
    Name(String),
}

/// Why a place is none.
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
        match (is_host && is_port, is_name) {
            (true, true) => Ok(Self::Name(place.into())),
            (true, false) => Ok(Self::Address(place.into())),
            // IPv6.
            (false, false) if text.parse::<SocketAddr>().is_ok_and(|address| address.port() > 0) => {
                Ok(Self::Address(text.into()))
            }
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

/// Follows every place.
#[derive(Debug)]
pub struct Roster {
    addresses: BTreeSet<String>,
    names: Vec<Name>,
}

impl Roster {
    /// Nothing is resolved yet.
    pub fn new(places: impl IntoIterator<Item = Place>) -> Self {
        let mut roster = Self { addresses: BTreeSet::new(), names: Vec::new() };
        for place in places {
            match place {
                Place::Address(address) => _ = roster.addresses.insert(address),
                Place::Name(name) => roster.names.push(Name::new(name)),
            }
        }
        roster
    }

    /// All dispatchers that are published at present.
    ///
    /// # Errors
    /// When a name was never resolved, or not for a minute, or to more addresses than can be scraped.
    pub async fn published(&mut self, at: Duration) -> Result<BTreeSet<String>, Error> {
        for name in self.names.iter_mut().filter(|name| name.is_due(at)) {
            let found = tokio::time::timeout(TIMEOUT, tokio::net::lookup_host(name.name.clone())).await;
            let found = match found {
                Ok(found) => found.map(Vec::from_iter).map_err(|error| error.to_string()),
                Err(_elapsed) => Err(format!("no answer within {TIMEOUT:?}")),
            };
            name.learn(at, found);
        }
        let mut all = self.addresses.clone();
        for name in &self.names {
            all.extend(name.believed(at)?.iter().map(ToString::to_string));
        }
        Ok(all)
    }
}

/// One name and what it was last resolved to.
#[derive(Debug)]
struct Name {
    name: String,
    addresses: BTreeSet<SocketAddr>,
    /// When the resolver was last asked.
    asked: Option<Duration>,
    /// When it last had an answer.
    answered: Option<Duration>,
    /// Why it had none since.
    reason: String,
}

impl Name {
    fn new(name: String) -> Self {
        Self { name, addresses: BTreeSet::new(), asked: None, answered: None, reason: String::new() }
    }

    fn is_due(&self, at: Duration) -> bool {
        // Without any address, each tick is another chance.
        self.addresses.is_empty() || self.asked.is_none_or(|asked| at.saturating_sub(asked) >= EVERY)
    }

    /// Of a machine with addresses of both families each dispatcher would be there twice: those of one family are
    /// taken.
    fn learn(&mut self, at: Duration, found: Result<Vec<SocketAddr>, String>) {
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

    fn believed(&self, at: Duration) -> Result<&BTreeSet<SocketAddr>, Error> {
        match self.answered {
            Some(answered) if at.saturating_sub(answered) <= BELIEVED => Ok(&self.addresses),
            _ => Err(Error::Name { name: self.name.clone(), reason: self.reason.clone() }),
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
            assert_eq!(place, expected);
            assert_eq!(place.to_string(), text);
        }
        for bad in [
            "",
            ":",
            "a",
            "a:",
            ":1",
            "a:x",
            "a:0",
            "a:70000",
            "a:+1",
            "a b:1",
            "a/b:1",
            "http://a:1",
            "dns:a:",
            "dns::1",
            "dns:a:b",
            "dns:a:0",
            "dns:[::1]:1",
            "::1:5052",
            "[::1]",
        ] {
            let error = bad.parse::<Place>().expect_err(bad).to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[tokio::test]
    async fn a_name_becomes_its_addresses_of_one_family() {
        let mut roster = Roster::new(["dns:localhost:6000".parse().expect("a name"), Place::Address("a:1".into())]);
        let published = roster.published(Duration::ZERO).await.expect("localhost is known");
        assert_eq!(published, ["127.0.0.1:6000", "a:1"].map(String::from).into());
    }

    #[tokio::test]
    async fn a_name_that_nobody_knows_is_named() {
        let mut roster = Roster::new(["dns:no-such-host.invalid:1".parse().expect("a name")]);
        let error = roster.published(Duration::ZERO).await.expect_err("unknown").to_string();
        assert!(error.contains("dns:no-such-host.invalid:1"), "{error}");
    }

    #[test]
    fn the_last_answer_is_believed_for_a_minute() {
        let seconds = Duration::from_secs;
        let (one, two): (SocketAddr, SocketAddr) =
            ("10.0.0.1:1".parse().expect("one"), "10.0.0.2:1".parse().expect("two"));
        let mut name = Name::new("a:1".into());
        name.learn(seconds(0), Err("refused".into()));
        assert!(name.is_due(seconds(1)) && name.believed(seconds(1)).is_err());
        name.learn(seconds(1), Ok(vec![one, two, "[::1]:1".parse().expect("v6")]));
        assert_eq!(name.believed(seconds(1)).expect("known"), &[one, two].into());
        assert!(!name.is_due(seconds(5)) && name.is_due(seconds(6)));
        name.learn(seconds(6), Ok(vec![two]));
        assert_eq!(name.believed(seconds(6)).expect("known"), &[two].into());
        name.learn(seconds(11), Ok(Vec::new()));
        name.learn(seconds(16), Ok(vec![one; MOST + 1]));
        assert_eq!(name.believed(seconds(66)).expect("believed"), &[two].into());
        let error = name.believed(seconds(67)).expect_err("too old").to_string();
        assert!(error.contains("257 addresses"), "{error}");
    }
}
