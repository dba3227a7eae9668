//! Dates the counters of each dispatcher, continues them over its restarts, and adds up those of all. Pure.
//!
//! Dispatchers are read at different times, and their answers are delayed. A sum of such counters would leap when a
//! delay changes. So each dispatcher's own clock dates its counts, and the sum has the counts of all up to one time,
//! the latest that no dispatcher's newest snapshot precedes. Between two snapshots, the counts are spread evenly.
//!
//! The sum grows only by counts from after its last time. So what a dispatcher counted before it appeared, or while it
//! was silent, is no burst.
//!
//! What a dispatcher counted before its first snapshot, or after its last one, is unknown, unless it started after the
//! last sum or was idle. A sum over such a time is partial. Otherwise a replaced dispatcher would look like a fall of
//! the load.

use super::clock::ClockOffset;
use super::snapshot::{FigureFault, Snapshot};
use law::histogram::Histogram;
use law::observation::Observation;
use service::wire::metric;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The fastest growth of a counter that is believed, per second.
const MAX_PER_SECOND: f64 = 1e7;

/// The least time that counts as having passed between two snapshots, in seconds. Clocks of two machines are not more
/// exact, and a smaller step would make any growth look like a leap.
const MIN_STEP: f64 = 0.1;

/// The least work of a request in full batches that is believed, in seconds. Replicas say it in whole microseconds.
const LEAST_WORK: f64 = 1e-6;

/// Seconds without a change after which a dispatcher that exports its uptime is stuck: its uptime should have changed.
const STUCK_AFTER: f64 = 1.0;

/// Seconds without a change after which a dispatcher that holds requests, but exports no uptime, is stuck. Requests
/// have deadlines, of 5 s by default, so one should have ended. After a longer time, the law would remove replicas.
const FROZEN_AFTER: f64 = 10.0;

/// A dispatcher that restarts more often than this within [`RESTARTS_WITHIN`] is taken for several dispatchers behind
/// one address, which answer in turns. Each turn would count as arrivals.
const RESTARTS: usize = 2;
/// Seconds over which restarts are counted for [`RESTARTS`].
const RESTARTS_WITHIN: f64 = 60.0;

/// Whether a dispatcher has restarted between two snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// The dispatcher has not restarted since the last snapshot, or the snapshot is its first.
    Continued,
    /// The dispatcher has restarted since the last snapshot.
    Restarted,
}

/// The counters of all dispatchers. Times are in seconds since the scaler's start.
#[derive(Debug, Default)]
pub struct Counters {
    open: BTreeMap<String, DispatcherCounters>,
    /// Dispatchers that have left, until the sum is past their last snapshots.
    closed: Vec<DispatcherCounters>,
    sum: Counts,
    /// The time up to which the sum counts; `None` before the first sum.
    summed: Option<f64>,
}

/// The counters of one dispatcher. Times are in seconds by the dispatcher's own clock, its uptime. The clock of a
/// dispatcher that does not export its uptime is the time at which its snapshots were received.
#[derive(Debug)]
struct DispatcherCounters {
    last: Snapshot,
    /// The time of the last snapshot.
    taken: f64,
    offset: ClockOffset,
    /// The scaler's time at which the last snapshot was received.
    received: f64,
    /// The scaler's time at which the last snapshot with a changed figure was received.
    changed: f64,
    /// The scaler's times of the last restarts, at most `RESTARTS + 1`.
    restarts: VecDeque<f64>,
    /// What was counted from snapshot to snapshot, as far as the sum does not have it.
    steps: VecDeque<Step>,
    /// The time from which on all counts are known.
    known_from: f64,
    /// Whether no request arrived before the last snapshot, since the snapshot before it or since the start.
    is_idle: bool,
    /// The time up to which the sum has the counts. A later estimate of the offset must not count them again.
    summed: f64,
}

/// What a dispatcher counted between two times.
#[derive(Debug)]
struct Step {
    from: f64,
    to: f64,
    counts: Counts,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Counts {
    arrivals: f64,
    service: Histogram,
    work: Histogram,
    latency: Histogram,
}

impl Counters {
    /// Enters a snapshot of the dispatcher `endpoint` that was received at `received`. A snapshot that was received
    /// before the last one is ignored.
    ///
    /// # Errors
    /// If the snapshot cannot follow from the last one. The next snapshot is compared with this one.
    pub fn enter(&mut self, endpoint: &str, received: f64, snapshot: Snapshot) -> Result<Continuity, FigureFault> {
        if let Some(known) = self.open.get_mut(endpoint) {
            return known.enter(received, snapshot);
        }
        if self.summed.is_none() {
            self.sum.add(&Counts::of(&snapshot), 1.0);
        }
        let known = DispatcherCounters::new(received, snapshot, self.summed);
        self.open.insert(endpoint.into(), known);
        Ok(Continuity::Continued)
    }

    /// Closes the counters of a dispatcher that has left. Its counts stay in the sum, and its queue does not.
    pub fn close(&mut self, endpoint: &str) {
        self.closed.extend(self.open.remove(endpoint));
    }

    /// The endpoints of the dispatchers that have not left.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.open.keys().map(String::as_str)
    }

    /// The time of the newest snapshot of a dispatcher; `None` for a dispatcher that is unknown or has left.
    pub fn newest(&self, endpoint: &str) -> Option<f64> {
        self.open.get(endpoint).map(DispatcherCounters::newest)
    }

    /// The sum of the figures of all dispatchers, and its time. The counts of silent dispatchers do not grow, and their
    /// queues are left out. The sum is partial if counts of the others since the last sum are unknown. `None` until there
    /// is a time since the start at which all others are known.
    pub fn sum(&mut self, is_silent: impl Fn(&str) -> bool) -> Option<Observation> {
        let speaking: Vec<_> = self.open.iter().filter(|(name, _)| !is_silent(name)).map(|(_, known)| known).collect();
        let newest = speaking.iter().map(|known| known.newest()).reduce(f64::min)?;
        let first = speaking.iter().map(|known| known.first()).fold(0.0, f64::max);
        // Before its first snapshot, a dispatcher would seem to have no load, and then a sudden one.
        if self.summed.is_none() && newest < first {
            return None;
        }
        let mut figures = Observation::default();
        let mut full_work = 0.0_f64;
        for snapshot in speaking.iter().map(|known| &known.last) {
            let Snapshot { queue_length, in_flight, capacity, .. } = snapshot;
            full_work = full_work.max(snapshot.full_work);
            figures.queue_length += queue_length;
            figures.in_flight += in_flight;
            figures.capacity = figures.capacity.max(*capacity);
        }
        figures.full_work = (full_work >= LEAST_WORK).then(|| Duration::from_secs_f64(full_work));
        let from = self.summed.unwrap_or(f64::NEG_INFINITY);
        let to = newest.max(from);
        for (name, known) in &mut self.open {
            let is_whole = known.add_to(&mut self.sum, from, to);
            figures.is_partial |= !is_whole && !is_silent(name);
        }
        self.closed.retain_mut(|known| {
            let is_past = known.newest() < to;
            let is_whole = known.add_to(&mut self.sum, from, to) && (known.is_idle || !is_past);
            figures.is_partial |= !is_whole;
            !is_past
        });
        self.summed = Some(to);
        let Counts { arrivals, service, work, latency } = self.sum.clone();
        let at = Duration::from_secs_f64(to);
        Some(Observation { at, arrivals, request_seconds: latency.sum, service, work, latency, ..figures })
    }
}

impl DispatcherCounters {
    /// The counters after the first snapshot. `summed` is the time of the last sum.
    fn new(received: f64, snapshot: Snapshot, summed: Option<f64>) -> Self {
        let taken = snapshot.uptime.unwrap_or(received);
        let offset = ClockOffset::new(taken, received);
        let is_idle = snapshot.arrivals() == 0.0;
        // A process counts from its start, when its uptime is zero.
        let is_born_since = snapshot.uptime.is_some() && summed.is_some_and(|summed| offset.seconds >= summed);
        let step = is_born_since.then(|| Step { from: 0.0, to: taken, counts: Counts::of(&snapshot) });
        Self {
            known_from: if summed.is_none() || is_idle || is_born_since { f64::NEG_INFINITY } else { taken },
            is_idle,
            last: snapshot,
            taken,
            offset,
            received,
            changed: received,
            restarts: VecDeque::new(),
            steps: step.into_iter().collect(),
            summed: f64::NEG_INFINITY,
        }
    }

    fn enter(&mut self, received: f64, snapshot: Snapshot) -> Result<Continuity, FigureFault> {
        let is_same = self.last == snapshot;
        if received < self.received {
            return Ok(Continuity::Continued);
        }
        // With an uptime, an unchanged snapshot is a copy. Without one, the dispatcher may be idle, unless requests are in
        // flight. If it hangs, a later time of the same counts would look as if no requests arrived.
        let must_change = snapshot.uptime.is_some() || snapshot.in_flight > 0.0;
        let is_copy = received == self.received || is_same && must_change;
        self.received = received;
        if is_same {
            self.check_frozen()?;
        } else {
            self.changed = received;
        }
        if is_copy {
            return Ok(Continuity::Continued);
        }
        let last = std::mem::replace(&mut self.last, snapshot);
        let is_younger = self.last.uptime.zip(last.uptime).is_some_and(|(now, then)| now < then);
        let is_restarted = self.last.enqueued < last.enqueued || is_younger;
        let mut from = self.set_clock(is_restarted || self.last.uptime.is_some() != last.uptime.is_some());
        if is_restarted {
            self.restarts.push_back(received);
            // A process counts from its start, when its uptime is zero.
            from = if self.last.uptime.is_some() { 0.0 } else { from };
        }
        // Until the new process started, the old one may have counted more. A step that is not believed is unknown, too.
        let (was_idle, known_from) = (self.is_idle, self.known_from);
        (self.is_idle, self.known_from) = (false, self.taken);
        self.check_crash_loop()?;
        let counts = if is_restarted { Counts::of(&self.last) } else { Counts::between(&last, &self.last)? };
        counts.check_speed((self.taken - from).max(MIN_STEP))?;
        self.known_from = match self.last.uptime {
            _ if !is_restarted || was_idle => known_from,
            Some(_) => from,
            None => self.taken,
        };
        self.is_idle = counts.arrivals == 0.0;
        self.steps.push_back(Step { from, to: self.taken, counts });
        Ok(if is_restarted { Continuity::Restarted } else { Continuity::Continued })
    }

    /// Sets the clock to that of the last snapshot. Returns the time of the snapshot before, by the clock that now
    /// holds. If that is another clock than before, all times are converted.
    fn set_clock(&mut self, is_other: bool) -> f64 {
        let read = self.last.uptime.unwrap_or(self.received);
        let mut from = std::mem::replace(&mut self.taken, read);
        if is_other {
            let before = std::mem::replace(&mut self.offset, ClockOffset::new(read, self.received));
            let moved = before.seconds - self.offset.seconds;
            let times = self.steps.iter_mut().flat_map(|step| [&mut step.from, &mut step.to]);
            times.chain([&mut self.summed, &mut self.known_from, &mut from]).for_each(|time| *time += moved);
        } else {
            self.offset.learn(read, self.received);
        }
        from
    }

    /// The scaler's time of the last snapshot.
    fn newest(&self) -> f64 {
        self.taken + self.offset.seconds
    }

    /// The scaler's time of the first snapshot, if there was no sum yet.
    fn first(&self) -> f64 {
        self.steps.front().map_or(self.taken, |step| step.from) + self.offset.seconds
    }

    /// Adds to `sum` what was counted between the scaler's times `from` and `to`, and forgets it. Returns whether all
    /// counts between these times and before the last snapshot are known.
    fn add_to(&mut self, sum: &mut Counts, from: f64, to: f64) -> bool {
        let (from, to) = ((from - self.offset.seconds).max(self.summed), to - self.offset.seconds);
        for step in &self.steps {
            let share = (step.to.min(to) - step.from.max(from)) / (step.to - step.from);
            if share > 0.0 {
                sum.add(&step.counts, share);
            }
        }
        self.steps.retain(|step| step.to > to);
        self.summed = self.summed.max(to);
        self.known_from <= from
    }

    fn check_frozen(&self) -> Result<(), FigureFault> {
        let unchanged = self.received - self.changed;
        let limit = match (self.last.uptime, self.last.queue_length + self.last.in_flight) {
            (Some(_), _) => STUCK_AFTER,
            (None, held) if held > 0.0 => FROZEN_AFTER,
            (None, _) => return Ok(()),
        };
        if unchanged >= limit { Err(FigureFault::Frozen(unchanged)) } else { Ok(()) }
    }

    fn check_crash_loop(&mut self) -> Result<(), FigureFault> {
        if self.restarts.len() > RESTARTS + 1 {
            self.restarts.pop_front();
        }
        let times = self.restarts.len();
        let within = self.restarts.front().map_or(f64::INFINITY, |first| self.received - first);
        let is_loop = times > RESTARTS && within <= RESTARTS_WITHIN;
        if is_loop { Err(FigureFault::CrashLooping(times, within)) } else { Ok(()) }
    }
}

impl Counts {
    /// The counts since the start of the dispatcher's process.
    fn of(snapshot: &Snapshot) -> Self {
        let Snapshot { service, work, latency, .. } = snapshot.clone();
        Self { arrivals: snapshot.arrivals(), service, work, latency }
    }

    /// The counts of one process between two snapshots.
    fn between(then: &Snapshot, now: &Snapshot) -> Result<Self, FigureFault> {
        if now.shed < then.shed {
            return Err(FigureFault::Backwards(metric::SHED));
        }
        let step = |now: &Histogram, then, metric| now.checked_since(then).ok_or(FigureFault::Backwards(metric));
        Ok(Self {
            arrivals: now.arrivals() - then.arrivals(),
            service: step(&now.service, &then.service, metric::UPSTREAM_DURATION)?,
            work: step(&now.work, &then.work, metric::REPLICA_WORK)?,
            latency: step(&now.latency, &then.latency, metric::REQUEST_DURATION)?,
        })
    }

    fn check_speed(&self, seconds: f64) -> Result<(), FigureFault> {
        let steps = [
            (metric::ENQUEUED, self.arrivals),
            (metric::UPSTREAM_DURATION, self.service.count()),
            (metric::REPLICA_WORK, self.work.count()),
            (metric::REQUEST_DURATION, self.latency.count()),
        ];
        match steps.into_iter().find(|(_, by)| *by > MAX_PER_SECOND * seconds) {
            Some((metric, by)) => Err(FigureFault::Leap(metric, by, seconds)),
            None => Ok(()),
        }
    }

    /// Adds this `share` of the counts `more`.
    fn add(&mut self, more: &Self, share: f64) {
        let part = |all: &Histogram| {
            let buckets = all.buckets.iter().map(|&(bound, count)| (bound, count * share)).collect();
            Histogram { buckets, sum: all.sum * share }
        };
        self.arrivals += more.arrivals * share;
        self.service.add(&part(&more.service));
        self.work.add(&part(&more.work));
        self.latency.add(&part(&more.latency));
    }
}
