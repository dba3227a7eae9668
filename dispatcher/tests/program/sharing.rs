//! Tests of several dispatchers in front of the same replicas.

use crate::process::RunningDispatcher;
use crate::steady::on_steady_machine;
use crate::stub::{self, StubBehavior, StubReplica};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// The time that a stub computes for an image.
const COMPUTING: Duration = Duration::from_millis(100);

/// The time for which requests are sent.
const SENDING: Duration = Duration::from_secs(10);

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
    busy: f64,
    /// The number of samples of `dispatcher_queue_wait_seconds`.
    waits: f64,
}

impl Figures {
    fn with_status(&self, status: u16) -> usize {
        self.statuses.get(&status).copied().unwrap_or_default()
    }
}

/// Sends `rate` images per second to each dispatcher of three stubs with two slots, which together answer 30 images per
/// second.
async fn offer(dispatchers: usize, rate: f64) -> Figures {
    let mut stubs = Vec::new();
    for _ in 0..3 {
        stubs.push(StubReplica::with_capacity(2, StubBehavior::Computes(COMPUTING)).await);
    }
    let source = stub::static_list(&stubs.iter().collect::<Vec<_>>());
    let mut running = Vec::new();
    for _ in 0..dispatchers {
        let dispatcher = RunningDispatcher::start(&source, &["--deadline=3s"]).await;
        dispatcher.until_states(&["ready"; 3]).await;
        running.push(Arc::new(dispatcher));
    }
    let mut requests = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1).div_f64(rate));
    for _ in 0..(SENDING.as_secs_f64() * rate) as usize {
        tick.tick().await;
        for dispatcher in &running {
            let dispatcher = dispatcher.clone();
            requests.spawn(async move {
                let sent = Instant::now();
                (dispatcher.post(&[]).await.status, sent.elapsed())
            });
        }
    }
    let mut figures = Figures::default();
    while let Some(ended) = requests.join_next().await {
        let (status, latency) = ended.expect("no request panics");
        *figures.statuses.entry(status).or_default() += 1;
        figures.in_time += usize::from(status == 200 && latency <= OBJECTIVE);
    }
    figures.attempts = stubs.iter().map(StubReplica::calls).sum();
    for dispatcher in &running {
        figures.busy += dispatcher.metric("dispatcher_retries_total{reason=\"busy\"}").await;
        figures.waits += dispatcher.metric("dispatcher_queue_wait_seconds_count").await;
    }
    figures
}

/// When each dispatcher took all slots for its own, this test counted 5,131 busy answers, and 169 requests of 600 died
/// as 504.
#[test]
fn two_dispatchers_under_twice_the_load_send_few_bodies_in_vain_and_let_few_requests_die() {
    on_steady_machine(async || {
        let figures = offer(2, 30.0).await;
        println!("{figures:?}");
        let answered = figures.with_status(200);
        assert!(answered as f64 > 0.85 * 30.0 * SENDING.as_secs_f64(), "{figures:?}");
        assert!(figures.busy < 2.0 * answered as f64, "{figures:?}");
        assert!(figures.with_status(504) < 90, "{figures:?}");
        assert_eq!(figures.waits, figures.attempts as f64 - figures.busy, "a busy answer is no dispatch: {figures:?}");
    });
}
