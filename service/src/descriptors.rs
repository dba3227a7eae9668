//! File descriptors: each connection takes one.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises this process's limit to what the system permits it; 1024, a common default, is fewer than one burst needs.
pub fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
