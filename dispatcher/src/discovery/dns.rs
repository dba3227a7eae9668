//! Replicas behind a name: every address that it resolves to, such as those of a headless Service.

use super::{Error, Published};
use crate::rotation::Address;
use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;
use tokio::sync::watch;

/// Between two look-ups. The system's resolver does not tell how long an answer holds.
const EVERY: Duration = Duration::from_secs(2);

/// A name and the port on each of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    host: String,
    port: u16,
}

impl FromStr for Name {
    type Err = Error;

    /// `NAME:PORT`
    fn from_str(text: &str) -> Result<Self, Error> {
        let is_host = |host: &str| {
            (1..=253).contains(&host.len())
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        };
        match text.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
            Some((host, Ok(port))) if is_host(host) => Ok(Self { host: host.into(), port }),
            _ => Err(Error::Name(text.into())),
        }
    }
}

/// Resolves the name until nobody listens. A look-up that fails leaves the set as it was.
pub fn watch(name: Name) -> Published {
    let (publish, published) = watch::channel(BTreeSet::new());
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(EVERY);
        let mut was_found = true;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = publish.closed() => return,
            }
            match tokio::net::lookup_host((name.host.as_str(), name.port)).await {
                Ok(found) => {
                    was_found = true;
                    let set: BTreeSet<Address> = found.map(|address| address.to_string().into()).collect();
                    publish.send_if_modified(|present| std::mem::replace(present, set.clone()) != set);
                }
                Err(error) => {
                    if std::mem::take(&mut was_found) {
                        tracing::warn!(name = name.host, %error, "the name cannot be resolved; keeping the last set");
                    }
                }
            }
        }
    });
    published
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_becomes_its_addresses() {
        let mut published = watch("localhost:6000".parse().expect("a name"));
        published.changed().await.expect("it is watched");
        assert!(published.borrow().contains("127.0.0.1:6000"), "{:?}", published.borrow());
    }

    #[test]
    fn names_have_a_port() {
        for bad in ["", "a", "a:", ":1", "a:x", "a:70000", "a b:1", "a/b:1"] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        assert!("replica.shop.svc.cluster.local:6000".parse::<Name>().is_ok());
    }
}
