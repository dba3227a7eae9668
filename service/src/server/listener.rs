//! Binds the address of a server. Accepts no connections.

use socket2::SockRef;
use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::{TcpListener, TcpSocket};

/// The number of connections that may wait in the kernel until they are accepted. The kernel's limit
/// (`net.core.somaxconn`) may be lower. If the kernel's queue is full, a client tries again only after a second.
const BACKLOG: u32 = 4096;

/// Binds `address` and prints `listening on http://HOST:PORT` to standard output. A parent process that chose port 0
/// reads the port from that line.
///
/// # Errors
/// If the address is in use, or belongs to no interface of this machine.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    listen_as("listening on http://", address).await
}

/// Binds `address` and prints `announcement`, followed by the bound address, to standard output. The address `[::]`
/// takes IPv4 connections, too, and becomes `0.0.0.0` on a machine without IPv6.
///
/// # Errors
/// If the address is in use, or belongs to no interface of this machine.
pub async fn listen_as(announcement: &str, address: SocketAddr) -> Result<TcpListener> {
    let bound = bind(address).or_else(|error| match without_ipv6(address, &error) {
        Some(address) => {
            tracing::warn!(%error, "this machine has no IPv6; listening on {address} instead");
            bind(address)
        }
        None => Err(error),
    });
    let listener = bound.map_err(|error| Error::new(error.kind(), format!("listen on {address}: {error}")))?;
    println!("{announcement}{}", listener.local_addr()?);
    Ok(listener)
}

fn bind(address: SocketAddr) -> Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Without this option, a restarted program cannot listen until the kernel has forgotten the old connections.
    socket.set_reuseaddr(true)?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        // Otherwise the system's setting (net.ipv6.bindv6only) decides whether IPv4 clients can connect.
        SockRef::from(&socket).set_only_v6(false)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The address to listen on if `address` is `[::]` and `error` says that this machine has no IPv6.
fn without_ipv6(address: SocketAddr, error: &Error) -> Option<SocketAddr> {
    /// The number of EAFNOSUPPORT on Linux, for which the standard library has no kind.
    const NO_ADDRESS_FAMILY: i32 = 97;
    let has_no_ipv6 = error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(NO_ADDRESS_FAMILY);
    let is_any = address.ip() == Ipv6Addr::UNSPECIFIED;
    (is_any && has_no_ipv6).then(|| (Ipv4Addr::UNSPECIFIED, address.port()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn the_unspecified_ipv6_address_takes_both_kinds_of_clients() {
        let listener = listen("[::]:0".parse().expect("an address")).await.expect("the address is free");
        let bound = listener.local_addr().expect("the socket is bound");
        let mut clients = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, bound.port()))];
        if bound.is_ipv6() {
            let socket = SockRef::from(&listener);
            assert!(!socket.only_v6().expect("the socket is one of IPv6"));
            clients.push((Ipv6Addr::LOCALHOST, bound.port()).into());
        }
        for client in clients {
            TcpStream::connect(client).await.unwrap_or_else(|error| panic!("connect to {client}: {error}"));
        }
    }

    #[test]
    fn only_the_unspecified_address_of_a_machine_without_ipv6_is_replaced() {
        let (no_family, no_address) = (Error::from_raw_os_error(97), Error::from(ErrorKind::AddrNotAvailable));
        let in_use = Error::from(ErrorKind::AddrInUse);
        for (address, error, expected) in [
            ("[::]:5052", &no_family, Some("0.0.0.0:5052")),
            ("[::]:5052", &no_address, Some("0.0.0.0:5052")),
            ("[::]:5052", &in_use, None),
            ("[::1]:5052", &no_address, None),
            ("0.0.0.0:5052", &no_address, None),
        ] {
            let address = address.parse().expect("an address");
            let expected = expected.map(|text| text.parse().expect("an address"));
            assert_eq!(without_ipv6(address, error), expected, "{address} {error}");
        }
    }
}
