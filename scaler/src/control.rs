//! The tick: observe ▸ decide ▸ limit ▸ actuate ▸ explain.

use crate::config::scaling::Role;
use crate::decision::{Action, Decision, Inputs, Journal};
use crate::observe::Observe;
use crate::remarks::{Remark, Remarks};
use crate::target::{self, Wish};
use law::limits::{Limit, Limiter};
use law::observation::Observation;
use law::table::{Law, Recommendation};
use metrics::{counter, gauge};
use service::wire::metric;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Between two observations at most; laws that act less often wait in between.
pub const OBSERVE: Duration = Duration::from_millis(500);

/// Over less time than this a rate is noise.
const NEWER: Duration = Duration::from_millis(50);

/// Everything that one tick needs.
pub struct Control {
    /// What the target is called, in metrics and to people.
    pub name: String,
    /// What its processes or pods are.
    pub role: Role,
    /// What is observed.
    pub source: Observe,
    /// What decides.
    pub law: Box<dyn Law>,
    /// What has the last word.
    pub limiter: Limiter,
    /// What is scaled.
    pub target: target::Handle,
    /// Between two ticks.
    pub interval: Duration,
    /// Decide and explain only.
    pub is_dry_run: bool,
    /// Whether this one of several scalers acts; nothing where there is only one.
    pub leading: Option<watch::Receiver<bool>>,
    /// Where decisions are kept.
    pub journal: Journal,
    /// What was logged.
    pub remarks: Remarks,
}

impl Control {
    /// Ticks for ever.
    ///
    /// # Cancel safety
    /// May be dropped at any tick; the target keeps what was last asked for.
    pub async fn run(&mut self) {
        let started = Instant::now();
        let mut seen_at = None;
        let mut tick = tokio::time::interval(self.interval.min(OBSERVE));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let target = self.target.state.borrow().clone();
            let at = started.elapsed();
            let reading = self.source.read(at).await;
            let hold = |reason, why| Decision::hold(at.as_secs_f64(), target.replicas, reason, why);
            let decision = match (reading, &target.refusal) {
                (_, Some(refusal)) => hold("refused", refusal.clone()),
                (Ok(reading), None) => match news(at, reading.age, seen_at) {
                    Some(taken) => {
                        seen_at = Some(taken);
                        let (queue_length, in_flight) = match self.role {
                            Role::Replicas => (reading.queue_length, reading.in_flight),
                            // What waits for replicas is none of their work.
                            Role::Dispatchers => (0.0, 0.0),
                        };
                        self.decide(&Observation {
                            at: taken,
                            queue_length,
                            in_flight,
                            request_seconds: reading.latency.sum,
                            capacity: reading.capacity,
                            arrivals: reading.arrivals,
                            service: reading.service,
                            work: reading.work,
                            latency: reading.latency,
                            replicas: target.replicas,
                            startup: target.startup,
                        })
                    }
                    None => hold("no_news", format!("no figures newer than {:.0?}", reading.age)),
                },
                // Without figures nothing changes, in either direction.
                (Err(error), None) => hold("no_observation", error.to_string()),
            };
            gauge!("scaler_observation_age_seconds", "target" => self.name.clone())
                .set((at - seen_at.unwrap_or_default()).as_secs_f64());
            self.explain(at, decision);
        }
    }

    fn decide(&mut self, seen: &Observation) -> Decision {
        let Recommendation { replicas: recommended, reason, text: mut explanation, plan } = self.law.decide(seen);
        let current = seen.replicas.desired;
        let (desired, limit) = self.limiter.apply(seen, recommended);
        if let (Some(recommended), Some(note)) = (recommended, limit.note()) {
            explanation += &format!("; {recommended} wanted, {note}");
        }
        explanation.extend(doubt(seen));
        let withheld = self.withheld();
        if withheld.is_none() && recommended.is_some() {
            let wish = Wish { replicas: desired, reason: explanation.clone(), is_full: limit == Limit::Full };
            // Again if it has not been granted: a target may have had to refuse it.
            self.target
                .desired
                .send_if_modified(|present| std::mem::replace(present, wish).replicas != desired || desired != current);
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

    /// Why nothing is to be changed, if so.
    fn withheld(&self) -> Option<String> {
        if self.is_dry_run {
            return Some("--dry-run".into());
        }
        let leads = self.leading.as_ref().is_none_or(|leading| *leading.borrow());
        (!leads).then(|| "this scaler does not lead".into())
    }

    fn explain(&mut self, at: Duration, decision: Decision) {
        let Decision { desired, action, reason, explanation, replicas, .. } = &decision;
        let name = || self.name.clone();
        gauge!(metric::DESIRED_REPLICAS, "target" => name()).set(*desired as f64);
        gauge!(metric::READY_REPLICAS, "target" => name()).set(replicas.ready as f64);
        gauge!("scaler_blocked_replicas", "target" => name()).set(replicas.blocked as f64);
        let ceiling = self.limiter.ceiling(Duration::from_secs_f64(decision.at_seconds)).unwrap_or_default();
        gauge!("scaler_ceiling_replicas", "target" => name()).set(ceiling as f64);
        if let Some(plan) = decision.plan {
            gauge!("scaler_predicted_late_ratio", "target" => name()).set(plan.predicted_late);
        }
        counter!("scaler_decisions_total", "target" => name(), "action" => action.as_str(), "reason" => *reason)
            .increment(1);
        let withheld = decision.withheld.as_deref().map(|why| format!(" (not done: {why})")).unwrap_or_default();
        let facts = || serde_json::to_string(&decision).unwrap_or_default();
        match self.remarks.on(at, &decision) {
            Some(Remark::Fault) => tracing::warn!("hold: {explanation}"),
            Some(Remark::Over) => tracing::info!("figures again: {explanation}"),
            Some(Remark::Change) => tracing::info!(
                decision = facts(),
                "{} {} → {desired}: {explanation}{withheld}",
                action.as_str(),
                replicas.desired
            ),
            None => tracing::debug!(decision = facts(), "{}: {explanation}{withheld}", action.as_str()),
        }
        self.journal.add(decision);
    }
}

/// What more replicas will not help.
fn doubt(seen: &Observation) -> Option<String> {
    let is_cut_off = seen.queue_length > 0.0 && seen.in_flight + seen.capacity == 0.0 && seen.replicas.ready > 0;
    is_cut_off.then(|| {
        let ready = seen.replicas.ready;
        format!(
            "; the dispatchers have no replica in rotation although {ready} are ready: do they find and reach them?"
        )
    })
}

/// When figures of this age were taken, if that was since the start and since the last ones. A rate is what was added
/// by the time in which it was: the same figures at a later time would show that nothing arrives.
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
            // Before dispatchers told their capacity.
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
