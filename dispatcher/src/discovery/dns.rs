//! Replicas behind a host name: all addresses to which the name resolves, such as those of a headless Service.

use super::{Error, Published, publish};
use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;
use tokio::sync::watch;

/// The time between two look-ups. The system's resolver does not tell how long an answer is valid.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(2);

/// A host name, and the port of the replicas at each of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsName {
    host: String,
    port: u16,
}

impl FromStr for DnsName {
    type Err = Error;

    /// Parses `NAME:PORT`.
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

/// Resolves `name` again and again until the receiver is dropped. A look-up that fails does not change the set.
pub fn watch(name: DnsName) -> Published {
    let (publisher, published) = watch::channel(BTreeSet::new());
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(LOOKUP_INTERVAL);
        let mut last_lookup_succeeded = true;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = publisher.closed() => return,
            }
            match tokio::net::lookup_host((name.host.as_str(), name.port)).await {
                Ok(found) => {
                    last_lookup_succeeded = true;
                    publish(&publisher, found.map(|address| address.to_string().into()).collect());
                }
                Err(error) => {
                    // Only the first of several failures in a row is logged, or each look-up would add a line.
                    if last_lookup_succeeded {
                        tracing::warn!(
                            name = name.host,
                            %error,
                            "cannot resolve the name of --replicas; keeping the last replicas"
                        );
                    }
                    last_lookup_succeeded = false;
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
    async fn a_name_is_resolved_to_its_addresses() {
        let mut published = watch("localhost:6000".parse().expect("the name is well formed"));
        published.changed().await.expect("the name is watched");
        assert!(published.borrow().contains("127.0.0.1:6000"), "{:?}", published.borrow());
    }

    #[test]
    fn a_name_without_a_port_is_refused() {
        for bad in ["", "a", "a:", ":1", "a:x", "a:70000", "a b:1", "a/b:1"] {
            assert!(bad.parse::<DnsName>().is_err(), "{bad:?}");
        }
        assert!("replica.shop.svc.cluster.local:6000".parse::<DnsName>().is_ok());
    }
}
