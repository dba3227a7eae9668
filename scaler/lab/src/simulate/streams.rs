//! The streams of random numbers of a simulation. Each use has a stream of its own: otherwise service times would depend
//! on the gaps between arrivals, and one disturbance of the plant would change the others.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The use of a stream of random numbers. The value is the number of the stream. Arrival times use stream 0.
#[derive(Debug, Clone, Copy)]
pub enum Stream {
    /// The service times of requests.
    ServiceTimes = 1,
    /// The choice of a dispatcher for each request.
    Ingress = 2,
    /// The start-up times of replicas.
    StartUps = 3,
    /// The times from the readiness of replicas to their deaths.
    Lives = 4,
    /// The service times of requests that are sent again.
    Retries = 5,
    /// The ages of readings.
    Readings = 6,
    /// The times of messages between dispatchers and replicas.
    Messages = 7,
}

impl Stream {
    /// The random numbers of the stream. The same seed gives the same numbers.
    pub fn rng(self, seed: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(self as u64);
        rng
    }
}
