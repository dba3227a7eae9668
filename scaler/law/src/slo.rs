//! The law `slo`: the fewest replicas that hold the latency objective. The crate's documentation says how it works; the
//! constants were found by simulation (`cargo xtask bench scaler`).

use crate::arrivals::{Arrivals, Rate};
use crate::cadence::Cadence;
use crate::histogram::Histogram;
use crate::observation::Observation;
use crate::queueing::Service;
use crate::retention::Retention;
use crate::table::{Kind, Law, Objective, Recommendation, Settings};
use crate::window::Window;
use serde::Serialize;
use std::time::Duration;

/// The line for a table of laws.
pub const KIND: Kind = Kind {
    name: "slo",
    parameter: "",
    wakes: true,
    scales_dispatchers: false,
    make: |settings, parameter| parameter.is_none().then(|| Box::new(Slo::new(settings)) as Box<dyn Law>),
};

/// Windows over which service times are averaged, seconds. The slower mean counts: planning with a service time that is too
/// short leaves a queue behind, and with one that is too long it costs only a little money.
const SERVICE_WINDOWS: [f64; 2] = [4.0, 30.0];

/// With fewer answers than this in a window, the last measured service time stands.
const ENOUGH_ANSWERS: f64 = 5.0;

/// Normal quantile of 99 %: a request whose own service takes so many standard deviations longer can wait less.
const SLOW_SERVICE: f64 = 2.33;

/// Smallest share of the objective that is left for waiting, so that a service time that varies much cannot make every
/// request late before it waits.
const LEAST_WAIT: f64 = 0.1;

/// Start-up time before one was measured, seconds.
const STARTUP_GUESS: f64 = 3.0;

/// Standard deviations of a rise that count as sudden at first, what each false alarm adds to them, what each real one takes
/// off, and the most. With these there is one false alarm in a few hours.
const ALARM: f64 = 4.4;
const FALSE_ALARM: f64 = 0.7;
const REAL_ALARM: f64 = 0.5;
const ALARM_LIMIT: f64 = 5.0;

/// A rate over a shorter window than this may still be chance: to act on it is an alarm. Seconds.
const CONFIRMED: f64 = 4.0;

/// Share of a trend, or of a jump, that is expected to go on.
const PERSISTENCE: f64 = 0.7;

/// Time in which a backlog is to be worked off, seconds.
const DRAIN_SECONDS: f64 = 2.0;

/// Fewer replicas are needed beyond doubt when they would do at a rate that is higher by this share and by this many
/// standard deviations.
const MARGIN: f64 = 0.15;
const DEVIATIONS: f64 = 2.0;

/// How long replicas are kept after they were needed: at first, and at most.
const KEEP: Duration = Duration::from_secs(20);
const KEEP_LIMIT: Duration = Duration::from_secs(120);

/// The figures behind one decision. Their names in JSON are part of the scaler's HTTP interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Plan {
    /// Requests that wait.
    pub queue_length: f64,
    /// Requests that arrive per second.
    pub arrivals_per_second: f64,
    /// Seconds over which the arrivals were averaged.
    pub window_seconds: f64,
    /// Requests per second that may arrive before a new replica serves.
    pub planned_per_second: f64,
    /// Mean time that a request costs a replica.
    pub service_seconds: f64,
    /// Standard deviation ÷ mean of the service time.
    pub service_variation: f64,
    /// Longest wait that keeps the objective.
    #[serde(rename = "patience_seconds")]
    pub wait_limit_seconds: f64,
    /// Time until a replica that is asked for now would serve.
    pub lead_seconds: f64,
    /// Replicas for the present arrivals.
    pub needed: usize,
    /// Replicas for the planned arrivals.
    pub foreseen: usize,
    /// Replicas that work off the backlog soon enough.
    pub draining: usize,
    /// Present replicas that may be needed, since the rate may be higher than it was measured.
    pub doubtful: usize,
    /// Replicas that were needed lately.
    pub kept: usize,
    /// Share of requests that will wait too long with the recommended replicas, 0 to 1.
    pub predicted_late: f64,
}

/// The law `slo` with its state between decisions.
#[derive(Debug)]
pub struct Slo {
    settings: Settings,
    cadence: Cadence,
    arrivals: Arrivals,
    answers: Window<Answers>,
    /// Replicas × seconds in which they were ready, until `counted_until`.
    ready_seconds: f64,
    counted_until: Duration,
    measured: Option<Measured>,
    kept: Retention,
    /// The higher of foreseen and draining replicas at the last decisions.
    foreseen: Window<usize>,
    /// The highest of all numbers at the last decision.
    last: usize,
    /// Standard deviations of a rise that count as sudden at present.
    sudden: f64,
    /// A rise that may have been chance: when it began, and the replicas until then.
    alarm: Option<(Duration, usize)>,
}

/// Cumulative counts of answers until an instant.
#[derive(Debug, Clone)]
struct Answers {
    service: Histogram,
    work: Histogram,
    ready_seconds: f64,
}

/// Measured service of the replicas.
#[derive(Debug, Clone, Copy)]
struct Measured {
    service: Service,
    /// Time that a replica takes for a request which does not wait for others there, seconds.
    response: f64,
}

impl Law for Slo {
    fn decide(&mut self, seen: &Observation) -> Recommendation {
        self.arrivals.count(seen.at, seen.arrivals);
        self.measure_service(seen);
        let is_idle = seen.queue_length == 0.0 && seen.in_flight == 0.0 && self.arrivals.is_silent();
        let idle = || Recommendation::new(Some(0), "idle", "nothing arrives");
        if seen.replicas.desired == 0 {
            let text = format!("{:.0} requests wait for the first replica", seen.queue_length);
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

impl Slo {
    /// A law that remembers nothing yet.
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

    fn plan(&mut self, seen: &Observation, rate: Rate, measured: Measured) -> Recommendation {
        let Measured { service, response } = measured;
        let Settings { objective: Objective { latency, .. }, max, .. } = self.settings;
        if response >= latency.as_secs_f64() {
            // More replicas shorten the wait but not the service: only enough of them to keep up help.
            let replicas = ((rate.per_second * service.mean).ceil() as usize + 1).min(max);
            let text = format!("one request alone takes {:.0} ms, too long for the objective", response * 1e3);
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
        let until_it_serves = Duration::from_secs_f64(plan.lead_seconds);
        let soon = self.foreseen.within(seen.at, until_it_serves).copied().max().unwrap_or(plan.foreseen);
        let highest_rate = rate.per_second * (1.0 + MARGIN) + DEVIATIONS * (rate.per_second / rate.window).sqrt();
        plan.doubtful = self.replicas_for(&plan, highest_rate).min(seen.replicas.desired);
        plan.kept = self.kept.replicas(seen.at);
        let highest = plan.needed.max(soon).max(plan.doubtful).max(plan.kept).min(max);
        // Foreseen replicas fall one by one: with the maximum of two decisions there is one step down, not many.
        let replicas = highest.max(std::mem::replace(&mut self.last, highest));
        plan.predicted_late = service.waits_longer(replicas, plan.planned_per_second, plan.wait_limit_seconds);
        let (reason, text) = plan.reason(replicas, soon);
        Recommendation { replicas: Some(replicas), reason, text, plan: Some(plan) }
    }

    /// The figures from which numbers of replicas follow.
    fn figures(&self, seen: &Observation, rate: Rate, Measured { service, response }: Measured) -> Plan {
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

    /// The fewest replicas that hold the objective at a rate.
    fn replicas_for(&self, plan: &Plan, per_second: f64) -> usize {
        let service = Service { mean: plan.service_seconds, variation: plan.service_variation };
        let Settings { objective: Objective { quantile, .. }, max, .. } = self.settings;
        service.servers_for(per_second, plan.wait_limit_seconds, 1.0 - quantile, max)
    }

    /// Replicas that work off soon what ready and starting replicas will not have worked off when another one would serve; 0
    /// if those will do.
    fn draining(&self, seen: &Observation, plan: &Plan) -> usize {
        let (lead, mean, ready) = (plan.lead_seconds, plan.service_seconds, seen.replicas.ready as f64);
        // A starting replica serves on average half of the time until then.
        let serving = ready + 0.5 * seen.replicas.starting as f64;
        let left = seen.queue_length + plan.arrivals_per_second * lead - serving * lead / mean;
        let has_piled_up = seen.queue_length > ready * plan.wait_limit_seconds / (2.0 * mean);
        if left <= 0.0 || !has_piled_up {
            return 0;
        }
        (((plan.planned_per_second + left / DRAIN_SECONDS) * mean).ceil() as usize).min(self.settings.max)
    }

    /// Remembers that more replicas than there are were recommended on slight evidence, and learns from how that turned out.
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
        self.answers.push(seen.at, Answers { service, work, ready_seconds });
        let windows = SERVICE_WINDOWS.into_iter().filter_map(|seconds| self.service_over(seen, seconds));
        let slowest = windows.max_by(|a, b| a.service.mean.total_cmp(&b.service.mean));
        self.measured = slowest.or(self.measured);
    }

    /// The service over the last `seconds`; `None` with too few answers.
    fn service_over(&self, seen: &Observation, seconds: f64) -> Option<Measured> {
        let then = seen.at.checked_sub(Duration::from_secs_f64(seconds - 0.1));
        let then = then.and_then(|then| self.answers.at(then)).map(|entry| &entry.1).or(self.answers.oldest())?;
        let (service, work) = (seen.service.since(&then.service), seen.work.since(&then.work));
        if service.count() < ENOUGH_ANSWERS {
            return None;
        }
        let upstream = service.mean()?;
        // Each of several dispatchers counts all the work of a replica that they share. It is not more than the time that
        // the replicas had.
        let possible = (self.ready_seconds - then.ready_seconds) / service.count();
        let mean = work.mean().unwrap_or(upstream).min(if possible > 0.0 { possible } else { f64::INFINITY });
        // A full replica computes half of the requests that it holds while the other half waits there.
        let response = mean.max(upstream / 2.0);
        Some(Measured { service: Service { mean, variation: service.variation()? }, response })
    }
}

/// Whether the rate was measured over so long that it is hardly chance.
fn is_confirmed(plan: &Plan) -> bool {
    plan.window_seconds >= CONFIRMED
}

impl Plan {
    /// Name and text of the number that decided; `soon` is the highest that was foreseen lately.
    fn reason(&self, replicas: usize, soon: usize) -> (&'static str, String) {
        let Self { needed, arrivals_per_second: rate, lead_seconds: lead, .. } = self;
        if *needed >= replicas {
            let (service, late) = (self.service_seconds * 1e3, self.predicted_late * 1e2);
            ("objective", format!("{rate:.1} requests/s of {service:.0} ms each leave {late:.2} % late"))
        } else if self.draining >= replicas {
            ("backlog", format!("{:.0} requests wait while {rate:.1}/s arrive", self.queue_length))
        } else if soon >= replicas {
            let planned =
                format!("may reach {:.1}/s before a new replica serves in {lead:.1} s", self.planned_per_second);
            ("rising", format!("arrivals have risen to {rate:.1}/s and {planned}"))
        } else {
            let why = "but so many were needed lately or may be by chance";
            ("kept", format!("{needed} would do for {rate:.1} requests/s, {why}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Replicas;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn law() -> Slo {
        let objective = Objective { latency: Duration::from_millis(500), quantile: 0.99 };
        Slo::new(&Settings { objective, interval: S(1), min: 1, max: 50 })
    }

    fn times(mean: f64, count: f64) -> Histogram {
        let buckets = vec![(mean * 0.999, 0.0), (mean * 1.001, count), (f64::INFINITY, count)];
        Histogram { buckets, sum: mean * count }
    }

    fn ready(ready: usize) -> Replicas {
        Replicas { desired: ready, ready, ..Replicas::default() }
    }

    /// The last recommendation of a law that decides once a second with these arrivals; every request takes 0.1 s.
    fn run(arrivals: &[f64], queue_length: f64, replicas: Replicas) -> Recommendation {
        let (mut law, mut total) = (law(), 0.0);
        let decisions = arrivals.iter().enumerate().map(|(second, count)| {
            total += count;
            law.decide(&Observation {
                at: S(second as u64),
                queue_length,
                in_flight: queue_length.min(1.0),
                arrivals: total,
                service: times(0.1, total),
                replicas,
                startup: Some(S(1)),
                ..Observation::default()
            })
        });
        decisions.reduce(|_, last| last).expect("at least one tick")
    }

    fn decided(arrivals: &[f64], queue_length: f64, replicas: Replicas) -> (Option<usize>, &'static str) {
        let found = run(arrivals, queue_length, replicas);
        (found.replicas, found.reason)
    }

    #[test]
    fn steady_load_gets_the_queueing_answer() {
        // A request may wait 0.4 s; at 5/s one server leaves 0.5·e⁻⁴ = 0.9 % late, at 6/s 0.6·e^−3.2 = 2.4 %.
        for (rate, replicas) in [(5.0, 1), (6.0, 2), (13.0, 2), (40.0, 5)] {
            // As many ready as it takes to answer all requests.
            let enough = Replicas { desired: 1, ready: 4, ..Replicas::default() };
            assert_eq!(decided(&[rate; 40], 0.0, enough), (Some(replicas), "objective"), "{rate}/s");
        }
    }

    #[test]
    fn what_waits_at_a_replica_is_not_its_work() {
        for (service, work, replicas, mean, response) in [
            (0.08, 0.08, 1, 0.08, 0.08),
            // A full replica computes one request while another one waits there.
            (0.2, 0.1, 1, 0.1, 0.1),
            // Half of the requests there are a pass of many.
            (0.3, 0.02, 1, 0.02, 0.15),
            // Two dispatchers each see one replica at work all the time.
            (0.2, 0.2, 1, 0.1, 0.1),
            (0.2, 0.2, 2, 0.2, 0.2),
        ] {
            let mut law = law();
            for second in 0..=20_u32 {
                let answers = 10.0 * f64::from(second);
                let (service, work) = (times(service, answers), times(work, answers));
                let (at, replicas) = (S(second.into()), ready(replicas));
                law.measure_service(&Observation { at, service, work, replicas, ..Observation::default() });
            }
            let found = law.measured.expect("enough answers");
            assert!((found.service.mean - mean).abs() + (found.response - response).abs() < 1e-9, "{found:?}");
        }
    }

    #[test]
    fn a_rise_is_seen_in_its_first_second_and_extrapolated() {
        let mut arrivals = [5.0; 40];
        arrivals[39] = 20.0;
        let found = run(&arrivals, 0.0, ready(1));
        let plan = found.plan.expect("a plan");
        // 20 now, 15 more than before: 0.7 of that may come on top.
        assert_eq!((plan.arrivals_per_second, plan.planned_per_second), (20.0, 30.5));
        assert_eq!((found.replicas, found.reason), (Some(plan.foreseen), "rising"));
    }

    #[test]
    fn chance_is_no_rise() {
        let mut arrivals = [4.0; 40];
        arrivals[39] = 10.0;
        assert_eq!(run(&arrivals, 0.0, ready(1)).replicas, Some(1));
        let arrivals: Vec<f64> = (0..40).map(|second| [4.0, 6.0, 5.0, 7.0, 3.0][second % 5]).collect();
        let plan = run(&arrivals, 0.0, ready(1)).plan.expect("a plan");
        assert!((plan.arrivals_per_second - 5.0).abs() < 0.3, "{plan:?}");
    }

    #[test]
    fn a_backlog_is_worked_off_unless_starting_replicas_will_do() {
        // left = 60 + 5·2 − 1·2/0.1 = 50; (5 + 25)·0.1 = 3.
        assert_eq!(decided(&[5.0; 40], 60.0, ready(1)), (Some(3), "backlog"));
        assert_eq!(run(&[5.0; 40], 60.0, ready(1)).plan.map(|plan| plan.draining), Some(3));
        let found = run(&[3.0; 40], 60.0, Replicas { desired: 7, ready: 1, starting: 6, blocked: 0 });
        assert_eq!((found.plan.map(|plan| plan.draining), found.reason), (Some(0), "objective"));
    }

    #[test]
    fn clearly_fewer_are_needed_before_one_goes() {
        // One holds up to 5.1/s. 4.9/s could be 5.1 by chance; 3/s could not.
        assert_eq!(run(&[4.9; 200], 0.0, ready(2)).replicas, Some(2));
        assert_eq!(run(&[3.0; 200], 0.0, ready(2)).replicas, Some(1));
    }

    #[test]
    fn replicas_that_were_needed_are_kept_for_a_while() {
        let arrivals = [vec![20.0; 60], vec![2.0; 35]].concat();
        let recommended = |seconds| run(&arrivals[..seconds], 0.0, ready(5)).replicas;
        assert_eq!((recommended(75), recommended(95)), (recommended(60), Some(1)));
    }

    #[test]
    fn silence_needs_no_replica_and_the_first_request_wakes_one() {
        assert_eq!(decided(&[0.0], 0.0, ready(3)), (None, "waiting"));
        assert_eq!(decided(&[0.0; 40], 3.0, ready(3)), (None, "no_data"));
        assert_eq!(decided(&[0.0; 130], 0.0, ready(3)), (Some(0), "idle"));
        assert_eq!(decided(&[0.0; 130], 0.0, ready(0)), (Some(0), "idle"));
        assert_eq!(decided(&[0.0, 1.0], 1.0, ready(0)), (Some(1), "waking"));
    }
}
