//! The dispatcher's queue as the plant has it.
//!
//! All requests have the same objective and the same deadline, both counted from their arrival. Each class is therefore
//! in the order of arrival, and two deques do what the dispatcher's queue needs trees for. A test in the workspace
//! compares the two. Times are nanoseconds since the start of the simulation.

use crate::simulate::requests::PlantRequest;
use admission::Order;
use std::collections::VecDeque;

/// The waiting requests, in two classes: those that can still meet the objective, and the late ones.
#[derive(Debug)]
pub struct PlantQueue {
    order: Order,
    /// Time from the arrival until an answer misses the objective.
    objective: u64,
    /// Time from the arrival until the request expires.
    deadline: u64,
    punctual: VecDeque<PlantRequest>,
    late: VecDeque<PlantRequest>,
}

impl PlantQueue {
    /// An empty queue.
    pub fn new(order: Order, objective: u64, deadline: u64) -> Self {
        Self { order, objective, deadline, punctual: VecDeque::new(), late: VecDeque::new() }
    }

    /// Adds a request. Requests are added in the order of their arrival.
    pub fn push(&mut self, request: PlantRequest) {
        self.punctual.push_back(request);
    }

    /// Moves the requests that would miss the objective, even if they were dispatched now and took `service_time`, to
    /// the late class. Then drops the requests whose deadline has passed, and returns their number.
    pub fn demote(&mut self, now: u64, service_time: u64) -> usize {
        while self.order == Order::LateLast
            && let Some(&request) = self.punctual.front()
            && request.arrived + self.objective < now + service_time
        {
            self.punctual.pop_front();
            self.late.push_back(request);
        }
        let before = self.len();
        for class in [&mut self.punctual, &mut self.late] {
            while class.front().is_some_and(|request| request.arrived + self.deadline <= now) {
                class.pop_front();
            }
        }
        before - self.len()
    }

    /// Takes the first request that can still meet the objective, or else the first late request that would be answered
    /// before its deadline.
    pub fn pop(&mut self, now: u64, service_time: u64) -> Option<PlantRequest> {
        self.punctual.pop_front().or_else(|| {
            // The oldest late requests expire first, so the ones that would expire before their answer are at the
            // front.
            let index = self.late.partition_point(|request| request.arrived + self.deadline <= now + service_time);
            self.late.remove(index)
        })
    }

    /// Number of waiting requests that can still meet the objective; under [`Order::Fifo`], of all waiting requests.
    pub fn punctual(&self) -> usize {
        self.punctual.len()
    }

    /// Number of waiting requests that can no longer meet the objective.
    pub fn late(&self) -> usize {
        self.late.len()
    }

    /// Number of all waiting requests.
    pub fn len(&self) -> usize {
        self.punctual.len() + self.late.len()
    }

    /// Whether no request waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
