//! The ingress of the plant, which spreads the arriving requests over the dispatchers.

use crate::simulate::streams::Stream;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Chooses a dispatcher for each request, each with the same probability, as a Service of Kubernetes does for each
/// connection.
#[derive(Debug)]
pub(super) struct Ingress {
    dispatchers: usize,
    rng: ChaCha8Rng,
}

impl Ingress {
    /// An ingress before `dispatchers` dispatchers, at least 1.
    pub(super) fn new(dispatchers: usize, seed: u64) -> Self {
        Self { dispatchers, rng: Stream::Ingress.rng(seed) }
    }

    /// The index of the dispatcher that gets the next request.
    pub(super) fn next(&mut self) -> usize {
        if self.dispatchers == 1 { 0 } else { self.rng.random_range(0..self.dispatchers) }
    }
}
