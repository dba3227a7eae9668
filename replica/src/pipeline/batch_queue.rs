//! The queue of decoded images between decoders and workers. It is a [`Batcher`] that threads share.

use super::work_item::WorkItem;
use crate::batch::{Batch, Batcher};
use crate::model::Input;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The decoded images that wait for a forward pass. The capacity of the replica limits their number.
#[derive(Default)]
pub(super) struct BatchQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    /// `None` until the warm-up has measured the times of passes.
    batcher: Option<Batcher<WorkItem<Input>>>,
    is_closed: bool,
}

impl BatchQueue {
    /// Gives the queue its batcher. From now on, images can be pushed.
    pub(super) fn open(&self, batcher: Batcher<WorkItem<Input>>) {
        self.with_state(|state| state.batcher = Some(batcher));
    }

    /// Closes the queue. Workers take the images that wait, and then stop.
    pub(super) fn close(&self) {
        self.with_state(|state| state.is_closed = true);
        self.changed.notify_all();
    }

    /// Adds an image.
    ///
    /// # Panics
    /// If the queue is not open yet.
    pub(super) fn push(&self, item: WorkItem<Input>) {
        self.with_state(|state| {
            let batcher = state.batcher.as_mut().expect("the queue is opened before the decoders start");
            batcher.push(item.entered, item.deadline, item);
        });
        self.changed.notify_one();
    }

    /// Waits until a batch is due, and takes the batch. `None` if the queue is closed and empty.
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

    /// The expected time of a full pass for each of its images; `None` before the warm-up.
    pub(super) fn full_work(&self) -> Option<Duration> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.batcher.as_ref().map(Batcher::full_work)
    }

    /// Records the time of a pass of `count` images.
    pub(super) fn record(&self, count: usize, took: Duration) {
        self.with_state(|state| {
            if let Some(batcher) = &mut state.batcher {
                batcher.record(count, took);
            }
        });
    }

    fn with_state(&self, change: impl FnOnce(&mut QueueState)) {
        // A poisoned lock is used all the same: no change leaves the state inconsistent, even if its thread panics.
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
