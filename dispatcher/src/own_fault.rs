//! Tells errors of this process and its machine from errors of a replica. Pure.

use std::io;

/// Whether `error`, which opening a connection has brought, says that this process or this machine has no file
/// descriptor, port or memory left. No replica is to blame for that.
pub fn is_own(error: &io::Error) -> bool {
    let own = [libc::EMFILE, libc::ENFILE, libc::EADDRNOTAVAIL, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| own.contains(&code))
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
}
