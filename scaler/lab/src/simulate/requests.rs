//! What arrives: when, and how long it takes a replica.

use super::work::Work;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;
use workload::Workload;
use workload::arrivals::{Arrivals, Process};

/// Requests that are handed over at once, and how often ahead.
const CHUNK: usize = 8192;
const CHUNKS: usize = 4;

/// One of them; nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Since the start.
    pub arrived: u64,
    /// In a replica that does nothing else.
    pub work: u64,
}

/// In the order of arrival; the same for the same arguments, whatever becomes of them.
pub fn stream<'a>(
    workload: &'a Workload,
    process: Process,
    work: &'a Work,
    seed: u64,
) -> impl Iterator<Item = Request> + 'a {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Its stream differs from that of the arrivals.
    rng.set_stream(1);
    let arrivals = Arrivals::new(workload, process, seed);
    arrivals.map(move |at| Request { arrived: at.as_nanos() as u64, work: work.draw(&mut rng) })
}

/// The same requests, made by a thread of their own a little ahead.
pub fn ahead<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    requests: impl Iterator<Item = Request> + Send + 'scope,
) -> impl Iterator<Item = Request> {
    let (send, receive) = sync_channel(CHUNKS);
    scope.spawn(move || {
        let mut requests = requests.peekable();
        while requests.peek().is_some() {
            let chunk: Vec<Request> = requests.by_ref().take(CHUNK).collect();
            // Nobody wants the rest.
            if send.send(chunk).is_err() {
                return;
            }
        }
    });
    let receive: Receiver<Vec<Request>> = receive;
    receive.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_thread_makes_the_same_requests() {
        let workload = Workload::constant(1000.0, Duration::from_secs(60));
        let work = Work::new(Duration::from_millis(50), 0.3);
        let make = || stream(&workload, Process::Poisson, &work, 9);
        let here: Vec<Request> = make().collect();
        let there: Vec<Request> = std::thread::scope(|scope| ahead(scope, make()).collect());
        assert_eq!(here, there);
        assert!(here.windows(2).all(|pair| pair[0].arrived <= pair[1].arrived));
        let mean = here.iter().map(|request| request.work as f64).sum::<f64>() / here.len() as f64;
        assert!((mean / 50e6 - 1.0).abs() < 0.01, "{mean}");
        std::thread::scope(|scope| assert_eq!(ahead(scope, make()).next(), Some(here[0])));
    }
}
