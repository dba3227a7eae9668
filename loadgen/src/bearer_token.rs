//! The bearer token of a file, which is read again while the load is sent, because tokens expire.

use anyhow::{Context, Result, bail, ensure};
use hyper::header::HeaderValue;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock, Weak};
use std::time::Duration;

/// Time between two reads of the file.
const INTERVAL: Duration = Duration::from_secs(1);

/// Longest file, in bytes.
const MAX_BYTES: u64 = 16 << 10;

/// Invariant of the lock on the header.
const UNPOISONED: &str = "no thread panics while it holds the lock on the token";

/// The present token, as the value of the header `Authorization`.
pub struct BearerToken {
    authorization: RwLock<HeaderValue>,
}

impl std::fmt::Debug for BearerToken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("BearerToken")
    }
}

impl BearerToken {
    /// Reads the token, and starts a thread that reads it again every second for as long as it is used. If the file
    /// cannot be used then, the last token stays.
    ///
    /// # Errors
    /// If the file cannot be read, is empty, is longer than 16 KiB, or has more than one line; or if the system cannot
    /// start a thread. No message has the token.
    pub fn follow(path: PathBuf) -> Result<Arc<Self>> {
        let token = Arc::new(Self { authorization: RwLock::new(read(&path)?) });
        let followed = Arc::downgrade(&token);
        std::thread::Builder::new()
            .name("bearer-token".into())
            .spawn(move || refresh(&followed, &path))
            .context("start the thread that reads --bearer-token-file; raise the limit of processes (ulimit -u)")?;
        Ok(token)
    }

    /// The value of the header `Authorization`.
    pub fn authorization(&self) -> HeaderValue {
        self.authorization.read().expect(UNPOISONED).clone()
    }
}

/// Reads the token every second until it is not used any more.
fn refresh(token: &Weak<BearerToken>, path: &Path) {
    loop {
        std::thread::sleep(INTERVAL);
        let Some(token) = token.upgrade() else { return };
        // A file that is being replaced may be missing or empty for a moment.
        if let Ok(new) = read(path) {
            *token.authorization.write().expect(UNPOISONED) = new;
        }
    }
}

fn read(path: &Path) -> Result<HeaderValue> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    read.with_context(|| format!("--bearer-token-file: read {}", path.display()))?;
    let name = path.display();
    ensure!(bytes.len() as u64 <= MAX_BYTES, "--bearer-token-file ({name}): the file is longer than 16 KiB");
    let token = bytes.trim_ascii();
    ensure!(!token.is_empty(), "--bearer-token-file ({name}): the file is empty; write the token to it");
    let Ok(mut value) = HeaderValue::from_bytes(&[b"Bearer ", token].concat()) else {
        bail!("--bearer-token-file ({name}): the token has a character that a header cannot have; write one line");
    };
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_token_is_trimmed_and_a_changed_file_is_read_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("token");
        std::fs::write(&path, "\n first-token \n").expect("written");
        let token = BearerToken::follow(path.clone()).expect("a token");
        assert_eq!(token.authorization(), "Bearer first-token");
        assert!(!format!("{token:?} {:?}", token.authorization()).contains("first"), "the token is printed");
        std::fs::write(&path, "").expect("written");
        std::thread::sleep(INTERVAL + INTERVAL / 2);
        assert_eq!(token.authorization(), "Bearer first-token", "an empty file keeps the token");
        std::fs::write(&path, "second").expect("written");
        let changed_at = Instant::now();
        while token.authorization() != "Bearer second" {
            assert!(changed_at.elapsed() < 10 * INTERVAL, "the file was not read again");
            std::thread::sleep(INTERVAL / 50);
        }
    }

    #[test]
    fn a_file_without_a_token_is_refused_and_its_contents_are_not_printed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("token");
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            format!("{:#}", read(&path).expect_err("refused"))
        };
        for (bytes, word) in
            [(&b""[..], "is empty"), (b" \n ", "is empty"), (b"secret\nsecret", "one line"), (&[b's'; 16385], "16 KiB")]
        {
            let error = refused(bytes);
            assert!(error.contains(word) && error.contains("--bearer-token-file"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let gone = format!("{:#}", read(&folder.path().join("gone")).expect_err("refused"));
        assert!(gone.contains("gone"), "{gone}");
    }
}
