//! Replicas in a file with one `host:port` per line. Blank lines and lines that begin with `#` are ignored.

use super::{Error, Published, address, publish};
use crate::rotation::Address;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The longest time between two reads of the file. It is read without a notification, too, because some file systems
/// send none.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Publishes the addresses in the file until the receiver is dropped. A file that is missing, unreadable or malformed
/// does not change the set, so that the dispatcher goes on serving.
///
/// # Errors
/// If the folder of the file cannot be watched.
pub fn watch(path: PathBuf) -> Result<Published, Error> {
    // One pending wake-up is enough, because the whole file is read after each.
    let (wake, mut woken) = mpsc::channel(1);
    let watcher = watch_folder(&path, wake)?;
    let (publisher, published) = watch::channel(read(&path).unwrap_or_default());
    tokio::spawn(async move {
        // The watcher is moved into the task, because dropping it ends the watch.
        let _watcher = watcher;
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        loop {
            tokio::select! {
                _ = woken.recv() => {}
                _ = poll.tick() => {}
                () = publisher.closed() => return,
            }
            if let Some(addresses) = read(&path) {
                publish(&publisher, addresses);
            }
        }
    });
    Ok(published)
}

/// Sends on `wake` after each change in the folder of the file. The file itself cannot be watched, because an atomic
/// write replaces it.
fn watch_folder(path: &Path, wake: mpsc::Sender<()>) -> Result<RecommendedWatcher, Error> {
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let failed = |error: notify::Error| Error::Watch { path: folder.display().to_string(), reason: error.to_string() };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the file is an event, too. Without this condition, each reading would cause the next.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            // If the channel is full, a wake-up is pending already.
            let _pending = wake.try_send(());
        }
    })
    .map_err(failed)?;
    watcher.watch(folder, RecursiveMode::NonRecursive).map_err(failed)?;
    Ok(watcher)
}

/// The addresses in the file; `None` if it cannot be read or is malformed.
fn read(path: &Path) -> Option<BTreeSet<Address>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "cannot read the list of replicas; keeping the last one");
            return None;
        }
    };
    match parse(&text) {
        Ok(addresses) => Some(addresses),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the list of replicas is malformed; keeping the last one");
            None
        }
    }
}

fn parse(text: &str) -> Result<BTreeSet<Address>, Error> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for the next change. Returns the new set.
    async fn next(published: &mut Published) -> Vec<Address> {
        tokio::time::timeout(Duration::from_secs(10), published.changed())
            .await
            .expect("the set changes within ten seconds")
            .expect("the file is watched");
        published.borrow_and_update().iter().cloned().collect()
    }

    /// Replaces the file atomically.
    fn replace(path: &Path, text: &str) {
        let new = path.with_extension("new");
        std::fs::write(&new, text).expect("write the list");
        std::fs::rename(&new, path).expect("replace the list");
    }

    #[tokio::test]
    async fn the_set_follows_the_file_and_outlives_it() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("replicas");
        let mut published = watch(path.clone()).expect("the folder exists");
        assert!(published.borrow_and_update().is_empty());
        replace(&path, "# two\n127.0.0.1:1\n\n127.0.0.1:2\n");
        assert_eq!(next(&mut published).await, ["127.0.0.1:1", "127.0.0.1:2"].map(Address::from));
        replace(&path, "not an address\n");
        std::fs::remove_file(&path).expect("remove the list");
        replace(&path, "127.0.0.1:3\n");
        assert_eq!(
            next(&mut published).await,
            ["127.0.0.1:3"].map(Address::from),
            "a malformed or missing list changes nothing"
        );
        replace(&path, "");
        assert!(next(&mut published).await.is_empty(), "an empty list is valid");
    }
}
