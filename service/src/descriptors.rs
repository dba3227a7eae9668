//! The limit of open files. Each connection takes one file descriptor, so this limit bounds the connections.

use rlimit::Resource;

/// Descriptors that are kept for everything but clients: connections to replicas, files, the runtime.
const RESERVED: u64 = 64;

/// Upper bound of [`for_connections`], for systems where open files are unlimited.
const MAX: u64 = 1 << 20;

/// Raises the soft limit of open files of this process to the hard limit. A common soft limit is 1024, and one burst
/// opens more connections than that. If the system refuses, the limit stays as it is and a warning is logged.
pub fn raise() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "cannot raise the limit of open files (ulimit -n); fewer connections are possible");
    }
}

/// The number of client connections that fit into the present limit of open files. One part in 32 of the limit, and
/// [`RESERVED`] descriptors more, are kept for other uses. At least 1.
pub fn for_connections() -> usize {
    let limit = Resource::NOFILE.get_soft().expect("every Unix has a limit of open files").min(MAX);
    (limit - limit / 32).saturating_sub(RESERVED).max(1) as usize
}
