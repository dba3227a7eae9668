//! The time that the replica works for each request. Knows nothing of HTTP and images.
//!
//! A request's work is the time for which it is the oldest one in progress. So the works of all requests add up to the
//! time for which the replica is busy, however many clients send them. A request that is refused while an older one is
//! computed takes no share of the older one's time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The number of requests over which the mean work goes.
const MEAN_OVER: f64 = 20.0;

/// Measures the replica's work for each request. All clones count the same requests.
#[derive(Debug, Clone, Default)]
pub struct WorkMeter(Arc<Mutex<WorkState>>);

impl WorkMeter {
    /// Begins the work for a request whose body has arrived. A body that arrives slowly is no work.
    pub fn begin(&self) -> Work {
        Work(Arc::new(Request { number: self.with(WorkState::begin), meter: self.clone() }))
    }

    /// The mean work for a request: the mean time between two answers while the replica is busy. `None` before the first
    /// request has ended.
    pub fn mean(&self) -> Option<Duration> {
        self.with(|state, _now| state.mean.map(Duration::from_secs_f64))
    }

    fn with<T>(&self, change: impl FnOnce(&mut WorkState, Instant) -> T) -> T {
        // A poisoned lock is used all the same: no change leaves the state inconsistent.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state, Instant::now())
    }
}

/// The work for one request. It ends when [`Work::end`] is called, or when the last clone is dropped. Each image in the
/// pipeline has a clone, since the replica computes on if the client leaves.
#[derive(Debug, Clone)]
pub struct Work(Arc<Request>);

impl Work {
    /// Ends the work, and returns the time that it took.
    pub fn end(&self) -> Duration {
        self.0.end()
    }
}

#[derive(Debug)]
struct Request {
    number: u64,
    meter: WorkMeter,
}

impl Request {
    fn end(&self) -> Duration {
        self.meter.with(|state, now| state.end(self.number, now))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.end();
    }
}

/// The requests in progress, in the order in which they began. Pure: times are arguments.
#[derive(Debug, Default)]
struct WorkState {
    /// The numbers of the requests, oldest first.
    requests: BTreeSet<u64>,
    /// The number of the request that began last.
    last: u64,
    /// The instant since which the oldest request is the oldest; `None` before the first request.
    oldest_since: Option<Instant>,
    /// The exponentially weighted mean of the works, in seconds; `None` before the first request has ended.
    mean: Option<f64>,
}

impl WorkState {
    /// Adds a request. Returns its number.
    fn begin(&mut self, now: Instant) -> u64 {
        if self.requests.is_empty() {
            self.oldest_since = Some(now);
        }
        self.last += 1;
        self.requests.insert(self.last);
        self.last
    }

    /// Removes a request. Returns the work for it, which is zero if it has ended before.
    fn end(&mut self, request: u64, now: Instant) -> Duration {
        let was_oldest = self.requests.first() == Some(&request);
        if !self.requests.remove(&request) {
            return Duration::ZERO;
        }
        let since = if was_oldest { self.oldest_since.replace(now) } else { None };
        let work = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let mean = self.mean.get_or_insert(work.as_secs_f64());
        *mean += (work.as_secs_f64() - *mean) / MEAN_OVER;
        work
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Begins a request, or ends the request that began as the given one, counted from 0.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Begin,
        End(usize),
    }
    use Event::{Begin, End};

    /// The works of the ended requests in milliseconds, in the order of their ends. Each event has its time in
    /// milliseconds.
    fn works(events: &[(u64, Event)]) -> Vec<u128> {
        let (start, mut state, mut begun) = (Instant::now(), WorkState::default(), Vec::new());
        let mut ended = Vec::new();
        for &(at, event) in events {
            let now = start + Duration::from_millis(at);
            match event {
                Begin => begun.push(state.begin(now)),
                End(request) => ended.push(state.end(begun[request], now).as_millis()),
            }
        }
        ended
    }

    #[test]
    fn the_work_for_a_request_is_the_time_for_which_it_is_the_oldest() {
        for (what, events, expected) in [
            ("alone, twice", &[(0, Begin), (80, End(0)), (500, Begin), (590, End(1))][..], &[80, 90][..]),
            (
                "one waits for the other, and a third for both",
                &[(0, Begin), (60, Begin), (100, End(0)), (120, Begin), (200, End(1)), (300, End(2))],
                &[100, 100, 100],
            ),
            ("a batch", &[(0, Begin), (10, Begin), (20, Begin), (90, End(0)), (90, End(1)), (90, End(2))], &[90, 0, 0]),
            (
                "two workers",
                &[(0, Begin), (50, Begin), (100, End(0)), (100, Begin), (150, End(1)), (200, End(2))],
                &[100, 50, 50],
            ),
            ("a refusal while another is computed", &[(0, Begin), (40, Begin), (42, End(1)), (100, End(0))], &[0, 100]),
            ("a second end", &[(0, Begin), (70, End(0)), (80, End(0)), (90, Begin), (99, End(1))], &[70, 0, 9]),
        ] {
            assert_eq!(works(events), expected, "{what}");
        }
    }

    #[test]
    fn the_mean_work_is_the_time_between_answers_of_a_busy_replica() {
        let (start, mut state, mut now) = (Instant::now(), WorkState::default(), Duration::ZERO);
        assert_eq!(state.mean, None);
        for _pass in 0..100 {
            let batch: Vec<u64> = (0..4).map(|_| state.begin(start + now)).collect();
            now += Duration::from_millis(80);
            for request in batch {
                state.end(request, start + now);
                state.end(request, start + now + Duration::from_secs(1));
            }
        }
        // A batch of 4 in 80 ms is an answer every 20 ms. The last requests count more.
        let mean = state.mean.expect("requests have ended");
        assert!((0.015..0.025).contains(&mean), "{mean}");
    }

    proptest! {
        #[test]
        fn all_works_add_up_to_the_time_for_which_the_replica_is_busy(
            steps in prop::collection::vec((0..50_u64, any::<bool>(), any::<prop::sample::Index>()), 1..60),
        ) {
            let (mut at, mut busy, mut begun, mut open) = (0, 0, 0, Vec::new());
            let mut events = Vec::new();
            for (pause, begins, which) in steps {
                at += pause;
                busy += if open.is_empty() { 0 } else { pause };
                if begins || open.is_empty() {
                    open.push(begun);
                    begun += 1;
                    events.push((at, Begin));
                } else {
                    events.push((at, End(open.swap_remove(which.index(open.len())))));
                }
            }
            events.extend(open.into_iter().map(|request| (at, End(request))));
            prop_assert_eq!(works(&events).iter().sum::<u128>(), u128::from(busy));
        }
    }

    #[test]
    fn work_ends_with_its_last_clone() {
        let meter = WorkMeter::default();
        let (in_handler, in_pipeline) = {
            let work = meter.begin();
            (work.clone(), work)
        };
        let is_idle = || meter.with(|state, _now| state.requests.is_empty());
        drop(in_handler);
        assert!(!is_idle());
        drop(in_pipeline);
        assert!(is_idle());
        let work = meter.begin();
        work.end();
        assert!(is_idle());
    }
}
