//! The control loop: observe ▸ decide ▸ limit ▸ actuate ▸ explain.

use crate::advice::{Advice, MAX_AGE};
use crate::config::scaling::Role;
use crate::decision::{Action, Decision, Inputs, Journal, NO_NEWS};
use crate::headroom::{self, HeadroomSize};
use crate::leader::Term;
use crate::log_limiter::{LogLimiter, LogLine};
use crate::metrics;
use crate::target::{self, Desired, Rejection};
use ::metrics::{counter, gauge};
use law::observation::{Observation, Replicas};
use law::table::{Law, Recommendation};
use limits::{Limit, Limiter, Limits};
use readings::{Error, Reading, ReadingSource};
use service::wire::metric;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The longest time between two observations. A law with a longer interval waits for its next step.
pub const OBSERVE: Duration = Duration::from_millis(500);

/// The least time between the figures of two decisions. Over a shorter time, a rate would be noise.
const MIN_STEP: Duration = Duration::from_millis(250);

/// The effect of a decision on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actuation {
    /// The scaler sets the number of replicas.
    Direct,
    /// Nothing is changed (`--dry-run`).
    DryRun,
    /// Another autoscaler sets the number of replicas by the recommendations (`--advise`).
    Advice,
}

/// The checked settings of the control loop of one target.
#[derive(Debug)]
pub struct ControlSettings {
    /// The target's name in metrics and messages: the name of its section, or the value of `--target`.
    pub name: String,
    /// The kind of the target's processes or pods.
    pub role: Role,
    /// The source of the readings.
    pub source: ReadingSource,
    /// The law, before its first observation.
    pub law: Box<dyn Law>,
    /// The limits between recommended and desired replicas.
    pub limits: Limits,
    /// Time between two decisions.
    pub interval: Duration,
    /// The effect of a decision on the target.
    pub actuation: Actuation,
    /// The number of placeholders that keep room for new replicas; `None` for none.
    pub headroom: Option<HeadroomSize>,
}

/// The control loop of one target.
pub struct Control {
    /// The settings of the loop.
    pub settings: ControlSettings,
    limiter: Limiter,
    /// The connection to the target's task.
    pub target: target::Handle,
    /// The connection to the task of the placeholders; `None` if there are none.
    pub placeholders: Option<target::Handle>,
    /// The term in which this scaler leads, if it does; `None` if the target cannot have several scalers.
    pub leading: Option<watch::Receiver<Option<Term>>>,
    /// The recommendation for another autoscaler; `None` before the first decision with figures.
    pub advice: watch::Sender<Option<Advice>>,
    /// The latest decisions of this loop.
    pub journal: Journal,
    log_limiter: LogLimiter,
    /// The time of the figures that the last decision used.
    seen_at: Option<Duration>,
    /// Whether a reading since the last decision was partial. Its figures may have been too recent for a decision.
    is_partial: bool,
    /// The time of the figures of the last decision that was not rejected, in seconds.
    acted_at: f64,
}

impl Control {
    /// A control loop that has not ticked yet.
    pub fn new(
        settings: ControlSettings,
        target: target::Handle,
        leading: Option<watch::Receiver<Option<Term>>>,
    ) -> Self {
        Self {
            limiter: Limiter::new(settings.limits),
            settings,
            target,
            placeholders: None,
            leading,
            advice: watch::channel(None).0,
            journal: Journal::default(),
            log_limiter: LogLimiter::default(),
            seen_at: None,
            is_partial: false,
            acted_at: 0.0,
        }
    }

    /// Decides at every tick, and never returns.
    ///
    /// # Cancel safety
    /// It may be dropped at any tick. The target then keeps the replicas that were desired last.
    pub async fn run(&mut self) {
        let started = Instant::now();
        let mut tick = tokio::time::interval(self.settings.interval.min(OBSERVE));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let state = self.target.state.borrow().clone();
            let reading = self.settings.source.read(started).await;
            let at = started.elapsed();
            let decision = self.decide(at, state, reading);
            gauge!(metrics::OBSERVATION_AGE, "target" => self.settings.name.clone())
                .set((at.as_secs_f64() - self.acted_at).max(0.0));
            self.explain(at, decision);
        }
    }

    /// The decision of the tick at `at`.
    fn decide(&mut self, at: Duration, state: target::TargetState, reading: Result<Reading, Error>) -> Decision {
        let hold = |reason, why| Decision::hold(at.as_secs_f64(), state.replicas, reason, why);
        if let Some(refusal) = state.refusal {
            return hold("refused", refusal);
        }
        let Reading { figures, silent } = match reading {
            Ok(reading) => reading,
            Err(error @ Error::TooEarly) => return hold(NO_NEWS, error.to_string()),
            Err(error) => return hold("no_observation", error.to_string()),
        };
        // A scaler that does not lead writes nothing. If it led before, a rejection may be left.
        let rejection = state.rejection.filter(|_| self.authority().is_ok());
        self.is_partial |= figures.is_partial;
        let decision = if is_news(figures.at, self.seen_at) {
            self.seen_at = Some(figures.at);
            let is_partial = std::mem::take(&mut self.is_partial);
            let target::TargetState { replicas, startup, node_time, placement, obstacle, awaited, .. } = state;
            let age = at.saturating_sub(figures.at);
            let mut seen = Observation { replicas, age, startup, node_time, placement, is_partial, ..figures };
            if self.settings.role == Role::Dispatchers {
                // Requests wait, or are in flight, because replicas are busy. More dispatchers would not help: a law
                // that saw these numbers would start dispatchers for nothing.
                (seen.queue_length, seen.in_flight) = (0.0, 0.0);
            }
            self.scale(&seen, silent, obstacle.as_deref(), awaited.as_deref())
        } else {
            let age = at.saturating_sub(figures.at);
            hold(NO_NEWS, format!("there are no new figures; the latest are {age:.0?} old"))
        };
        // A decision for the present number is not rejected, so it ends the rejection.
        if let Some(rejection) = rejection.filter(|_| decision.recommended.is_none() || decision.action != Action::Hold)
        {
            return after_rejection(decision, hold("refused", rejection.reason.clone()), &rejection);
        }
        if decision.inputs.is_some() {
            self.acted_at = decision.at_seconds;
        }
        decision
    }

    /// Decides on an observation, and sends the target the desired replicas. `silent` names the silent dispatchers, and
    /// `obstacle` and `awaited` are those of the target's state.
    fn scale(
        &mut self,
        seen: &Observation,
        silent: Option<String>,
        obstacle: Option<&str>,
        awaited: Option<&str>,
    ) -> Decision {
        let Replicas { desired: current, lost, .. } = seen.replicas;
        let recommendation = self.settings.law.decide(&without_lost(seen));
        let (desired, limit) = self.limiter.apply(seen, recommendation.replicas);
        let headroom = self.settings.headroom;
        let placeholders =
            headroom.and_then(|size| size.placeholders(&recommendation, desired, self.settings.limits.max));
        let Recommendation { replicas: recommended, reason, text: mut explanation, plan } = recommendation;
        if let (Some(recommended), Some(note)) = (recommended, limit.note()) {
            explanation += &format!("; {recommended} recommended, {note}");
        }
        if lost > 0 {
            explanation += &format!("; lost replicas ({lost}) are replaced, as far as --max permits");
        }
        explanation.extend(doubt(seen));
        explanation.extend(silent.map(|silent| format!("; {silent}")));
        explanation.extend(awaited.map(|awaited| format!("; {awaited}")));
        if self.settings.actuation == Actuation::Advice {
            self.advise(recommended.map(|_| desired));
        }
        let authority = self.authority();
        if let (Ok(term), Some(_)) = (&authority, recommended) {
            let is_full = limit == Limit::Full;
            let new = Desired { replicas: desired, reason: explanation.clone(), is_full, term: *term };
            // The target forgets a rejection with the next message.
            let is_rejected = self.target.state.borrow().rejection.is_some();
            self.target.desired.send_if_modified(|present| {
                // The target may have left the change out, so each decision is sent until the target has the replicas.
                let is_new = present.replicas != desired || desired != current || is_rejected;
                *present = new;
                is_new
            });
        }
        if let (Ok(term), Some(placeholders), Some(handle)) = (&authority, placeholders, &self.placeholders) {
            let present = Desired { term: *term, ..Desired::default() };
            explanation.extend(headroom::set(handle, placeholders, present));
        }
        // The Event of a change adds an obstacle by itself.
        explanation.extend(obstacle.map(|obstacle| format!("; a pod cannot run: {obstacle}")));
        Decision {
            at_seconds: seen.at.as_secs_f64(),
            replicas: seen.replicas,
            inputs: Some(Inputs::from(seen)),
            recommended,
            plan,
            limit,
            desired,
            action: Action::of(current, desired),
            withheld: authority.err(),
            reason,
            explanation,
        }
    }

    /// Tells another autoscaler the desired number of replicas. `None` confirms the last advice: the law has no opinion at
    /// this tick.
    fn advise(&self, desired: Option<usize>) {
        let (confirmed, max_age) = (tokio::time::Instant::now(), MAX_AGE.max(self.settings.limits.outage));
        self.advice.send_modify(|advice| {
            let replicas = desired.or(advice.map(|advice| advice.replicas));
            *advice = replicas.map(|replicas| Advice { replicas, confirmed, max_age });
        });
    }

    /// The term in which decisions are carried out, without a term if the target cannot have several scalers.
    ///
    /// # Errors
    /// If decisions are not carried out: the reason.
    fn authority(&self) -> Result<Option<Term>, String> {
        match self.settings.actuation {
            Actuation::Direct => {}
            Actuation::DryRun => return Err("--dry-run".into()),
            Actuation::Advice => return Err("--advise".into()),
        }
        let Some(leading) = &self.leading else { return Ok(None) };
        let term = leading.borrow().filter(Term::lasts);
        term.map(Some).ok_or_else(|| "this scaler does not lead".into())
    }

    /// Exports and logs a decision, and adds it to the journal.
    fn explain(&mut self, at: Duration, decision: Decision) {
        let Decision { desired, action, reason, explanation, replicas, .. } = &decision;
        let ceiling = self.limiter.ceiling(Duration::from_secs_f64(decision.at_seconds)).unwrap_or_default();
        let set = |name, value: f64| gauge!(name, "target" => self.settings.name.clone()).set(value);
        set(metric::DESIRED_REPLICAS, *desired as f64);
        set(metric::READY_REPLICAS, replicas.ready as f64);
        set(metrics::BLOCKED_REPLICAS, replicas.blocked as f64);
        set(metrics::CEILING_REPLICAS, ceiling as f64);
        if let Some(plan) = &decision.plan {
            set(metrics::PREDICTED_LATE, plan.predicted_late);
        }
        let labels =
            [("target", self.settings.name.clone()), ("action", action.as_str().into()), ("reason", (*reason).into())];
        counter!(metrics::DECISIONS, &labels).increment(1);
        let withheld = decision.withheld.as_deref().map(|why| format!(" (not done: {why})")).unwrap_or_default();
        let facts = || serde_json::to_string(&decision).unwrap_or_default();
        let (action, current) = (action.as_str(), replicas.desired);
        match self.log_limiter.line(at, &decision) {
            Some(LogLine::Fault) => tracing::warn!("no decision, replicas stay at {current}: {explanation}"),
            Some(LogLine::Over) => tracing::info!("the fault is over, decisions are made again: {explanation}"),
            Some(LogLine::Change) => {
                tracing::info!(decision = facts(), "{action} {current} → {desired}: {explanation}{withheld}");
            }
            None => tracing::debug!(decision = facts(), "{action}: {explanation}{withheld}"),
        }
        self.journal.add(decision);
    }
}

/// The observation for laws, whose desired replicas are those without the lost ones. The limits add the lost replicas to
/// the recommendation. If laws counted them as desired replicas, a law that recommends as many replicas as there are
/// would add them again at each decision.
fn without_lost(seen: &Observation) -> Observation {
    let Replicas { desired, lost, .. } = seen.replicas;
    // A law that saw no desired replica would wake one or leave it so, as after a scale-down to zero.
    let desired = desired.saturating_sub(lost).max(desired.min(1));
    let replicas = Replicas { desired, ..seen.replicas };
    Observation { replicas, ..seen.clone() }
}

/// What to report of a decision after a rejection. `refused` is the decision to change nothing, with the reason of the
/// rejection. It is reported until the next attempt, which is reported with that reason.
fn after_rejection(decision: Decision, refused: Decision, rejection: &Rejection) -> Decision {
    if decision.recommended.is_none() || rejection.pauses() {
        return refused;
    }
    let explanation = format!("{}; the last attempt failed: {}", decision.explanation, refused.explanation);
    Decision { explanation, ..decision }
}

/// A note for users if requests wait although replicas are ready. More replicas would not help then.
fn doubt(seen: &Observation) -> Option<String> {
    let is_cut_off = seen.queue_length > 0.0 && seen.in_flight + seen.capacity == 0.0 && seen.replicas.ready > 0;
    is_cut_off.then(|| {
        let ready = seen.replicas.ready;
        format!(
            "; the dispatchers have no replica in rotation although {ready} are ready; check --replicas of dispatchers"
        )
    })
}

/// Whether figures that were taken at `taken` are at least [`MIN_STEP`] newer than those of the last decision.
pub fn is_news(taken: Duration, seen_at: Option<Duration>) -> bool {
    seen_at.is_none_or(|seen| taken >= seen + MIN_STEP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use limits::Guard;
    use readings::dispatchers::Dispatchers;

    /// A law that says in its text whether the observation was partial.
    #[derive(Debug)]
    struct TellsPartial;

    impl Law for TellsPartial {
        fn decide(&mut self, seen: &Observation) -> Recommendation {
            Recommendation::new(None, "test", if seen.is_partial { "partial" } else { "whole" })
        }
    }

    /// A control loop of a target that changes nothing.
    fn control(law: impl Law + 'static, actuation: Actuation) -> Control {
        let settings = ControlSettings {
            name: "test".into(),
            role: Role::Replicas,
            source: ReadingSource::Dispatchers(Dispatchers::new([]).into()),
            law: Box::new(law),
            limits: Limits::bounds(1, 9),
            interval: OBSERVE,
            actuation,
            headroom: None,
        };
        let (desired, _) = watch::channel(target::Desired::default());
        let (_publish, state) = watch::channel(target::TargetState::default());
        Control::new(settings, target::Handle { desired, state, done: tokio::spawn(async {}) }, None)
    }

    /// A law that recommends as many replicas as requests wait, and has no opinion without waiting requests.
    #[derive(Debug)]
    struct OneEach;

    impl Law for OneEach {
        fn decide(&mut self, seen: &Observation) -> Recommendation {
            Recommendation::new(Some(seen.queue_length as usize).filter(|&waiting| waiting > 0), "test", "")
        }
    }

    #[tokio::test]
    async fn advice_is_within_the_limits_and_lasts_until_the_next_opinion() {
        let mut control = control(OneEach, Actuation::Advice);
        let advice = control.advice.subscribe();
        for (outage, max_age) in [(2, 60), (90, 90)] {
            control.settings.limits.outage = Duration::from_secs(outage);
            control.advise(Some(1));
            assert_eq!(advice.borrow().expect("advice").max_age, Duration::from_secs(max_age));
        }
        control.advice.send_replace(None);
        for (second, queue_length, expected) in
            [(0, 0.0, None), (1, 4.0, Some(4)), (2, 0.0, Some(4)), (3, 20.0, Some(9)), (4, 1.0, Some(1))]
        {
            let at = Duration::from_secs(second);
            let figures = Observation { at, queue_length, ..Observation::default() };
            let decision = control.decide(at, target::TargetState::default(), Ok(Reading { figures, silent: None }));
            assert_eq!(advice.borrow().map(|advice| advice.replicas), expected, "at {second} s");
            assert_eq!(decision.withheld.as_deref(), Some("--advise"));
        }
        assert_eq!(*control.target.desired.borrow(), target::Desired::default(), "nothing is sent to the target");
        let confirmed = advice.borrow().expect("advice").confirmed;
        control.decide(Duration::from_secs(5), target::TargetState::default(), Err(Error::TooEarly));
        assert_eq!(advice.borrow().expect("advice").confirmed, confirmed, "no figures confirm nothing");
    }

    #[tokio::test]
    async fn a_partial_reading_that_is_too_recent_makes_the_next_observation_partial() {
        let mut control = control(TellsPartial, Actuation::Direct);
        for (millis, is_partial, expected) in
            [(0, false, "whole"), (100, true, "no new figures"), (500, false, "partial"), (1000, false, "whole")]
        {
            let at = Duration::from_millis(millis);
            let reading = Reading { figures: Observation { at, is_partial, ..Observation::default() }, silent: None };
            let decision = control.decide(at, target::TargetState::default(), Ok(reading));
            assert!(decision.explanation.contains(expected), "at {millis} ms: {}", decision.explanation);
        }
    }

    #[test]
    fn a_rejection_is_shown_until_the_next_attempt_and_with_it() {
        let refused = Decision::hold(1.0, Replicas::default(), "refused", "denied".into());
        let up = Decision { recommended: Some(2), explanation: "two".into(), ..refused.clone() };
        let (now, minute) = (tokio::time::Instant::now(), Duration::from_secs(60));
        let explanation = |recommended, until| {
            let rejection = Rejection { reason: String::new(), until };
            after_rejection(Decision { recommended, ..up.clone() }, refused.clone(), &rejection).explanation
        };
        assert_eq!(explanation(Some(2), now + minute), "denied");
        assert_eq!(explanation(None, now), "denied", "the law has no opinion");
        assert_eq!(explanation(Some(2), now), "two; the last attempt failed: denied");
    }

    #[test]
    fn a_note_says_that_no_dispatcher_uses_the_ready_replicas() {
        let ready = Replicas { desired: 2, ready: 2, ..Replicas::default() };
        let cut_off = Observation { queue_length: 9.0, replicas: ready, ..Observation::default() };
        assert!(doubt(&cut_off).is_some_and(|text| text.contains("although 2 are ready")));
        for well in [
            Observation { capacity: 1.0, ..cut_off.clone() },
            // Older dispatchers do not export their capacity.
            Observation { in_flight: 1.0, ..cut_off.clone() },
            Observation { queue_length: 0.0, ..cut_off.clone() },
            Observation { replicas: Replicas { desired: 2, starting: 2, ..Replicas::default() }, ..cut_off },
        ] {
            assert_eq!(doubt(&well), None, "{well:?}");
        }
    }

    #[test]
    fn lost_replicas_are_added_once_to_the_present_number() {
        let mut limiter = Limiter::new(Limits { guard: Guard::On, ..Limits::bounds(1, 9) });
        let mut desired = 4;
        for second in 0..5 {
            let replicas = Replicas { desired, ready: 2, lost: 2, ..Replicas::default() };
            let seen = Observation { at: Duration::from_secs(second), replicas, ..Observation::default() };
            // The law recommends as many replicas as should serve, but four at least.
            let recommended = without_lost(&seen).replicas.desired.max(4);
            desired = limiter.apply(&seen, Some(recommended)).0;
        }
        assert_eq!(desired, 6);
    }

    #[test]
    fn the_same_figures_decide_nothing_again() {
        let seconds = Duration::from_secs_f64;
        for (taken, seen_at, expected) in
            [(0.0, None, true), (7.0, Some(7.0), false), (7.2, Some(7.0), false), (10.0, Some(7.0), true)]
        {
            assert_eq!(is_news(seconds(taken), seen_at.map(seconds)), expected, "{taken} {seen_at:?}");
        }
    }
}
