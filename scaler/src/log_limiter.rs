//! Chooses the decisions for the log; the journal has all decisions. A fault that lasts, a fault that comes and goes,
//! and a change that is not carried out are logged from time to time only. Pure.

use crate::decision::{Action, Decision, NO_NEWS};
use std::collections::BTreeMap;
use std::time::Duration;

/// Time before a topic is logged again.
const TOPIC_PAUSE: Duration = Duration::from_secs(10);

/// Time before a fault that lasts without a break is logged again.
const FAULT_PAUSE: Duration = Duration::from_secs(60);

/// The kind of a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLine {
    /// A fault has begun, or lasts: no decision is possible.
    Fault,
    /// The fault is over.
    Over,
    /// The number of desired replicas changes.
    Change,
}

/// Limits how often a topic is logged.
#[derive(Debug, Default)]
pub struct LogLimiter {
    /// The time at which each topic of the last minute was logged.
    logged: BTreeMap<Topic, Duration>,
    /// The reason of the last logged fault, until that fault is over.
    lasting: Option<&'static str>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    Fault(&'static str),
    Change { from: usize, to: usize },
    Withheld,
}

impl LogLimiter {
    /// The line for the decision at `at`; `None` if the decision is not logged.
    pub fn line(&mut self, at: Duration, decision: &Decision) -> Option<LogLine> {
        let &Decision { action, reason, desired, replicas, inputs, .. } = decision;
        let (topic, pause) = match (action, inputs) {
            // Prometheus has new figures less often than the scaler decides, which is no fault.
            (Action::Hold, None) if reason == NO_NEWS => return None,
            (Action::Hold, None) if self.lasting == Some(reason) => (Topic::Fault(reason), FAULT_PAUSE),
            (Action::Hold, None) => (Topic::Fault(reason), TOPIC_PAUSE),
            (Action::Hold, Some(_)) => return self.lasting.take().map(|_| LogLine::Over),
            (Action::Up | Action::Down, _) if decision.withheld.is_some() => (Topic::Withheld, TOPIC_PAUSE),
            (Action::Up | Action::Down, _) => {
                // During a fault, the API server may reject the change again and again.
                let pause = if self.lasting.is_some() { FAULT_PAUSE } else { TOPIC_PAUSE };
                (Topic::Change { from: replicas.desired, to: desired }, pause)
            }
        };
        if self.logged.get(&topic).is_some_and(|then| at < *then + pause) {
            return None;
        }
        let is_fault = matches!(topic, Topic::Fault(_));
        self.lasting = is_fault.then_some(reason);
        self.logged.retain(|_, then| at < *then + FAULT_PAUSE);
        self.logged.insert(topic, at);
        Some(if is_fault { LogLine::Fault } else { LogLine::Change })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use law::observation::{Observation, Replicas};

    fn hold(reason: &'static str) -> Decision {
        Decision::hold(0.0, Replicas::default(), reason, String::new())
    }

    fn fine() -> Decision {
        Decision { inputs: Some((&Observation::default()).into()), ..hold("objective") }
    }

    fn change(desired: usize, withheld: Option<&str>) -> Decision {
        let action = Action::of(0, desired);
        Decision { action, desired, withheld: withheld.map(Into::into), ..fine() }
    }

    fn check(rows: &[(u64, Decision, Option<LogLine>)]) {
        let mut limiter = LogLimiter::default();
        for (second, decision, line) in rows {
            assert_eq!(limiter.line(Duration::from_secs(*second), decision), *line, "at {second} s");
        }
    }

    #[test]
    fn a_fault_is_logged_at_once_once_a_minute_and_when_it_is_over() {
        let (missing, refused) = (|| hold("no_observation"), || hold("refused"));
        check(&[(0, fine(), None), (1, missing(), Some(LogLine::Fault)), (2, missing(), None)]);
        check(&[
            (1, missing(), Some(LogLine::Fault)),
            (12, refused(), Some(LogLine::Fault)),
            (13, missing(), Some(LogLine::Fault)),
            (72, missing(), None),
            (73, missing(), Some(LogLine::Fault)),
            (74, fine(), Some(LogLine::Over)),
            (75, fine(), None),
            (99, hold(NO_NEWS), None),
        ]);
        // The API server rejects a change again and again.
        check(&[
            (0, change(4, None), Some(LogLine::Change)),
            (1, refused(), Some(LogLine::Fault)),
            (12, change(4, None), None),
            (13, refused(), None),
        ]);
        check(&[(0, refused(), Some(LogLine::Fault)), (1, change(4, None), Some(LogLine::Change)), (2, fine(), None)]);
    }

    #[test]
    fn a_fault_that_comes_and_goes_is_logged_from_time_to_time() {
        let mut limiter = LogLimiter::default();
        let ticks = (0..120_u32).map(|tick| {
            let decision = if tick.is_multiple_of(2) { hold("no_observation") } else { fine() };
            limiter.line(Duration::from_millis(500) * tick, &decision)
        });
        assert_eq!(ticks.flatten().count(), 12, "two lines in ten seconds, for a minute");
    }

    #[test]
    fn a_change_is_logged_again_only_if_it_is_not_carried_out_for_ten_seconds() {
        let (made, withheld) = (|to| change(to, None), |to| change(to, Some("--dry-run")));
        let line = Some(LogLine::Change);
        check(&[(0, made(4), line), (1, made(4), None), (2, made(5), line), (10, made(4), line)]);
        check(&[(10, made(4), line), (20, withheld(4), line), (21, withheld(5), None), (30, withheld(6), line)]);
    }
}
