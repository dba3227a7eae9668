//! How many requests are late, in expectation, with a given number of replicas. Times are in seconds.
//!
//! A request is late if it waits longer than its wait limit b for a replica. The dispatcher serves late requests last,
//! so they cost the punctual ones nothing. The queue is then one whose customers leave when they have waited for b
//! (M/M/n + D). The share of late requests with n replicas at a load of x erlangs is
//!
//! > (x ÷ n) · E ÷ (v + x · ((1 − E) ÷ (n − x) + E ÷ n)), with E = exp(−k (n − x)), k = 2 (b ÷ S) ÷ (1 + cs²)
//!
//! and v = 1 ÷ B(n − 1, x), where B is Erlang's loss formula. That is the loss of M/M/n + D (Barrer 1957). The exponent
//! is scaled by the variation of the service times as Kingman's formula scales the mean wait. With an overload, the
//! share tends to (x − n) ÷ x: what the replicas cannot serve is late.

use std::ops::RangeInclusive;

/// The service of a replica, and the time for which requests may wait.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Waiting {
    /// The mean time that a request costs a replica, in seconds.
    pub service: f64,
    /// The squared coefficient of variation of the service time: variance ÷ squared mean.
    pub squared_variation: f64,
    /// The longest wait with which a request is still punctual, in seconds.
    pub limit: f64,
}

impl Waiting {
    /// The share of late requests with 0, 1, 2, … replicas at a load of `load` erlangs, which is above 0.
    pub fn late_shares(self, load: f64) -> impl Iterator<Item = f64> {
        let decay = 2.0 * (self.limit / self.service) / (1.0 + self.squared_variation);
        let mut inverse_loss = 1.0;
        std::iter::once(1.0).chain((1..).map(move |replicas| {
            let replicas = f64::from(replicas);
            let spare = replicas - load;
            let inverse = inverse_loss;
            inverse_loss = 1.0 + inverse * replicas / load;
            late_share(load, replicas, decay * spare, inverse, decay)
        }))
    }
}

/// The exponent k (x − n) above which the share in an overload is 1 − n ÷ x to the last digit of a float. Without this
/// limit, a table for thousands of replicas would take a second, and nearly all of it for such shares.
const FLUID: f64 = 40.0;

/// The formula of the module. `exponent` is k (n − x), and `inverse_loss` is v.
fn late_share(load: f64, replicas: f64, exponent: f64, inverse_loss: f64, decay: f64) -> f64 {
    if exponent < -FLUID {
        return 1.0 - replicas / load;
    }
    // The integral of exp(−k (n − x) t) over the wait, with a limit for n = x.
    let integral = |exponent: f64| if exponent.abs() < 1e-9 { 1.0 } else { -(-exponent).exp_m1() / exponent };
    let share = if exponent >= 0.0 {
        let left = (-exponent).exp();
        left / (inverse_loss + load * (decay * integral(exponent) + left / replicas))
    } else {
        // Multiplied through by exp(k (n − x)), which is below 1 here: in an overload, E itself may be infinite.
        let grown = exponent.exp();
        1.0 / (inverse_loss * grown + load * (decay * integral(-exponent) + 1.0 / replicas))
    };
    (share * load / replicas).clamp(0.0, 1.0)
}

/// The late requests per second below which none counts: one in thirty years.
const NONE: f64 = 1e-9;

/// Late requests per second for each load of a grid and each number of replicas.
#[derive(Debug)]
pub struct LateTable {
    waiting: Waiting,
    /// For each load, the late requests per second with 0, 1, 2, … replicas, up to the highest number of replicas, or to
    /// the last one with which any request is late.
    late: Vec<Vec<f64>>,
}

impl LateTable {
    /// The table for the loads of a grid, in erlangs, and for 0 to `most` replicas.
    pub fn new(waiting: Waiting, loads: &[f64], most: usize) -> Self {
        let row = |&load: &f64| {
            let late = waiting.late_shares(load).take(most + 1).map(|share| share * load / waiting.service);
            late.take_while(|late| *late > NONE).collect()
        };
        Self { waiting, late: loads.iter().map(row).collect() }
    }

    /// Whether `waiting` differs by at most about one per cent from that of the table.
    pub fn holds_for(&self, waiting: Waiting) -> bool {
        let is_near = |old: f64, new: f64| (old - new).abs() <= 0.01 * old;
        let Waiting { service, squared_variation, limit } = self.waiting;
        is_near(service, waiting.service)
            && is_near(1.0 + squared_variation, 1.0 + waiting.squared_variation)
            && is_near(limit, waiting.limit)
    }

    /// The expected number of late requests per second with each of the numbers `replicas` of replicas. `probabilities` has
    /// the probability of each load of the grid `loads`. Each load is multiplied by `factor`, and then raised by `rise`
    /// erlangs.
    pub fn expected(
        &self,
        loads: &[f64],
        probabilities: &[f64],
        factor: f64,
        rise: f64,
        replicas: RangeInclusive<usize>,
    ) -> Vec<f64> {
        /// Loads that are less probable are left out, since most loads of a grid are hardly possible.
        const NEGLIGIBLE: f64 = 1e-7;
        let first = *replicas.start();
        let mut expected = vec![0.0; replicas.count()];
        let mut add = |index: usize, weight: f64| {
            let row = self.late[index].get(first..).unwrap_or_default();
            expected.iter_mut().zip(row).for_each(|(sum, late)| *sum += weight * late);
        };
        for (&load, &probability) in loads.iter().zip(probabilities).filter(|(_, weight)| **weight > NEGLIGIBLE) {
            let moved = load * factor + rise;
            let above = loads.partition_point(|&load| load < moved).clamp(1, loads.len() - 1);
            let share = ((moved - loads[above - 1]) / (loads[above] - loads[above - 1])).clamp(0.0, 1.0);
            for (index, weight) in [(above - 1, 1.0 - share), (above, share)] {
                if weight > 0.0 {
                    add(index, probability * weight);
                }
            }
        }
        expected
    }
}
