//! The oracle: a plan of replicas made with knowledge of all arrivals. Its cost is the yardstick for the cost of laws.
//!
//! 1. A dynamic programme over seconds finds the plan with the least cost in a fluid model (`FluidModel`):
//!    replica-seconds plus a penalty for each late request.
//! 2. Each plan is tried in the plant. The penalty doubles until a plan reaches the goal, for several shares of the
//!    objective that the fluid model may let requests wait.
//! 3. A local search moves each step of the cheapest plan, as long as that saves replica-seconds and the goal holds.
//!
//! The result is a plan that exists. A cheaper one may exist too.

use super::trial::{Trial, TrialOutcome};
use std::time::Duration;
use workload::arrivals::ArrivalTimes;

/// Most numbers of replicas that the fluid model tells apart. If there are more, neighbours share one.
const MAX_LEVELS: usize = 24;

/// Number of steps between an empty queue and the longest queue that all replicas can work off in time.
const QUEUE_STEPS: usize = 96;

/// Penalties of a late request that are tried, replica-seconds: the first, and then twice the last.
const PENALTIES: usize = 14;
const FIRST_PENALTY: f64 = 0.01;

/// Shares of the objective that the fluid model may let requests wait. The plant's requests wait longer than the
/// fluid's, since arrivals within a second are random.
const WAIT_SHARES: [f64; 3] = [0.3, 0.6, 0.9];

/// Most rounds of the local search.
const MAX_SEARCH_ROUNDS: usize = 6;

const STEP: Duration = Duration::from_secs(1);

/// The outcome of the cheapest plan found that answers a share `goal` of all requests in time; of the plan with the
/// best attainment if no plan reaches the goal.
pub fn run(trial: &Trial, goal: f64) -> TrialOutcome {
    let seconds = trial.workload.per_second.len();
    let mut arrivals = vec![0.0; seconds];
    for at in ArrivalTimes::new(trial.workload, trial.process, trial.seed) {
        arrivals[(at.as_secs() as usize).min(seconds - 1)] += 1.0;
    }
    let oracle = Oracle { trial, goal, arrivals, startup: trial.plant.startup.as_secs_f64().ceil() as usize };
    let (plan, outcome) = oracle.best_fluid_plan();
    oracle.improve(plan, outcome)
}

struct Oracle<'a> {
    trial: &'a Trial<'a>,
    /// Share of all requests that is to be answered in time.
    goal: f64,
    /// Requests that arrive in each second.
    arrivals: Vec<f64>,
    /// Start-up time, seconds.
    startup: usize,
}

impl Oracle<'_> {
    /// The best plan of the fluid model, as ready replicas in each second, with its outcome in the plant.
    fn best_fluid_plan(&self) -> (Vec<usize>, TrialOutcome) {
        let mut best: Option<(Vec<usize>, TrialOutcome)> = None;
        for wait_share in WAIT_SHARES {
            let model = FluidModel::new(self.trial, wait_share);
            for doublings in 0..PENALTIES {
                let plan = model.cheapest_plan(self, FIRST_PENALTY * 2_f64.powi(doublings as i32));
                let outcome = self.try_in_plant(&plan);
                let reaches_goal = outcome.attainment() >= self.goal;
                if best.as_ref().is_none_or(|best| self.is_better(&outcome, &best.1)) {
                    best = Some((plan, outcome));
                }
                if reaches_goal {
                    break;
                }
            }
        }
        best.expect("at least one penalty was tried")
    }

    /// Runs a plan in the plant. Each replica is asked for early enough to be ready in time.
    fn try_in_plant(&self, plan: &[usize]) -> TrialOutcome {
        let mut second = 0;
        let initial = plan[0];
        self.trial.run_with(STEP, initial, |_| {
            let until_ready = &plan[second..plan.len().min(second + self.startup + 1)];
            second += 1;
            until_ready.iter().copied().max().unwrap_or(initial)
        })
    }

    fn is_better(&self, new: &TrialOutcome, old: &TrialOutcome) -> bool {
        match (new.attainment() >= self.goal, old.attainment() >= self.goal) {
            (true, true) => new.replica_seconds() < old.replica_seconds(),
            (false, false) => new.attainment() > old.attainment(),
            (new_reaches_goal, _) => new_reaches_goal,
        }
    }

    /// Local search: takes one replica-step away before a step up or before a step down, while the plan gets better.
    fn improve(&self, mut plan: Vec<usize>, mut outcome: TrialOutcome) -> TrialOutcome {
        for _ in 0..MAX_SEARCH_ROUNDS {
            let before = outcome.replica_seconds();
            let mut second = 1;
            while second < plan.len() {
                let (left, right) = (plan[second - 1], plan[second]);
                if left != right {
                    // A step up moves to the next second, a step down to the one before. Either way one second gets the
                    // lower number.
                    let moved = if left < right { second } else { second - 1 };
                    let kept = std::mem::replace(&mut plan[moved], left.min(right));
                    let tried = self.try_in_plant(&plan);
                    if self.is_better(&tried, &outcome) {
                        outcome = tried;
                        // The same step is tried again at its new place.
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

/// A model in which requests flow evenly within each second and every replica serves at its full speed. Its state is
/// the number of ready replicas and the length of the queue.
struct FluidModel {
    /// Numbers of replicas that are told apart, ascending.
    levels: Vec<usize>,
    /// Requests per second of one replica.
    rate: f64,
    /// A request that waits longer is late, seconds.
    max_wait: f64,
    /// Requests from one queue length that is told apart to the next.
    queue_step: f64,
}

/// For each second and each state, the index of the cheapest level.
type Choices = Vec<Vec<u8>>;

impl FluidModel {
    fn new(trial: &Trial, wait_share: f64) -> Self {
        let (min, max) = (trial.limits.min, trial.limits.max.min(trial.plant.max_placed));
        let group = (max - min).div_ceil(MAX_LEVELS).max(1);
        let speed = trial.plant.full_speed();
        let rate = speed.requests_per_second;
        let max_wait = (trial.plant.objective.as_secs_f64() - speed.pass_seconds).max(0.0) * wait_share;
        let longest_queue = max as f64 * rate * max_wait;
        Self {
            levels: (min..max).step_by(group).chain([max]).collect(),
            rate,
            max_wait,
            queue_step: (longest_queue / QUEUE_STEPS as f64).max(1e-9),
        }
    }

    /// Ready replicas by second that minimise replica-seconds, starts included, plus `penalty` for each late request.
    fn cheapest_plan(&self, oracle: &Oracle, penalty: f64) -> Vec<usize> {
        self.follow(&oracle.arrivals, &self.choices(&oracle.arrivals, oracle.startup, penalty))
    }

    fn state(level: usize, queue: usize) -> usize {
        level * (QUEUE_STEPS + 1) + queue
    }

    /// Backward induction: from the last second to the first, the cheapest level in each state.
    fn choices(&self, arrivals: &[f64], startup: usize, penalty: f64) -> Choices {
        let levels = self.levels.len();
        let states = levels * (QUEUE_STEPS + 1);
        // Cost from each state until the end.
        let mut cost_to_go = vec![0.0_f64; states];
        let mut choices = vec![vec![0_u8; states]; arrivals.len()];
        for (second, &arrivals) in arrivals.iter().enumerate().rev() {
            let mut costs = vec![0.0; states];
            for queue in 0..=QUEUE_STEPS {
                let after = |level| {
                    let (cost, next_queue) = self.one_second(level, queue, arrivals, penalty);
                    cost + cost_to_go[Self::state(level, next_queue)]
                };
                let after: Vec<f64> = (0..levels).map(after).collect();
                for level in 0..levels {
                    // Before the first second no start costs anything.
                    let total = |chosen: usize| {
                        let started = self.levels[chosen].saturating_sub(self.levels[level]);
                        after[chosen] + (started * startup.min(second)) as f64
                    };
                    let chosen = (0..levels).min_by(|&a, &b| total(a).total_cmp(&total(b))).unwrap_or(0);
                    costs[Self::state(level, queue)] = total(chosen);
                    choices[second][Self::state(level, queue)] = chosen as u8;
                }
            }
            cost_to_go = costs;
        }
        choices
    }

    /// The cost of one second with `level` replicas ready, and the queue after it, in steps.
    fn one_second(&self, level: usize, queue: usize, arrivals: f64, penalty: f64) -> (f64, usize) {
        let replicas = self.levels[level] as f64;
        let left = (queue as f64 * self.queue_step + arrivals - replicas * self.rate).max(0.0);
        let late = (left - replicas * self.rate * self.max_wait).max(0.0);
        let kept = ((left - late) / self.queue_step).round() as usize;
        (replicas + penalty * late, kept.min(QUEUE_STEPS))
    }

    /// The levels that the choices lead to, from an empty queue on.
    fn follow(&self, arrivals: &[f64], choices: &Choices) -> Vec<usize> {
        let (mut level, mut queue) = (0, 0.0_f64);
        let plan = arrivals.iter().zip(choices).map(|(&arrivals, choices)| {
            let queue_steps = ((queue / self.queue_step).round() as usize).min(QUEUE_STEPS);
            level = usize::from(choices[Self::state(level, queue_steps)]);
            let capacity = self.levels[level] as f64 * self.rate;
            queue = (queue + arrivals - capacity).clamp(0.0, capacity * self.max_wait);
            self.levels[level]
        });
        plan.collect()
    }
}
