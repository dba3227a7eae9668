//! PURE: which decisions are worth a line in the log. All of them are in the journal; a fault that lasts, one that comes
//! and goes, and a change that nobody makes are said now and then only.

use crate::decision::{Action, Decision};
use std::collections::BTreeMap;
use std::time::Duration;

/// Before the same is said again.
const AGAIN: Duration = Duration::from_secs(10);

/// The same, of a fault that has lasted all the time.
const STILL: Duration = Duration::from_secs(60);

/// A line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remark {
    /// Nothing can be decided.
    Fault,
    /// That is over.
    Over,
    /// More or fewer.
    Change,
}

/// What was said.
#[derive(Debug, Default)]
pub struct Remarks {
    /// And when, for a minute.
    made: BTreeMap<Topic, Duration>,
    /// The fault that was remarked on and is not over.
    lasting: Option<&'static str>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    Fault(&'static str),
    Change { from: usize, to: usize },
    Withheld,
}

impl Remarks {
    /// The line that a decision is worth.
    pub fn on(&mut self, at: Duration, decision: &Decision) -> Option<Remark> {
        let Decision { action, reason, .. } = *decision;
        let (topic, pause) = match (action, decision.inputs) {
            // Figures that come at their own pace are no fault.
            (Action::Hold, None) if reason == "no_news" => return None,
            (Action::Hold, None) if self.lasting == Some(reason) => (Topic::Fault(reason), STILL),
            (Action::Hold, None) => (Topic::Fault(reason), AGAIN),
            (Action::Hold, Some(_)) => return self.lasting.take().map(|_| Remark::Over),
            (Action::Up | Action::Down, _) if decision.withheld.is_some() => (Topic::Withheld, AGAIN),
            (Action::Up | Action::Down, _) => {
                (Topic::Change { from: decision.replicas.desired, to: decision.desired }, AGAIN)
            }
        };
        if self.made.get(&topic).is_some_and(|then| at < *then + pause) {
            return None;
        }
        let is_fault = matches!(topic, Topic::Fault(_));
        self.lasting = is_fault.then_some(reason);
        self.made.retain(|_, then| at < *then + STILL);
        self.made.insert(topic, at);
        Some(if is_fault { Remark::Fault } else { Remark::Change })
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

    fn check(rows: &[(u64, Decision, Option<Remark>)]) {
        let mut remarks = Remarks::default();
        for (second, decision, remark) in rows {
            assert_eq!(remarks.on(Duration::from_secs(*second), decision), *remark, "at {second} s");
        }
    }

    #[test]
    fn a_fault_is_said_at_once_once_a_minute_and_when_it_is_over() {
        check(&[
            (0, fine(), None),
            (1, hold("no_observation"), Some(Remark::Fault)),
            (2, hold("no_observation"), None),
            (12, hold("refused"), Some(Remark::Fault)),
            (13, hold("no_observation"), Some(Remark::Fault)),
            (72, hold("no_observation"), None),
            (73, hold("no_observation"), Some(Remark::Fault)),
            (74, fine(), Some(Remark::Over)),
            (75, fine(), None),
            (99, hold("no_news"), None),
        ]);
    }

    #[test]
    fn figures_that_come_and_go_are_said_now_and_then() {
        let mut remarks = Remarks::default();
        let mut said = |tick: u64| {
            let decision = if tick.is_multiple_of(2) { hold("no_observation") } else { fine() };
            remarks.on(Duration::from_millis(500 * tick), &decision).is_some()
        };
        assert_eq!((0..120).filter(|tick| said(*tick)).count(), 12, "two lines every ten seconds of a minute");
    }

    #[test]
    fn a_change_is_said_again_only_when_it_does_not_come_about_for_long() {
        check(&[
            (0, change(4, None), Some(Remark::Change)),
            (1, change(4, None), None),
            (2, change(5, None), Some(Remark::Change)),
            (10, change(4, None), Some(Remark::Change)),
            (20, change(4, Some("--dry-run")), Some(Remark::Change)),
            (21, change(5, Some("--dry-run")), None),
            (30, change(6, Some("--dry-run")), Some(Remark::Change)),
        ]);
    }

    #[test]
    fn a_change_shows_that_a_fault_is_over() {
        check(&[
            (0, hold("refused"), Some(Remark::Fault)),
            (1, change(4, None), Some(Remark::Change)),
            (2, fine(), None),
        ]);
    }
}
