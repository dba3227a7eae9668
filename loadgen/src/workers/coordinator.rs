//! The coordinator of a distributed load: gives each worker its part, starts all at the same time, and adds up their
//! figures. Sends no load itself.

use crate::display::{Display, RunInfo, UserInput};
use crate::measure::{Measurement, Runner, StopSignal, TICK};
use crate::part::Part;
use crate::progress::Progress;
use crate::recording::{Record, RunRecording};
use crate::request_id::RequestIds;
use crate::server_metrics::MetricsLog;
use crate::slowest::{self, SlowRequest};
use crate::workers::client::{self, Lines, Worker};
use crate::workers::clock::ClockOffset;
use crate::workers::message::{PartResult, WorkerLine};
use crate::workers::report::WorkerReport;
use crate::workers::task::Task;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use std::ffi::OsString;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use workload::Workload;

/// Time from the comparison of clocks to the start of the load, in which each worker gets its start message.
const LEAD: Duration = Duration::from_secs(1);

/// Time after the end of a second within which a worker has surely sent its figures: its delay until it sends a line,
/// and the longest time without a line.
const LINE_GRACE: Duration = Duration::from_secs(15);

/// Longest wait for the results after a stop. A worker waits 2 s for its requests in flight.
const STOP_GRACE: Duration = Duration::from_secs(15);

/// Number of lines that wait to be added up. Workers wait meanwhile.
const WAITING_LINES: usize = 16;

/// Tests whether every worker can take a task now.
///
/// # Errors
/// If one cannot; the message names it.
pub async fn check(workers: &[Worker]) -> Result<()> {
    let check = |worker: &Worker| {
        let worker = worker.clone();
        async move { worker.check().await.with_context(|| format!("ask worker {}", worker.address)) }
    };
    try_join_all(workers.iter().map(check)).await.map(drop)
}

/// A load that workers send together.
pub struct DistributedLoad<'a> {
    /// The workers; at least one.
    pub workers: Vec<Worker>,
    /// The command line of this process.
    pub arguments: &'a [OsString],
    /// The server, the payloads and the request ids.
    pub runner: &'a Runner,
    /// The workload; `None` for a closed load.
    pub workload: Option<&'a Workload>,
    /// Length of the warm-up.
    pub warmup: Duration,
    /// The properties of the load that the display shows.
    pub info: RunInfo,
}

/// The course of a distributed load. Its figures are in the recording.
pub struct DistributedRun {
    /// The course of the load.
    pub measurement: Measurement,
    /// The slowest requests of all parts.
    pub slowest: Vec<SlowRequest>,
    /// The workers, in the order of the flag.
    pub workers: Vec<WorkerReport>,
    /// The failures of workers, in words; `None` if the figures of all are whole.
    pub failure: Option<String>,
}

/// A worker that has its task.
struct ReadyWorker {
    worker: Worker,
    lines: Lines,
    offset: ClockOffset,
}

/// The state of a worker that has started its load.
struct RunningWorker {
    worker: Worker,
    offset: ClockOffset,
    /// The task that reads the lines.
    reading: AbortHandle,
    result: Option<PartResult>,
    failure: Option<String>,
}

/// A line of a worker with the worker's number, or the reason why no further line comes.
type Event = (usize, Result<WorkerLine>);

impl DistributedLoad<'_> {
    /// Has the workers send the load, and adds up their figures in `recording`. Ends early when `stop` resolves, the
    /// user stops the run on the display, or a worker fails: the other workers are stopped then.
    ///
    /// # Errors
    /// If a worker does not take its part. The message names the worker.
    pub async fn measure(
        self,
        recording: &mut RunRecording,
        display: &mut Display,
        stop: &mut StopSignal<'_>,
    ) -> Result<DistributedRun> {
        let epoch = Instant::now();
        let prepare = async {
            let lines = try_join_all(self.workers.iter().enumerate().map(|(index, worker)| self.give(index, worker)));
            let lines = lines.await?;
            let offsets = try_join_all(self.workers.iter().map(|worker| async move {
                let offset = worker.compare_clocks(epoch).await;
                offset.with_context(|| format!("compare the clock of worker {}", worker.address))
            }));
            let offsets = offsets.await?;
            let start = epoch.elapsed() + LEAD;
            let starts = self.workers.iter().zip(&offsets).map(|(worker, offset)| async move {
                let start_us = offset.at_worker(start).context("its clock is beyond all bounds");
                let started = async { worker.start(start_us?).await };
                started.await.with_context(|| format!("start the load of worker {}", worker.address))
            });
            try_join_all(starts).await?;
            anyhow::Ok((lines, offsets, epoch + start))
        };
        let mut prepare = pin!(prepare);
        let mut tick = tokio::time::interval(TICK);
        let waiting = Progress::new(self.warmup, self.info.objective);
        let (lines, offsets, start) = loop {
            let stopping = tokio::select! {
                prepared = &mut prepare => break prepared?,
                () = stop.as_mut() => true,
                _ = tick.tick() => display.show(&self.info, &waiting, Duration::ZERO) == UserInput::Stop,
            };
            ensure!(!stopping, "stopped before the start of the load");
        };
        let ready = self.workers.iter().cloned().zip(lines).zip(offsets);
        let ready = ready.map(|((worker, lines), offset)| ReadyWorker { worker, lines, offset }).collect();
        Ok(self.collect(ready, start, recording, display, stop).await)
    }

    /// Gives worker `index` its part.
    async fn give(&self, index: usize, worker: &Worker) -> Result<Lines> {
        let give = async {
            worker.check().await?;
            let part = Part { index, count: self.workers.len() };
            let request_ids = match &self.runner.request_ids {
                RequestIds::Numbered(prefix) => Some(prefix.clone()),
                RequestIds::Fixed(_) => None,
            };
            let payloads = &self.runner.payloads;
            let task = Task::new(self.arguments, part, request_ids, self.workload, payloads)?;
            let bodies: Vec<Bytes> = payloads.iter().map(|payload| payload.body.clone()).collect();
            worker.give(&task, bodies).await
        };
        give.await.with_context(|| format!("give worker {} its part of the load", worker.address))
    }

    /// Adds up the figures until the result of each worker is known, or missing.
    async fn collect(
        &self,
        ready: Vec<ReadyWorker>,
        start: Instant,
        recording: &mut RunRecording,
        display: &mut Display,
        stop: &mut StopSignal<'_>,
    ) -> DistributedRun {
        let length = self.info.length.saturating_sub(self.warmup);
        let log = MetricsLog::default();
        let scraping = self.runner.scrape(&log, start + self.warmup);
        let (sender, mut events) = mpsc::channel(WAITING_LINES);
        let mut workers: Vec<RunningWorker> =
            ready.into_iter().enumerate().map(|(index, ready)| RunningWorker::new(index, ready, &sender)).collect();
        drop(sender);
        let mut progress = Progress::new(self.warmup, self.info.objective);
        let (mut sent, mut stopped_at) = (0_usize, None);
        let mut tick = tokio::time::interval(TICK);
        while workers.iter().any(RunningWorker::is_running) {
            let mut stopping = tokio::select! {
                _ = tick.tick() => false,
                () = stop.as_mut(), if stopped_at.is_none() => true,
                Some((index, event)) = events.recv() => {
                    let worker = &mut workers[index];
                    worker.take(event, length, start.elapsed(), recording, &mut progress, &mut sent);
                    if stopped_at.is_none() && worker.result.as_ref().is_some_and(|result| !result.is_complete) {
                        // The figures so far count.
                        worker.failure = Some("it was stopped there".into());
                    }
                    worker.failure.is_some()
                }
            };
            let now = start.elapsed();
            progress.advance(now, sent, log.last());
            recording.advance(now.saturating_sub(self.warmup + LINE_GRACE));
            stopping |= display.show(&self.info, &progress, now) == UserInput::Stop;
            if stopping && stopped_at.is_none() {
                stopped_at = Some(now);
                for worker in workers.iter().filter(|worker| worker.is_running()) {
                    let worker = worker.worker.clone();
                    // A worker that cannot be reached stops when its connection closes.
                    tokio::spawn(async move { drop(worker.stop().await) });
                }
            }
            if stopped_at.is_some_and(|at| now > at + STOP_GRACE) {
                for worker in workers.iter_mut().filter(|worker| worker.is_running()) {
                    worker.fail("it did not end its load after a stop".into());
                }
            }
        }
        scraping.abort();
        self.finish(workers, stopped_at, &log, recording)
    }

    /// Adds up the results of the workers.
    fn finish(
        &self,
        mut workers: Vec<RunningWorker>,
        stopped_at: Option<Duration>,
        log: &MetricsLog,
        recording: &mut RunRecording,
    ) -> DistributedRun {
        let planned = self.info.length.saturating_sub(self.warmup);
        for worker in &mut workers {
            let Some(result) = &worker.result else { continue };
            if let Err(contradiction) = recording.tally.add(&result.tally) {
                worker.fail(format!("its figures are wrong: {contradiction}"));
            }
        }
        let results = || workers.iter().filter_map(|worker| worker.result.as_ref());
        let is_complete = stopped_at.is_none() && workers.iter().all(|worker| worker.failure.is_none());
        let length = if is_complete {
            planned
        } else {
            let lengths = results().map(|result| Duration::from_micros(result.length_us));
            let stopped = stopped_at.map(|at| at.saturating_sub(self.warmup));
            lengths.chain(stopped).max().unwrap_or_default().min(planned)
        };
        recording.stop(length);
        let failures: Vec<String> = workers.iter().filter_map(RunningWorker::describe_failure).collect();
        let failure = (!failures.is_empty()).then(|| failures.join("; "));
        DistributedRun {
            measurement: Measurement {
                server_metrics: log.within(length.as_secs_f64()),
                length,
                unfinished: results().fold(0, |sum: usize, result| sum.saturating_add(result.unfinished)),
                is_complete,
            },
            slowest: slowest::merge(results().map(|result| result.slowest.clone())),
            workers: workers.iter().map(RunningWorker::report).collect(),
            failure,
        }
    }
}

impl RunningWorker {
    /// Starts to read the lines of worker `index`, and to send them to `events`.
    fn new(index: usize, ready: ReadyWorker, events: &mpsc::Sender<Event>) -> Self {
        let ReadyWorker { worker, mut lines, offset } = ready;
        let events = events.clone();
        let reading = tokio::spawn(async move {
            loop {
                let line = lines.next().await;
                let is_last = !matches!(line, Ok(WorkerLine::Progress(_) | WorkerLine::Second(_)));
                if events.send((index, line)).await.is_err() || is_last {
                    break;
                }
            }
        });
        Self { worker, offset, reading: reading.abort_handle(), result: None, failure: None }
    }

    /// Whether the result is neither known nor missing.
    fn is_running(&self) -> bool {
        self.result.is_none() && self.failure.is_none()
    }

    /// Ends the worker's load, whose figures are not known, by closing the connection.
    fn fail(&mut self, reason: String) {
        self.reading.abort();
        self.result = None;
        self.failure = Some(reason);
    }

    /// Takes a line, which arrived at `now`. Its figures go to `recording`, or to `progress` and to the number of
    /// requests that were `sent`.
    fn take(
        &mut self,
        event: Result<WorkerLine>,
        length: Duration,
        now: Duration,
        recording: &mut RunRecording,
        progress: &mut Progress,
        sent: &mut usize,
    ) {
        if !self.is_running() {
            return;
        }
        match event {
            Ok(WorkerLine::Progress(report)) => {
                *sent = sent.saturating_add(report.sent);
                progress.add(&report, now);
            }
            Ok(WorkerLine::Second(second)) if second.is_consistent(length) => recording.add_second(&second),
            Ok(WorkerLine::Second(_)) => self.fail("the figures that it sent contradict each other".into()),
            Ok(WorkerLine::Result(result)) => self.result = Some(*result),
            Ok(WorkerLine::Failed(reason)) => self.fail(client::printable(&reason)),
            Ok(WorkerLine::Ready) => self.fail("it sent a line out of order".into()),
            Err(error) => self.fail(format!("{error:#}")),
        }
    }

    fn describe_failure(&self) -> Option<String> {
        Some(format!("worker {}: {}", self.worker.address, self.failure.as_ref()?))
    }

    fn report(&self) -> WorkerReport {
        let tally = self.result.as_ref().map(|result| &result.tally);
        let delays = tally.map(|tally| tally.send_delays()).unwrap_or_default();
        WorkerReport {
            address: self.worker.address.clone(),
            clock_offset_ms: self.offset.system_us as f64 / 1e3,
            clock_uncertainty_ms: self.offset.uncertainty.as_secs_f64() * 1e3,
            offered: tally.map_or(0, |tally| tally.offered()),
            late_sends: delays.late_sends,
            is_bottleneck: delays.is_bottleneck,
            failure: self.failure.clone(),
        }
    }
}
