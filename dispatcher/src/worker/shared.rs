//! The worker as the tasks of requests call it: directly, since all of them run on one thread. So a request that finds a
//! free slot gets its permit without a message, and no other task runs for it. The worker's own task handles the rest:
//! timers, probes, discovery, and the reports of permits that the worker itself drops.

use super::Worker;
use crate::permit::AttemptReport;
use crate::queue::QueueEntry;
use crate::request::QueuedRequest;
use std::fmt;
use std::sync::{Mutex, MutexGuard, Weak};
use std::time::Instant;
use tokio::sync::{Notify, mpsc};

/// The worker, which one caller uses at a time.
pub(super) struct SharedWorker {
    worker: Mutex<Worker>,
    /// Wakes the worker's own task.
    pub(super) wakes: Notify,
}

impl SharedWorker {
    pub(super) fn new(worker: Worker) -> Self {
        Self { worker: Mutex::new(worker), wakes: Notify::new() }
    }

    /// The worker. No method of the worker calls this.
    pub(super) fn lock(&self) -> MutexGuard<'_, Worker> {
        self.worker.lock().expect("the worker does not panic")
    }

    /// Admits a request to the queue, or refuses it.
    pub(super) fn submit(&self, entry: QueueEntry<QueuedRequest>) {
        let mut worker = self.lock();
        worker.admit(entry);
        self.settle(worker);
    }

    /// Does what an event makes due, and wakes the worker's own task if it would sleep for too long.
    fn settle(&self, mut worker: MutexGuard<'_, Worker>) {
        let wake_up = worker.settle(Instant::now());
        if wake_up < worker.planned_wake_up || worker.is_ending {
            self.wakes.notify_one();
        }
    }
}

impl fmt::Debug for SharedWorker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SharedWorker").finish_non_exhaustive()
    }
}

/// The way of reports to the worker.
#[derive(Debug, Clone)]
pub struct ReportSender {
    worker: Weak<SharedWorker>,
    /// The channel for reports while the worker is in use.
    later: mpsc::UnboundedSender<AttemptReport>,
}

impl ReportSender {
    /// Sends reports to `worker`, or on the channel `later` if the worker is in use.
    pub(super) fn new(worker: Weak<SharedWorker>, later: mpsc::UnboundedSender<AttemptReport>) -> Self {
        Self { worker, later }
    }

    /// Reports the end of an attempt.
    pub fn send(&self, report: AttemptReport) {
        let shared = self.worker.upgrade();
        let unused = shared.as_ref().and_then(|shared| Some((shared, shared.worker.try_lock().ok()?)));
        if let Some((shared, mut worker)) = unused {
            worker.handle_report(report);
            shared.settle(worker);
        } else {
            // The worker has dropped the permit itself, or has ended. Then there is no slot to free.
            let _ended = self.later.send(report);
        }
    }
}
