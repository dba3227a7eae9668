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

/// When each dispatcher took all slots for its own, two of them sent 5,131 bodies in vain, and 169 of 600 requests died as
/// 504. With replicas that only told how many slots were taken, 333 of 641 attempts found no slot.
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
        let [one, two] = &all[..] else { unreachable!("there are two cases") };
        assert!(two.with_status(200) as f64 >= 0.97 * one.with_status(200) as f64, "{one:?} {two:?}");
        assert!(two.in_time as f64 >= 0.95 * one.in_time as f64, "{one:?} {two:?}");
        assert!(two.busy as f64 <= 0.02 * two.attempts as f64, "{two:?}");
        assert!(two.utilisation >= one.utilisation - 0.02, "{one:?} {two:?}");
        assert!(two.with_status(504) <= one.with_status(504) + 6, "{one:?} {two:?}");
        assert_eq!(two.waits, (two.attempts - two.busy) as f64, "a busy answer is no dispatch: {two:?}");
    });
}

#[test]
fn two_dispatchers_answer_bursts_as_one_does() {
    on_steady_machine(async || {
        let rates = [0.5, 0.5, 1.5, 1.5, 0.5, 0.5, 0.5, 1.5, 1.5, 0.5].map(|share| share * FULL_RATE);
        let mut all = Vec::new();
        for dispatchers in [1, 2] {
            let figures = Installation::start(dispatchers, &["--deadline=3s"]).await.offer(&rates).await;
            println!("{dispatchers} dispatchers, bursts: {figures:?}");
            all.push(figures);
        }
        let [one, two] = &all[..] else { unreachable!("there are two cases") };
        assert!(two.in_time as f64 >= 0.97 * one.in_time as f64, "{one:?} {two:?}");
        assert!(two.busy as f64 <= 0.02 * two.attempts as f64, "{two:?}");
    });
}

#[test]
fn a_dispatcher_that_dies_takes_no_slot_with_it() {
    on_steady_machine(async || {
        let installation = Installation::start(2, &["--deadline=3s"]).await;
        let [first, last] = &installation.dispatchers[..] else { unreachable!("two dispatchers were started") };
        // Both have more requests than slots, so both have claims and grants.
        let flood = |dispatcher: &Arc<RunningDispatcher>, count: usize| {
            let mut requests = JoinSet::new();
            for _ in 0..count {
                let dispatcher = dispatcher.clone();
                requests.spawn(async move { dispatcher.try_post().await });
            }
            requests
        };
        let (doomed, mut others) = (flood(first, 30), flood(last, 30));
        tokio::time::sleep(Duration::from_millis(300)).await;
        first.program.signal("KILL").await;
        let killed = Instant::now();
        let mut answered = 0;
        while let Some(ended) = others.join_next().await {
            answered += usize::from(ended.expect("no request panics") == Some(200));
        }
        // The replicas answer 30 requests per second, and first the 6 that they held for the dead dispatcher.
        let lasted = killed.elapsed();
        drop(doomed);
        println!("{answered} answers within {lasted:?} after the death");
        assert!(answered >= 28, "{answered} answers");
        assert!(lasted < Duration::from_millis(1600), "{lasted:?}");
    });
}

#[test]
fn a_full_queue_tells_when_the_requests_of_all_dispatchers_are_answered() {
    on_steady_machine(async || {
        let flags = ["--deadline=30s", "--order=fifo", "--queue-length=60", "--objective=20s"];
        let installation = Installation::start(2, &flags).await;
        let mut requests = JoinSet::new();
        for dispatcher in &installation.dispatchers {
            for _ in 0..63 {
                let dispatcher = dispatcher.clone();
                requests.spawn(async move { dispatcher.post(&[]).await });
            }
        }
        // By then, each dispatcher knows of the other's requests.
        tokio::time::sleep(Duration::from_millis(700)).await;
        let mut refusals = Vec::new();
        for dispatcher in &installation.dispatchers {
            for _ in 0..30 {
                let dispatcher = dispatcher.clone();
                requests.spawn(async move { dispatcher.post(&[]).await });
            }
        }
        let mut last = Instant::now();
        let asked = Instant::now();
        while let Some(reply) = requests.join_next().await {
            let reply = reply.expect("no request panics");
            match reply.status {
                200 => last = Instant::now(),
                _ => refusals.push(reply.retry_after_seconds().expect("a full queue tells when to come back")),
            }
        }
        let truth = last.saturating_duration_since(asked).as_secs_f64();
        println!("Retry-After {refusals:?} s, the queues were empty after {truth:.1} s");
        assert!(refusals.len() > 10, "{refusals:?}");
        assert!(refusals.iter().all(|told| (0.5..=1.5).contains(&(told / truth))), "{refusals:?} s, not {truth} s");
    });
}

/// Replicas of an older version, or behind a proxy that knows no other protocol, have no channel for claims.
#[test]
fn replicas_without_a_channel_for_claims_are_shared_all_the_same() {
    on_steady_machine(async || {
        let mut stubs = Vec::new();
        for _ in 0..3 {
            stubs.push(StubReplica::with_capacity(2, StubBehavior::Computes(COMPUTING)).await);
        }
        let source = stub::static_list(&stubs.iter().collect::<Vec<_>>());
        let mut dispatchers = Vec::new();
        for _ in 0..2 {
            let dispatcher = RunningDispatcher::start(&source, &["--deadline=3s"]).await;
            dispatcher.until_states(&["ready"; 3]).await;
            dispatchers.push(Arc::new(dispatcher));
        }
        let installation = Installation { replicas: Vec::new(), dispatchers };
        let figures = installation.offer(&[2.0 * FULL_RATE; 10]).await;
        let attempts: usize = stubs.iter().map(StubReplica::calls).sum();
        let mut busy = 0.0;
        for dispatcher in &installation.dispatchers {
            busy += dispatcher.metric("dispatcher_retries_total{reason=\"busy\"}").await;
        }
        println!("without a channel, {attempts} attempts, {busy} of them in vain: {figures:?}");
        let answered = figures.with_status(200) as f64;
        assert!(answered > 0.85 * 10.0 * FULL_RATE, "{figures:?}");
        assert!(busy < 2.0 * answered, "{busy} {figures:?}");
        assert!(figures.with_status(504) < 90, "{figures:?}");
        assert_eq!(figures.waits, attempts as f64 - busy, "a busy answer is no dispatch: {figures:?}");
    });
}
