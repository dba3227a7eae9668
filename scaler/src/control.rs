//! The control loop: observe ▸ decide ▸ limit ▸ actuate ▸ explain.

use crate::config::scaling::Role;
use crate::decision::{Action, Decision, Inputs, Journal, NO_NEWS};
use crate::log_limiter::{Line, LogLimiter};
use crate::metrics;
use crate::observe::{Error, Reading, Source};
use crate::target::{self, Desired};
use ::metrics::{counter, gauge};
use law::limits::{Limit, Limiter, Limits};
use law::observation::Observation;
use law::table::{Law, Recommendation};
use service::wire::metric;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Longest time between two observations; laws that act less often wait in between.
pub const OBSERVE: Duration = Duration::from_millis(500);

/// Figures that are newer by less than this are not used: over so short a time a rate is noise.
const NEWER: Duration = Duration::from_millis(50);

/// Checked settings of the control loop of one target.
#[derive(Debug)]
pub struct Spec {
    /// The target's name in metrics and for people: the name of its section, or the target itself.
    pub name: String,
    /// What the target's processes or pods are.
    pub role: Role,
    /// Where readings come from.
    pub source: Source,
    /// The law, remembering nothing yet.
    pub law: Box<dyn Law>,
    /// The limits of the law's recommendations.
    pub limits: Limits,
    /// Time between two decisions.
    pub interval: Duration,
    /// Whether it only decides and explains.
    pub is_dry_run: bool,
}

/// The control loop of one target.
pub struct Control {
    /// The settings.
    pub spec: Spec,
    limiter: Limiter,
    /// The target.
    pub target: target::Handle,
    /// Whether this one of several scalers leads; `None` where there is only one.
    pub leading: Option<watch::Receiver<bool>>,
    /// The latest decisions.
    pub journal: Journal,
    log_limiter: LogLimiter,
}

impl Control {
    /// A control loop that has not ticked yet.
    pub fn new(spec: Spec, target: target::Handle, leading: Option<watch::Receiver<bool>>) -> Self {
        let limiter = Limiter::new(spec.limits);
        Self { spec, limiter, target, leading, journal: Journal::default(), log_limiter: LogLimiter::default() }
    }

    /// Ticks for ever.
    ///
    /// # Cancel safety
    /// May be dropped at any tick; the target keeps the replicas that were asked for last.
    pub async fn run(&mut self) {
        let started = Instant::now();
        let mut seen_at = None;
        let mut tick = tokio::time::interval(self.spec.interval.min(OBSERVE));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let state = self.target.state.borrow().clone();
            let at = started.elapsed();
            let reading = self.spec.source.read(at).await;
            let decision = self.decide(at, &state, reading, &mut seen_at);
            gauge!(metrics::OBSERVATION_AGE, "target" => self.spec.name.clone())
                .set((at - seen_at.unwrap_or_default()).as_secs_f64());
            self.explain(at, decision);
        }
    }

    /// The decision of a tick at `at`. `seen_at` is the time of the last figures that led to a decision.
    fn decide(
        &mut self,
        at: Duration,
        state: &target::State,
        reading: Result<Reading, Error>,
        seen_at: &mut Option<Duration>,
    ) -> Decision {
        let hold = |reason, why| Decision::hold(at.as_secs_f64(), state.replicas, reason, why);
        if let Some(refusal) = &state.refusal {
            return hold("refused", refusal.clone());
        }
        // Without figures nothing changes, in either direction.
        let reading = match reading {
            Ok(reading) => reading,
            Err(error) => return hold("no_observation", error.to_string()),
        };
        let Some(taken) = news(at, reading.age, *seen_at) else {
            return hold(NO_NEWS, format!("no figures newer than {:.0?}", reading.age));
        };
        *seen_at = Some(taken);
        let mut seen = Observation { at: taken, replicas: state.replicas, startup: state.startup, ..reading.figures };
        if self.spec.role == Role::Dispatchers {
            // Requests that wait for replicas are no work of dispatchers.
            (seen.queue_length, seen.in_flight) = (0.0, 0.0);
        }
        self.scale(&seen)
    }

    /// Decides about an observation and tells the target.
    fn scale(&mut self, seen: &Observation) -> Decision {
        let Recommendation { replicas: recommended, reason, text: mut explanation, plan } = self.spec.law.decide(seen);
        let current = seen.replicas.desired;
        let (desired, limit) = self.limiter.apply(seen, recommended);
        if let (Some(recommended), Some(note)) = (recommended, limit.note()) {
            explanation += &format!("; {recommended} recommended, {note}");
        }
        explanation.extend(doubt(seen));
        let withheld = self.withheld();
        if withheld.is_none() && recommended.is_some() {
            let new = Desired { replicas: desired, reason: explanation.clone(), is_full: limit == Limit::Full };
            self.target.desired.send_if_modified(|present| {
                // Sent again until it has come about: a target may have had to refuse it.
                let is_news = present.replicas != desired || desired != current;
                *present = new;
                is_news
            });
        }
        Decision {
            at_seconds: seen.at.as_secs_f64(),
            replicas: seen.replicas,
            inputs: Some(Inputs::from(seen)),
            recommended,
            plan,
            limit,
            desired,
            action: Action::of(current, desired),
            withheld,
            reason,
            explanation,
        }
    }

    /// Why decisions are not carried out, if they are not.
    fn withheld(&self) -> Option<String> {
        if self.spec.is_dry_run {
            return Some("--dry-run".into());
        }
        let leads = self.leading.as_ref().is_none_or(|leading| *leading.borrow());
        (!leads).then(|| "this scaler does not lead".into())
    }

    /// Exports, logs and remembers a decision.
    fn explain(&mut self, at: Duration, decision: Decision) {
        let Decision { desired, action, reason, explanation, replicas, .. } = &decision;
        let ceiling = self.limiter.ceiling(Duration::from_secs_f64(decision.at_seconds)).unwrap_or_default();
        let set = |name, value: f64| gauge!(name, "target" => self.spec.name.clone()).set(value);
        set(metric::DESIRED_REPLICAS, *desired as f64);
        set(metric::READY_REPLICAS, replicas.ready as f64);
        set(metrics::BLOCKED_REPLICAS, replicas.blocked as f64);
        set(metrics::CEILING_REPLICAS, ceiling as f64);
        if let Some(plan) = decision.plan {
            set(metrics::PREDICTED_LATE, plan.predicted_late);
        }
        let labels =
            [("target", self.spec.name.clone()), ("action", action.as_str().into()), ("reason", (*reason).into())];
        counter!(metrics::DECISIONS, &labels).increment(1);
        let withheld = decision.withheld.as_deref().map(|why| format!(" (not done: {why})")).unwrap_or_default();
        let facts = || serde_json::to_string(&decision).unwrap_or_default();
        let (action, current) = (action.as_str(), replicas.desired);
        match self.log_limiter.line(at, &decision) {
            Some(Line::Fault) => tracing::warn!("hold: {explanation}"),
            Some(Line::Over) => tracing::info!("figures again: {explanation}"),
            Some(Line::Change) => {
                tracing::info!(decision = facts(), "{action} {current} → {desired}: {explanation}{withheld}");
            }
            None => tracing::debug!(decision = facts(), "{action}: {explanation}{withheld}"),
        }
        self.journal.add(decision);
    }
}

/// A hint for people when requests wait although replicas are ready: more replicas will not help.
fn doubt(seen: &Observation) -> Option<String> {
    let is_cut_off = seen.queue_length > 0.0 && seen.in_flight + seen.capacity == 0.0 && seen.replicas.ready > 0;
    is_cut_off.then(|| {
        let ready = seen.replicas.ready;
        format!(
            "; the dispatchers have no replica in rotation although {ready} are ready: do they find and reach them?"
        )
    })
}

/// The time at which figures of this age were taken; `None` if that was before the start, or hardly after the last ones: the
/// same figures with a later time would show that nothing arrives.
fn news(at: Duration, age: Duration, seen_at: Option<Duration>) -> Option<Duration> {
    at.checked_sub(age).filter(|&taken| seen_at.is_none_or(|seen| taken >= seen + NEWER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use law::observation::Replicas;

    #[test]
    fn ready_replicas_that_no_dispatcher_uses_are_doubted() {
        let ready = Replicas { desired: 2, ready: 2, ..Replicas::default() };
        let cut_off = Observation { queue_length: 9.0, replicas: ready, ..Observation::default() };
        assert!(doubt(&cut_off).is_some_and(|text| text.contains("although 2 are ready")));
        for well in [
            Observation { capacity: 1.0, ..cut_off.clone() },
            // Older dispatchers do not tell their capacity.
            Observation { in_flight: 1.0, ..cut_off.clone() },
            Observation { queue_length: 0.0, ..cut_off.clone() },
            Observation { replicas: Replicas { desired: 2, starting: 2, ..Replicas::default() }, ..cut_off },
        ] {
            assert_eq!(doubt(&well), None, "{well:?}");
        }
    }

    #[test]
    fn the_same_figures_at_a_later_time_are_no_news() {
        let seconds = Duration::from_secs_f64;
        for (at, age, seen_at, taken) in [
            (0.0, 0.0, None, Some(0.0)),
            (2.0, 0.0, Some(0.0), Some(2.0)),
            (2.0, 5.0, None, None),
            (9.0, 2.0, None, Some(7.0)),
            (11.0, 4.0, Some(7.0), None),
            (11.0, 3.98, Some(7.0), None),
            (11.0, 1.0, Some(7.0), Some(10.0)),
        ] {
            assert_eq!(news(seconds(at), seconds(age), seen_at.map(seconds)), taken.map(seconds), "{at} {age}");
        }
    }
}
