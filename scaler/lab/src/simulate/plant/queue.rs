//! The queue of the plant, which behaves like the dispatcher's queue.
//!
//! All requests of the plant have the same objective and the same timeout, both counted from their arrival. Each class
//! is therefore in order of arrival, and a deque for each class is enough, where the dispatcher's queue needs trees.
//! The test `bench/tests/plant.rs` compares both queues. All instants are nanoseconds since the start of the
//! simulation.

use crate::simulate::requests::PlantRequest;
use admission::Order;
use std::collections::VecDeque;

/// The waiting requests, in two classes: punctual requests, which can still meet the objective, and late requests.
#[derive(Debug)]
pub struct PlantQueue {
    order: Order,
    /// The time from a request's arrival after which an answer misses the objective, in nanoseconds.
    objective: u64,
    /// The time from a request's arrival to its deadline, in nanoseconds.
    deadline: u64,
    punctual: VecDeque<PlantRequest>,
    late: VecDeque<PlantRequest>,
}

impl PlantQueue {
    /// An empty queue. `objective` and `deadline` are nanoseconds from a request's arrival.
    pub fn new(order: Order, objective: u64, deadline: u64) -> Self {
        Self { order, objective, deadline, punctual: VecDeque::new(), late: VecDeque::new() }
    }

    /// Adds a request. Requests must be added in order of arrival.
    pub fn push(&mut self, request: PlantRequest) {
        self.punctual.push_back(request);
    }

    /// Returns a dispatched request to its place in the order of arrival, among the punctual requests.
    pub fn requeue(&mut self, request: PlantRequest) {
        insert(&mut self.punctual, request);
    }

    /// Makes requests late that would miss the objective even if they were dispatched now and took `service_time`
    /// nanoseconds. Under [`Order::Fifo`], no request becomes late. Then drops the requests whose deadline has passed,
    /// and returns their number.
    pub fn demote(&mut self, now: u64, service_time: u64) -> usize {
        while self.order == Order::LateLast
            && let Some(&request) = self.punctual.front()
            && request.arrived + self.objective < now + service_time
        {
            self.punctual.pop_front();
            insert(&mut self.late, request);
        }
        let before = self.len();
        for class in [&mut self.punctual, &mut self.late] {
            while class.front().is_some_and(|request| request.arrived + self.deadline <= now) {
                class.pop_front();
            }
        }
        before - self.len()
    }

    /// Takes the oldest punctual request out of the queue. If there is none, takes the oldest late request that would
    /// be answered before its deadline.
    pub fn pop(&mut self, now: u64, service_time: u64) -> Option<PlantRequest> {
        self.punctual.pop_front().or_else(|| {
            // The oldest late requests have the earliest deadlines. So the requests that would expire before their
            // answer are at the front.
            let index = self.late.partition_point(|request| request.arrived + self.deadline <= now + service_time);
            self.late.remove(index)
        })
    }

    /// Whether the next request is late, and its arrival; `None` if no request waits.
    pub fn next_arrival(&self) -> Option<(bool, u64)> {
        let punctual = self.punctual.front().map(|request| (false, request.arrived));
        punctual.or_else(|| self.late.front().map(|request| (true, request.arrived)))
    }

    /// The number of waiting requests that can still meet the objective; under [`Order::Fifo`], of all waiting
    /// requests.
    pub fn punctual(&self) -> usize {
        self.punctual.len()
    }

    /// The number of waiting requests that can no longer meet the objective.
    pub fn late(&self) -> usize {
        self.late.len()
    }

    /// The number of all waiting requests.
    pub fn len(&self) -> usize {
        self.punctual.len() + self.late.len()
    }

    /// Whether no request waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Adds a request to a class at its place in the order of arrival.
fn insert(class: &mut VecDeque<PlantRequest>, request: PlantRequest) {
    if class.back().is_none_or(|last| last.arrived <= request.arrived) {
        class.push_back(request);
    } else {
        let index = class.partition_point(|other| other.arrived < request.arrived);
        class.insert(index, request);
    }
}
