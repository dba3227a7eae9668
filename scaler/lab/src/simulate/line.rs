//! The dispatcher's queue as the plant has it. Every request has the same objective and the same deadline, both counted
//! from its arrival, so each class is in the order of arrival by itself and two deques do what takes trees there.
//! Times in nanoseconds since the start.

use super::requests::Request;
use admission::Order;
use std::collections::VecDeque;

/// What waits.
#[derive(Debug)]
pub struct Line {
    order: Order,
    /// An answer later than so long after the arrival misses the objective.
    objective: u64,
    /// Never handed out so long after the arrival, or later.
    deadline: u64,
    punctual: VecDeque<Request>,
    late: VecDeque<Request>,
}

impl Line {
    /// Nobody waits yet.
    pub fn new(order: Order, objective: u64, deadline: u64) -> Self {
        Self { order, objective, deadline, punctual: VecDeque::new(), late: VecDeque::new() }
    }

    /// Lets in the latest that arrived.
    pub fn push(&mut self, request: Request) {
        self.punctual.push_back(request);
    }

    /// Moves those that would miss the objective, even if they were handed out now and took `service_time`, to the
    /// late ones, and drops those whose deadline has passed; returns how many were dropped.
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

    /// Takes the first that can still be punctual, or else the first late one that would be answered before its
    /// deadline.
    pub fn pop(&mut self, now: u64, service_time: u64) -> Option<Request> {
        self.punctual.pop_front().or_else(|| {
            // Of the late ones the oldest expire first, so those that are past help stand in front.
            let index = self.late.partition_point(|request| request.arrived + self.deadline <= now + service_time);
            self.late.remove(index)
        })
    }

    /// Waiting that can still be punctual; under [`Order::Fifo`], all.
    pub fn punctual(&self) -> usize {
        self.punctual.len()
    }

    /// Waiting that cannot.
    pub fn late(&self) -> usize {
        self.late.len()
    }

    /// All that wait.
    pub fn len(&self) -> usize {
        self.punctual.len() + self.late.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
