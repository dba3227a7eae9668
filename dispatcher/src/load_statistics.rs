//! Running measurements of the dispatcher's load: the rates of arrivals and answers, the service time and the spare
//! capacity. Time is an argument.

use crate::rate::Rate;
use admission::SpareCapacity;
use admission::service_time::ServiceTime;
use std::time::{Duration, Instant};

/// Running measurements of arrivals, dispatches and answers.
#[derive(Debug)]
pub struct LoadStatistics {
    arrivals: Rate,
    answers: Rate,
    service_time: ServiceTime,
    /// The mean of what replicas say a request costs them if their batches are full; `None` if the last did not say it.
    full_work: Option<ServiceTime>,
    spare: SpareCapacity,
    last_dispatch: Instant,
}

impl LoadStatistics {
    /// Statistics without any event. They begin at `now`. `deadline` is the longest time that a request may take.
    pub fn new(deadline: Duration, now: Instant) -> Self {
        Self {
            arrivals: Rate::new(now),
            answers: Rate::new(now),
            service_time: ServiceTime::new(now),
            full_work: None,
            // A shorter time constant would refuse a part of a burst that can be answered. A longer one would admit
            // too many requests at the beginning of a lasting overload.
            spare: SpareCapacity::new(deadline / 2),
            last_dispatch: now,
        }
    }

    /// Records that a request arrived. Refused requests count too.
    pub fn record_arrival(&mut self, now: Instant) {
        self.arrivals.record(now);
    }

    /// Records that a request was dispatched. `had_waited` tells whether it had to wait for a slot. `objective` is the
    /// instant after which an answer misses the objective.
    pub fn record_dispatch(&mut self, had_waited: bool, objective: Instant, now: Instant) {
        let is_punctual = objective >= now + self.service_time();
        self.spare.record(had_waited && is_punctual, now.saturating_duration_since(self.last_dispatch));
        self.last_dispatch = now;
    }

    /// Records that a replica answered.
    pub fn record_answer(&mut self, now: Instant) {
        self.answers.record(now);
    }

    /// Records that a replica classified an image `elapsed` after its dispatch.
    pub fn record_service_time(&mut self, elapsed: Duration, now: Instant) {
        self.service_time.record(elapsed, now);
    }

    /// Records the time that a replica says a request costs it if its batches are full; `None` if it does not say it.
    pub fn record_full_work(&mut self, time: Option<Duration>, now: Instant) {
        match time {
            Some(time) => self.full_work.get_or_insert_with(|| ServiceTime::new(now)).record(time, now),
            None => self.full_work = None,
        }
    }

    /// The mean time that a request costs a replica whose batches are full; `None` if replicas do not say it.
    pub fn full_work(&self) -> Option<Duration> {
        self.full_work.as_ref()?.mean()
    }

    /// Mean service time; zero before the first answer.
    pub fn service_time(&self) -> Duration {
        self.measured_service_time().unwrap_or_default()
    }

    /// Mean service time; `None` before the first answer.
    pub fn measured_service_time(&self) -> Option<Duration> {
        self.service_time.mean()
    }

    /// Share of the capacity that punctual requests leave for late ones, 0 to 1.
    pub fn spare_share(&self) -> f64 {
        self.spare.share()
    }

    /// Arrivals per second over the last seconds, refused requests included.
    pub fn arrivals_per_second(&self, now: Instant) -> f64 {
        self.arrivals.per_second(now)
    }

    /// Answers of replicas per second over the last seconds.
    pub fn answers_per_second(&self, now: Instant) -> f64 {
        self.answers.per_second(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_in_full_batches_is_a_mean_as_long_as_replicas_say_it() {
        let start = Instant::now();
        let mut statistics = LoadStatistics::new(Duration::from_secs(5), start);
        assert_eq!(statistics.full_work(), None);
        let time = Duration::from_millis(12);
        (0..9).for_each(|_| statistics.record_full_work(Some(time), start));
        assert_eq!(statistics.full_work(), Some(time));
        // Replicas of another revision compute one image at a time.
        statistics.record_full_work(None, start);
        assert_eq!(statistics.full_work(), None);
    }

    #[test]
    fn only_punctual_requests_that_had_waited_reduce_the_spare_capacity() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        for (had_waited, objective, is_reduced) in
            [(true, start + 9 * second, true), (false, start + 9 * second, false), (true, start, false)]
        {
            let mut load = LoadStatistics::new(5 * second, start);
            load.record_dispatch(had_waited, objective, start + second);
            assert_eq!(load.spare_share() < 1.0, is_reduced, "{had_waited} {objective:?}");
        }
    }
}
