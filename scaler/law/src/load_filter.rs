//! The load, as a Bayesian filter sees it: the probability of each load, given the arrivals that were counted.
//!
//! The load is the number of replicas that work on average: arrivals per second × seconds of work for each request
//! (offered load, in erlangs). The filter's model: arrivals are a Poisson process, and the load stays the same until it
//! jumps. The filter learns how often the load jumps, and where it has been. So a load that was seen before is believed
//! sooner when it comes back.
//!
//! This is the forward algorithm of a hidden Markov model (Rabiner 1989) on a grid of loads. The chain either stays, or
//! jumps to a load that is drawn independently of the present one:
//!
//! > now′(x) ∝ ((1 − j) · now(x) + j · ((1 − ν) · visited(x) + ν ÷ loads)) · Poisson(arrivals; x · seconds ÷ work)
//!
//! j = 1 − exp(−jumps per second · seconds) is the probability of a jump within the tick, and ν the share of jumps
//! that lead anywhere (`NOVELTY`).

/// The lowest load of the grid, in erlangs.
const LOWEST: f64 = 0.02;

/// The ratio of two neighbouring loads of the grid. With steps of 7 %, replicas are added and removed again and again at
/// some steady loads.
const STEP: f64 = 1.04;

/// The highest load of the grid ÷ the most replicas. A load far above what all replicas can serve needs no distinction.
const HIGHEST: f64 = 2.5;

/// The time over which jumps and visited loads are remembered, in seconds.
pub const MEMORY: f64 = 600.0;

/// The jumps that are assumed to have been seen before the start: their number for each second of the lead, and the
/// seconds in which they were seen. The longer the lead, the more requests come late after a jump. So a law that knows
/// little should expect more jumps if replicas take long to start. They are forgotten like jumps that were seen.
const ASSUMED_JUMPS: (f64, f64) = (0.15, 100.0);

/// The least jumps per second with which the filter looks for a jump. After a long calm, the learned rate of jumps is
/// so low that a sudden rise would be taken for chance for seconds.
const LEAST_JUMPS: f64 = 0.001;

/// The share of jumps that lead anywhere, and not to where the load has been.
const NOVELTY: f64 = 0.05;

/// The weight of the loads that are assumed to have been visited before the start, in seconds.
const ASSUMED_VISIT: f64 = 10.0;

/// Before the start, the load is assumed to have been near the mean of the first seconds. This is the standard deviation
/// of the logarithm of the factor between them: in one sixth of the time the load was more than 2.7 times as high. A law
/// that assumed any load up to the highest would keep replicas for all of them if a start takes long.
const EARLIER_SPREAD: f64 = 1.0;

/// A load that differs from the mean before the tick by a larger share than this counts as reached by a jump.
const JUMP: f64 = 0.25;

/// Seconds after the start in which the filter finds the load and counts no jumps. If ticks are far apart, the first one
/// counts as such a time.
const FINDING: f64 = 5.0;

/// The steps of the grid by which the load must change if only the work of requests does: about a fifth. For smaller
/// changes, which chance makes all the time, moving the beliefs would add and remove replicas again and again.
const LEAST_RESCALE: usize = 5;

/// The probability of each load.
#[derive(Debug, Clone)]
pub struct LoadFilter {
    /// The loads of the grid, ascending, in erlangs.
    loads: Vec<f64>,
    /// The probability of each load now.
    now: Vec<f64>,
    /// The share of the time that the load has spent at each load.
    visited: Vec<f64>,
    /// The jumps that were seen, older ones counting less.
    jumps: f64,
    /// The seconds in which those jumps were seen, older ones counting less.
    watched: f64,
    /// The seconds since the start.
    age: f64,
    /// The arrivals since the start, until the load has been found.
    first_arrivals: f64,
    /// The learned number of jumps per second.
    jumps_per_second: f64,
    /// The seconds of work for each request with which the loads are those that were believed; `None` before the first
    /// arrivals.
    work: Option<f64>,
}

impl LoadFilter {
    /// A filter that has seen no arrivals. At the start, loads that the `ready` replicas can serve are the most
    /// probable. `most` is the most replicas that there can be.
    pub fn new(ready: usize, most: usize) -> Self {
        let top = HIGHEST * most.max(1) as f64;
        let loads: Vec<f64> =
            std::iter::successors(Some(LOWEST), |load| Some(load * STEP)).take_while(|&load| load <= top).collect();
        let cells = loads.len() as f64;
        let served = 0.8 * ready.max(1) as f64;
        let inside = loads.partition_point(|&load| load < served).max(1) as f64;
        let now = loads.iter().map(|&load| 0.2 / cells + if load < served { 0.8 / inside } else { 0.0 });
        let now: Vec<f64> = now.collect();
        Self {
            visited: now.clone(),
            loads,
            now,
            jumps: 0.0,
            watched: 0.0,
            age: 0.0,
            first_arrivals: 0.0,
            jumps_per_second: 0.0,
            work: None,
        }
    }

    /// Learns that `arrivals` requests arrived in the last `seconds`, which are above 0. Each costs a replica `work`
    /// seconds. `lead` is the time until a replica that is added now would serve, in seconds.
    pub fn learn(&mut self, seconds: f64, arrivals: f64, work: f64, lead: f64) {
        self.rescale(work);
        let before = if self.age > 0.0 { self.mean() } else { 0.0 };
        let (assumed, period) = ASSUMED_JUMPS;
        let remembered = (-self.age / MEMORY).exp();
        self.jumps_per_second = (assumed * lead * remembered + self.jumps) / (period * remembered + self.watched);
        let jump = 1.0 - (-self.jumps_per_second.max(LEAST_JUMPS) * seconds).exp();
        let anywhere = 1.0 / self.loads.len() as f64;
        // The logarithm of the Poisson probability, without the part that is the same for all loads.
        let logarithms: Vec<f64> = self
            .loads
            .iter()
            .map(|load| load * seconds / work)
            .map(|expected| arrivals * expected.ln() - expected)
            .collect();
        let highest = logarithms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (mut total, mut far_jump_mass) = (0.0, 0.0);
        for (index, &load) in self.loads.iter().enumerate() {
            let likelihood = (logarithms[index] - highest).exp();
            let destination = (1.0 - NOVELTY) * self.visited[index] + NOVELTY * anywhere;
            let jump_mass = jump * destination * likelihood;
            self.now[index] = (1.0 - jump) * self.now[index] * likelihood + jump_mass;
            total += self.now[index];
            if (load - before).abs() > JUMP * before {
                far_jump_mass += jump_mass;
            }
        }
        self.age += seconds;
        let forget = (-seconds / MEMORY).exp();
        self.jumps = self.jumps * forget + if self.age > FINDING { far_jump_mass / total } else { 0.0 };
        self.watched = self.watched * forget + MEMORY * (1.0 - forget);
        self.now.iter_mut().for_each(|now| *now /= total);
        if self.age <= FINDING.max(1.5 * seconds) {
            // The mean since the start counts, and not the present belief. Otherwise the first half second of a burst that
            // begins just before the load has been found would be taken for the usual load for minutes, and replicas
            // would be added for many times that load.
            self.first_arrivals += arrivals;
            self.visited = self.near(self.first_arrivals * work / self.age);
        } else {
            let weight = (seconds / (self.age.min(MEMORY) + ASSUMED_VISIT)).min(1.0);
            self.visited.iter_mut().zip(&self.now).for_each(|(visited, now)| *visited += weight * (now - *visited));
        }
    }

    /// Moves all beliefs to the loads that the same requests per second are with another `work`. Otherwise requests that
    /// cost more would look like a jump, which the filter has to find and remembers.
    fn rescale(&mut self, work: f64) {
        let before = *self.work.get_or_insert(work);
        let steps = ((work / before).ln() / STEP.ln()).round();
        let cells = (steps.abs() as usize).min(self.loads.len());
        if cells < LEAST_RESCALE {
            return;
        }
        self.work = Some(before * STEP.powf(steps));
        let last = self.loads.len() - 1;
        for beliefs in [&mut self.now, &mut self.visited] {
            let mut moved = vec![0.0; beliefs.len()];
            for (index, belief) in beliefs.iter().enumerate() {
                let index = if steps > 0.0 { (index + cells).min(last) } else { index.saturating_sub(cells) };
                moved[index] += belief;
            }
            *beliefs = moved;
        }
    }

    /// A probability of each load that is high near `mean`, in erlangs.
    fn near(&self, mean: f64) -> Vec<f64> {
        let mean = mean.clamp(LOWEST, self.loads[self.loads.len() - 1]);
        let kernel = |load: &f64| (-0.5 * ((load / mean).ln() / EARLIER_SPREAD).powi(2)).exp();
        let total: f64 = self.loads.iter().map(kernel).sum();
        self.loads.iter().map(|load| kernel(load) / total).collect()
    }

    /// The learned number of jumps per second.
    pub fn jumps_per_second(&self) -> f64 {
        self.jumps_per_second
    }

    /// The loads of the grid, ascending, in erlangs.
    pub fn loads(&self) -> &[f64] {
        &self.loads
    }

    /// The probability of each load of the grid after `seconds` in which nothing is observed.
    pub fn ahead(&self, seconds: f64) -> Vec<f64> {
        let stays = (-self.jumps_per_second * seconds).exp();
        self.now.iter().zip(&self.visited).map(|(now, visited)| stays * now + (1.0 - stays) * visited).collect()
    }

    /// The mean load, in erlangs.
    pub fn mean(&self) -> f64 {
        self.loads.iter().zip(&self.now).map(|(load, probability)| load * probability).sum()
    }

    /// The lowest load of the grid that the true load exceeds with a probability of at most 1 − `share`, in erlangs.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut below = 0.0;
        let found = self.loads.iter().zip(&self.now).find(|(_, probability)| {
            below += *probability;
            below >= share
        });
        found.map_or(self.loads[self.loads.len() - 1], |(load, _)| *load)
    }
}
