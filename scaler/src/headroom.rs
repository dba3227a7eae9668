//! Placeholders that keep room for new replicas. They are the pods of a Deployment of their own, request what a replica
//! requests, and have a low priority. If there is no room for a new replica, the scheduler deletes a placeholder and places
//! the replica there at once. The placeholder then waits for a node, and an autoscaler of nodes adds one.

use crate::target::scalable::ScalableSpec;
use crate::target::{Desired, Handle};
use kubernetes::name::{ScalableName, ScalableType};
use law::slo;
use law::table::Recommendation;
use std::fmt;
use std::str::FromStr;

/// The name of the Deployment of placeholders.
pub const NAME: &str = "headroom";

/// The most placeholders that a user may ask for.
const MOST: usize = 1000;

/// The number of placeholders: the value of `--headroom`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadroomSize {
    /// The same number at all times.
    Fixed(usize),
    /// The replicas that the law would add within the time that a node takes.
    Auto,
    /// None. A section of a file says so if the environment variable of all sections gives a number.
    Off,
}

impl FromStr for HeadroomSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "none" => return Ok(Self::Off),
            _ => {}
        }
        let number = text.parse().ok().filter(|number| (1..=MOST).contains(number));
        number.map(Self::Fixed).ok_or_else(|| format!("{text:?} is neither auto, none nor a number from 1 to {MOST}"))
    }
}

impl fmt::Display for HeadroomSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(number) => write!(f, "{number}"),
            Self::Auto => write!(f, "auto"),
            Self::Off => write!(f, "none"),
        }
    }
}

impl HeadroomSize {
    /// The placeholders beside `desired` replicas, of which there may be `max`; `None` for the present number, because the
    /// law has not planned at this tick. Replicas beyond `max` never come, so no room is kept for them, nor while no
    /// requests arrive.
    pub fn placeholders(self, recommendation: &Recommendation, desired: usize, max: usize) -> Option<usize> {
        let wanted = match (self, &recommendation.plan) {
            (Self::Fixed(number), _) => number,
            (Self::Off, _) => 0,
            (Self::Auto, _) if recommendation.reason == slo::IDLE => 0,
            // The plan's headroom counts from the recommended replicas, and more may be desired.
            (Self::Auto, plan) => plan.as_ref()?.needed_with_node.saturating_sub(desired),
        };
        Some(wanted.min(max.saturating_sub(desired)))
    }
}

/// The Deployment of placeholders for the target `spec`.
pub fn spec(spec: &ScalableSpec) -> ScalableSpec {
    let namespace = spec.name.namespace.clone();
    let name = ScalableName { type_: ScalableType::Deployment, namespace, name: NAME.into() };
    ScalableSpec { name, identity: spec.identity.clone(), has_deletion_costs: false, is_advised: false }
}

/// Tells the Deployment of placeholders their number. Returns a note for users if that cannot be set.
pub fn set(handle: &Handle, placeholders: usize, desired: Desired) -> Option<String> {
    let state = handle.state.borrow().clone();
    let current = state.replicas.desired;
    let new = Desired { replicas: placeholders, reason: "room for new replicas".into(), ..desired };
    handle.desired.send_if_modified(|present| {
        let is_new = present.replicas != placeholders || placeholders != current || state.rejection.is_some();
        *present = new;
        is_new
    });
    let problem = state.refusal.or(state.rejection.map(|rejection| rejection.reason));
    problem.map(|problem| format!("; no room is kept: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use law::observation::{Observation, Replicas};
    use law::slo::{Plan, Slo};
    use law::table::{Law, Objective, Settings};
    use std::time::Duration;

    #[test]
    fn no_room_is_kept_while_no_requests_arrive() {
        let interval = Duration::from_millis(500);
        let objective = Objective { latency: interval, quantile: 0.99 };
        let mut law = Slo::new(&Settings {
            objective,
            interval,
            delay: Duration::ZERO,
            starts_per_second: f64::INFINITY,
            min: 0,
            max: 20,
        });
        let mut placeholders = Vec::new();
        // A hundred requests per second arrive for a minute, and then none for five minutes.
        for second in 0..360_u32 {
            let arrivals = f64::from(second.min(60)) * 100.0;
            let replicas = Replicas { desired: 8, ready: 8, ..Replicas::default() };
            let at = Duration::from_secs(second.into());
            let seen = Observation { at, arrivals, replicas, capacity: 8.0, ..Observation::default() };
            placeholders.extend(HeadroomSize::Auto.placeholders(&law.decide(&seen), 8, 20));
        }
        assert!(placeholders.iter().any(|number| *number > 0), "{placeholders:?}");
        assert_eq!(placeholders.last(), Some(&0), "{placeholders:?}");
    }

    #[test]
    fn room_is_kept_for_replicas_that_may_come() {
        let planned = |needed_with_node| {
            let plan = Plan { needed_with_node, ..Plan::default() };
            Recommendation { plan: Some(plan), ..Recommendation::waiting() }
        };
        for (size, needed, desired, expected) in [
            (HeadroomSize::Fixed(2), None, 3, Some(2)),
            (HeadroomSize::Fixed(2), Some(9), 9, Some(1)),
            (HeadroomSize::Fixed(2), None, 12, Some(0)),
            (HeadroomSize::Auto, None, 3, None),
            (HeadroomSize::Auto, Some(5), 3, Some(2)),
            (HeadroomSize::Auto, Some(3), 5, Some(0)),
            (HeadroomSize::Auto, Some(50), 3, Some(7)),
        ] {
            let recommendation = needed.map_or_else(Recommendation::waiting, planned);
            let found = size.placeholders(&recommendation, desired, 10);
            assert_eq!(found, expected, "{size}, {needed:?} needed, {desired} desired");
        }
        let sizes = [("auto", HeadroomSize::Auto), ("none", HeadroomSize::Off), ("3", HeadroomSize::Fixed(3))];
        for (text, expected) in sizes
            .map(|(text, size)| (text, Some(size)))
            .into_iter()
            .chain(["", "0", "-1", "1001", "many"].map(|text| (text, None)))
        {
            assert_eq!(text.parse::<HeadroomSize>().ok(), expected, "{text}");
        }
    }
}
