//! The queue of decoded images between decoders and workers: a [`Batcher`] that threads share.

use super::work_item::WorkItem;
use crate::batch::{Batch, Batcher};
use crate::model::Input;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Decoded images that wait for a forward pass. The capacity of the replica bounds their number.
#[derive(Default)]
pub(super) struct BatchQueue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// `None` until the times of passes are known.
    batcher: Option<Batcher<WorkItem<Input>>>,
    is_closed: bool,
}

impl BatchQueue {
    /// Lets images be pushed from now on.
    pub(super) fn open(&self, batcher: Batcher<WorkItem<Input>>) {
        self.with_state(|state| state.batcher = Some(batcher));
    }

    /// Ends the queue: workers take the images that wait, and then stop.
    pub(super) fn close(&self) {
        self.with_state(|state| state.is_closed = true);
        self.changed.notify_all();
    }

    /// Adds an image.
    ///
    /// # Panics
    /// When the queue has not been opened.
    pub(super) fn push(&self, item: WorkItem<Input>) {
        self.with_state(|state| {
            let batcher = state.batcher.as_mut().expect("the queue is opened before decoding begins");
            batcher.push(item.entered, item.deadline, item);
        });
        self.changed.notify_one();
    }

    /// Blocks until a batch is due, and takes it. `None` once the queue is closed and empty.
    pub(super) fn take(&self) -> Option<Batch<WorkItem<Input>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            let due = state.batcher.as_ref().and_then(|batcher| batcher.due(now));
            state = match due {
                Some(due) if due <= now || state.is_closed => {
                    return state.batcher.as_mut().map(|batcher| batcher.take(now));
                }
                Some(due) => self.changed.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner).0,
                None if state.is_closed => return None,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Records the time of a pass of `count` images.
    pub(super) fn record(&self, count: usize, took: Duration) {
        self.with_state(|state| {
            if let Some(batcher) = &mut state.batcher {
                batcher.record(count, took);
            }
        });
    }

    fn with_state(&self, change: impl FnOnce(&mut State)) {
        // No change leaves the state inconsistent, so the state is valid even after a panic of another thread.
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
