//! Running measurements of the dispatcher's load: the rates of arrivals and answers, the service time and the spare
//! capacity. Time is an argument.

use crate::rate::Rate;
use admission::SpareCapacity;
use admission::own_slots::OwnSlots;
use admission::service_time::ServiceTime;
use std::time::{Duration, Instant};

/// Time after the last answer that says what a request costs in full batches, in which answers without it count with
/// their own work.
const FULL_WORK_LASTS: Duration = Duration::from_secs(30);

/// The least time that a request is believed to cost: replicas say it in whole microseconds.
const LEAST_WORK: Duration = Duration::from_micros(1);

/// Running measurements of arrivals, dispatches and answers.
#[derive(Debug)]
pub struct LoadStatistics {
    arrivals: Rate,
    answers: Rate,
    service_time: ServiceTime,
    /// The mean of what replicas say a request costs them if their batches are full, and the time at which one last said
    /// it; `None` if none of the last answers did.
    full_work: Option<(ServiceTime, Instant)>,
    spare: SpareCapacity,
    last_dispatch: Instant,
    own_slots: OwnSlots,
    /// The share of all slots that the dispatcher has got since an instant at which requests waited; `None` if none wait.
    own_share: Option<(f64, Instant)>,
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
            own_slots: OwnSlots::default(),
            own_share: None,
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

    /// Records which `share` of all slots the requests of this dispatcher take or could take from `now` on, and whether
    /// requests wait.
    pub fn record_own_slots(&mut self, requests_wait: bool, share: f64, now: Instant) {
        if let Some((share, since)) = self.own_share {
            let held = now.saturating_duration_since(since);
            self.own_slots.record(share, held, self.measured_service_time());
        }
        self.own_share = requests_wait.then_some((share, now));
    }

    /// The slots that the requests of this dispatcher get, of `capacity` that all dispatchers share.
    pub fn own_slots(&self, capacity: usize) -> f64 {
        self.own_slots.slots(capacity)
    }

    /// Records that a replica answered.
    pub fn record_answer(&mut self, now: Instant) {
        self.answers.record(now);
    }

    /// Records that a replica classified an image `elapsed` after its dispatch.
    pub fn record_service_time(&mut self, elapsed: Duration, now: Instant) {
        self.service_time.record(elapsed, now);
    }

    /// Records the time that a replica says a request costs it if its batches are full; `None` if it does not say it, as
    /// replicas do that compute one image at a time. While others say it, its `work` for the answer counts, so that the
    /// mean is that of all replicas.
    pub fn record_full_work(&mut self, said: Option<Duration>, work: Duration, now: Instant) {
        let said = said.filter(|&time| time >= LEAST_WORK);
        let before = self.full_work.filter(|(_, last)| now.saturating_duration_since(*last) < FULL_WORK_LASTS);
        self.full_work = match (before, said) {
            (None, None) => None,
            (Some((mean, last)), None) => Some((mean, last)),
            (before, Some(_)) => Some((before.map_or_else(|| ServiceTime::new(now), |(mean, _)| mean), now)),
        };
        if let Some((mean, _)) = &mut self.full_work {
            mean.record(said.unwrap_or(work), now);
        }
    }

    /// The mean time that a request costs a replica whose batches are full; `None` if replicas do not say it.
    pub fn full_work(&self) -> Option<Duration> {
        self.full_work?.0.mean()
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
        let (said, work) = (Duration::from_millis(12), Duration::from_millis(48));
        let tiny = Some(Duration::from_nanos(999));
        for absent in [None, Some(Duration::ZERO), tiny] {
            statistics.record_full_work(absent, work, start);
            assert_eq!(statistics.full_work(), None, "no replica says it");
        }
        (0..9).for_each(|_| statistics.record_full_work(Some(said), work, start));
        assert_eq!(statistics.full_work(), Some(said));
        // Half of the replicas are of another revision, which computes one image at a time.
        let mean = |statistics: &LoadStatistics| statistics.full_work().expect("some say it").as_secs_f64();
        for second in 1..60 {
            let now = start + Duration::from_secs(second);
            for said in [Some(said), None] {
                for _ in 0..10 {
                    statistics.record_full_work(said, work, now);
                }
            }
            assert!((0.012..0.048).contains(&mean(&statistics)), "{:?}", statistics.full_work());
        }
        let now = start + Duration::from_secs(59);
        statistics.record_full_work(None, work, now + FULL_WORK_LASTS - Duration::from_millis(1));
        assert!(statistics.full_work().is_some());
        statistics.record_full_work(tiny, work, now + FULL_WORK_LASTS);
        assert_eq!(statistics.full_work(), None, "no answer has said it for 30 s");
    }

    #[test]
    fn slots_that_others_take_count_only_while_requests_wait() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        for (requests_wait, expected) in [(false, 6.0), (true, 3.0)] {
            let mut load = LoadStatistics::new(5 * second, start);
            load.record_own_slots(requests_wait, 0.5, start);
            load.record_own_slots(false, 1.0, start + 100 * second);
            load.record_own_slots(false, 1.0, start + 200 * second);
            assert!((load.own_slots(6) - expected).abs() < 1e-9, "{requests_wait}: {}", load.own_slots(6));
        }
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
