//! The law `slo`: replicas as long as the late requests that they save are worth more than they cost.
//!
//! The documentation of the crate says how the law works. Its constants were chosen on the workloads of the lab's set
//! `training`, and its figures are reported on those of the set `held-out` (`cargo xtask bench scaler`).

use crate::backlog::Backlogs;
use crate::cadence::Cadence;
use crate::lateness::{LateTable, Waiting};
use crate::lead::Leads;
use crate::level::{Level, Saving, Terms};
use crate::load_filter::LoadFilter;
use crate::observation::Observation;
use crate::service_times::{ServiceMeter, ServiceTimes};
use crate::table::{Law, LawKind, Recommendation, Settings};
use crate::window::Window;
use serde::Serialize;
use std::time::Duration;

/// The entry of `slo` in a table of laws.
pub const KIND: LawKind = LawKind {
    name: "slo",
    parameter: "",
    wakes: true,
    scales_dispatchers: false,
    make: |settings, parameter| parameter.is_none().then(|| Box::new(Slo::new(settings)) as Box<dyn Law>),
};

/// The normal quantile of 99 %. The time left for waiting allows for a service that takes this many standard deviations
/// longer than the mean.
const SLOW_SERVICE: f64 = 2.33;

/// The reason of the recommendation while no requests arrive or wait. It has no plan.
pub const IDLE: &str = "idle";

/// The smallest share of the objective that is left for waiting. Without it, a service time that varies much would make
/// every request late before it waits.
const LEAST_WAIT: f64 = 0.1;

/// The start-up time that is assumed before one was measured, in seconds.
const STARTUP_GUESS: f64 = 3.0;

/// The time that a node takes if none was measured, in seconds. Cluster autoscalers take one to five minutes.
const NODE_GUESS: f64 = 120.0;

/// The time for which the law plans, in leads. Loads to which the load may jump within it count, too.
const HORIZON: f64 = 2.0;

/// The load is taken to be higher by this share when the law decides whether a replica is still used. Without it, the
/// last replica would come and go at some steady loads.
const MARGIN: f64 = 0.03;

/// The shortest time over which a rise of the load is measured, in seconds.
const SHORTEST_RISE: f64 = 4.0;

/// The growth that is expected, as a multiple of that which the slower half of the last rise gives. It is above 1, since
/// the filter's mean lags behind a rise.
const PERSISTENCE: f64 = 1.35;

/// Standard deviations by which the arrivals of a partial observation must exceed the expected ones.
const CLEARLY: f64 = 3.0;

/// The longest time over which the arrivals of partial observations are added up, in seconds.
const LONGEST_PARTIAL: f64 = 10.0;

/// The longest time that counts as one tick, in seconds.
const LONGEST_TICK: f64 = 60.0;

/// The time without any request after which no replica is needed, in seconds.
const SILENCE: f64 = 120.0;

/// The time without any request from which on the reason says so, in seconds. Before that, the rate that the filter
/// believes in says more.
const SHOWN_SILENCE: f64 = 10.0;

/// The least growth in requests per second that the reason shows. A smaller one could not be seen in its figures.
const SHOWN_RISE: f64 = 0.1;

/// The figures behind one decision. Their names in JSON are part of the scaler's HTTP interface.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Plan {
    /// Requests that wait in the queues of all dispatchers.
    pub queue_length: f64,
    /// Requests that arrive per second: the mean of what the filter believes.
    pub arrivals_per_second: f64,
    /// Requests per second that the true rate exceeds with a probability of 95 %.
    pub arrivals_low: f64,
    /// Requests per second that the true rate exceeds with a probability of 5 %.
    pub arrivals_high: f64,
    /// Requests per second that will arrive when a new replica serves, if a present rise goes on.
    pub planned_per_second: f64,
    /// Jumps of the rate per hour, as learned.
    pub jumps_per_hour: f64,
    /// The mean time that a request costs a replica, in seconds.
    pub service_seconds: f64,
    /// The coefficient of variation of the service time: standard deviation ÷ mean.
    pub service_variation: f64,
    /// The longest wait with which a request still meets the objective, in seconds.
    #[serde(rename = "patience_seconds")]
    pub wait_limit_seconds: f64,
    /// The time until a replica that is added now would serve, in seconds. Further replicas may take longer.
    pub lead_seconds: f64,
    /// The price of a late request, in replica-seconds.
    pub late_price: f64,
    /// The highest number of replicas of which the last is worth its price now.
    pub needed: usize,
    /// The highest number of replicas of which the last is worth its price, at the loads that are expected until a new node
    /// would have come and a replica would serve on it.
    pub needed_with_node: usize,
    /// The predicted share of requests that are late with the recommended replicas, 0 to 1.
    pub predicted_late: f64,
    /// The levels next to the recommended replicas.
    pub levels: Vec<LevelPlan>,
}

/// The figures of one level: of one replica more than the number below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LevelPlan {
    /// The number of replicas with this one.
    pub replicas: usize,
    /// Whether this replica should be there.
    pub is_on: bool,
    /// The late requests per second that this replica is expected to save, times their price. It is worth its price
    /// above 1.
    pub worth: f64,
    /// The replica-seconds that its absence has cost; 0 from the tick after its start.
    pub regret: f64,
    /// The replica-seconds of regret from which on it starts.
    pub starts_at: f64,
    /// Seconds since it was last worth its price.
    pub idle_seconds: f64,
    /// Idle seconds after which it stops.
    pub hold_seconds: f64,
}

/// The law `slo` with its state between decisions.
#[derive(Debug)]
pub struct Slo {
    settings: Settings,
    cadence: Cadence,
    meter: ServiceMeter,
    /// The time and the arrivals of the last observation.
    before: Option<(Duration, f64)>,
    /// The last time at which requests arrived, waited or were in flight, or the time of the first observation.
    arrived: Duration,
    state: Option<State>,
}

/// The state from the second observation on.
#[derive(Debug)]
struct State {
    filter: LoadFilter,
    /// The seconds and the arrivals of partial observations that the filter has not learned.
    partial: (f64, f64),
    /// The mean loads of the last seconds, in erlangs.
    means: Window<f64>,
    table: LateTable,
    backlogs: Backlogs,
    /// The levels 2, 3, … Level 1 is on as long as requests arrive.
    levels: Vec<Level>,
}

impl Law for Slo {
    fn decide(&mut self, seen: &Observation) -> Recommendation {
        let times = self.meter.learn(seen);
        let Some((then, before)) = self.before.replace((seen.at, seen.arrivals)) else {
            self.arrived = seen.at;
            return Recommendation::no_data();
        };
        let (elapsed, arrivals) = ((seen.at - then).as_secs_f64(), seen.arrivals - before);
        let is_empty = seen.queue_length + seen.in_flight == 0.0;
        // A silent dispatcher may have requests.
        if arrivals > 0.0 || !is_empty || seen.is_partial {
            self.arrived = seen.at;
        }
        // After a long pause, only the mean rate of the arrivals is known, and not for how long replicas were idle.
        let counted = elapsed.min(LONGEST_TICK);
        let arrivals = if elapsed > 0.0 { arrivals * counted / elapsed } else { arrivals };
        let plan = self.learn(seen, times, counted, arrivals);
        let silent = (seen.at - self.arrived).as_secs_f64();
        // A replica that takes long to start must not be removed before it has served.
        let is_silent = silent >= SILENCE.max(2.0 * plan.lead_seconds);
        if seen.replicas.desired == 0 {
            let waiting = (seen.queue_length + seen.in_flight).max(arrivals);
            let text = format!("there is no replica, and {waiting:.0} requests wait");
            return if seen.at > self.arrived { idle() } else { Recommendation::new(Some(1), "waking", text) };
        }
        if !self.cadence.is_due(seen.at) {
            return Recommendation::waiting();
        }
        if is_silent { idle() } else { self.recommend(plan, times, seen.replicas.desired, silent) }
    }
}

fn idle() -> Recommendation {
    Recommendation::new(Some(0), IDLE, "no requests arrive or wait")
}

impl Slo {
    /// A law that has observed nothing yet.
    pub fn new(settings: &Settings) -> Self {
        Self {
            settings: *settings,
            cadence: Cadence::new(settings.interval),
            meter: ServiceMeter::default(),
            before: None,
            arrived: Duration::ZERO,
            state: None,
        }
    }

    /// Learns from the requests of the last `elapsed` seconds, and plans.
    fn learn(&mut self, seen: &Observation, times: ServiceTimes, elapsed: f64, arrivals: f64) -> Plan {
        let waiting = self.waiting(times);
        let most = self.settings.max.max(1);
        let state = self.state.get_or_insert_with(|| State::new(seen.replicas.ready, most, waiting));
        if !state.table.holds_for(waiting) {
            state.table = LateTable::new(waiting, state.filter.loads(), most);
        }
        let startup = seen.startup.map_or(STARTUP_GUESS, |startup| startup.as_secs_f64());
        let price = waiting.service / (1.0 - self.settings.objective.quantile);
        let node = seen.node_time.map_or(NODE_GUESS, |time| time.as_secs_f64());
        let leads = Leads {
            startup,
            decision: (self.settings.interval + self.settings.delay).as_secs_f64(),
            starts_per_second: self.settings.starts_per_second,
            ready: seen.replicas.ready,
            desired: seen.replicas.desired,
        };
        let lead = leads.shortest();
        // A replica that another autoscaler has not yet been told to add costs nothing.
        let start = lead - self.settings.delay.as_secs_f64();
        let terms = Terms { elapsed, price, start, lead };
        // A partial observation is a lower bound, so it says something only if clearly more arrive than expected. If all
        // that is more counted, and nothing that is less, chance would raise the load.
        if seen.is_partial {
            let (seconds, partial) = (state.partial.0 + elapsed, state.partial.1 + arrivals);
            let expected = state.filter.mean() * seconds / waiting.service;
            let is_more = seconds > 0.0 && partial > expected + CLEARLY * expected.sqrt();
            if is_more {
                state.filter.learn(seconds, partial, waiting.service, terms.lead);
            }
            state.partial = if is_more || seconds > LONGEST_PARTIAL { (0.0, 0.0) } else { (seconds, partial) };
        } else if elapsed > 0.0 {
            state.partial = (0.0, 0.0);
            state.filter.learn(elapsed, arrivals, waiting.service, terms.lead);
        }
        state.means.push(seen.at, state.filter.mean());
        let rise = state.rise(seen.at, elapsed, lead);
        let plan = Plan {
            queue_length: seen.queue_length,
            arrivals_per_second: state.filter.mean() / waiting.service,
            arrivals_low: state.filter.quantile(0.05) / waiting.service,
            arrivals_high: state.filter.quantile(0.95) / waiting.service,
            planned_per_second: (state.filter.mean() + rise) / waiting.service,
            jumps_per_hour: 3600.0 * state.filter.jumps_per_second(),
            service_seconds: waiting.service,
            service_variation: times.variation,
            wait_limit_seconds: waiting.limit,
            lead_seconds: terms.lead,
            late_price: price,
            needed_with_node: state.needed_with_node(&terms, node),
            ..Plan::default()
        };
        let desired = seen.replicas.desired + seen.replicas.lost;
        let late = state.backlogs.add(elapsed, arrivals, waiting);
        let savings = state.savings(seen.at, &terms, leads, &late);
        state.tick(plan, &terms, rise, &savings, desired)
    }

    /// The service times, and the wait that they leave.
    fn waiting(&self, times: ServiceTimes) -> Waiting {
        let latency = self.settings.objective.latency.as_secs_f64();
        let limit = latency - times.response * (1.0 + SLOW_SERVICE * times.variation);
        Waiting {
            service: times.work,
            squared_variation: times.variation.powi(2),
            limit: limit.max(LEAST_WAIT * latency),
        }
    }

    /// The recommendation to a target with `desired` replicas, after `silent` seconds without any request.
    fn recommend(&self, plan: Plan, times: ServiceTimes, desired: usize, silent: f64) -> Recommendation {
        let replicas = plan.levels.iter().filter(|level| level.is_on).map(|level| level.replicas).max().unwrap_or(1);
        let latency = self.settings.objective.latency;
        if times.response >= latency.as_secs_f64() {
            let text = format!(
                "one request alone takes {:.0} ms, but the objective is {latency:?}; raise --objective, or use faster \
                 replicas",
                times.response * 1e3
            );
            return Recommendation { replicas: Some(replicas), reason: "unattainable", text, plan: Some(plan) };
        }
        let (reason, text) = plan.reason(replicas, desired, silent);
        Recommendation { replicas: Some(replicas), reason, text, plan: Some(plan) }
    }
}

impl State {
    fn new(ready: usize, most: usize, waiting: Waiting) -> Self {
        let filter = LoadFilter::new(ready, most);
        let level = |replicas| Level::new(replicas <= ready);
        Self {
            table: LateTable::new(waiting, filter.loads(), most),
            filter,
            partial: (0.0, 0.0),
            means: Window::new(Duration::from_secs_f64(crate::load_filter::MEMORY)),
            backlogs: Backlogs::new(most),
            levels: (2..=most).map(level).collect(),
        }
    }

    /// The erlangs by which the load will have risen after `lead` seconds, if it goes on to rise as it did lately. Both
    /// halves of that time must have seen a rise, since a jump is no trend. A jump that the filter believes little by
    /// little may still look like one for a moment. The last tick took `elapsed` seconds.
    fn rise(&self, at: Duration, elapsed: f64, lead: f64) -> f64 {
        let mean = self.filter.mean();
        let span = lead.max(SHORTEST_RISE).max(2.0 * elapsed);
        let ago = |seconds: f64| {
            let then = at.checked_sub(Duration::from_secs_f64(seconds)).and_then(|then| self.means.at(then));
            then.map(|entry| entry.1).or(self.means.oldest().copied()).unwrap_or(mean)
        };
        let half = ago(span / 2.0);
        let slower = (mean - half).min(half - ago(span));
        (PERSISTENCE * 2.0 * slower * lead / span).max(0.0)
    }

    /// The replicas that are worth their price at the loads that are expected until a node has come, after `node` seconds,
    /// and a replica serves on it.
    fn needed_with_node(&self, terms: &Terms, node: f64) -> usize {
        let ahead = self.filter.ahead(HORIZON * terms.lead + node);
        let late = self.table.expected(self.filter.loads(), &ahead, 1.0, 0.0, 0..=self.levels.len() + 1);
        let is_worth = |pair: &[f64]| terms.price * (pair[0] - pair[1]) > 1.0;
        late[1..].windows(2).rposition(is_worth).map_or(1, |index| index + 2)
    }

    /// What each level saves: level 2 first. A level whose replica would serve later plans for a longer rise. `late` are the
    /// requests that were late since the last tick with 0, 1, 2, … replicas.
    ///
    /// All levels plan for the jumps within the shortest lead. With the longer leads of the last of 10,000 replicas, the
    /// load may jump to any load that was ever believed in, and a law that has just started would add them all.
    fn savings(&self, at: Duration, terms: &Terms, leads: Leads, late: &[f64]) -> Vec<(Terms, Saving)> {
        let (loads, most) = (self.filter.loads(), self.levels.len() + 1);
        let ahead = self.filter.ahead(HORIZON * terms.lead);
        let cautious = self.table.expected(loads, &ahead, 1.0 + MARGIN, 0.0, 0..=most);
        let saved = |late: &[f64]| (late[0] - late[1]).max(0.0);
        let mut savings = Vec::with_capacity(most);
        for (replicas, lead) in leads.groups(most) {
            let with_one_less = replicas.start() - 1..=*replicas.end();
            let rise = self.rise(at, terms.elapsed, lead);
            let expected = self.table.expected(loads, &ahead, 1.0, rise, with_one_less);
            savings.extend(replicas.zip(expected.windows(2)).map(|(replicas, expected)| {
                let pair = replicas - 1..=replicas;
                let saving = Saving {
                    expected: saved(expected),
                    cautious: saved(&cautious[pair.clone()]),
                    since_last_tick: saved(&late[pair]),
                };
                (Terms { lead, ..*terms }, saving)
            }));
        }
        // Level 1 needs no decision: it is on as long as requests arrive.
        savings.split_off(1)
    }

    /// Lets each level learn from a tick, and completes the plan. The load is expected to rise by `rise` erlangs within the
    /// shortest lead, and the target has `desired` replicas.
    fn tick(&mut self, plan: Plan, terms: &Terms, rise: f64, savings: &[(Terms, Saving)], desired: usize) -> Plan {
        let (mut needed, mut last) = (1, 1);
        for ((level, replicas), (terms, saving)) in self.levels.iter_mut().zip(2..).zip(savings) {
            if level.tick(terms, saving, replicas <= desired) {
                last = replicas;
            }
            if terms.price * saving.expected > 1.0 {
                needed = replicas;
            }
        }
        let shown = last.saturating_sub(1).max(2)..=(last + 2).min(self.levels.len() + 1);
        let levels = shown.map(|replicas| {
            let (level, (terms, saving)) = (&self.levels[replicas - 2], &savings[replicas - 2]);
            level.plan(replicas, terms.price * saving.expected, terms)
        });
        let ahead = self.filter.ahead(HORIZON * terms.lead);
        let late = |replicas| self.table.expected(self.filter.loads(), &ahead, 1.0, rise, replicas..=replicas)[0];
        // Without a replica, all requests that are expected would be late.
        let predicted_late = (late(last) / late(0).max(f64::MIN_POSITIVE)).min(1.0);
        Plan { needed, predicted_late, levels: levels.collect(), ..plan }
    }
}

impl Plan {
    /// The reason's name and text for the recommended number of replicas. The target has `desired` replicas, and there
    /// has been no request for `silent` seconds.
    fn reason(&self, replicas: usize, desired: usize, silent: f64) -> (&'static str, String) {
        let Self { needed, arrivals_per_second: rate, planned_per_second: planned, lead_seconds: lead, .. } = *self;
        let arrive = self.arrivals(silent);
        let level = |replicas| self.levels.iter().find(|level| level.replicas == replicas);
        let next = level(replicas + 1);
        let kept = (needed < replicas).then(|| match level(replicas).filter(|level| level.idle_seconds > 0.0) {
            Some(level) => {
                let left = (level.hold_seconds - level.idle_seconds).max(0.0);
                format!("; replica {replicas} stays for {left:.0} s in case that the load comes back")
            }
            None => format!("; replica {replicas} would be needed at a slightly higher load"),
        });
        let surplus = next.filter(|next| replicas < desired && next.worth <= 1.0);
        if let Some(next) = surplus {
            let kept = kept.unwrap_or_default();
            let saves = format!("replica {} saves late requests worth {:.2} of its cost", next.replicas, next.worth);
            ("surplus", format!("{arrive}, for which {needed} would do; {saves}{kept}"))
        } else if let Some(kept) = kept {
            ("kept", format!("{arrive}, for which {needed} would do{kept}"))
        } else if planned > rate * 1.01 && planned >= rate + SHOWN_RISE {
            ("rising", format!("{arrive}, and {planned:.1}/s may when a new replica serves, in {lead:.1} s"))
        } else {
            let late = self.predicted_late * 1e2;
            let next = next.map(|next| {
                let missing = next.starts_at - next.regret;
                let wait = if next.worth > 1.0 {
                    format!(", once {missing:.1} replica-seconds more are lost")
                } else {
                    String::new()
                };
                format!(
                    "; replica {} would save late requests worth {:.2} of its cost{wait}",
                    next.replicas, next.worth
                )
            });
            ("objective", format!("{arrive}; {late:.2} % will be late{}", next.unwrap_or_default()))
        }
    }

    /// The arrivals as the beginning of a sentence.
    fn arrivals(&self, silent: f64) -> String {
        if silent >= SHOWN_SILENCE {
            return format!("no request has arrived or waited for {silent:.0} s");
        }
        let Self { arrivals_per_second: rate, arrivals_low: low, arrivals_high: high, .. } = self;
        let shown = if *rate < 0.1 { "fewer than 0.1".into() } else { format!("{rate:.1}") };
        let service = self.service_seconds * 1e3;
        format!("{shown} requests/s ({low:.1} to {high:.1}) of {service:.0} ms each arrive")
    }
}
