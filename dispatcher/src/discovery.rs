//! The sources of the replicas' addresses. Every source publishes the whole set of addresses at the start and after
//! each change.

pub mod dns;
pub mod file;
pub mod kubernetes;

use crate::rotation::Address;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use tokio::sync::watch;

/// The published set of replicas. The channel is closed if its source is not watched, as a static list.
pub type Published = watch::Receiver<BTreeSet<Address>>;

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
    /// Starts to watch the source. The first value is the current set, which may be empty.
    ///
    /// # Errors
    /// If the folder of a file cannot be watched, returns [`Error::Watch`].
    ///
    /// # Panics
    /// If there is no tokio runtime.
    pub fn watch(self) -> Result<Published, Error> {
        match self {
            Self::Static(addresses) => Ok(watch::channel(addresses).1),
            Self::File(path) => file::watch(path),
            Self::Dns(name) => Ok(dns::watch(name)),
            Self::Kubernetes(service) => Ok(kubernetes::watch(service)),
        }
    }
}

/// Publishes `set` if it differs from the current one.
fn publish(publisher: &watch::Sender<BTreeSet<Address>>, set: BTreeSet<Address>) {
    publisher.send_if_modified(|current| {
        let has_changed = *current != set;
        *current = set;
        has_changed
    });
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
