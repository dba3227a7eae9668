//! Tests of several dispatchers in front of the same replicas.

use crate::process::RunningDispatcher;
use crate::shared_replica::SharedReplica;
use crate::steady::on_steady_machine;
use crate::stub::{self, StubBehavior, StubReplica};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// The time that a replica works for an image.
const COMPUTING: Duration = Duration::from_millis(100);

/// The images per second that three replicas answer.
const FULL_RATE: f64 = 30.0;

/// The default of `--objective`.
const OBJECTIVE: Duration = Duration::from_millis(500);

/// What became of the requests of a test.
#[derive(Debug, Default)]
struct Figures {
    /// The number of answers with each status.
    statuses: BTreeMap<u16, usize>,
    /// The number of answers with status 200 within the objective.
    in_time: usize,
    /// The number of requests that replicas received, and of those that they answered with `busy`.
    attempts: usize,
    busy: usize,
    /// The number of samples of `dispatcher_queue_wait_seconds`.
    waits: f64,
    /// The share of the time for which the replicas worked.
    utilisation: f64,
}

impl Figures {
    fn with_status(&self, status: u16) -> usize {
        self.statuses.get(&status).copied().unwrap_or_default()
    }
}

/// Dispatchers in front of three replicas with two slots, which together answer [`FULL_RATE`] images per second.
struct Installation {
    replicas: Vec<SharedReplica>,
    dispatchers: Vec<Arc<RunningDispatcher>>,
}

impl Installation {
    async fn start(dispatchers: usize, flags: &[&str]) -> Self {
        let mut replicas = Vec::new();
        for _ in 0..3 {
            replicas.push(SharedReplica::start(2, COMPUTING).await);
        }
        let addresses: Vec<&str> = replicas.iter().map(|replica| replica.address.as_str()).collect();
        let source = format!("static:{}", addresses.join(","));
        let mut running = Vec::new();
        for _ in 0..dispatchers {
            let dispatcher = RunningDispatcher::start(&source, flags).await;
            dispatcher.until_states(&["ready"; 3]).await;
            running.push(Arc::new(dispatcher));
        }
        Self { replicas, dispatchers: running }
    }

    /// Sends images at the rate that `rate` gives for each second. Every third one goes to the first dispatcher, and all
    /// others to the last one.
    async fn offer(&self, rates: &[f64]) -> Figures {
        let started = Instant::now();
        let mut requests = JoinSet::new();
        let (first, last) = (&self.dispatchers[0], &self.dispatchers[self.dispatchers.len() - 1]);
        let mut sent = 0;
        for (second, rate) in rates.iter().enumerate() {
            for index in 0..*rate as usize {
                let at = second as f64 + index as f64 / rate;
                tokio::time::sleep_until((started + Duration::from_secs_f64(at)).into()).await;
                let dispatcher = if sent % 3 == 0 { first } else { last }.clone();
                sent += 1;
                requests.spawn(async move {
                    let sent = Instant::now();
                    (dispatcher.post(&[]).await.status, sent.elapsed())
                });
            }
        }
        let offering = started.elapsed();
        let worked: Duration = self.replicas.iter().map(SharedReplica::worked).sum();
        let mut figures = Figures::default();
        while let Some(ended) = requests.join_next().await {
            let (status, latency) = ended.expect("no request panics");
            *figures.statuses.entry(status).or_default() += 1;
            figures.in_time += usize::from(status == 200 && latency <= OBJECTIVE);
        }
        for replica in &self.replicas {
            let (attempts, busy) = replica.attempts();
            figures.attempts += attempts;
            figures.busy += busy;
        }
        figures.utilisation = worked.as_secs_f64() / offering.as_secs_f64() / self.replicas.len() as f64;
        for dispatcher in &self.dispatchers {
            figures.waits += dispatcher.metric("dispatcher_queue_wait_seconds_count").await;
        }
        figures
    }
}

#[test]
fn two_dispatchers_answer_an_overload_as_one_does() {
    on_steady_machine(async || {
        let rates = [2.0 * FULL_RATE; 10];
        let mut all = Vec::new();
        for dispatchers in [1, 2] {
            let figures = Installation::start(dispatchers, &["--deadline=3s"]).await.offer(&rates).await;
            println!("{dispatchers} dispatchers, twice the load: {figures:?}");
            all.push(figures);
        }
    });
}

#[test]
fn two_dispatchers_answer_bursts_as_one_does() {
    on_steady_machine(async || {
        let rates: Vec<f64> = [0.5, 0.5, 1.5, 1.5, 0.5, 0.5, 0.5, 1.5, 1.5, 0.5].map(|share| share * FULL_RATE).into();
        for dispatchers in [1, 2] {
            let figures = Installation::start(dispatchers, &["--deadline=3s"]).await.offer(&rates).await;
            println!("{dispatchers} dispatchers, bursts: {figures:?}");
        }
    });
}
