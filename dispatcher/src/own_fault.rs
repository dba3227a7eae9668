//! Tells errors of this process and its machine from errors of a replica.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The number of descriptors without which looking up a name may fail: for files of the resolver and for sockets, also
/// those of a few other look-ups at the same time.
const RESOLVER_DESCRIPTORS: usize = 8;

/// Whether `error`, which opening a connection has brought, says that this process or this machine has no file
/// descriptor, port or memory left. No replica is to blame for that.
pub fn is_own(error: &io::Error) -> bool {
    let own = [libc::EMFILE, libc::ENFILE, libc::EADDRNOTAVAIL, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| own.contains(&code))
}

/// Whether `error`, which opening a connection has brought, comes from looking up the host name. The resolver's errors
/// have no code of the system. Without descriptors it says that the name is unknown.
pub fn is_unresolved(error: &io::Error) -> bool {
    error.raw_os_error().is_none()
}

/// Whether this process lacks descriptors for looking up a name.
pub fn lacks_descriptors() -> bool {
    let copies: io::Result<Vec<OwnedFd>> =
        (0..RESOLVER_DESCRIPTORS).map(|_| io::stdin().as_fd().try_clone_to_owned()).collect();
    copies.is_err_and(|error| is_own(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_descriptors_ports_or_memory_is_an_own_fault() {
        for (code, expected) in [
            (libc::EMFILE, true),
            (libc::ENFILE, true),
            (libc::EADDRNOTAVAIL, true),
            (libc::ENOBUFS, true),
            (libc::ENOMEM, true),
            (libc::ECONNREFUSED, false),
            (libc::ECONNRESET, false),
            (libc::EHOSTUNREACH, false),
            (libc::ENETUNREACH, false),
            (libc::ETIMEDOUT, false),
        ] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(is_own(&error), expected, "{error}");
        }
        assert!(!is_own(&io::ErrorKind::AddrNotAvailable.into()), "an error that is not of the system");
    }

    #[tokio::test]
    async fn an_unknown_name_is_told_from_a_host_that_refuses() {
        for (address, expected) in [("no-such-host.invalid:1", true), ("127.0.0.1:1", false)] {
            let error = tokio::net::TcpStream::connect(address).await.expect_err("nothing listens there");
            assert_eq!(is_unresolved(&error), expected, "{address}: {error}");
        }
        assert!(!lacks_descriptors());
    }
}
