//! What the dispatcher measures of its load: arrivals, answers, service time and spare capacity. Time is an argument.

use crate::rate::Rate;
use admission::SpareCapacity;
use admission::service_time::ServiceTime;
use std::time::{Duration, Instant};

/// The drain time of the queue is computed with this service time before the first answer.
const ASSUMED_SERVICE_TIME: Duration = Duration::from_millis(100);

/// Running measurements of arrivals, dispatches and answers.
#[derive(Debug)]
pub struct Load {
    arrivals: Rate,
    answers: Rate,
    service_time: ServiceTime,
    spare: SpareCapacity,
    last_dispatch: Instant,
}

impl Load {
    /// Measurements that begin at `now`. `deadline` is the longest time that a request may take.
    pub fn new(deadline: Duration, now: Instant) -> Self {
        Self {
            arrivals: Rate::new(now),
            answers: Rate::new(now),
            service_time: ServiceTime::new(now),
            // Half of the longest wait: long enough to admit a burst, short enough to refuse during a lasting overload.
            spare: SpareCapacity::new(deadline / 2),
            last_dispatch: now,
        }
    }

    /// Records that a request arrived, whether it is then admitted or not.
    pub fn record_arrival(&mut self, now: Instant) {
        self.arrivals.record(now);
    }

    /// Records that a request was sent to a replica. `had_waited` tells whether it had to wait for a slot. `objective`
    /// is the instant after which an answer misses the objective.
    pub fn record_dispatch(&mut self, had_waited: bool, objective: Instant, now: Instant) {
        let is_punctual = objective >= now + self.service_time();
        self.spare.record(had_waited && is_punctual, now.saturating_duration_since(self.last_dispatch));
        self.last_dispatch = now;
    }

    /// Records that a replica answered.
    pub fn record_answer(&mut self, now: Instant) {
        self.answers.record(now);
    }

    /// Records that a replica took `elapsed` to classify an image.
    pub fn record_service_time(&mut self, elapsed: Duration, now: Instant) {
        self.service_time.record(elapsed, now);
    }

    /// Mean service time; zero before the first answer.
    pub fn service_time(&self) -> Duration {
        self.measured_service_time().unwrap_or_default()
    }

    /// Mean service time; `None` before the first answer.
    pub fn measured_service_time(&self) -> Option<Duration> {
        self.service_time.mean()
    }

    /// Share of the capacity that is left for late requests, 0 to 1.
    pub fn spare_share(&self) -> f64 {
        self.spare.share()
    }

    /// Requests that arrived per second over the last seconds, refused ones included.
    pub fn arrivals_per_second(&self, now: Instant) -> f64 {
        self.arrivals.per_second(now)
    }

    /// Requests that replicas answered per second over the last seconds.
    pub fn answers_per_second(&self, now: Instant) -> f64 {
        self.answers.per_second(now)
    }

    /// The time until `waiting` requests have left the queue for replicas with `capacity` slots: backlog ÷ service
    /// rate.
    pub fn time_to_drain(&self, waiting: usize, capacity: usize) -> Duration {
        let service_time = self.measured_service_time().unwrap_or(ASSUMED_SERVICE_TIME).as_secs_f64();
        Duration::from_secs_f64(waiting as f64 * service_time / capacity.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backlog_over_service_rate_is_the_time_to_drain() {
        let start = Instant::now();
        let mut load = Load::new(Duration::from_secs(5), start);
        assert_eq!(load.time_to_drain(10, 2), 5 * ASSUMED_SERVICE_TIME);
        assert_eq!(load.time_to_drain(10, 0), 10 * ASSUMED_SERVICE_TIME, "without a replica, as with one slot");
        load.record_service_time(Duration::from_millis(40), start);
        assert_eq!(load.time_to_drain(10, 4), Duration::from_millis(100));
    }

    #[test]
    fn only_punctual_requests_that_waited_use_up_spare_capacity() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        for (had_waited, objective, uses_up) in
            [(true, start + 9 * second, true), (false, start + 9 * second, false), (true, start, false)]
        {
            let mut load = Load::new(5 * second, start);
            load.record_dispatch(had_waited, objective, start + second);
            assert_eq!(load.spare_share() < 1.0, uses_up, "{had_waited} {objective:?}");
        }
    }
}
