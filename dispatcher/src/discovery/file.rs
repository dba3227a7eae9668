//! Replicas listed in a file: one `host:port` a line, blank lines and `#` comments ignored.

use super::{Error, Published, address};
use crate::rotation::Address;
use notify::{RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Read again at least this often, for file systems that announce nothing.
const POLL: Duration = Duration::from_secs(1);

/// Follows the file. Its folder is watched rather than itself, since an atomic write replaces it. A file that is
/// missing, unreadable or malformed leaves the set as it was: losing the list must not lose the replicas.
///
/// # Errors
/// When the folder cannot be watched.
pub fn watch(path: PathBuf) -> Result<Published, Error> {
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // One pending wake-up is enough: the reader takes the whole file each time.
    let (wake, mut woken) = mpsc::channel(1);
    let failed = |error: notify::Error| Error::Watch { path: folder.display().to_string(), reason: error.to_string() };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the file is an event too; answering it by reading would never end.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            // Full means that a wake-up is pending already.
            let _full = wake.try_send(());
        }
    })
    .map_err(failed)?;
    watcher.watch(&folder, RecursiveMode::NonRecursive).map_err(failed)?;

    let (publish, published) = watch::channel(read(&path).unwrap_or_default());
    tokio::spawn(async move {
        let _watcher = watcher;
        let mut poll = tokio::time::interval(POLL);
        loop {
            tokio::select! {
                _ = woken.recv() => {}
                _ = poll.tick() => {}
                () = publish.closed() => return,
            }
            if let Some(addresses) = read(&path) {
                publish.send_if_modified(|present| {
                    let changed = *present != addresses;
                    *present = addresses;
                    changed
                });
            }
        }
    });
    Ok(published)
}

fn read(path: &Path) -> Option<BTreeSet<Address>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "the list of replicas cannot be read; keeping the last");
            return None;
        }
    };
    match parse(&text) {
        Ok(addresses) => Some(addresses),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the list of replicas is malformed; keeping the last");
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

    async fn next(published: &mut Published) -> Vec<Address> {
        tokio::time::timeout(Duration::from_secs(10), published.changed())
            .await
            .expect("a change within ten seconds")
            .expect("the file is watched");
        published.borrow_and_update().iter().cloned().collect()
    }

    fn replace(path: &Path, text: &str) {
        let new = path.with_extension("new");
        std::fs::write(&new, text).expect("write the list");
        std::fs::rename(&new, path).expect("replace the list");
    }

    #[tokio::test]
    async fn the_set_follows_the_file_and_survives_its_loss() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("replicas");
        let mut published = watch(path.clone()).expect("the folder exists");
        assert!(published.borrow_and_update().is_empty());
        replace(&path, "# two\n127.0.0.1:1\n\n127.0.0.1:2\n");
        assert_eq!(next(&mut published).await, ["127.0.0.1:1", "127.0.0.1:2"].map(Address::from));
        replace(&path, "no address\n");
        std::fs::remove_file(&path).expect("remove the list");
        replace(&path, "127.0.0.1:3\n");
        assert_eq!(next(&mut published).await, ["127.0.0.1:3"].map(Address::from), "nothing was published in between");
        replace(&path, "");
        assert!(next(&mut published).await.is_empty(), "an empty list is a list");
    }
}
