//! How long replicas take for requests, measured from the dispatchers' histograms.

use crate::full_speed::FullSpeed;
use crate::histogram::Histogram;
use crate::observation::Observation;
use crate::window::Window;
use std::time::Duration;

/// Windows over which service times are averaged, in seconds, and the answers that are enough for a mean. The first
/// window with enough answers counts.
const WINDOWS: [(f64, f64); 4] = [(30.0, ENOUGH), (120.0, ENOUGH), (600.0, ENOUGH), (600.0, 5.0)];

/// The answers that are enough for a mean, as long as there is a longer window that may have more.
const ENOUGH: f64 = 20.0;

/// A window that is so short that it shows at once when replicas become slower or faster, in seconds.
const RECENT: f64 = 6.0;

/// Standard errors by which the mean of the recent window must differ to count instead of the longer one.
const DEVIATIONS: f64 = 4.0;

/// Seconds between two samples. More samples would only take memory.
const RESOLUTION: f64 = 0.9;

/// The service times that are assumed before one was measured.
const GUESS: ServiceTimes = ServiceTimes { work: 0.05, variation: 0.22, response: 0.05 };

/// The times that requests take at a replica.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServiceTimes {
    /// The mean time that a request costs a replica, in seconds. If a replica computes several requests at once, it is
    /// that of a replica with much to do.
    pub work: f64,
    /// The coefficient of variation of the service time: standard deviation ÷ mean.
    pub variation: f64,
    /// The time that a replica takes for a request that does not wait for other requests there, in seconds.
    pub response: f64,
}

/// Measures service times.
#[derive(Debug)]
pub struct ServiceMeter {
    samples: Window<Counts>,
    /// The time for which replicas were ready until `counted_until`, in replica-seconds.
    ready_seconds: f64,
    counted_until: Duration,
    /// The ready replicas at that time.
    ready: usize,
    latest: Option<ServiceTimes>,
    full_speed: FullSpeed,
}

/// Cumulative counts until an instant.
#[derive(Debug, Clone)]
struct Counts {
    service: Histogram,
    work: Histogram,
    ready_seconds: f64,
}

impl Default for ServiceMeter {
    fn default() -> Self {
        let samples = Window::new(Duration::from_secs_f64(WINDOWS[WINDOWS.len() - 1].0));
        Self {
            samples,
            ready_seconds: 0.0,
            counted_until: Duration::ZERO,
            ready: 0,
            latest: None,
            full_speed: FullSpeed::default(),
        }
    }
}

impl ServiceMeter {
    /// Learns from an observation. Returns the latest measurement, or a guess before the first one.
    pub fn learn(&mut self, seen: &Observation) -> ServiceTimes {
        let elapsed = (seen.at - self.counted_until).as_secs_f64();
        // Replicas that have just become unready may have worked until then.
        self.ready_seconds += seen.replicas.ready.max(self.ready) as f64 * elapsed;
        (self.counted_until, self.ready) = (seen.at, seen.replicas.ready);
        let now = Counts { service: seen.service.clone(), work: seen.work.clone(), ready_seconds: self.ready_seconds };
        let over = |seconds, enough| self.over(seen.at, seconds, &now).filter(|(count, _)| *count >= enough);
        let long = WINDOWS.iter().find_map(|&(seconds, enough)| over(seconds, enough)).map(|(_, times)| times);
        let chosen = match (long, over(RECENT, ENOUGH)) {
            (Some(long), Some((count, recent))) if differs(long, recent, count) => Some(recent),
            (long, _) => long,
        };
        self.latest = chosen.or(self.latest);
        let times = self.latest.unwrap_or(GUESS);
        self.full_speed.watch(seen);
        let span = FullSpeed::span(times.work);
        if let Some((_, then)) = seen.at.checked_sub(span).and_then(|then| self.samples.at(then)) {
            let ready_seconds = now.ready_seconds - then.ready_seconds;
            let answers = now.service.since(&then.service).count();
            if ready_seconds > 0.0 {
                self.full_speed.count(seen, span, answers, ready_seconds, elapsed);
            }
        }
        let is_due =
            self.samples.newest().is_none_or(|(then, _)| *then + Duration::from_secs_f64(RESOLUTION) <= seen.at);
        if is_due {
            self.samples.push(seen.at, now);
        }
        ServiceTimes { work: self.full_speed.work(seen, times.work), ..times }
    }

    /// The number of answers in the last `seconds`, or since the start if that was later, and their times.
    fn over(&self, at: Duration, seconds: f64, now: &Counts) -> Option<(f64, ServiceTimes)> {
        let then = at.checked_sub(Duration::from_secs_f64(seconds));
        let then = then.and_then(|then| self.samples.at(then)).map(|entry| &entry.1).or(self.samples.oldest())?;
        let (service, work) = (now.service.since(&then.service), now.work.since(&then.work));
        let (count, upstream) = (service.count(), service.mean()?);
        // Older replicas do not say how long they worked. If several dispatchers share one, each of them counts all its
        // work. So the mean is limited by the time for which the replicas were ready.
        let possible = (now.ready_seconds - then.ready_seconds) / count;
        let work = work.mean().unwrap_or(upstream).min(if possible > 0.0 { possible } else { f64::INFINITY });
        if work <= 0.0 {
            return None;
        }
        // A full replica computes half of the requests that it holds, while the other half waits there.
        Some((count, ServiceTimes { work, variation: service.variation()?, response: work.max(upstream / 2.0) }))
    }
}

/// Whether the mean of `count` recent requests differs from the longer mean by more than chance explains.
fn differs(long: ServiceTimes, recent: ServiceTimes, count: f64) -> bool {
    let deviation = long.variation.max(recent.variation).max(0.05) * long.work;
    (recent.work - long.work).abs() > DEVIATIONS * deviation / count.sqrt()
}
