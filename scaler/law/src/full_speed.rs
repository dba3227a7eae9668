//! How many answers a replica gives if it has much to do. A replica that computes several requests in one pass, or has
//! several workers, gives more answers the more requests it holds, and each then costs less. So its mean work at a low
//! load says little about a high one.

use crate::observation::Observation;
use std::time::Duration;

/// The least time over which the answers of a replica are counted, in seconds.
const SHORTEST_SPAN: f64 = 4.0;

/// The answers of one replica, computed one after the other, for which that time lasts at least. With fewer, their number
/// would depend on when the time begins.
const SPAN_ANSWERS: f64 = 10.0;

/// Standard deviations by which the answers of a full replica must be fewer than it reports to refute it.
const SURE: f64 = 3.0;

/// The time in which half of the highest rate of a replica is forgotten, in seconds.
const HALF_LIFE: f64 = 600.0;

/// The time after which a refuted report is believed again by half, in seconds. If it is still wrong, requests wait
/// before the law learns that again.
const REFUTED_HALF_LIFE: f64 = 3600.0;

/// Mean work is shared by several requests if the work at the highest rate is shorter by this factor. Less may be chance.
const SHARED: f64 = 0.8;

/// Learns the rate of a replica with much to do.
#[derive(Debug)]
pub struct FullSpeed {
    /// The highest recent answers per second of one replica. While requests wait, it is the present rate.
    highest_rate: f64,
    /// The answers per second of a full replica ÷ those that it reports, 0 to 1.
    achieved_share: f64,
    /// The time since which requests have waited for the same number of ready replicas; `None` if none wait.
    full_since: Option<Duration>,
    /// The ready replicas at the last observation.
    ready: usize,
    /// The slots of a replica.
    slots: f64,
}

/// The rate before any answer.
impl Default for FullSpeed {
    fn default() -> Self {
        Self { highest_rate: 0.0, achieved_share: 1.0, full_since: None, ready: 0, slots: 1.0 }
    }
}

impl FullSpeed {
    /// Learns the state of the replicas. Must be called for each observation, before [`FullSpeed::count`].
    pub fn watch(&mut self, seen: &Observation) {
        // Answers that a silent dispatcher received are missing, so a partial observation shows no replica at full speed.
        let is_full = seen.queue_length >= 1.0 && seen.replicas.ready == self.ready && !seen.is_partial;
        self.full_since = if is_full { self.full_since.or(Some(seen.at)) } else { None };
        self.ready = seen.replicas.ready;
        if seen.capacity > 0.0 {
            self.slots = seen.slots();
        }
    }

    /// The time over which answers are counted, if a request costs `work` seconds on average.
    pub fn span(work: f64) -> Duration {
        Duration::from_secs_f64((SPAN_ANSWERS * work).clamp(SHORTEST_SPAN, 60.0 * SHORTEST_SPAN))
    }

    /// Learns that replicas gave `answers` answers within the last `span`, in which they were ready for `ready_seconds`,
    /// summed over all of them. `elapsed` is the time since the last observation, in seconds.
    pub fn count(&mut self, seen: &Observation, span: Duration, answers: f64, ready_seconds: f64, elapsed: f64) {
        let kept = |half_life: f64| 0.5_f64.powf(elapsed / half_life);
        let rate = answers / ready_seconds;
        if self.full_since.is_none_or(|since| since + span > seen.at) {
            self.highest_rate = (self.highest_rate * kept(HALF_LIFE)).max(rate);
            self.achieved_share = 1.0 - (1.0 - self.achieved_share) * kept(REFUTED_HALF_LIFE);
        } else if answers > 0.0 {
            // While requests wait, a replica gives all that it can. That may be less than before, or than it reports: it
            // measures its passes only, and decoding or other programs on the same cores may allow less.
            self.highest_rate = rate;
            let upper_rate = (answers + SURE * answers.sqrt()) / ready_seconds;
            let reported = reported_rate(seen);
            self.achieved_share = if upper_rate < reported { rate / reported } else { 1.0 };
        }
    }

    /// The seconds that a request costs a replica with much to do, if it costs `mean` seconds at the present load.
    pub fn work(&self, seen: &Observation, mean: f64) -> f64 {
        // Half of the requests that a full replica holds wait there, so it computes at most the other half at once.
        let least = mean / (self.slots / 2.0).max(1.0);
        let at_highest = (1.0 / self.highest_rate).max(least);
        let measured = if at_highest < SHARED * mean { at_highest } else { mean };
        let reported = (1.0 / (self.achieved_share * reported_rate(seen))).max(least);
        measured.min(reported)
    }
}

/// The answers per second that a replica with full batches reports; 0 if it reports none.
fn reported_rate(seen: &Observation) -> f64 {
    seen.full_work.filter(|work| !work.is_zero()).map_or(0.0, |work| 1.0 / work.as_secs_f64())
}
