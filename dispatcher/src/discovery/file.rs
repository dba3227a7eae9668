//! Replicas in a file with one `host:port` per line. Blank lines and lines that begin with `#` are ignored. A file that is
//! missing at the start has no replicas yet, because the program that writes it may start later.

use super::{Error, Published, Publisher, address, without_pods};
use crate::rotation::Endpoints;
use futures_util::FutureExt;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

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
    let (mut publisher, published) = Publisher::new();
    match read(&path) {
        Reading::List(endpoints) => publisher.publish(endpoints).now_or_never(),
        Reading::Missing => publisher.publish(Endpoints::new()).now_or_never(),
        Reading::Unusable => None,
    };
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
            if let Reading::List(endpoints) = read(&path) {
                publisher.publish(endpoints).await;
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

/// The result of reading the file.
enum Reading {
    /// The endpoints in the file.
    List(Endpoints),
    /// There is no file.
    Missing,
    /// The file cannot be read or is malformed.
    Unusable,
}

fn read(path: &Path) -> Reading {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "cannot read the list of replicas; keeping the last one");
            return if error.kind() == ErrorKind::NotFound { Reading::Missing } else { Reading::Unusable };
        }
    };
    match parse(&text) {
        Ok(endpoints) => Reading::List(endpoints),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the list of replicas is malformed; keeping the last one");
            Reading::Unusable
        }
    }
}

fn parse(text: &str) -> Result<Endpoints, Error> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(without_pods(lines.map(address).collect::<Result<Vec<_>, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Reader;
    use super::*;
    use crate::rotation::Address;

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
        let mut reader = Reader::new(watch(path.clone()).expect("the folder exists"));
        assert_eq!(reader.present(), Some(Vec::new()), "a missing file has no replicas yet");
        replace(&path, "# two\n127.0.0.1:1\n\n127.0.0.1:2\n");
        assert_eq!(reader.next().await, ["127.0.0.1:1", "127.0.0.1:2"].map(Address::from));
        replace(&path, "not an address\n");
        std::fs::remove_file(&path).expect("remove the list");
        replace(&path, "127.0.0.1:3\n");
        assert_eq!(
            reader.next().await,
            ["127.0.0.1:3"].map(Address::from),
            "a malformed or missing list changes nothing"
        );
        replace(&path, "");
        assert!(reader.next().await.is_empty(), "an empty list is valid");
    }

    #[tokio::test]
    async fn a_malformed_file_at_the_start_is_no_answer() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("replicas");
        replace(&path, "not an address\n");
        let mut reader = Reader::new(watch(path.clone()).expect("the folder exists"));
        assert_eq!(reader.present(), None);
        replace(&path, "127.0.0.1:1\n");
        assert_eq!(reader.next().await, ["127.0.0.1:1".into()]);
    }
}
