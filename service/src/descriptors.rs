//! The limit of open files. Each connection takes one file descriptor, so this limit also limits the connections.

use rlimit::Resource;

/// The number of descriptors that clients may not use. They are kept for connections to replicas, files and the
/// runtime.
const RESERVED: u64 = 64;

/// The upper bound of [`for_connections`], for systems that do not limit open files.
const MAX: u64 = 1 << 20;

/// Raises the soft limit of open files of this process to the hard limit. A common soft limit is 1024, and one burst of
/// requests opens more connections. If the system refuses, a warning is logged and the limit stays unchanged.
pub fn raise() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "cannot raise the limit of open files; raise it before the start (ulimit -n)");
    }
}

/// The present limit of open files of this process.
pub fn limit() -> u64 {
    Resource::NOFILE.get_soft().expect("getrlimit supports RLIMIT_NOFILE on every Unix")
}

/// The number of client connections that the present limit of open files permits, at least 1. One part in 32 of the
/// limit and [`RESERVED`] more descriptors are kept for other uses.
pub fn for_connections() -> usize {
    let limit = limit().min(MAX);
    (limit - limit / 32).saturating_sub(RESERVED).max(1) as usize
}
