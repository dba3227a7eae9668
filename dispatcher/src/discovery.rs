//! Where replicas are published. Every way yields the whole present set, again at each change.

pub mod dns;
pub mod file;
pub mod kubernetes;

use crate::rotation::Address;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use tokio::sync::watch;

/// The published set; its sender lives as long as the source is watched.
pub type Published = watch::Receiver<BTreeSet<Address>>;

/// `--replicas`: where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A fixed list.
    Static(BTreeSet<Address>),
    /// A file with one address a line, replaced atomically by whoever runs the replicas.
    File(PathBuf),
    /// A name of the domain name system.
    Dns(dns::Name),
    /// A Service of the cluster.
    Kubernetes(kubernetes::Service),
}

/// Why a source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The flag names no known source.
    #[error(
        "{0:?} is no source of replicas; try static:127.0.0.1:6000, file:/run/replicas, dns:replica:6000 or \
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
    /// The file's folder cannot be watched.
    #[error("watch {path}: {reason}; create the folder first")]
    Watch {
        /// The folder.
        path: String,
        /// The system's words.
        reason: String,
    },
}

impl FromStr for Source {
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

impl Source {
    /// Starts watching. The first value is the present set, which may be empty.
    ///
    /// # Errors
    /// [`Error::Watch`].
    pub fn watch(self) -> Result<Published, Error> {
        match self {
            Self::Static(addresses) => Ok(watch::channel(addresses).1),
            Self::File(path) => file::watch(path),
            Self::Dns(name) => Ok(dns::watch(name)),
            Self::Kubernetes(service) => Ok(kubernetes::watch(service)),
        }
    }
}

/// Checks one `host:port`.
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
    fn sources_are_told_apart_by_their_prefix() {
        let list = Source::Static(["a:1".into(), "[::1]:2".into()].into());
        assert_eq!("static:a:1,[::1]:2".parse::<Source>().ok(), Some(list));
        assert_eq!("file:/x/y".parse::<Source>().ok(), Some(Source::File("/x/y".into())));
        for bad in ["", "a:1", "file:", "static:", "static:a", "static:a:x", "static:a:70000", "static::1", "ftp:x"] {
            assert!(bad.parse::<Source>().is_err(), "{bad}");
        }
    }
}
