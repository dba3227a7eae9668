//! The tick: observe ▸ decide ▸ limit ▸ actuate ▸ explain.

use crate::limits::{Limited, Limiter};
use crate::observe::Observe;
use crate::policy::{Observation, Policy, Replicas};
use crate::target;
use metrics::{counter, gauge};
use serde::Serialize;
use service::wire::metric;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Decisions that `/status` remembers.
const REMEMBERED: usize = 256;

/// One tick's decision with its reason.
#[derive(Debug, Clone, Serialize)]
pub struct Decision {
    /// Seconds since the scaler started.
    pub at_seconds: f64,
    /// What was there before.
    pub replicas: Replicas,
    /// What is asked for now.
    pub desired: usize,
    /// `up`, `down` or `hold`.
    pub action: &'static str,
    /// The reason's name.
    pub reason: &'static str,
    /// The reason with its figures.
    pub explanation: String,
}

/// The latest decisions, newest last.
pub type Journal = Arc<Mutex<VecDeque<Decision>>>;

/// Over less time than this a rate is noise.
const NEWER: Duration = Duration::from_millis(50);

/// Everything that one tick needs.
pub struct Control {
    /// What is observed.
    pub source: Observe,
    /// What decides.
    pub policy: Policy,
    /// What has the last word.
    pub limiter: Limiter,
    /// What is scaled.
    pub target: target::Handle,
    /// Between two ticks.
    pub interval: Duration,
    /// Where decisions are kept.
    pub journal: Journal,
}

impl Control {
    /// Ticks for ever.
    ///
    /// # Cancel safety
    /// May be dropped at any tick; the target keeps what was last asked for.
    pub async fn run(&mut self) {
        let started = Instant::now();
        let mut seen_at = None;
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let target = self.target.state.borrow().clone();
            let at = started.elapsed();
            let reading = self.source.read(at).await;
            let decision = match reading {
                Ok(reading) => match news(at, reading.age, seen_at) {
                    Some(taken) => {
                        seen_at = Some(taken);
                        self.decide(&Observation {
                            at: taken,
                            queue_length: reading.queue_length,
                            arrivals: reading.arrivals,
                            service: reading.service,
                            latency: reading.latency,
                            replicas: target.replicas,
                            startup: target.startup,
                        })
                    }
                    None => hold(at, target.replicas, "no_news", format!("no figures newer than {:.0?}", reading.age)),
                },
                // Without figures nothing changes, in either direction.
                Err(error) => {
                    tracing::warn!("hold: {error}");
                    hold(at, target.replicas, "no_observation", error.to_string())
                }
            };
            gauge!("scaler_observation_age_seconds").set((at - seen_at.unwrap_or_default()).as_secs_f64());
            self.explain(decision);
        }
    }

    fn decide(&mut self, seen: &Observation) -> Decision {
        let want = self.policy.decide(seen);
        let current = seen.replicas.desired;
        let (desired, limited) = self.limiter.apply(seen.at, current, want.replicas);
        self.target.desired.send_if_modified(|present| std::mem::replace(present, desired) != desired);
        let limited = match (want.replicas, limited) {
            (Some(wanted), Limited::Bounded) => format!("; {wanted} wanted, bounded to {desired}"),
            (Some(wanted), Limited::Stabilised) => format!("; {wanted} wanted, waiting before scaling down"),
            (None, _) | (_, Limited::Granted) => String::new(),
        };
        Decision {
            at_seconds: seen.at.as_secs_f64(),
            replicas: seen.replicas,
            desired,
            action: match desired.cmp(&current) {
                std::cmp::Ordering::Greater => "up",
                std::cmp::Ordering::Less => "down",
                std::cmp::Ordering::Equal => "hold",
            },
            reason: want.reason.as_str(),
            explanation: format!("{}{limited}", want.reason),
        }
    }

    fn explain(&self, decision: Decision) {
        gauge!(metric::DESIRED_REPLICAS).set(decision.desired as f64);
        gauge!(metric::READY_REPLICAS).set(decision.replicas.ready as f64);
        counter!("scaler_decisions_total", "action" => decision.action, "reason" => decision.reason).increment(1);
        let Decision { desired, explanation, action, .. } = &decision;
        match *action {
            "hold" => tracing::debug!(desired, "hold: {explanation}"),
            _ => tracing::info!(desired, from = decision.replicas.desired, "{action}: {explanation}"),
        }
        let mut journal = self.journal.lock().expect("nobody panics while holding the journal");
        if journal.len() == REMEMBERED {
            journal.pop_front();
        }
        journal.push_back(decision);
    }
}

/// When figures of this age were taken, if that was since the start and since the last ones. A rate is what was added
/// by the time in which it was: the same figures at a later time would show that nothing arrives.
fn news(at: Duration, age: Duration, seen_at: Option<Duration>) -> Option<Duration> {
    at.checked_sub(age).filter(|&taken| seen_at.is_none_or(|seen| taken >= seen + NEWER))
}

fn hold(at: Duration, replicas: Replicas, reason: &'static str, explanation: String) -> Decision {
    Decision { at_seconds: at.as_secs_f64(), replicas, desired: replicas.desired, action: "hold", reason, explanation }
}

#[cfg(test)]
mod tests {
    use super::*;

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
