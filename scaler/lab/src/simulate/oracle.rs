//! What a plan would cost that knows all arrivals: the yardstick for what laws cost.
//!
//! A dynamic programme over seconds finds the plan with the least replica-seconds and late requests in a fluid model;
//! the price of a late request is chosen so that the plan, tried in the plant, holds the goal. Then every step is moved
//! as long as that saves something and the goal holds. The result is a plan that exists; a cheaper one may exist too.

use super::trial::{Outcome, Trial};
use std::time::Duration;
use workload::arrivals::Arrivals;

/// Numbers of replicas that are told apart; beyond, they come in groups.
const LEVELS: usize = 24;

/// Queue lengths that are told apart, as parts of what is still in time with all replicas.
const QUEUE_STEPS: usize = 96;

/// Prices of a late request that are tried, replica-seconds; each twice the last.
const PRICES: usize = 14;
const FIRST_PRICE: f64 = 0.01;

/// Parts of the objective that the fluid lets a request wait: it knows nothing of chance within a second.
const PATIENCE: [f64; 3] = [0.3, 0.6, 0.9];

/// Rounds of moving steps.
const ROUNDS: usize = 6;

const STEP: Duration = Duration::from_secs(1);

/// The cheapest plan found that answers a share `goal` in time: what came of it. The best attainment found, if none does.
pub fn run(trial: &Trial, goal: f64) -> Outcome {
    let seconds = trial.workload.per_second.len();
    let mut arrivals = vec![0.0; seconds];
    for at in Arrivals::new(trial.workload, trial.process, trial.seed) {
        arrivals[(at.as_secs() as usize).min(seconds - 1)] += 1.0;
    }
    let oracle = Oracle { trial, goal, arrivals, startup: trial.plant.startup.as_secs_f64().ceil() as usize };
    let mut best: Option<(Vec<usize>, Outcome)> = None;
    for patience in PATIENCE {
        for price in 0..PRICES {
            let plan = oracle.plan(FIRST_PRICE * 2_f64.powi(price as i32), patience);
            let outcome = oracle.try_out(&plan);
            let holds = outcome.attainment() >= goal;
            if best.as_ref().is_none_or(|best| oracle.is_better(&outcome, &best.1)) {
                best = Some((plan, outcome));
            }
            if holds {
                break;
            }
        }
    }
    let (plan, outcome) = best.expect("there are prices");
    oracle.polish(plan, outcome)
}

struct Oracle<'a> {
    trial: &'a Trial<'a>,
    goal: f64,
    /// By second.
    arrivals: Vec<f64>,
    /// Seconds.
    startup: usize,
}

impl Oracle<'_> {
    /// Ready replicas by second that minimise replica-seconds, starts included, plus `price` for each late request.
    fn plan(&self, price: f64, patience: f64) -> Vec<usize> {
        let (min, max) = (self.trial.limits.min, self.trial.limits.max.min(self.trial.plant.room));
        let group = (max - min).div_ceil(LEVELS).max(1);
        let levels: Vec<usize> = (min..max).step_by(group).chain([max]).collect();
        let (rate, pass) = self.trial.plant.full_speed();
        let wait = (self.trial.plant.objective.as_secs_f64() - pass).max(0.0) * patience;
        let longest = max as f64 * rate * wait;
        let step = (longest / QUEUE_STEPS as f64).max(1e-9);
        let states = levels.len() * (QUEUE_STEPS + 1);
        // Cost until the end from each state, last second first; then the choice in each.
        let mut cost = vec![0.0_f64; states];
        let mut choices = vec![vec![0_u8; states]; self.arrivals.len()];
        for (second, &arrivals) in self.arrivals.iter().enumerate().rev() {
            // What follows if so many are ready in this second, whatever there was before.
            let follow = |level: usize, queue: usize| {
                let replicas = levels[level] as f64;
                let left = (queue as f64 * step + arrivals - replicas * rate).max(0.0);
                let bearable = replicas * rate * wait;
                let late = (left - bearable).max(0.0);
                let kept = ((left - late) / step).round() as usize;
                replicas + price * late + cost[level * (QUEUE_STEPS + 1) + kept.min(QUEUE_STEPS)]
            };
            let mut next = vec![0.0; states];
            for queue in 0..=QUEUE_STEPS {
                let follows: Vec<f64> = (0..levels.len()).map(|level| follow(level, queue)).collect();
                for level in 0..levels.len() {
                    let starting = |chosen: usize| {
                        let more = levels[chosen].saturating_sub(levels[level]);
                        // Nothing that starts before the beginning costs anything.
                        (more * self.startup.min(second)) as f64
                    };
                    let total = |chosen: usize| follows[chosen] + starting(chosen);
                    let chosen = (0..levels.len()).min_by(|&a, &b| total(a).total_cmp(&total(b))).unwrap_or(0);
                    next[level * (QUEUE_STEPS + 1) + queue] = total(chosen);
                    choices[second][level * (QUEUE_STEPS + 1) + queue] = chosen as u8;
                }
            }
            cost = next;
        }
        let (mut level, mut queue) = (0, 0.0_f64);
        let walk = self.arrivals.iter().zip(&choices).map(|(&arrivals, choices)| {
            let index = ((queue / step).round() as usize).min(QUEUE_STEPS);
            level = usize::from(choices[level * (QUEUE_STEPS + 1) + index]);
            let capacity = levels[level] as f64 * rate;
            queue = (queue + arrivals - capacity).clamp(0.0, capacity * wait);
            levels[level]
        });
        walk.collect()
    }

    /// Each replica is asked for so early that it is ready in time.
    fn try_out(&self, plan: &[usize]) -> Outcome {
        let mut second = 0;
        let initial = plan[0];
        self.trial.steer(STEP, initial, |_| {
            let soon = &plan[second..plan.len().min(second + self.startup + 1)];
            second += 1;
            soon.iter().copied().max().unwrap_or(initial)
        })
    }

    fn is_better(&self, new: &Outcome, old: &Outcome) -> bool {
        match (new.attainment() >= self.goal, old.attainment() >= self.goal) {
            (true, true) => new.replica_seconds() < old.replica_seconds(),
            (false, false) => new.attainment() > old.attainment(),
            (holds, _) => holds,
        }
    }

    /// Moves each step later (up) or earlier (down) while that is better.
    fn polish(&self, mut plan: Vec<usize>, mut outcome: Outcome) -> Outcome {
        for _ in 0..ROUNDS {
            let before = outcome.replica_seconds();
            let mut second = 1;
            while second < plan.len() {
                let (left, right) = (plan[second - 1], plan[second]);
                if left != right {
                    // A step up starts later; a step down comes earlier; either way one second has the fewer.
                    let moved = if left < right { second } else { second - 1 };
                    let kept = std::mem::replace(&mut plan[moved], left.min(right));
                    let tried = self.try_out(&plan);
                    if self.is_better(&tried, &outcome) {
                        outcome = tried;
                        // The same step again, where it is now.
                        second = if left < right { second + 1 } else { (second - 1).max(1) };
                        continue;
                    }
                    plan[moved] = kept;
                }
                second += 1;
            }
            if outcome.replica_seconds() >= before {
                break;
            }
        }
        outcome
    }
}
