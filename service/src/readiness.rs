//! Whether this process can take work: yes once every latch has been released, and never again once it drains.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Shared by whoever must be waited for and whoever answers `/readyz`.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    latches: AtomicUsize,
    draining: AtomicBool,
}

/// Holds readiness back until it is dropped.
#[derive(Debug)]
pub struct Latch {
    state: Arc<State>,
}

impl Readiness {
    /// One more thing to wait for.
    pub fn latch(&self) -> Latch {
        self.state.latches.fetch_add(1, Ordering::SeqCst);
        Latch { state: self.state.clone() }
    }

    /// From now on not ready, for good.
    pub fn drain(&self) {
        self.state.draining.store(true, Ordering::SeqCst);
    }

    /// Whether new work is welcome.
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
