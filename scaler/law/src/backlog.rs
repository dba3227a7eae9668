//! The requests that each number of replicas would have served too late so far, had just that number been there. A
//! fluid model: requests and work flow evenly within a tick.

use crate::lateness::Waiting;

/// The queue before each number of replicas.
#[derive(Debug, Clone)]
pub struct Backlogs(Vec<f64>);

impl Backlogs {
    /// Empty queues before 0 to `most` replicas.
    pub fn new(most: usize) -> Self {
        Self(vec![0.0; most + 1])
    }

    /// Adds the requests that arrived in the last `seconds`. Returns how many requests became too late in these
    /// seconds with 0, 1, 2, … replicas. They leave the queue, since they are served last.
    pub fn add(&mut self, seconds: f64, arrivals: f64, waiting: Waiting) -> Vec<f64> {
        let late = self.0.iter_mut().enumerate().map(|(replicas, queue)| {
            let rate = replicas as f64 / waiting.service;
            *queue = (*queue + arrivals - rate * seconds).max(0.0);
            let late = (*queue - rate * waiting.limit).max(0.0);
            *queue -= late;
            late
        });
        late.collect()
    }
}
