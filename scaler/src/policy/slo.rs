//! `slo`: the fewest replicas that hold the objective; the objective is its only knob. Found by simulation
//! (`cargo xtask bench scaler`); each step says what it is for.
//!
//! 1. How many arrive, from the longest window that nothing shorter contradicts (see [`super::arrivals`]).
//! 2. Needed: so many that no more than the permitted share waits too long (see [`crate::queueing`]).
//! 3. After a sudden rise, for as long as it takes to start a replica: as many as are needed if it goes on.
//! 4. If more waits than will be worked off until a new replica serves: enough to work it off soon.
//! 5. Down only when clearly fewer are needed, and only after a time that grows when load comes back
//!    (see [`super::memory`]).
//! 6. A rise that turns out to have been chance makes it harder to alarm; a real one makes it easier again.

use super::arrivals::{Arrivals, Rate};
use super::cadence::Cadence;
use super::memory::Memory;
use super::window::Window;
use super::{Histogram, Observation, Reason, Want};
use crate::queueing::Service;
use serde::Serialize;
use std::time::Duration;

/// How far back service times are averaged, seconds: the slower of the two counts, since planning with a service time
/// that is too short leaves a queue behind, and one that is too long only a little money.
const SERVICE_WINDOWS: [f64; 2] = [4.0, 30.0];

/// Samples below which a service time is not believed, and the last one kept.
const ENOUGH_SAMPLES: f64 = 5.0;

/// Normal quantile of 99 %: an unlucky request's own service time leaves less of the objective for waiting.
const UNLUCKY: f64 = 2.33;

/// Start-up time before one was measured, seconds.
const STARTUP_GUESS: f64 = 3.0;

/// Standard deviations of a rise that count as sudden at first, what each false alarm adds, what each real one takes
/// off, and the most. One false alarm in a few hours.
const ALARM: f64 = 4.4;
const FALSE_ALARM: f64 = 0.7;
const REAL_ALARM: f64 = 0.5;
const ALARM_LIMIT: f64 = 5.0;

/// A rate over a window shorter than this may still be chance: it counts as an alarm. Seconds.
const CONFIRMED: f64 = 4.0;

/// How much of a trend, or of a jump, is believed to go on.
const PERSISTENCE: f64 = 0.7;

/// In how many seconds a backlog is to be gone.
const DRAIN_SECONDS: f64 = 2.0;

/// Fewer are needed clearly when they would do for a rate that is higher by this part and by two standard deviations.
const MARGIN: f64 = 0.15;
const DEVIATIONS: f64 = 2.0;

/// How long replicas are kept that were needed: at first, and at most.
const KEEP: Duration = Duration::from_secs(20);
const KEEP_LIMIT: Duration = Duration::from_secs(120);

/// The promise.
#[derive(Debug, Clone, Copy)]
pub struct Objective {
    /// Answered within.
    pub latency: Duration,
    /// This share of requests, 0 to 1.
    pub quantile: f64,
}

/// What the law had in mind at one decision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Workings {
    /// Requests that wait.
    pub queue_length: f64,
    /// Arrivals.
    pub arrivals_per_second: f64,
    /// Over how many seconds they were averaged.
    pub window_seconds: f64,
    /// Arrivals that are planned for until a new replica serves.
    pub planned_per_second: f64,
    /// Mean service time.
    pub service_seconds: f64,
    /// Its standard deviation ÷ mean.
    pub service_variation: f64,
    /// What the objective leaves for waiting.
    pub patience_seconds: f64,
    /// Until a replica that is asked for now would serve.
    pub lead_seconds: f64,
    /// Replicas for the arrivals as they are.
    pub needed: usize,
    /// For the arrivals as they are planned for.
    pub foreseen: usize,
    /// To work off what waits.
    pub draining: usize,
    /// That are not clearly too many.
    pub doubtful: usize,
    /// That were needed not long ago.
    pub kept: usize,
    /// Share of requests that will wait too long, with as many as are wanted.
    pub predicted_late: f64,
}

/// The law and what it remembers.
#[derive(Debug)]
pub struct Slo {
    objective: Objective,
    /// Between two decisions.
    interval: Duration,
    /// Never plans for more.
    most: usize,
    cadence: Cadence,
    arrivals: Arrivals,
    answers: Window<Answers>,
    /// Replicas × seconds in which they were ready, and until when that is counted.
    ready_seconds: f64,
    counted_until: Duration,
    measured: Option<Measured>,
    kept: Memory,
    /// What was foreseen, and what it took to drain, lately.
    foreseen: Window<usize>,
    /// What the last decision would have been by itself.
    wanted: usize,
    /// Standard deviations that count as sudden.
    sudden: f64,
    alarm: Option<Alarm>,
}

/// All answers until an instant.
#[derive(Debug, Clone)]
struct Answers {
    service: Histogram,
    work: Histogram,
    ready_seconds: f64,
}

/// What replicas were seen to do.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// What a request costs a replica.
    service: Service,
    /// How long a replica has a request that does not wait for others there, seconds.
    response: f64,
}

/// A rise that may have been chance.
#[derive(Debug, Clone, Copy)]
struct Alarm {
    at: Duration,
    /// Replicas until then.
    replicas: usize,
}

impl Slo {
    /// A law that remembers nothing yet and never wants more than `most`.
    pub fn new(objective: Objective, interval: Duration, most: usize) -> Self {
        let longest = Duration::from_secs_f64(SERVICE_WINDOWS[1]);
        Self {
            objective,
            interval,
            most,
            cadence: Cadence::new(interval),
            arrivals: Arrivals::default(),
            answers: Window::new(longest),
            ready_seconds: 0.0,
            counted_until: Duration::ZERO,
            measured: None,
            kept: Memory::new(KEEP, KEEP_LIMIT),
            foreseen: Window::new(longest),
            wanted: 0,
            sudden: ALARM,
            alarm: None,
        }
    }

    /// One observation; a decision once an interval has passed.
    pub fn decide(&mut self, seen: &Observation) -> Want {
        self.arrivals.count(seen.at, seen.arrivals);
        self.measure_service(seen);
        let is_idle = seen.queue_length == 0.0 && seen.in_flight == 0.0 && self.arrivals.is_silent();
        if seen.replicas.desired == 0 {
            // Somebody waits for the first replica, or nobody does.
            let reason = if is_idle { Reason::Idle } else { Reason::Waking { queue_length: seen.queue_length } };
            return Want { replicas: Some(usize::from(!is_idle)), reason };
        }
        if !self.cadence.is_due(seen.at) {
            return Want::waiting();
        }
        match (self.arrivals.rate(self.sudden), self.measured) {
            _ if is_idle => Want { replicas: Some(0), reason: Reason::Idle },
            (Some(rate), Some(measured)) => self.plan(seen, rate, measured),
            _ => Want { replicas: None, reason: Reason::NoData },
        }
    }

    fn plan(&mut self, seen: &Observation, rate: Rate, Measured { service, response }: Measured) -> Want {
        let latency = self.objective.latency.as_secs_f64();
        if response >= latency {
            // More replicas shorten the wait but not the work: enough to keep up is all that helps.
            let replicas = ((rate.per_second * service.mean).ceil() as usize + 1).min(self.most);
            return Want { replicas: Some(replicas), reason: Reason::Unattainable { service_seconds: response } };
        }
        // However long the unlucky take, the others may wait a little.
        let patience = (latency - response * (1.0 + UNLUCKY * service.variation)).max(0.1 * latency);
        let late = 1.0 - self.objective.quantile;
        let most = self.most;
        let need = |per_second: f64| service.servers_for(per_second, patience, late, most);
        let lead = seen.startup.map_or(STARTUP_GUESS, |startup| startup.as_secs_f64()) + self.interval.as_secs_f64();
        let is_confirmed = rate.window >= CONFIRMED;

        let needed = need(rate.per_second);
        if is_confirmed {
            self.kept.want(seen.at, needed);
        }
        let growth = match rate.jump {
            0.0 => 0.0,
            jump if is_confirmed => (rate.slope * lead).max(0.0).min(jump),
            jump => (rate.slope * lead).max(jump),
        };
        let planned = rate.per_second + PERSISTENCE * growth;
        let foreseen = need(planned);
        let draining = self.draining(seen, rate, planned, service, patience, lead);
        self.note_alarm(seen, needed, needed.max(foreseen).max(draining), is_confirmed, lead);
        self.foreseen.push(seen.at, foreseen.max(draining));
        let until_it_serves = Duration::from_secs_f64(lead);
        let soon = self.foreseen.within(seen.at, until_it_serves).copied().max().unwrap_or(foreseen);

        let surely = rate.per_second * (1.0 + MARGIN) + DEVIATIONS * (rate.per_second / rate.window).sqrt();
        let doubtful = need(surely).min(seen.replicas.desired);
        let kept = self.kept.replicas(seen.at);
        let wanted = needed.max(soon).max(doubtful).max(kept).min(self.most);
        // What is foreseen falls bit by bit: one step down instead of several.
        let replicas = wanted.max(std::mem::replace(&mut self.wanted, wanted));
        let workings = Workings {
            queue_length: seen.queue_length,
            arrivals_per_second: rate.per_second,
            window_seconds: rate.window,
            planned_per_second: planned,
            service_seconds: service.mean,
            service_variation: service.variation,
            patience_seconds: patience,
            lead_seconds: lead,
            needed,
            foreseen,
            draining,
            doubtful,
            kept,
            predicted_late: service.waits_longer(replicas, planned, patience),
        };
        let reason = if needed >= replicas {
            Reason::Objective
        } else if draining >= replicas {
            Reason::Backlog
        } else if soon >= replicas {
            Reason::Rising
        } else {
            Reason::Kept
        };
        Want { replicas: Some(replicas), reason: reason(workings) }
    }

    /// For what waits beyond what ready and starting replicas work off until another one would serve; 0 if they will do.
    fn draining(
        &self,
        seen: &Observation,
        rate: Rate,
        planned: f64,
        service: Service,
        patience: f64,
        lead: f64,
    ) -> usize {
        let ready = seen.replicas.ready as f64;
        // What is starting serves on average half of the time until then.
        let serving = ready + 0.5 * seen.replicas.starting as f64;
        let left = seen.queue_length + rate.per_second * lead - serving * lead / service.mean;
        let has_piled_up = seen.queue_length > ready * patience / (2.0 * service.mean);
        if left <= 0.0 || !has_piled_up {
            return 0;
        }
        (((planned + left / DRAIN_SECONDS) * service.mean).ceil() as usize).min(self.most)
    }

    /// Remembers that more than there are were wanted on slight evidence, and learns from how that turned out.
    fn note_alarm(&mut self, seen: &Observation, needed: usize, wanted: usize, is_confirmed: bool, lead: f64) {
        let current = seen.replicas.desired;
        match self.alarm {
            Some(alarm) if is_confirmed && needed > alarm.replicas => {
                self.sudden = (self.sudden - REAL_ALARM).max(ALARM);
                self.alarm = None;
            }
            Some(alarm) if seen.at > alarm.at + Duration::from_secs_f64(lead + CONFIRMED) => {
                self.sudden = (self.sudden + FALSE_ALARM).min(ALARM_LIMIT);
                self.alarm = None;
            }
            None if wanted > current && !is_confirmed => self.alarm = Some(Alarm { at: seen.at, replicas: current }),
            _ => {}
        }
    }

    fn measure_service(&mut self, seen: &Observation) {
        self.ready_seconds += seen.replicas.ready as f64 * (seen.at - self.counted_until).as_secs_f64();
        self.counted_until = seen.at;
        let (service, work, ready_seconds) = (seen.service.clone(), seen.work.clone(), self.ready_seconds);
        self.answers.push(seen.at, Answers { service, work, ready_seconds });
        let over = |seconds: f64| {
            let then = seen.at.checked_sub(Duration::from_secs_f64(seconds - 0.1));
            let then = then.and_then(|then| self.answers.at(then)).map(|entry| &entry.1).or(self.answers.oldest())?;
            let (service, work) = (seen.service.since(&then.service), seen.work.since(&then.work));
            if service.count() < ENOUGH_SAMPLES {
                return None;
            }
            let upstream = service.mean()?;
            // Several dispatchers each see all the work of a replica that they share: it is not more than there can be.
            let possible = (self.ready_seconds - then.ready_seconds) / service.count();
            let mean = work.mean().unwrap_or(upstream).min(if possible > 0.0 { possible } else { f64::INFINITY });
            // A replica that is full has as many in the works as it has waiting for those.
            let response = mean.max(upstream / 2.0);
            Some(Measured { service: Service { mean, variation: service.variation()? }, response })
        };
        let windows = SERVICE_WINDOWS.into_iter().filter_map(over);
        let slowest = windows.max_by(|a, b| a.service.mean.total_cmp(&b.service.mean));
        self.measured = slowest.or(self.measured);
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
                in_flight: queue_length.min(1.0),
                arrivals: total,
                service: Histogram { buckets, sum: 0.1 * total },
                replicas,
                startup: Some(Duration::from_secs(1)),
                ..Observation::default()
            }));
        }
        want.expect("at least one tick")
    }

    const ONE: Replicas = Replicas { desired: 1, ready: 1, starting: 0, blocked: 0 };

    #[test]
    fn steady_load_gets_the_queueing_answer() {
        // b = 0.5 − 0.1 = 0.4; at 5/s one server leaves 0.5·e⁻⁴ = 0.9 % late, at 6/s 0.6·e^−3.2 = 2.4 %.
        for (rate, replicas) in [(5.0, 1), (6.0, 2), (13.0, 2), (40.0, 5)] {
            // As many as it takes to answer them all.
            let ready = Replicas { ready: 4, ..ONE };
            let want = run(&[rate; 40], 0.0, ready);
            assert_eq!(want.replicas, Some(replicas), "{rate}/s: {want:?}");
            assert!(matches!(want.reason, Reason::Objective(_)), "{want:?}");
        }
    }

    /// One replica that holds two at once answers 10/s.
    fn measured(service_seconds: f64, work_seconds: f64, ready: usize) -> Measured {
        let objective = Objective { latency: Duration::from_millis(500), quantile: 0.99 };
        let mut law = Slo::new(objective, Duration::from_secs(1), 50);
        for second in 0..=20_u32 {
            let total = 10.0 * f64::from(second);
            let times =
                |mean: f64| Histogram { buckets: vec![(mean, total), (f64::INFINITY, total)], sum: mean * total };
            law.measure_service(&Observation {
                at: Duration::from_secs(second.into()),
                service: times(service_seconds),
                work: times(work_seconds),
                replicas: Replicas { ready, ..ONE },
                ..Observation::default()
            });
        }
        law.measured.expect("enough was answered")
    }

    #[test]
    fn what_a_replica_holds_in_store_is_not_its_work() {
        for (service, work, ready, mean, response) in [
            (0.08, 0.08, 1, 0.08, 0.08),
            // Full: one in the works, one in store.
            (0.2, 0.1, 1, 0.1, 0.1),
            // Half of what it holds is a pass of many.
            (0.3, 0.02, 1, 0.02, 0.15),
            // Two dispatchers each see it at work all the time.
            (0.2, 0.2, 1, 0.1, 0.1),
            (0.2, 0.2, 2, 0.2, 0.2),
        ] {
            let Measured { service: found, response: found_response } = measured(service, work, ready);
            assert!((found.mean - mean).abs() < 1e-9 && (found_response - response).abs() < 1e-9, "{found:?}");
        }
    }

    #[test]
    fn a_rise_is_seen_in_its_first_second_and_extrapolated() {
        let mut arrivals = [5.0; 40];
        arrivals[39] = 20.0;
        let want = run(&arrivals, 0.0, ONE);
        let Reason::Rising(workings) = want.reason else { panic!("{want:?}") };
        // 20 now, 15 more than before: 0.7 of that may come on top.
        assert_eq!((workings.arrivals_per_second, workings.planned_per_second), (20.0, 30.5));
        assert_eq!(want.replicas, Some(workings.foreseen));
    }

    #[test]
    fn chance_is_no_rise() {
        let mut arrivals = [4.0; 40];
        arrivals[39] = 10.0;
        assert_eq!(run(&arrivals, 0.0, ONE).replicas, Some(1));
        let arrivals: Vec<f64> = (0..40).map(|second| [4.0, 6.0, 5.0, 7.0, 3.0][second % 5]).collect();
        let workings = run(&arrivals, 0.0, ONE).reason.workings().expect("a plan");
        assert!((workings.arrivals_per_second - 5.0).abs() < 0.3, "{workings:?}");
    }

    #[test]
    fn a_backlog_is_worked_off_unless_what_is_starting_will_do() {
        // left = 60 + 5·2 − 1·2/0.1 = 50; (5 + 25)·0.1 = 3.
        let want = run(&[5.0; 40], 60.0, ONE);
        assert_eq!(want.replicas, Some(3));
        assert!(matches!(want.reason, Reason::Backlog(Workings { draining: 3, .. })), "{want:?}");
        let enough = Replicas { desired: 7, ready: 1, starting: 6, blocked: 0 };
        let Reason::Objective(workings) = run(&[3.0; 40], 60.0, enough).reason else { panic!() };
        assert_eq!(workings.draining, 0);
    }

    #[test]
    fn clearly_fewer_are_needed_before_one_goes() {
        // One holds up to 5.1/s. 4.9/s could be 5.1 by chance; 3/s could not.
        let two = Replicas { desired: 2, ready: 2, starting: 0, blocked: 0 };
        assert_eq!(run(&[4.9; 200], 0.0, two).replicas, Some(2));
        assert_eq!(run(&[3.0; 200], 0.0, two).replicas, Some(1));
    }

    #[test]
    fn what_was_needed_is_kept_for_a_while() {
        let mut arrivals = vec![20.0; 60];
        arrivals.extend([2.0; 15]);
        let five = Replicas { desired: 5, ready: 5, starting: 0, blocked: 0 };
        let needed = run(&[20.0; 60], 0.0, five).replicas;
        assert_eq!(run(&arrivals, 0.0, five).replicas, needed);
        arrivals.extend([2.0; 20]);
        assert_eq!(run(&arrivals, 0.0, five).replicas, Some(1));
    }

    #[test]
    fn nothing_measured_means_no_opinion_and_silence_none() {
        let three = Replicas { desired: 3, ready: 3, starting: 0, blocked: 0 };
        assert_eq!(run(&[0.0], 0.0, three), Want { replicas: None, reason: Reason::Waiting });
        assert_eq!(run(&[0.0; 40], 3.0, three), Want { replicas: None, reason: Reason::NoData });
        assert_eq!(run(&[0.0; 130], 0.0, three), Want { replicas: Some(0), reason: Reason::Idle });
    }

    #[test]
    fn the_first_request_wakes_a_replica() {
        let none = Replicas::default();
        assert_eq!(run(&[0.0; 130], 0.0, none).replicas, Some(0));
        assert_eq!(
            run(&[0.0, 1.0], 1.0, none),
            Want { replicas: Some(1), reason: Reason::Waking { queue_length: 1.0 } }
        );
    }
}
