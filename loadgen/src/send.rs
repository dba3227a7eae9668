//! Sends on schedule, and never waits for an answer before the next; or, to measure capacity, keeps a fixed number on
//! their way. One thread of its own, so that nothing else that loadgen does delays a request.

use crate::connection::{Connection, Error};
use crate::payload::Payload;
use crate::sample::{Outcome, Sample};
use crate::target::Target;
use crate::{pace::Pace, verdict};
use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender};
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, watch};

/// After a stop, for the answers to what was sent before it.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Tasks that run before the runtime looks at sockets and the timer again: what a request can be late by is the time
/// that so many take.
const EVENT_INTERVAL: u32 = 5;

/// Of the idle connections.
const UNPOISONED: &str = "nobody panics while holding the connections";

/// Held by everything that still sends or waits for an answer; nothing goes through it.
type OnItsWay = mpsc::Sender<Infallible>;

/// When to send.
#[derive(Debug, Clone, PartialEq)]
pub enum Load {
    /// At these times since the start, ascending, whatever the server does.
    Open(Vec<Duration>),
    /// So many on their way, for so long.
    Closed(usize, Duration),
}

/// A load and whom it meets.
#[derive(Debug, Clone)]
pub struct Order {
    /// When to send.
    pub load: Load,
    /// Where.
    pub target: Target,
    /// What, in turn; at least one.
    pub payloads: Arc<[Payload]>,
    /// Open at once, at most. A request that finds none waits, and is late.
    pub connections: usize,
}

/// A load that is being sent.
#[derive(Debug)]
pub struct Sending {
    /// What the times of samples count from.
    pub start: Instant,
    /// One for each request that has ended; closed after the last. As long as the load, and all are kept for the report
    /// anyway.
    pub samples: Receiver<Sample>,
    begun: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    /// Nothing once it has been joined.
    thread: Option<JoinHandle<Result<()>>>,
}

impl Sending {
    /// Starts at once.
    ///
    /// # Errors
    /// When the system has no thread or timer left.
    pub fn start(order: Order) -> Result<Self> {
        let (sender, samples) = crossbeam_channel::unbounded();
        let (stop, stopped) = watch::channel(false);
        let begun = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        let client = Client {
            connections: Semaphore::new(order.connections),
            idle: Mutex::default(),
            target: order.target,
            payloads: order.payloads,
            start,
            samples: sender,
            begun: begun.clone(),
        };
        let run = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().event_interval(EVENT_INTERVAL).build()?;
            runtime.block_on(async {
                // A timer that becomes the earliest costs a system call; beside this one no request's does.
                let earlier = (client.target.timeout / 2).max(Duration::from_millis(1));
                let _earliest = tokio::spawn(async move {
                    loop {
                        tokio::time::sleep(earlier).await;
                    }
                });
                // A task: waking what the runtime itself blocks on costs a system call each time, too.
                tokio::spawn(client.run(order.load, stopped)).await?
            })
        };
        let thread = std::thread::Builder::new().name("sender".into()).spawn(run).context("start a thread")?;
        Ok(Self { start, samples, begun, stop, thread: Some(thread) })
    }

    /// Requests that were due so far.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether everything has ended, all samples included.
    ///
    /// # Errors
    /// When the timer failed.
    ///
    /// # Panics
    /// When the sender did.
    pub fn is_over(&mut self) -> Result<bool> {
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) {
            match thread.join() {
                Ok(outcome) => outcome?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(self.thread.is_none())
    }

    /// Sends no more, and waits a moment for what is on its way.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

struct Client {
    target: Target,
    payloads: Arc<[Payload]>,
    start: Instant,
    samples: Sender<Sample>,
    begun: Arc<AtomicUsize>,
    connections: Semaphore,
    /// The last used is used next, so that those that are too many can be closed by the server.
    idle: Mutex<Vec<Connection>>,
}

impl Client {
    async fn run(self, load: Load, mut stopped: watch::Receiver<bool>) -> Result<()> {
        let client = Arc::new(self);
        let (on_its_way, mut all_ended) = mpsc::channel(1);
        match load {
            Load::Open(schedule) => tokio::select! {
                sent = client.open_loop(&schedule, &on_its_way) => sent?,
                _stop = stopped.wait_for(|stop| *stop) => {}
            },
            Load::Closed(concurrency, duration) => client.closed_loop(concurrency, duration, &stopped, &on_its_way),
        }
        drop(on_its_way);
        let given_up = async {
            drop(stopped.wait_for(|stop| *stop).await);
            tokio::time::sleep(STOP_GRACE).await;
        };
        tokio::select! {
            _nothing = all_ended.recv() => {}
            () = given_up => {}
        }
        Ok(())
    }

    /// Sends request `i` at `schedule[i]`, payloads in turn.
    async fn open_loop(self: &Arc<Self>, schedule: &[Duration], on_its_way: &OnItsWay) -> Result<()> {
        let pace = Pace::new().context("make a timer")?;
        for (index, &scheduled) in schedule.iter().enumerate() {
            pace.until(self.start + scheduled).await.context("wait for the timer")?;
            self.begun.fetch_add(1, Ordering::Relaxed);
            let (client, on_its_way) = (self.clone(), on_its_way.clone());
            tokio::spawn(async move {
                client.send(index, scheduled).await;
                drop(on_its_way);
            });
        }
        Ok(())
    }

    /// Keeps `concurrency` requests on their way for `duration`, each sent as soon as one before it has ended.
    fn closed_loop(
        self: &Arc<Self>,
        concurrency: usize,
        duration: Duration,
        stop: &watch::Receiver<bool>,
        on_its_way: &OnItsWay,
    ) {
        for first in 0..concurrency {
            let (client, stop, on_its_way) = (self.clone(), stop.clone(), on_its_way.clone());
            tokio::spawn(async move {
                for index in (first..).step_by(concurrency) {
                    let scheduled = client.start.elapsed();
                    if scheduled >= duration || *stop.borrow() {
                        break;
                    }
                    client.begun.fetch_add(1, Ordering::Relaxed);
                    client.send(index, scheduled).await;
                }
                drop(on_its_way);
            });
        }
    }

    async fn send(&self, index: usize, scheduled: Duration) {
        let _permit = self.connections.acquire().await.expect("the semaphore is never closed");
        let send_delay = self.start.elapsed().saturating_sub(scheduled);
        let payload = &self.payloads[index % self.payloads.len()];
        let left = self.target.timeout.saturating_sub(send_delay);
        let in_time =
            async { if left.is_zero() { None } else { tokio::time::timeout(left, self.exchange(payload)).await.ok() } };
        let (outcome, received_bytes) =
            in_time.await.unwrap_or_else(|| (Outcome::Failed { code: "client_timeout".into() }, 0));
        let latency = self.start.elapsed().saturating_sub(scheduled);
        let sent_bytes = payload.body.len() as u32;
        // The receiver lives as long as the run.
        let _kept = self.samples.send(Sample { scheduled, send_delay, latency, sent_bytes, received_bytes, outcome });
    }

    /// The outcome and the length of the answer.
    async fn exchange(&self, payload: &Payload) -> (Outcome, u32) {
        let answer = async {
            loop {
                let reused = self.reuse();
                let is_new = reused.is_none();
                let mut connection = match reused {
                    Some(connection) => connection,
                    // Rare, and large: kept out of what every request's task holds.
                    None => Box::pin(Connection::open(self.target.address)).await?,
                };
                match connection.exchange(self.target.request(payload)).await {
                    // It was closed at the very moment at which it was to be used again.
                    Err(Error::Unsent) if !is_new => {}
                    Err(error) => return Err(error),
                    Ok(answer) => {
                        self.idle.lock().expect(UNPOISONED).push(connection);
                        return Ok(answer);
                    }
                }
            }
        };
        match answer.await {
            Ok((status, body)) => (verdict::judge(status, &body, payload.label.as_deref()), body.len() as u32),
            Err(error) => (Outcome::Failed { code: error.code().into() }, 0),
        }
    }

    fn reuse(&self) -> Option<Connection> {
        loop {
            let mut connection = self.idle.lock().expect(UNPOISONED).pop()?;
            if connection.is_open() {
                return Some(connection);
            }
        }
    }
}
