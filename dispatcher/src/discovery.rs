//! The sources of the replicas' addresses. Every source publishes the whole set of addresses first, and then changes of
//! it, so that a reader's work is in proportion to the change.

pub mod dns;
pub mod file;
pub mod kubernetes;

use crate::rotation::{Address, EndpointChanges, Endpoints};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use tokio::sync::mpsc;

/// The largest number of changes that wait for the reader. A source that has more waits, and a watched file or name is
/// read again only afterwards.
const MAX_UNREAD: usize = 16;

/// The changes that a source publishes. The first has the whole set, and comes once the source has answered. The channel
/// is closed if its source is not watched, as a static list.
pub type Published = mpsc::Receiver<EndpointChanges>;

/// A source of the replicas' addresses: the value of `--replicas`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaSource {
    /// A list that does not change.
    Static(BTreeSet<Address>),
    /// A file with one address per line. The program that runs the replicas replaces it atomically.
    File(PathBuf),
    /// A host name with several addresses.
    Dns(dns::DnsName),
    /// A Service of a Kubernetes cluster.
    Kubernetes(kubernetes::ServiceName),
}

/// The reason for which a source of replicas cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The value of the flag does not begin with a known kind of source.
    #[error(
        "{0:?} is not a source of replicas; try static:127.0.0.1:6000, file:/run/replicas, dns:replica:6000 or \
         kubernetes:default/replica"
    )]
    Unknown(String),
    /// An address is not `host:port`.
    #[error("{0:?} is not host:port, such as 127.0.0.1:6000")]
    Address(String),
    /// A name is not `NAME:PORT`.
    #[error("{0:?} is not NAME:PORT, such as replica.example:6000")]
    Name(String),
    /// A Service is not `NAMESPACE/NAME[:PORTNAME]`.
    #[error("{0:?} is not NAMESPACE/SERVICE or NAMESPACE/SERVICE:PORTNAME, such as default/replica:http")]
    Service(String),
    /// The folder of the file cannot be watched.
    #[error("cannot watch {path}, the folder of the --replicas file: {reason}; if it is missing, create it first")]
    Watch {
        /// The path of the folder.
        path: String,
        /// The error message of the operating system.
        reason: String,
    },
}

impl FromStr for ReplicaSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once(':') {
            Some(("static", list)) => list.split(',').map(address).collect::<Result<_, _>>().map(Self::Static),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("dns", name)) => name.parse().map(Self::Dns),
            Some(("kubernetes", service)) => service.parse().map(Self::Kubernetes),
            _ => Err(Error::Unknown(text.into())),
        }
    }
}

impl ReplicaSource {
    /// Starts to watch the source. The set of a static list, and that of a file that is missing or can be read, is in
    /// the channel at once.
    ///
    /// # Errors
    /// If the folder of a file cannot be watched, returns [`Error::Watch`].
    ///
    /// # Panics
    /// If there is no tokio runtime.
    pub fn watch(self) -> Result<Published, Error> {
        match self {
            Self::Static(addresses) => Ok(fixed(without_pods(addresses))),
            Self::File(path) => file::watch(path),
            Self::Dns(name) => Ok(dns::watch(name)),
            Self::Kubernetes(service) => Ok(kubernetes::watch(service)),
        }
    }
}

/// A source whose set does not change.
fn fixed(endpoints: Endpoints) -> Published {
    let (changes, published) = mpsc::channel(1);
    changes.try_send(EndpointChanges::between(&Endpoints::new(), &endpoints)).expect("the channel is empty");
    published
}

/// The endpoints at `addresses`, of a source that does not tell the pods.
fn without_pods(addresses: impl IntoIterator<Item = Address>) -> Endpoints {
    addresses.into_iter().map(|address| (address, None)).collect()
}

/// The source's end of the channel of changes.
pub(crate) struct Publisher {
    changes: mpsc::Sender<EndpointChanges>,
    /// The set that was published last by [`Publisher::publish`].
    endpoints: Endpoints,
    has_published: bool,
}

impl Publisher {
    /// A publisher that has published nothing, and the reader's end of its channel.
    pub(crate) fn new() -> (Self, Published) {
        let (changes, published) = mpsc::channel(MAX_UNREAD);
        (Self { changes, endpoints: Endpoints::new(), has_published: false }, published)
    }

    /// Publishes the difference to the last set. The first set is published even if it is empty.
    pub(crate) async fn publish(&mut self, endpoints: Endpoints) {
        let changes = EndpointChanges::between(&self.endpoints, &endpoints);
        self.endpoints = endpoints;
        self.publish_changes(changes).await;
    }

    /// Publishes changes that the source has found by itself. The first are published even if there are none.
    async fn publish_changes(&mut self, changes: EndpointChanges) {
        let is_first = !std::mem::replace(&mut self.has_published, true);
        if is_first || !changes.is_empty() {
            // If the reader has gone, the source ends soon.
            let _gone = self.changes.send(changes).await;
        }
    }

    /// Waits until the reader has gone.
    async fn closed(&self) {
        self.changes.closed().await;
    }
}

/// Parses one `host:port`.
fn address(text: &str) -> Result<Address, Error> {
    let text = text.trim();
    match text.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic()) && port.parse::<u16>().is_ok() =>
        {
            Ok(text.into())
        }
        _ => Err(Error::Address(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A reader that keeps the set which results from all changes.
    pub(super) struct Reader {
        published: Published,
        endpoints: Endpoints,
    }

    impl Reader {
        pub(super) fn new(published: Published) -> Self {
            Self { published, endpoints: Endpoints::new() }
        }

        /// Waits for the next change. Returns the addresses of the new set.
        pub(super) async fn next(&mut self) -> Vec<Address> {
            let next = tokio::time::timeout(Duration::from_secs(10), self.published.recv()).await;
            self.apply(next.expect("the set changes within ten seconds").expect("the source is watched"))
        }

        /// The addresses of the set that is in the channel already; `None` if there is no change in the channel.
        pub(super) fn present(&mut self) -> Option<Vec<Address>> {
            let changes = self.published.try_recv().ok()?;
            Some(self.apply(changes))
        }

        fn apply(&mut self, changes: EndpointChanges) -> Vec<Address> {
            for address in &changes.removed {
                assert!(self.endpoints.remove(address).is_some(), "{address} was not published");
            }
            self.endpoints.extend(changes.added);
            self.endpoints.keys().cloned().collect()
        }
    }

    #[tokio::test]
    async fn the_first_set_is_published_even_if_it_is_empty_and_later_ones_only_if_they_differ() {
        let (mut publisher, published) = Publisher::new();
        let mut reader = Reader::new(published);
        publisher.publish(Endpoints::new()).await;
        publisher.publish(Endpoints::new()).await;
        assert_eq!((reader.present(), reader.present()), (Some(Vec::new()), None));
        let address: Address = "a:1".into();
        for _ in 0..2 {
            publisher.publish(without_pods([address.clone()])).await;
        }
        assert_eq!((reader.present(), reader.present()), (Some(vec![address]), None));
    }

    #[test]
    fn the_prefix_tells_the_kind_of_source() {
        let list = ReplicaSource::Static(["a:1".into(), "[::1]:2".into()].into());
        assert_eq!("static:a:1,[::1]:2".parse::<ReplicaSource>().ok(), Some(list));
        assert_eq!("file:/x/y".parse::<ReplicaSource>().ok(), Some(ReplicaSource::File("/x/y".into())));
        for bad in ["", "a:1", "file:", "static:", "static:a", "static:a:x", "static:a:70000", "static::1", "ftp:x"] {
            assert!(bad.parse::<ReplicaSource>().is_err(), "{bad}");
        }
    }
}
