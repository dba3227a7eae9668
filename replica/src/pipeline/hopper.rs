//! Decoded pictures on their way to the workers: the batcher, shared.

use super::job::Job;
use crate::batch::{Batch, Batcher};
use crate::model::Input;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Decoded pictures on their way to the workers.
#[derive(Default)]
pub(super) struct Hopper {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// There once the times of passes are known.
    batcher: Option<Batcher<Job<Input>>>,
    is_closed: bool,
}

impl Hopper {
    /// From now on pictures may come.
    pub(super) fn open(&self, batcher: Batcher<Job<Input>>) {
        self.with(|state| state.batcher = Some(batcher));
    }

    /// No more will come; what is there is still computed.
    pub(super) fn close(&self) {
        self.with(|state| state.is_closed = true);
        self.changed.notify_all();
    }

    /// Adds one.
    pub(super) fn push(&self, job: Job<Input>) {
        self.with(|state| {
            let batcher = state.batcher.as_mut().expect("opened before anything is decoded");
            batcher.push(job.entered, job.deadline, job);
        });
        self.changed.notify_one();
    }

    /// Waits for a batch; none once it is closed and empty.
    pub(super) fn take(&self) -> Option<Batch<Job<Input>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            let due = state.batcher.as_ref().and_then(|batcher| batcher.due(now));
            state = match due {
                Some(due) if due <= now || state.is_closed => return state.batcher.as_mut().map(|all| all.take(now)),
                Some(due) => self.changed.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner).0,
                None if state.is_closed => return None,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Remembers how long a pass took.
    pub(super) fn record(&self, count: usize, took: Duration) {
        self.with(|state| state.batcher.iter_mut().for_each(|batcher| batcher.record(count, took)));
    }

    fn with(&self, change: impl FnOnce(&mut State)) {
        // No thread leaves it half changed: what a panicking one left is whole.
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
