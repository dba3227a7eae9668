//! `slo`: the fewest replicas that hold the objective. Found by simulation; each step says what it is for.
//!
//! 1. How many arrive: the average over the longest window that nothing shorter contradicts, so that the law
//!    remembers long while nothing changes and forgets at once when something does.
//! 2. When arrivals break upwards, they are extrapolated to the time at which a replica started now would serve.
//! 3. Enough replicas that no more than the permitted share waits too long (see [`crate::queueing`]).
//! 4. If more waits than the ready and the starting ones can work off until then: enough to work it off in 2 s.

use super::{Observation, Reason, Want};
use crate::queueing::Service;
use std::collections::VecDeque;
use std::time::Duration;

/// Lengths of the windows over which arrivals are averaged, seconds.
const WINDOWS: [f64; 6] = [1.0, 2.0, 4.0, 8.0, 16.0, 30.0];

/// How far back service times are averaged, seconds: the slower of the two counts, since planning with a service time
/// that is too short leaves a queue behind, and one that is too long only a little money.
const SERVICE_WINDOWS: [f64; 2] = [4.0, 30.0];

/// Samples below which a service time is not believed, and the last one kept.
const ENOUGH_SAMPLES: f64 = 5.0;

/// How much of the trend is believed.
const TREND: f64 = 0.7;

/// In how many seconds a backlog is to be gone.
const DRAIN_SECONDS: f64 = 2.0;

/// Normal quantile of 99 %: an unlucky request's own service time leaves less of the objective for waiting.
const UNLUCKY: f64 = 2.33;

/// Start-up time before one was measured, seconds.
const STARTUP_GUESS: f64 = 2.0;

/// The promise.
#[derive(Debug, Clone, Copy)]
pub struct Objective {
    /// Answered within.
    pub latency: Duration,
    /// This share of requests, 0 to 1.
    pub quantile: f64,
}

/// The law and what it remembers.
#[derive(Debug)]
pub struct Slo {
    objective: Objective,
    /// Between two decisions.
    interval: Duration,
    /// Never plans for more.
    most: usize,
    /// Newest last; reaches back over the longest window.
    history: VecDeque<Observation>,
    service: Option<Service>,
}

/// Arrivals as the law sees them.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Arrivals {
    per_second: f64,
    /// A short window is above what the next longer one lets expect.
    rising: bool,
}

impl Slo {
    /// A law that remembers nothing yet and never wants more than `most`.
    pub fn new(objective: Objective, interval: Duration, most: usize) -> Self {
        Self { objective, interval, most, history: VecDeque::new(), service: None }
    }

    /// One tick.
    pub fn decide(&mut self, seen: &Observation) -> Want {
        self.remember(seen);
        let (arrivals, service) = match (self.arrivals(), self.service) {
            (Some(arrivals), Some(service)) => (arrivals, service),
            // What a request would take need not be known for that.
            (Some(Arrivals { per_second: 0.0, .. }), None) if seen.queue_length == 0.0 => {
                return Want { replicas: Some(0), reason: Reason::Idle };
            }
            _ => return Want { replicas: None, reason: Reason::NoData },
        };

        let lead = seen.startup.map_or(STARTUP_GUESS, |startup| startup.as_secs_f64()) + self.interval.as_secs_f64();
        let trend = if arrivals.rising { TREND * self.slope().max(0.0) * lead } else { 0.0 };
        let planned = arrivals.per_second + trend;

        let latency = self.objective.latency.as_secs_f64();
        if service.mean >= latency {
            // More replicas shorten the wait but not the work: enough to keep up is all that helps.
            let replicas = ((planned * service.mean).ceil() as usize + 1).min(self.most);
            return Want { replicas: Some(replicas), reason: Reason::Unattainable { service_seconds: service.mean } };
        }
        // However long the unlucky take, the others may wait a little.
        let patience = (latency - service.mean * (1.0 + UNLUCKY * service.variation)).max(0.1 * latency);

        let late = 1.0 - self.objective.quantile;
        let needed = service.servers_for(planned, patience, late, self.most);

        let ready = seen.replicas.ready as f64;
        // What is starting serves on average half of the time until then.
        let serving = ready + 0.5 * seen.replicas.starting as f64;
        let left = seen.queue_length + arrivals.per_second * lead - serving * lead / service.mean;
        let piled_up = seen.queue_length > ready * patience / (2.0 * service.mean);
        if left > 0.0 && piled_up {
            let draining = ((planned + left / DRAIN_SECONDS) * service.mean).ceil() as usize;
            if draining > needed {
                let (queue_length, arrivals_per_second) = (seen.queue_length, planned);
                let reason = Reason::Backlog { queue_length, arrivals_per_second };
                return Want { replicas: Some(draining.min(self.most)), reason };
            }
        }
        let reason = Reason::Objective {
            arrivals_per_second: planned,
            service_seconds: service.mean,
            predicted_late: service.waits_longer(needed, planned, patience),
        };
        Want { replicas: Some(needed), reason }
    }

    fn remember(&mut self, seen: &Observation) {
        self.history.push_back(seen.clone());
        let oldest = seen.at.saturating_sub(Duration::from_secs_f64(WINDOWS[WINDOWS.len() - 1] + 1.0));
        while self.history.len() > 2 && self.history[1].at <= oldest {
            self.history.pop_front();
        }
        let slowest = SERVICE_WINDOWS
            .iter()
            .filter_map(|&window| {
                let then = self.back(window).or(self.history.front())?;
                let recent = seen.service.since(&then.service);
                let enough = recent.count() >= ENOUGH_SAMPLES;
                enough.then_some(Service { mean: recent.mean()?, variation: recent.variation()? })
            })
            .max_by(|a, b| a.mean.total_cmp(&b.mean));
        self.service = slowest.or(self.service);
    }

    /// The latest observation that is at least `seconds` old.
    fn back(&self, seconds: f64) -> Option<&Observation> {
        let now = self.history.back()?.at;
        // A tick comes a little early or late; a tenth of a second is no difference.
        let then = now.checked_sub(Duration::from_secs_f64(seconds - 0.1))?;
        self.history.iter().rev().find(|seen| seen.at <= then)
    }

    /// Arrivals per second between `seconds` ago and now.
    fn rate(&self, seconds: f64) -> Option<f64> {
        let (now, then) = (self.history.back()?, self.back(seconds)?);
        Some((now.arrivals - then.arrivals) / (now.at - then.at).as_secs_f64())
    }

    /// The longest window that every shorter one agrees with.
    fn arrivals(&self) -> Option<Arrivals> {
        let rates: Vec<(f64, f64)> = WINDOWS.iter().filter_map(|&window| Some((window, self.rate(window)?))).collect();
        let mut chosen = Arrivals { per_second: rates.first()?.1, rising: false };
        for (index, &(_, rate)) in rates.iter().enumerate().skip(1) {
            for &(shorter, its_rate) in &rates[..index] {
                let count = its_rate * shorter;
                let expected = rate * shorter;
                // Poisson counts stray by their square root. Missing a rise is dearer than missing a fall.
                if count > expected + 1.5 * expected.sqrt() + 1.0 {
                    return Some(Arrivals { rising: true, ..chosen });
                }
                if count < expected - 3.0 * expected.sqrt() - 1.0 {
                    return Some(chosen);
                }
            }
            chosen.per_second = rate;
        }
        Some(chosen)
    }

    /// Change of the arrival rate over the last 8 s, per second per second.
    fn slope(&self) -> f64 {
        let (Some(half), Some(whole)) = (self.rate(4.0), self.rate(8.0)) else { return 0.0 };
        // The two halves' middles lie 4 s apart, and the earlier half's rate is 2·whole − half.
        (half - (2.0 * whole - half)) / 4.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Histogram, Replicas};

    /// Ticks once a second with the given arrivals; everything takes 0.1 s exactly.
    fn run(arrivals: &[f64], queue_length: f64, replicas: Replicas) -> Want {
        let objective = Objective { latency: Duration::from_millis(500), quantile: 0.99 };
        let mut law = Slo::new(objective, Duration::from_secs(1), 50);
        let mut total = 0.0;
        let mut want = None;
        for (second, count) in arrivals.iter().enumerate() {
            total += count;
            let buckets = vec![(0.0999, 0.0), (0.1001, total), (f64::INFINITY, total)];
            want = Some(law.decide(&Observation {
                at: Duration::from_secs(second as u64),
                queue_length,
                arrivals: total,
                service: Histogram { buckets, sum: 0.1 * total },
                latency: Histogram::default(),
                replicas,
                startup: Some(Duration::from_secs(1)),
            }));
        }
        want.expect("at least one tick")
    }

    const ONE: Replicas = Replicas { desired: 1, ready: 1, starting: 0, blocked: 0 };

    #[test]
    fn steady_load_gets_the_queueing_answer() {
        // b = 0.5 − 0.1 = 0.4; at 5/s one server leaves 0.5·e⁻⁴ = 0.9 % late, at 6/s 0.6·e^−3.2 = 2.4 %.
        for (rate, replicas) in [(5.0, 1), (6.0, 2), (13.0, 2), (40.0, 5)] {
            let mut arrivals = [rate; 40];
            arrivals[0] = 10.0;
            assert_eq!(run(&arrivals, 0.0, ONE).replicas, Some(replicas), "{rate}/s");
        }
    }

    #[test]
    fn a_rise_is_seen_in_its_first_second_and_extrapolated() {
        let mut arrivals = [5.0; 40];
        arrivals[39] = 20.0;
        let want = run(&arrivals, 0.0, ONE);
        let Reason::Objective { arrivals_per_second, .. } = want.reason else { panic!("{want:?}") };
        assert!(arrivals_per_second > 20.0, "{arrivals_per_second}");
        assert!(want.replicas >= Some(3));
    }

    #[test]
    fn noise_does_not_shorten_the_memory() {
        let arrivals: Vec<f64> = (0..40).map(|second| [4.0, 6.0, 5.0, 7.0, 3.0][second % 5]).collect();
        let Reason::Objective { arrivals_per_second, .. } = run(&arrivals, 0.0, ONE).reason else { panic!() };
        assert!((arrivals_per_second - 5.0).abs() < 0.3, "{arrivals_per_second}");
    }

    #[test]
    fn a_backlog_is_worked_off_unless_what_is_starting_will_do() {
        // left = 60 + 5·2 − 1·2/0.1 = 50; (5 + 25)·0.1 = 3.
        let want = run(&[5.0; 40], 60.0, ONE);
        assert_eq!(want.replicas, Some(3));
        assert_eq!(want.reason, Reason::Backlog { queue_length: 60.0, arrivals_per_second: 5.0 });
        let enough = Replicas { desired: 5, ready: 1, starting: 6, blocked: 0 };
        assert_eq!(run(&[5.0; 40], 60.0, enough).replicas, Some(1));
    }

    #[test]
    fn nothing_measured_means_no_opinion() {
        let three = Replicas { desired: 3, ready: 3, starting: 0, blocked: 0 };
        assert_eq!(run(&[0.0], 0.0, three), Want { replicas: None, reason: Reason::NoData });
        assert_eq!(run(&[0.0; 40], 3.0, three), Want { replicas: None, reason: Reason::NoData });
        assert_eq!(run(&[0.0; 40], 0.0, three), Want { replicas: Some(0), reason: Reason::Idle });
    }
}
