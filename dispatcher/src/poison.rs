//! Recognises bodies that have brought down replicas. Bodies are hashed only after a death, and then only those whose
//! length is that of a remembered body. [`BodyDeaths`] decides.
//!
//! All bytes are hashed. A hash of samples would let a client make a body that has the hash of another client's image.
//! Each request hashes its own body in its own task, so a death holds up other tasks for one body at a time: 12 ms for
//! 20 MiB.

use crate::body_deaths::{BodyDeaths, Fingerprint, is_poison};
use bytes::Bytes;
use service::wire::{Code, RequestError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The bodies that were at a replica when it died. All requests share them.
#[derive(Debug, Default)]
pub struct PoisonList {
    /// The key of the hash, which is random for each process. A client that knew it could make a body with the hash of
    /// another client's image, and have that image refused.
    key: RandomState,
    /// Whether `deaths` has a body. Usually it has none, and no request then takes the lock.
    has_bodies: AtomicBool,
    deaths: Mutex<BodyDeaths>,
}

impl PoisonList {
    /// Checks a body before it is queued.
    ///
    /// # Errors
    /// If the body has brought down too many replicas.
    pub fn check(&self, body: &[Bytes]) -> Result<(), RequestError> {
        let Some((deaths, fingerprint)) = self.known(body) else { return Ok(()) };
        let count = deaths.deaths(fingerprint);
        if !is_poison(count) {
            return Ok(());
        }
        let message = format!("this body has brought down {count} replicas; do not send it again");
        Err(RequestError::new(Code::Poison, message))
    }

    /// Records that a replica has answered `body`, and so lives.
    pub fn record_answer(&self, body: &[Bytes]) {
        if let Some((mut deaths, fingerprint)) = self.known(body) {
            deaths.acquit(fingerprint);
            self.has_bodies.store(!deaths.is_empty(), Ordering::Relaxed);
        }
    }

    /// Records that a replica died while it held `body`, which was sent to it at `sent`. Returns the deaths of this body.
    pub fn record_death(&self, body: &[Bytes], sent: Instant, now: Instant) -> u32 {
        let fingerprint = self.fingerprint(body);
        let count = self.lock().record(fingerprint, sent, now);
        self.has_bodies.store(true, Ordering::Relaxed);
        count
    }

    /// The list and the fingerprint of `body`; `None` if no remembered body has its length.
    fn known(&self, body: &[Bytes]) -> Option<(MutexGuard<'_, BodyDeaths>, Fingerprint)> {
        if !self.has_bodies.load(Ordering::Relaxed) {
            return None;
        }
        let mut deaths = self.lock();
        deaths.forget_expired(Instant::now());
        self.has_bodies.store(!deaths.is_empty(), Ordering::Relaxed);
        deaths.has_length(length(body)).then(|| (deaths, self.fingerprint(body)))
    }

    fn lock(&self) -> MutexGuard<'_, BodyDeaths> {
        self.deaths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fingerprint(&self, body: &[Bytes]) -> Fingerprint {
        let mut hasher = self.key.build_hasher();
        body.iter().for_each(|piece| hasher.write(piece));
        Fingerprint { length: length(body), hash: hasher.finish() }
    }
}

/// The length of `body` in bytes.
fn length(body: &[Bytes]) -> usize {
    body.iter().map(Bytes::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(pieces: &[&[u8]]) -> Vec<Bytes> {
        pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect()
    }

    #[test]
    fn the_fingerprint_depends_on_the_bytes_and_not_on_their_pieces() {
        let list = PoisonList::default();
        let whole: Vec<u8> = (0..10_000).map(|index| index as u8).collect();
        let expected = list.fingerprint(&body(&[&whole]));
        for at in [1, 7, 8, 9, 4095, 4096, 5000, 9999] {
            let (first, second) = whole.split_at(at);
            assert_eq!(list.fingerprint(&body(&[first, second])), expected, "split at {at}");
        }
        let mut other = whole.clone();
        other[5000] ^= 1;
        assert_ne!(list.fingerprint(&body(&[&other])), expected);
        assert_ne!(PoisonList::default().fingerprint(&body(&[&whole])), expected, "each process has its own key");
    }

    #[test]
    fn a_body_is_refused_after_two_deaths_and_accepted_again_after_an_answer() {
        let (list, killer, other) = (PoisonList::default(), body(&[b"killer"]), body(&[b"others"]));
        let refused = |body: &[Bytes]| list.check(body).is_err_and(|error| error.code == Code::Poison);
        for (deaths, expected) in [(0, false), (1, false), (2, true)] {
            if deaths > 0 {
                let now = Instant::now();
                assert_eq!(list.record_death(&killer, now, now), deaths);
            }
            assert_eq!((refused(&killer), refused(&other)), (expected, false), "after {deaths} deaths");
        }
        list.record_answer(&other);
        assert!(refused(&killer), "another body was answered");
        list.record_answer(&killer);
        assert!(!refused(&killer));
        assert!(!list.has_bodies.load(Ordering::Relaxed), "no further body is looked up");
    }
}
