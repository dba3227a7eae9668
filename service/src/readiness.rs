//! Whether this process can take work. It can from the release of the last latch until it begins to drain. Does not
//! know what the latches stand for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The readiness of this process. All clones share the same conditions, so the parts that start up and the part that
/// answers `/readyz` hold a clone each.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    conditions: Arc<Conditions>,
}

#[derive(Debug, Default)]
struct Conditions {
    /// The number of latches that are not yet released.
    latches: AtomicUsize,
    draining: AtomicBool,
    finishing: AtomicBool,
}

/// Keeps the process from becoming ready until the latch is dropped.
#[derive(Debug)]
pub struct Latch {
    conditions: Arc<Conditions>,
}

impl Readiness {
    /// Adds a condition for readiness. Dropping the latch fulfils it.
    pub fn latch(&self) -> Latch {
        self.conditions.latches.fetch_add(1, Ordering::SeqCst);
        Latch { conditions: self.conditions.clone() }
    }

    /// Makes the process not ready until it ends.
    pub fn drain(&self) {
        self.conditions.draining.store(true, Ordering::SeqCst);
    }

    /// Whether the process can take new work.
    pub fn is_ready(&self) -> bool {
        self.conditions.latches.load(Ordering::SeqCst) == 0 && !self.is_draining()
    }

    /// Whether [`Readiness::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.conditions.draining.load(Ordering::SeqCst)
    }

    /// Records that the process accepts no more connections, some time after it has begun to drain.
    pub fn finish(&self) {
        self.conditions.finishing.store(true, Ordering::SeqCst);
    }

    /// Whether [`Readiness::finish`] was called. Then no silent client may delay the end of the process.
    pub fn is_finishing(&self) -> bool {
        self.conditions.finishing.load(Ordering::SeqCst)
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        self.conditions.latches.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_after_every_latch_and_until_it_drains() {
        let readiness = Readiness::default();
        let (model, listener) = (readiness.latch(), readiness.latch());
        drop(model);
        assert!(!readiness.is_ready());
        drop(listener);
        assert!(readiness.is_ready());
        readiness.drain();
        assert!(!readiness.is_ready() && !readiness.is_finishing());
        readiness.finish();
        assert!(readiness.is_finishing());
    }
}
