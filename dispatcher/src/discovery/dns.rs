//! Replicas behind a host name: all addresses to which the name resolves, such as those of a headless Service. If the
//! name has addresses of both families, only the IPv4 addresses are used. DNS does not tell which of them belong to one
//! pod, so each pod would otherwise count as two replicas, and get twice the requests that it can take.

use super::{Error, Published, Publisher, without_pods};
use crate::rotation::Endpoints;
use futures_util::future::{BoxFuture, FutureExt};
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// The time between two look-ups. The system's resolver does not tell how long an answer is valid.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(2);

/// The number of failed look-ups at the start after which the name counts as one without addresses. A headless Service
/// without pods does not resolve, and the dispatcher must become ready, so that requests can wait for the first pod.
const FAILURES_TO_ANSWER: u32 = 3;

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
    let (publisher, published) = Publisher::new();
    tokio::spawn(async move {
        let DnsName { host, port } = name.clone();
        let lookup = move || {
            let host = host.clone();
            async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) }.boxed()
        };
        follow(publisher, LOOKUP_INTERVAL, &name.host, lookup).await;
    });
    published
}

/// Publishes the result of `lookup`, which resolves `host`, every `interval`.
async fn follow(
    mut publisher: Publisher,
    interval: Duration,
    host: &str,
    lookup: impl Fn() -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>,
) {
    let mut tick = tokio::time::interval(interval);
    let mut failures = 0_u32;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = publisher.closed() => return,
        }
        match lookup().await {
            Ok(found) => {
                failures = 0;
                publisher.publish(of_one_family(&found)).await;
            }
            Err(error) => {
                // Only the first of several failures in a row is logged, or each look-up would add a line.
                if failures == 0 {
                    tracing::warn!(
                        name = host,
                        %error,
                        "cannot resolve the name of --replicas; keeping the last replicas"
                    );
                }
                failures = failures.saturating_add(1);
                if failures == FAILURES_TO_ANSWER && !publisher.has_published {
                    publisher.publish(Endpoints::new()).await;
                }
            }
        }
    }
}

/// The endpoints at the IPv4 addresses or, if there are none, at the IPv6 addresses.
fn of_one_family(found: &[SocketAddr]) -> Endpoints {
    let has_ipv4 = found.iter().any(SocketAddr::is_ipv4);
    without_pods(found.iter().filter(|address| address.is_ipv4() == has_ipv4).map(|it| it.to_string().into()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Reader;
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn a_name_is_resolved_to_its_addresses() {
        let published = watch("localhost:6000".parse().expect("the name is well formed"));
        assert_eq!(Reader::new(published).next().await, ["127.0.0.1:6000".into()]);
    }

    #[test]
    fn the_addresses_of_one_family_are_used_so_that_no_pod_counts_twice() {
        let addresses = |texts: &[&str]| {
            let found: Vec<_> = texts.iter().map(|text| text.parse().expect("the address is well formed")).collect();
            of_one_family(&found).into_keys().map(|address| address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(addresses(&["[fd00::1]:1", "10.0.0.2:1", "10.0.0.1:1"]), ["10.0.0.1:1", "10.0.0.2:1"]);
        assert_eq!(addresses(&["[fd00::2]:1", "[fd00::1]:1"]), ["[fd00::1]:1", "[fd00::2]:1"]);
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_at_the_start_counts_as_one_without_addresses_after_a_while() {
        let (publisher, published) = Publisher::new();
        let lookups = Arc::new(AtomicU32::new(0));
        let counted = lookups.clone();
        tokio::spawn(async move {
            let lookup = move || {
                counted.fetch_add(1, Ordering::SeqCst);
                std::future::ready(Err(io::ErrorKind::NotFound.into())).boxed()
            };
            follow(publisher, Duration::from_millis(1), "replica.invalid", lookup).await;
        });
        assert!(Reader::new(published).next().await.is_empty());
        assert!(lookups.load(Ordering::SeqCst) >= FAILURES_TO_ANSWER);
    }

    #[test]
    fn a_name_without_a_port_is_refused() {
        for bad in ["", "a", "a:", ":1", "a:x", "a:70000", "a b:1", "a/b:1"] {
            assert!(bad.parse::<DnsName>().is_err(), "{bad:?}");
        }
        assert!("replica.shop.svc.cluster.local:6000".parse::<DnsName>().is_ok());
    }
}
