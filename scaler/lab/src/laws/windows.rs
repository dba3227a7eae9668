//! The law `windows`: the fewest replicas that hold the latency objective, for a rate that is measured over windows. It
//! was the law `slo` before the present one, and is here for comparisons.
//!
//! Each decision has these steps:
//!
//! 1. [`arrivals`] measures how many requests arrive per second. It takes the mean over the longest window, of 0.5 to
//!    120 s, that no shorter window contradicts.
//! 2. [`queueing`] computes how many replicas that rate takes. These are *needed*.
//! 3. A sudden rise may go on while a new replica starts. The replicas for the extrapolated rate are *foreseen*.
//! 4. Requests may wait that the replicas cannot work off before a new one would serve. Then the replicas that work
//!    them off within two more seconds are *draining*.
//! 5. Present replicas that would be needed at a rate that is 15 % and two standard deviations higher are *doubtful*
//!    and stay. Replicas that were needed lately are *kept* by [`retention`].
//! 6. The law recommends the highest of these numbers. A rise that turns out to be chance raises the number of standard
//!    deviations from which a rise counts as sudden. A rise that turns out to be real lowers that number again.

pub mod arrivals;
pub mod queueing;
pub mod retention;

use arrivals::{ArrivalRate, Arrivals};
use law::cadence::Cadence;
use law::histogram::Histogram;
use law::observation::Observation;
use law::table::{Law, LawKind, Objective, Recommendation, Settings};
use law::window::Window;
use queueing::Service;
use retention::Retention;
use std::time::Duration;

/// The entry of `windows` in a table of laws.
pub const KIND: LawKind = LawKind {
    name: "windows",
    parameter: "",
    wakes: true,
    scales_dispatchers: false,
    make: |settings, parameter| parameter.is_none().then(|| Box::new(Windows::new(settings)) as Box<dyn Law>),
};

/// Windows over which service times are averaged, in seconds. The longer of the two means counts: a service time that
/// is too short leaves a queue behind, and one that is too long only costs a little money.
const SERVICE_WINDOWS: [f64; 2] = [4.0, 30.0];

/// With fewer answers than this in a window, the last measured service time stays in use.
const MIN_ANSWERS: f64 = 5.0;

/// The normal quantile of 99 %. The time left for waiting allows for a service that takes this many standard deviations
/// longer than the mean.
const SLOW_SERVICE: f64 = 2.33;

/// The smallest share of the objective that is left for waiting. Without it, a service time that varies much would make
/// every request late before it waits.
const LEAST_WAIT: f64 = 0.1;

/// The start-up time that is assumed before one was measured, in seconds.
const STARTUP_GUESS: f64 = 3.0;

/// The threshold for a sudden rise at first, in standard deviations. With this and the next three values there is one
/// false alarm in a few hours.
const ALARM: f64 = 4.4;

/// Standard deviations that each false alarm adds to the threshold for a sudden rise.
const FALSE_ALARM: f64 = 0.7;

/// Standard deviations that each real alarm takes off the threshold for a sudden rise.
const REAL_ALARM: f64 = 0.5;

/// The highest threshold for a sudden rise, in standard deviations.
const ALARM_LIMIT: f64 = 5.0;

/// Seconds. A rate that was measured over a shorter window may be due to chance, so a recommendation that rests on it
/// is an alarm.
const CONFIRMED: f64 = 4.0;

/// The share of a trend, or of a jump, that is expected to go on.
const PERSISTENCE: f64 = 0.7;

/// The time in which a backlog is worked off after a new replica has started, in seconds.
const DRAIN_SECONDS: f64 = 2.0;

/// Fewer replicas suffice beyond doubt if they suffice at a rate that is higher by this share and by [`DEVIATIONS`].
const MARGIN: f64 = 0.15;

/// Standard deviations by which the rate is raised, with [`MARGIN`], before the law scales down.
const DEVIATIONS: f64 = 2.0;

/// How long replicas are kept after they were needed, at first.
const KEEP: Duration = Duration::from_secs(20);

/// The longest time for which replicas are kept after they were needed.
const KEEP_LIMIT: Duration = Duration::from_secs(120);

/// The figures behind one decision.
#[derive(Debug, Clone, Copy, Default)]
struct Plan {
    /// Requests that wait in the queues of all dispatchers.
    queue_length: f64,
    /// Requests that arrive per second.
    arrivals_per_second: f64,
    /// Seconds over which the rate of arrivals was averaged.
    window_seconds: f64,
    /// Requests per second that may arrive before a new replica serves.
    planned_per_second: f64,
    /// The mean time that a request costs a replica, in seconds.
    service_seconds: f64,
    /// The coefficient of variation of the service time: standard deviation ÷ mean.
    service_variation: f64,
    /// The longest wait with which a request still meets the objective, in seconds.
    wait_limit_seconds: f64,
    /// The time until a replica that is added now would serve, in seconds.
    lead_seconds: f64,
    /// Replicas for the present rate of arrivals.
    needed: usize,
    /// Replicas for the rate of arrivals that is planned for.
    foreseen: usize,
    /// Replicas that work off the backlog within two seconds after a new replica has started; 0 without a backlog.
    draining: usize,
    /// Present replicas that stay because the true rate may be higher than the measured one.
    doubtful: usize,
    /// Replicas that are kept because they were needed lately.
    kept: usize,
    /// The predicted share of requests that wait too long with the recommended replicas, 0 to 1.
    predicted_late: f64,
}

/// The law `windows` with its state between decisions.
#[derive(Debug)]
pub struct Windows {
    settings: Settings,
    cadence: Cadence,
    arrivals: Arrivals,
    answers: Window<AnswerCounts>,
    /// The time for which replicas were ready until `counted_until`, in replica-seconds.
    ready_seconds: f64,
    counted_until: Duration,
    measured: Option<Measured>,
    kept: Retention,
    /// The higher of the foreseen and the draining replicas at each of the last decisions.
    foreseen: Window<usize>,
    /// The highest of all numbers of replicas at the last decision.
    last: usize,
    /// The present threshold for a sudden rise, in standard deviations.
    sudden: f64,
    /// A rise that may have been chance: the time at which it began, and the replicas until then.
    alarm: Option<(Duration, usize)>,
}

/// Cumulative counts of answers until an instant.
#[derive(Debug, Clone)]
struct AnswerCounts {
    service: Histogram,
    work: Histogram,
    ready_seconds: f64,
}

/// The measured times that requests take at a replica.
#[derive(Debug, Clone, Copy)]
struct Measured {
    service: Service,
    /// The time that a replica takes for a request that does not wait for other requests there, in seconds.
    response: f64,
}

impl Law for Windows {
    fn decide(&mut self, seen: &Observation) -> Recommendation {
        self.arrivals.count(seen.at, seen.arrivals);
        self.measure_service(seen);
        let is_idle = seen.queue_length == 0.0 && seen.in_flight == 0.0 && self.arrivals.is_silent();
        let idle = || Recommendation::new(Some(0), "idle", "no requests arrive or wait");
        if seen.replicas.desired == 0 {
            let text = format!("there is no replica, and {:.0} requests wait", seen.queue_length);
            return if is_idle { idle() } else { Recommendation::new(Some(1), "waking", text) };
        }
        if !self.cadence.is_due(seen.at) {
            return Recommendation::waiting();
        }
        match (self.arrivals.rate(self.sudden), self.measured) {
            _ if is_idle => idle(),
            (Some(rate), Some(measured)) => self.plan(seen, rate, measured),
            _ => Recommendation::no_data(),
        }
    }
}

impl Windows {
    /// A law that has observed nothing yet.
    pub fn new(settings: &Settings) -> Self {
        let longest = Duration::from_secs_f64(SERVICE_WINDOWS[1]);
        Self {
            settings: *settings,
            cadence: Cadence::new(settings.interval),
            arrivals: Arrivals::default(),
            answers: Window::new(longest),
            ready_seconds: 0.0,
            counted_until: Duration::ZERO,
            measured: None,
            kept: Retention::new(KEEP, KEEP_LIMIT),
            foreseen: Window::new(longest),
            last: 0,
            sudden: ALARM,
            alarm: None,
        }
    }

    fn plan(&mut self, seen: &Observation, rate: ArrivalRate, measured: Measured) -> Recommendation {
        let Measured { service, response } = measured;
        let Settings { objective: Objective { latency, .. }, max, .. } = self.settings;
        if response >= latency.as_secs_f64() {
            // More replicas shorten the wait but not the service time. So enough replicas to keep up must do.
            let replicas = ((rate.per_second * service.mean).ceil() as usize + 1).min(max);
            let text = format!(
                "one request alone takes {:.0} ms, but the objective is {latency:?}; raise --objective, or use faster \
                 replicas",
                response * 1e3
            );
            return Recommendation::new(Some(replicas), "unattainable", text);
        }
        let mut plan = self.figures(seen, rate, measured);
        plan.needed = self.replicas_for(&plan, rate.per_second);
        if is_confirmed(&plan) {
            self.kept.note(seen.at, plan.needed);
        }
        plan.foreseen = self.replicas_for(&plan, plan.planned_per_second);
        plan.draining = self.draining(seen, &plan);
        self.note_alarm(seen, &plan);
        self.foreseen.push(seen.at, plan.foreseen.max(plan.draining));
        let lead = Duration::from_secs_f64(plan.lead_seconds);
        let soon = self.foreseen.within(seen.at, lead).copied().max().unwrap_or(plan.foreseen);
        let highest_rate = rate.per_second * (1.0 + MARGIN) + DEVIATIONS * (rate.per_second / rate.window).sqrt();
        plan.doubtful = self.replicas_for(&plan, highest_rate).min(seen.replicas.desired);
        plan.kept = self.kept.replicas(seen.at);
        let highest = plan.needed.max(soon).max(plan.doubtful).max(plan.kept).min(max);
        // Foreseen replicas fall one by one. The maximum of two decisions makes one step down of many.
        let replicas = highest.max(std::mem::replace(&mut self.last, highest));
        plan.predicted_late = service.waits_longer(replicas, plan.planned_per_second, plan.wait_limit_seconds);
        let (reason, text) = plan.reason(replicas, soon);
        Recommendation::new(Some(replicas), reason, text)
    }

    /// A plan with the figures from which the numbers of replicas follow. Those numbers are still 0.
    fn figures(&self, seen: &Observation, rate: ArrivalRate, Measured { service, response }: Measured) -> Plan {
        let latency = self.settings.objective.latency.as_secs_f64();
        let startup = seen.startup.map_or(STARTUP_GUESS, |startup| startup.as_secs_f64());
        let lead = startup + self.settings.interval.as_secs_f64();
        let growth = match rate.jump {
            0.0 => 0.0,
            jump if rate.window >= CONFIRMED => (rate.slope * lead).max(0.0).min(jump),
            jump => (rate.slope * lead).max(jump),
        };
        let wait = latency - response * (1.0 + SLOW_SERVICE * service.variation);
        Plan {
            queue_length: seen.queue_length,
            arrivals_per_second: rate.per_second,
            window_seconds: rate.window,
            planned_per_second: rate.per_second + PERSISTENCE * growth,
            service_seconds: service.mean,
            service_variation: service.variation,
            wait_limit_seconds: wait.max(LEAST_WAIT * latency),
            lead_seconds: lead,
            ..Plan::default()
        }
    }

    /// The fewest replicas that hold the objective at `per_second` requests per second.
    fn replicas_for(&self, plan: &Plan, per_second: f64) -> usize {
        let service = Service { mean: plan.service_seconds, variation: plan.service_variation };
        let Settings { objective: Objective { quantile, .. }, max, .. } = self.settings;
        service.servers_for(per_second, plan.wait_limit_seconds, 1.0 - quantile, max)
    }

    /// Replicas that work off the backlog which the ready and the starting replicas would leave until a new replica
    /// serves; 0 if they leave none.
    fn draining(&self, seen: &Observation, plan: &Plan) -> usize {
        let (lead, mean, ready) = (plan.lead_seconds, plan.service_seconds, seen.replicas.ready as f64);
        // A starting replica serves on average during half of the lead time.
        let serving = ready + 0.5 * seen.replicas.starting as f64;
        let left = seen.queue_length + plan.arrivals_per_second * lead - serving * lead / mean;
        let has_piled_up = seen.queue_length > ready * plan.wait_limit_seconds / (2.0 * mean);
        if left <= 0.0 || !has_piled_up {
            return 0;
        }
        (((plan.planned_per_second + left / DRAIN_SECONDS) * mean).ceil() as usize).min(self.settings.max)
    }

    /// Remembers an alarm: a recommendation of more replicas that rests on a short window. Adapts the threshold for a
    /// sudden rise once the alarm has turned out to be real or false.
    fn note_alarm(&mut self, seen: &Observation, plan: &Plan) {
        let recommended = plan.needed.max(plan.foreseen).max(plan.draining);
        let current = seen.replicas.desired;
        match self.alarm {
            Some((_, replicas)) if is_confirmed(plan) && plan.needed > replicas => {
                self.sudden = (self.sudden - REAL_ALARM).max(ALARM);
                self.alarm = None;
            }
            Some((then, _)) if seen.at > then + Duration::from_secs_f64(plan.lead_seconds + CONFIRMED) => {
                self.sudden = (self.sudden + FALSE_ALARM).min(ALARM_LIMIT);
                self.alarm = None;
            }
            None if recommended > current && !is_confirmed(plan) => self.alarm = Some((seen.at, current)),
            _ => {}
        }
    }

    fn measure_service(&mut self, seen: &Observation) {
        self.ready_seconds += seen.replicas.ready as f64 * (seen.at - self.counted_until).as_secs_f64();
        self.counted_until = seen.at;
        let (service, work, ready_seconds) = (seen.service.clone(), seen.work.clone(), self.ready_seconds);
        self.answers.push(seen.at, AnswerCounts { service, work, ready_seconds });
        let windows = SERVICE_WINDOWS.into_iter().filter_map(|seconds| self.service_over(seen, seconds));
        let slowest = windows.max_by(|a, b| a.service.mean.total_cmp(&b.service.mean));
        self.measured = slowest.or(self.measured);
    }

    /// The service times of the last `seconds`; `None` with too few answers.
    fn service_over(&self, seen: &Observation, seconds: f64) -> Option<Measured> {
        let then = seen.at.checked_sub(Duration::from_secs_f64(seconds - 0.1));
        let then = then.and_then(|then| self.answers.at(then)).map(|entry| &entry.1).or(self.answers.oldest())?;
        let (service, work) = (seen.service.since(&then.service), seen.work.since(&then.work));
        if service.count() < MIN_ANSWERS {
            return None;
        }
        let upstream = service.mean()?;
        // If several dispatchers share a replica, each of them counts all its work. So the mean is limited by the time
        // for which the replicas were ready.
        let possible = (self.ready_seconds - then.ready_seconds) / service.count();
        let mean = work.mean().unwrap_or(upstream).min(if possible > 0.0 { possible } else { f64::INFINITY });
        // A full replica computes half of the requests that it holds, while the other half waits there.
        let response = mean.max(upstream / 2.0);
        Some(Measured { service: Service { mean, variation: service.variation()? }, response })
    }
}

/// Whether the rate was measured over at least [`CONFIRMED`] seconds, so that it is hardly due to chance.
fn is_confirmed(plan: &Plan) -> bool {
    plan.window_seconds >= CONFIRMED
}

impl Plan {
    /// The reason's name and text. `soon` is the highest number of foreseen or draining replicas of the lead time.
    fn reason(&self, replicas: usize, soon: usize) -> (&'static str, String) {
        let Self { needed, arrivals_per_second: rate, planned_per_second: planned, lead_seconds: lead, .. } = self;
        if *needed >= replicas {
            let (service, late) = (self.service_seconds * 1e3, self.predicted_late * 1e2);
            ("objective", format!("{rate:.1} requests/s of {service:.0} ms each arrive; {late:.2} % will be late"))
        } else if self.draining >= replicas {
            ("backlog", format!("{:.0} requests wait, and {rate:.1} arrive per second", self.queue_length))
        } else if soon >= replicas {
            let until = format!("before a new replica serves, in {lead:.1} s");
            ("rising", format!("arrivals have risen to {rate:.1}/s, and may reach {planned:.1}/s {until}"))
        } else {
            let why = format!("but {replicas} were needed lately, or would be at a slightly higher rate");
            ("kept", format!("{needed} replicas would do for {rate:.1} requests/s, {why}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use law::observation::Replicas;

    #[test]
    fn waiting_at_a_replica_is_not_its_work() {
        for (service, work, replicas, mean, response) in [
            (0.08, 0.08, 1, 0.08, 0.08),
            // A full replica computes one request while another one waits there.
            (0.2, 0.1, 1, 0.1, 0.1),
            // A full replica computes many requests in one pass while as many wait there.
            (0.3, 0.02, 1, 0.02, 0.15),
            // Two dispatchers share one replica, and each counts all its work.
            (0.2, 0.2, 1, 0.1, 0.1),
            (0.2, 0.2, 2, 0.2, 0.2),
        ] {
            let objective = Objective { latency: Duration::from_millis(500), quantile: 0.99 };
            let mut law = Windows::new(&Settings {
                objective,
                interval: Duration::from_secs(1),
                delay: Duration::ZERO,
                starts_per_second: f64::INFINITY,
                min: 1,
                max: 50,
            });
            for second in 0..=20_u32 {
                let answers = 10.0 * f64::from(second);
                let times = |mean: f64| {
                    let buckets = vec![(mean * 0.999, 0.0), (mean * 1.001, answers), (f64::INFINITY, answers)];
                    Histogram { buckets, sum: mean * answers }
                };
                let replicas = Replicas { desired: replicas, ready: replicas, ..Replicas::default() };
                let at = Duration::from_secs(second.into());
                let (service, work) = (times(service), times(work));
                law.measure_service(&Observation { at, service, work, replicas, ..Observation::default() });
            }
            let found = law.measured.expect("there are enough answers");
            assert!((found.service.mean - mean).abs() + (found.response - response).abs() < 1e-9, "{found:?}");
        }
    }
}
