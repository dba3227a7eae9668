//! When one more replica starts, and when it stops. Level n decides on replica n alone: on what n replicas bring beyond
//! n − 1. Both questions are those of ski rental: rent or buy, without knowing for how long it is worth it (Karlin et
//! al. 1988). Costs are in replica-seconds.
//!
//! A level starts once its absence has cost a good part of a start. An absence costs a start, and the requests that come
//! late for lack of the replica until a new one serves. If the load came back the last time before an idle replica would
//! have cost as much as that, the level is held for all of that time: holding in vain then costs no more than one
//! absence. Otherwise it is held for a sixth of the time. Disks that learn when to spin down do the same (Douglis,
//! Krishnan and Bershad 1995).

use crate::slo::LevelPlan;

/// The share of a start's cost that a level's absence must cost before the level starts.
const START_SHARE: f64 = 0.6;

/// The share of the cost of an absence for which a level is held if the load did not come back in time the last time.
const SHORT_HOLD: f64 = 1.0 / 6.0;

/// The weight of a new measurement of what an absence costs, if that is less than before.
const FORGET: f64 = 0.35;

/// The shortest hold, in seconds, and at least two ticks. One tick with few arrivals must stop no replica: a dispatcher
/// that is about to hang shows such a tick.
const SHORTEST_HOLD: f64 = 2.0;

/// The longest hold, in seconds.
const LONGEST_HOLD: f64 = 600.0;

/// The prices and times that hold for a level at a tick.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Seconds since the last tick.
    pub elapsed: f64,
    /// The price of a late request, in replica-seconds.
    pub price: f64,
    /// The price of a start, in replica-seconds: a replica that starts costs as much as one that serves. It is also the
    /// shortest lead without the delay, since a replica that waits for its creation costs nothing.
    pub start: f64,
    /// The time until the replica of the level would serve if it is added now, in seconds.
    pub lead: f64,
}

/// The requests per second that a level is expected to save from being late, and those that it would have saved since
/// the last tick.
#[derive(Debug, Clone, Copy)]
pub struct Saving {
    /// Expected, per second.
    pub expected: f64,
    /// Expected per second, if the load is a little higher.
    pub cautious: f64,
    /// Requests since the last tick that level − 1 replicas would not have served in time, but this one would have. The
    /// figure does not depend on whether the replica was there. Otherwise a replica that is held would measure no late
    /// requests, and its hold would become short.
    pub since_last_tick: f64,
}

/// One level, which is the wish for one more replica.
#[derive(Debug, Clone)]
pub struct Level {
    is_on: bool,
    /// Seconds since the level was last worth its price.
    idle: f64,
    /// The replica-seconds that the absence has cost since the level became worth its price. Each tick at which it is not
    /// worth it sets them to 0.
    regret: f64,
    /// The requests that come late within the lead after the load has come back, if the replica is absent.
    late_for_lack: LateForLack,
    /// Whether the load came back, the last time, before a hold would have cost as much as an absence.
    comes_back: bool,
}

/// The measurement of the requests that come late for lack of a replica.
#[derive(Debug, Clone, Copy, Default)]
struct LateForLack {
    /// The estimate.
    requests: f64,
    /// The measurement in progress: the seconds that are left, and its requests.
    measured: Option<(f64, f64)>,
    /// The estimate before that measurement.
    before: f64,
}

impl LateForLack {
    /// Learns from the requests since the last tick. `comes_back` is whether the level is worth its price again after
    /// more than a start.
    fn learn(&mut self, terms: &Terms, requests: f64, comes_back: bool) {
        if comes_back && self.measured.is_none() {
            (self.measured, self.before) = (Some((terms.lead, 0.0)), self.requests);
        }
        let Some((left, sum)) = &mut self.measured else { return };
        *left -= terms.elapsed;
        *sum += requests;
        self.requests = self.requests.max(*sum);
        if *left < 0.0 {
            self.requests = sum.max(self.before + FORGET * (*sum - self.before));
            self.measured = None;
        }
    }
}

impl Level {
    /// A level that has learned nothing. `is_on` is whether the replica is there.
    pub fn new(is_on: bool) -> Self {
        let idle = if is_on { 0.0 } else { LONGEST_HOLD };
        Self { is_on, idle, regret: 0.0, late_for_lack: LateForLack::default(), comes_back: false }
    }

    /// Learns from one tick. `is_desired` is whether the target has the replica, ready or not. Returns whether the replica
    /// should be there.
    pub fn tick(&mut self, terms: &Terms, saving: &Saving, is_desired: bool) -> bool {
        let gain = terms.price * saving.expected;
        let is_worth = gain > 1.0;
        let is_used = is_worth || (self.is_on && terms.price * saving.cautious > 1.0);
        self.regret = if is_worth && !self.is_on { self.regret + terms.elapsed * (gain - 1.0) } else { 0.0 };
        self.late_for_lack.learn(terms, saving.since_last_tick, is_worth && self.idle > terms.start);
        self.is_on |= is_worth && self.regret >= START_SHARE * terms.start;
        // A hold saves the cost of another start, so it ends if the replica is not there: a limit never granted it, or the
        // cluster had no room. Otherwise it would be started later for a load that has long gone.
        self.is_on &= is_worth || is_desired;
        if is_used {
            if self.idle > 2.0 * terms.start {
                self.comes_back = self.idle < self.absence(terms).min(LONGEST_HOLD);
            }
            self.idle = 0.0;
        } else {
            self.idle += terms.elapsed;
            self.is_on &= self.idle < self.hold(terms);
        }
        self.is_on
    }

    /// The cost of an absence, in replica-seconds: a start, and the requests that come late for lack of the replica.
    fn absence(&self, terms: &Terms) -> f64 {
        terms.start + terms.price * self.late_for_lack.requests
    }

    /// The idle time after which the level stops, in seconds.
    fn hold(&self, terms: &Terms) -> f64 {
        (self.absence(terms) * if self.comes_back { 1.0 } else { SHORT_HOLD })
            .clamp(SHORTEST_HOLD.max(2.0 * terms.elapsed), LONGEST_HOLD)
    }

    /// The figures of the level, which is that of `replicas` replicas and is worth `worth` times its price.
    pub fn plan(&self, replicas: usize, worth: f64, terms: &Terms) -> LevelPlan {
        LevelPlan {
            replicas,
            is_on: self.is_on,
            worth,
            regret: self.regret,
            starts_at: START_SHARE * terms.start,
            idle_seconds: self.idle,
            hold_seconds: self.hold(terms),
        }
    }
}
