//! File descriptors: each connection takes one.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Left for everything that is no client: replicas, files, the runtime.
const OTHERS: u64 = 64;

/// More connections than this are no use, even where files are unlimited.
const MOST: u64 = 1 << 20;

/// Raises this process's limit to what the system permits it; 1024, a common default, is fewer than one burst needs.
pub fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// How many clients may be connected at once: what the limit leaves when a thirty-second part, and [`OTHERS`], is kept.
pub fn for_connections() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(MOST).min(MOST);
    (limit - limit / 32).saturating_sub(OTHERS).max(1) as usize
}
