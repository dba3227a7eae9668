//! The oracle: a plan of replicas that knows all arrivals. Its cost is the yardstick for the cost of laws. The oracle
//! plans for a plant without disturbances, so the yardstick is the same with any disturbance.
//!
//! 1. Dynamic programming over the seconds of the workload finds the cheapest plan in a fluid model (`FluidModel`). The
//!    cost is the replica-seconds and a penalty for each late request.
//! 2. The plant simulates each of these plans. The penalty doubles until a plan reaches the goal. This is done for
//!    several limits on the wait in the fluid model.
//! 3. A local search moves the steps of the cheapest plan in time, as long as this saves replica-seconds and the plan
//!    still reaches the goal.
//!
//! The plant is that of the trial, as for a law: with its order, which is late-last by default, its admission and its
//! deadline. The fluid model has none of these. It only proposes plans, and the plant judges them.
//!
//! The result is a cheap plan, and no bound on what is possible. The search is not exhaustive, and plans change at
//! whole seconds only, so another plan or a law may reach the goal at a lower cost. Two advantages over a law remain:
//! the oracle knows the arrivals and service times of its seed, and it begins with the replicas of its first second,
//! where a law begins with the lowest number. If no plan that was tried reaches the goal, the result is not even
//! feasible, and a law may answer more requests in time. That happens on the workload gamma of the set `held-out`. The
//! highest number of replicas throughout would often reach the goal there, but as a yardstick it would be far too dear.

use super::controller::Controller;
use super::plant::Plant;
use super::plant::disturbances::Disturbances;
use super::plant::settings::PlantSettings;
use super::trial::{Trial, TrialOutcome};
use std::time::Duration;
use workload::arrivals::ArrivalTimes;

/// The fluid model has at most one level more than this. A level is a number of replicas. If there are more numbers
/// between the bounds, neighbouring levels are several replicas apart.
const MAX_LEVELS: usize = 24;

/// The number of steps into which the fluid model divides the queue, from empty to the longest queue that all replicas
/// can work off in time.
const QUEUE_STEPS: usize = 96;

/// The largest number of penalties for a late request that are tried. Each is twice the previous one.
const PENALTIES: usize = 14;

/// The first penalty for a late request that is tried, in replica-seconds.
const FIRST_PENALTY: f64 = 0.01;

/// The shares of the longest possible wait, objective − forward pass, that requests may wait in the fluid model. They
/// are below 1, because requests wait longer in the plant, where arrivals within a second are random.
const WAIT_SHARES: [f64; 3] = [0.3, 0.6, 0.9];

/// The largest number of rounds of the local search.
const MAX_SEARCH_ROUNDS: usize = 6;

/// The time between two changes of a plan.
const STEP: Duration = Duration::from_secs(1);

/// The outcome of the oracle on the workload of `trial`, with its seed, plant and bounds. The oracle is the cheapest
/// plan that was found to answer the share `goal` of all requests within the objective. If no plan that was tried
/// reaches the goal, it is the one of them with the highest attainment.
pub fn run(trial: &Trial, goal: f64) -> TrialOutcome {
    let plant = PlantSettings { disturbances: Disturbances::NONE, ..trial.plant.clone() };
    let trial = &Trial { plant, ..trial.clone() };
    let seconds = trial.workload.per_second.len();
    let mut arrivals = vec![0.0; seconds];
    for at in ArrivalTimes::new(trial.workload.clone(), trial.process, trial.seed) {
        arrivals[(at.as_secs() as usize).min(seconds - 1)] += 1.0;
    }
    let oracle = Oracle { trial, goal, arrivals, startup: trial.plant.startup.as_secs_f64().ceil() as usize };
    let (plan, outcome) = oracle.best_fluid_plan();
    oracle.improve(plan, outcome)
}

struct Oracle<'a> {
    trial: &'a Trial<'a>,
    /// The attainment that the plan must reach, 0 to 1.
    goal: f64,
    /// The number of requests that arrive in each second.
    arrivals: Vec<f64>,
    /// The start-up time, in seconds, rounded up.
    startup: usize,
}

impl Oracle<'_> {
    /// The best plan of the fluid model, as the number of ready replicas in each second, and the outcome of that plan
    /// in the plant.
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
        best.expect("WAIT_SHARES and PENALTIES are not empty")
    }

    /// The outcome of a plan in the plant. The desired replicas rise a start-up time earlier than the plan, so that
    /// replicas are ready in time.
    fn try_in_plant(&self, plan: &[usize]) -> TrialOutcome {
        self.trial.run_with(STEP, plan[0], &mut PlanController { plan, startup: self.startup, second: 0 })
    }

    fn is_better(&self, new: &TrialOutcome, old: &TrialOutcome) -> bool {
        match (new.attainment() >= self.goal, old.attainment() >= self.goal) {
            (true, true) => new.replica_seconds() < old.replica_seconds(),
            (false, false) => new.attainment() > old.attainment(),
            (new_reaches_goal, _) => new_reaches_goal,
        }
    }

    /// Local search: moves each step up of the plan to a later second, and each step down to an earlier second, while
    /// the outcome gets better. Returns the best outcome.
    fn improve(&self, mut plan: Vec<usize>, mut outcome: TrialOutcome) -> TrialOutcome {
        for _ in 0..MAX_SEARCH_ROUNDS {
            let before = outcome.replica_seconds();
            let mut second = 1;
            while second < plan.len() {
                let (left, right) = (plan[second - 1], plan[second]);
                if left != right {
                    // A step up moves to the next second, and a step down to the previous second. In both cases, one
                    // second gets the lower of the two numbers.
                    let moved = if left < right { second } else { second - 1 };
                    let kept = std::mem::replace(&mut plan[moved], left.min(right));
                    let tried = self.try_in_plant(&plan);
                    if self.is_better(&tried, &outcome) {
                        outcome = tried;
                        // Tries to move the same step once more.
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

/// Follows a plan. The desired replicas rise a start-up time earlier than the plan.
struct PlanController<'a> {
    /// The number of ready replicas in each second.
    plan: &'a [usize],
    /// The start-up time, in seconds.
    startup: usize,
    /// The second of the next decision.
    second: usize,
}

impl Controller for PlanController<'_> {
    fn decide(&mut self, _plant: &Plant) -> usize {
        let until_ready = &self.plan[self.second..self.plan.len().min(self.second + self.startup + 1)];
        self.second += 1;
        until_ready.iter().copied().max().unwrap_or(self.plan[0])
    }
}

/// A fluid model of the plant: requests flow evenly within each second, and every replica computes at full speed. The
/// state of the model is the number of ready replicas and the length of the queue.
struct FluidModel {
    /// The numbers of replicas that a state can have, ascending.
    levels: Vec<usize>,
    /// The requests per second that one replica answers.
    rate: f64,
    /// The longest wait, in seconds. A request that waits longer is late.
    max_wait: f64,
    /// The number of requests between two neighbouring queue lengths of the states.
    queue_step: f64,
}

/// For each second and each state, the index of the level that is cheapest from then on.
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

    /// The plan with the lowest cost, as the number of ready replicas in each second. The cost is the replica-seconds,
    /// those of starting replicas included, and `penalty` for each late request.
    fn cheapest_plan(&self, oracle: &Oracle, penalty: f64) -> Vec<usize> {
        self.follow(&oracle.arrivals, &self.choices(&oracle.arrivals, oracle.startup, penalty))
    }

    /// The index of the state with these indices of the level and of the queue length.
    fn state(level: usize, queue: usize) -> usize {
        level * (QUEUE_STEPS + 1) + queue
    }

    /// The cheapest level in each second and each state, by backward induction from the last second to the first.
    fn choices(&self, arrivals: &[f64], startup: usize, penalty: f64) -> Choices {
        let levels = self.levels.len();
        let states = levels * (QUEUE_STEPS + 1);
        // The lowest cost from each state to the end of the workload.
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
                    // Only the part of a start that lies after the beginning of the workload costs anything.
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

    /// The cost of one second in which the ready replicas are those of level `level`, and the length of the queue after
    /// that second, in steps.
    fn one_second(&self, level: usize, queue: usize, arrivals: f64, penalty: f64) -> (f64, usize) {
        let replicas = self.levels[level] as f64;
        let left = (queue as f64 * self.queue_step + arrivals - replicas * self.rate).max(0.0);
        let late = (left - replicas * self.rate * self.max_wait).max(0.0);
        let kept = ((left - late) / self.queue_step).round() as usize;
        (replicas + penalty * late, kept.min(QUEUE_STEPS))
    }

    /// The plan that follows `choices` from an empty queue, as the number of ready replicas in each second.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::LawChoice;
    use crate::simulate::time_distribution::TimeDistribution;
    use law::table::{Objective, Settings};
    use limits::Limits;
    use workload::Workload;
    use workload::arrivals::ArrivalProcess;

    const S: fn(f64) -> Duration = Duration::from_secs_f64;

    /// The outcome of the oracle, and that of `max` replicas throughout. Requests arrive evenly, and a replica answers
    /// ten per second.
    fn oracle_and_most(per_second: Vec<f64>, max: usize) -> (TrialOutcome, TrialOutcome) {
        let workload = Workload { per_second };
        let trial = Trial {
            law: LawChoice::Live(format!("fixed:{max}")),
            law_settings: Settings {
                objective: Objective { latency: S(0.5), quantile: 0.99 },
                interval: S(0.5),
                delay: Duration::ZERO,
                starts_per_second: f64::INFINITY,
                min: max,
                max,
            },
            limits: Limits::bounds(max, max),
            plant: PlantSettings::simple(TimeDistribution::Constant(S(0.1))),
            workload: &workload,
            process: ArrivalProcess::Uniform,
            staleness: Duration::ZERO,
            jitter: Duration::ZERO,
            seed: 1,
        };
        let most = trial.run();
        (run(&Trial { limits: Limits::bounds(1, max), ..trial.clone() }, 0.999), most)
    }

    #[test]
    fn the_oracle_starts_replicas_just_before_they_are_needed() {
        let square = [vec![8.0; 60], vec![25.0; 60], vec![8.0; 60]].concat();
        let (oracle, most) = oracle_and_most(square, 4);
        assert!(oracle.attainment() >= 0.999, "{}", oracle.attainment());
        // One replica, two more for 60 s, and three seconds for each of their starts. The most is 720.
        let cost = oracle.replica_seconds();
        assert!((290.0..=312.0).contains(&cost), "{cost} of {} replica-seconds", most.replica_seconds());
    }

    #[test]
    fn in_an_overload_the_oracle_answers_as_many_as_the_most_replicas() {
        let (oracle, most) = oracle_and_most(vec![50.0; 60], 4);
        assert!(oracle.attainment() < 0.9, "{}", oracle.attainment());
        assert!(oracle.attainment() >= most.attainment(), "{} of {}", oracle.attainment(), most.attainment());
    }
}
