//! The ingress of the plant, which spreads the arriving requests over the dispatchers.

use crate::simulate::streams::Stream;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Chooses a dispatcher for each request, as a Service of Kubernetes does for each connection.
#[derive(Debug)]
pub(crate) struct Ingress {
    /// The weight of each dispatcher: the relative probability that it is chosen.
    weights: Vec<u32>,
    sum: u32,
    rng: ChaCha8Rng,
}

impl Ingress {
    /// An ingress before `dispatchers` dispatchers, at least 1, that are chosen with the same probability.
    pub(crate) fn new(dispatchers: usize, seed: u64) -> Self {
        Self::weighted(vec![1; dispatchers], seed)
    }

    /// An ingress before dispatchers with these weights. Their sum must be above 0.
    pub(crate) fn weighted(weights: Vec<u32>, seed: u64) -> Self {
        Self { sum: weights.iter().sum(), weights, rng: Stream::Ingress.rng(seed) }
    }

    /// The index of the dispatcher that gets the next request.
    pub(crate) fn next(&mut self) -> usize {
        if self.weights.len() == 1 {
            return 0;
        }
        let mut left = self.rng.random_range(0..self.sum);
        let is_chosen = |weight: &u32| {
            let is_here = left < *weight;
            left = left.saturating_sub(*weight);
            is_here
        };
        self.weights.iter().position(is_chosen).expect("the number is below the sum of the weights")
    }

    /// Chooses dispatcher `index` no longer, because it has died. Another one must be left.
    pub(crate) fn remove(&mut self, index: usize) {
        self.sum -= std::mem::take(&mut self.weights[index]);
    }
}
