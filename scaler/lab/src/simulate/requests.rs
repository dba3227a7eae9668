//! The requests of a simulation. Each has an arrival time and a service time.

use super::streams::Stream;
use super::time_distribution::TimeDistribution;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;
use workload::Workload;
use workload::arrivals::{ArrivalProcess, ArrivalTimes};

/// The number of requests that [`prefetch`] sends at once, as a chunk. Sending single requests would synchronise the
/// two threads for each request.
const CHUNK_LENGTH: usize = 8192;

/// The number of chunks that may wait for the simulation. It bounds the memory that generated requests take.
const CHUNKS_AHEAD: usize = 4;

/// A request of a simulation. All times are in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlantRequest {
    /// The time of arrival, since the start of the simulation.
    pub arrived: u64,
    /// The time that a replica takes for this request if it computes no other request.
    pub service_time: u64,
}

/// All requests of a workload, in order of arrival. The same arguments give the same requests.
pub fn generate<'a>(
    workload: &'a Workload,
    process: ArrivalProcess,
    service_times: &'a TimeDistribution,
    seed: u64,
) -> impl Iterator<Item = PlantRequest> + 'a {
    let mut rng = Stream::ServiceTimes.rng(seed);
    let arrivals = ArrivalTimes::new(workload.clone(), process, seed);
    arrivals.map(move |at| PlantRequest { arrived: at.as_nanos() as u64, service_time: service_times.draw(&mut rng) })
}

/// The requests of the iterator `requests`. A thread of `scope` generates them a little before they are used.
pub fn prefetch<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    requests: impl Iterator<Item = PlantRequest> + Send + 'scope,
) -> impl Iterator<Item = PlantRequest> {
    let (send, receive) = sync_channel(CHUNKS_AHEAD);
    scope.spawn(move || {
        let mut requests = requests.peekable();
        while requests.peek().is_some() {
            let chunk: Vec<PlantRequest> = requests.by_ref().take(CHUNK_LENGTH).collect();
            // A failure means that the receiver was dropped: the simulation has ended before its last request.
            if send.send(chunk).is_err() {
                return;
            }
        }
    });
    let receive: Receiver<Vec<PlantRequest>> = receive;
    receive.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn prefetched_requests_are_the_same_as_generated_ones() {
        let workload = Workload::constant(1000.0, Duration::from_secs(60));
        let service_times = TimeDistribution::new(Duration::from_millis(50), 0.3);
        let make = || generate(&workload, ArrivalProcess::Poisson, &service_times, 9);
        let here: Vec<PlantRequest> = make().collect();
        let there: Vec<PlantRequest> = std::thread::scope(|scope| prefetch(scope, make()).collect());
        assert_eq!(here, there);
        assert!(here.windows(2).all(|pair| pair[0].arrived <= pair[1].arrived));
        let mean = here.iter().map(|request| request.service_time as f64).sum::<f64>() / here.len() as f64;
        assert!((mean / 50e6 - 1.0).abs() < 0.01, "{mean}");
        std::thread::scope(|scope| assert_eq!(prefetch(scope, make()).next(), Some(here[0])));
    }
}
