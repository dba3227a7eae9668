//! Whether this process can take work: from when every latch is released until it begins to drain. Does not
//! know the conditions that the latches stand for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The readiness of this process. Clones share one state, so the parts that start up and the part that answers
/// `/readyz` each hold one.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    latches: AtomicUsize,
    draining: AtomicBool,
}

/// Keeps the process from being ready until it is dropped.
#[derive(Debug)]
pub struct Latch {
    state: Arc<State>,
}

impl Readiness {
    /// Adds a condition for readiness, which is fulfilled when the latch is dropped.
    pub fn latch(&self) -> Latch {
        self.state.latches.fetch_add(1, Ordering::SeqCst);
        Latch { state: self.state.clone() }
    }

    /// Makes the process not ready, for the rest of its life.
    pub fn drain(&self) {
        self.state.draining.store(true, Ordering::SeqCst);
    }

    /// Whether the process can take new work.
    pub fn is_ready(&self) -> bool {
        self.state.latches.load(Ordering::SeqCst) == 0 && !self.is_draining()
    }

    /// Whether [`Readiness::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.state.draining.load(Ordering::SeqCst)
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        self.state.latches.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_every_latch_released_and_no_drain() {
        let readiness = Readiness::default();
        let (model, listener) = (readiness.latch(), readiness.latch());
        drop(model);
        assert!(!readiness.is_ready());
        drop(listener);
        assert!(readiness.is_ready());
        readiness.drain();
        assert!(!readiness.is_ready());
    }
}
