//! One dispatcher of the plant: its queue, its admission and its rotation. It does not see the requests of the other
//! dispatchers, and holds no replicas. All instants are nanoseconds since the start of the simulation.

use super::queue::PlantQueue;
use super::rotation::Rotation;
use super::settings::PlantSettings;
use crate::simulate::requests::PlantRequest;
use admission::service_time::ServiceTime;
use admission::{Admission, Order, QueueState, SpareCapacity, TimeLeft};
use std::time::{Duration, Instant};

/// A dispatcher of the plant.
pub(super) struct PlantDispatcher {
    order: Order,
    max_queue_length: usize,
    /// The time that a request has left when it arrives.
    time_left: TimeLeft,
    /// The time from a request's arrival after which an answer misses the objective, in nanoseconds.
    objective: u64,
    queue: PlantQueue,
    /// The replicas to which the dispatcher sends requests.
    pub(super) rotation: Rotation,
    spare_capacity: SpareCapacity,
    /// The dispatcher's running mean of service times.
    mean_service: ServiceTime,
    /// The mean of `mean_service` in nanoseconds; 0 before the first answer. It is stored, because the queue needs it
    /// for every request.
    mean_service_nanoseconds: u64,
    /// The instant for [`ServiceTime`] that stands for the start of the simulation. [`ServiceTime`] takes instants of
    /// the real clock.
    epoch: Instant,
    last_dispatch: u64,
    /// The arrival times of requests that were in flight when a replica died, and whose deadlines have not passed.
    suspects: Vec<u64>,
}

impl PlantDispatcher {
    /// A dispatcher with an empty queue and no replicas.
    pub(super) fn new(settings: &PlantSettings) -> Self {
        let epoch = Instant::now();
        let (objective, deadline) = (settings.objective.as_nanos() as u64, settings.deadline.as_nanos() as u64);
        Self {
            order: settings.order,
            max_queue_length: settings.max_queue_length,
            time_left: TimeLeft { objective: settings.objective, deadline: settings.deadline },
            objective,
            queue: PlantQueue::new(settings.order, objective, deadline),
            rotation: Rotation::new(settings.slots),
            spare_capacity: SpareCapacity::new(settings.deadline / 2),
            mean_service: ServiceTime::new(epoch),
            mean_service_nanoseconds: 0,
            epoch,
            last_dispatch: 0,
            suspects: Vec::new(),
        }
    }

    /// Whether no request waits.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Admits an arriving request to the queue, or refuses it. Returns whether it was admitted.
    pub(super) fn admit(&mut self, request: PlantRequest) -> bool {
        let state = QueueState {
            punctual: self.queue.punctual(),
            late: self.queue.late(),
            slot_is_free: self.rotation.first().is_some(),
            slots: self.rotation.capacity() as f64,
            service_time: self.mean_service.mean(),
            spare: self.spare_capacity.share(),
        };
        let is_admitted = self.queue.len() < self.max_queue_length
            && Admission::decide(self.order, &state, self.time_left) == Admission::Admit;
        if is_admitted {
            self.queue.push(request);
        }
        is_admitted
    }

    /// Makes requests late that can no longer meet the objective, and drops those whose deadline has passed. Returns
    /// the number of dropped requests.
    pub(super) fn demote_and_expire(&mut self, now: u64) -> usize {
        self.queue.demote(now, self.mean_service_nanoseconds)
    }

    /// Takes the next request out of the queue and dispatches it; `None` if there is none.
    pub(super) fn dispatch_next(&mut self, now: u64) -> Option<PlantRequest> {
        let request = self.queue.pop(now, self.mean_service_nanoseconds)?;
        let is_late = request.arrived + self.objective < now + self.mean_service_nanoseconds;
        self.record_dispatch(request.arrived != now && !is_late, now);
        Some(request)
    }

    /// Records that a request was dispatched. `is_waiting_punctual` tells whether it is punctual and had to wait.
    pub(super) fn record_dispatch(&mut self, is_waiting_punctual: bool, now: u64) {
        self.spare_capacity.record(is_waiting_punctual, Duration::from_nanos(now - self.last_dispatch));
        self.last_dispatch = now;
    }

    /// Returns a request whose replica has died to its place in the queue. Returns false if that request has died with
    /// a replica before. The dispatcher then takes it for the cause, and does not send it again (`MAX_DEATHS` in
    /// `dispatcher/src/retry.rs`). The dispatcher's retry budget is not modelled.
    pub(super) fn retry(&mut self, request: PlantRequest, now: u64) -> bool {
        let deadline = self.time_left.deadline.as_nanos() as u64;
        self.suspects.retain(|arrived| arrived + deadline > now);
        let is_first_death = !self.suspects.contains(&request.arrived);
        if is_first_death {
            self.suspects.push(request.arrived);
            self.queue.requeue(request);
        }
        is_first_death
    }

    /// Returns a refused request to its place in the queue.
    pub(super) fn requeue(&mut self, request: PlantRequest) {
        self.queue.requeue(request);
    }

    /// Records an answer that came `service` nanoseconds after the dispatch of its request.
    pub(super) fn record_answer(&mut self, service: u64, now: u64) {
        self.mean_service.record(Duration::from_nanos(service), self.epoch + Duration::from_nanos(now));
        self.mean_service_nanoseconds = self.mean_service.mean().map_or(0, |mean| mean.as_nanos() as u64);
    }
}
