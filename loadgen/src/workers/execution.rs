//! Executes the task of a worker: connects to the server, waits for the start, sends the part, and streams its figures.

use crate::display::{Display, RunInfo};
use crate::measure::{Runner, StopSignal};
use crate::payload::Payload;
use crate::request_id::RequestIds;
use crate::run;
use crate::scrape::Watch;
use crate::send::LoadPattern;
use crate::target::LoadTarget;
use crate::workers::message::{PartResult, WorkerLine};
use crate::workers::part_recording::PartRecording;
use crate::workers::progress_lines::ProgressLines;
use crate::workers::task::ReceivedTask;
use anyhow::{Context, Result};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Longest wait for the start. The coordinator waits until all workers have their bodies, up to 512 MiB each.
const MAX_WAIT: Duration = Duration::from_secs(30 * 60);

/// Longest time in which the coordinator takes a line after the load.
const LINE_TIMEOUT: Duration = Duration::from_secs(30);

/// A task whose server is reachable.
pub struct PreparedTask {
    runner: Runner,
    load: LoadPattern,
    warmup: Duration,
    info: RunInfo,
}

impl PreparedTask {
    /// Connects to the server of `task` once.
    ///
    /// # Errors
    /// If no server listens at the URL, a file of a flag cannot be read here, or `--connections` is above what this
    /// machine permits.
    pub async fn new(task: ReceivedTask) -> Result<Self> {
        let ReceivedTask { args, part, request_ids, workload, payloads } = task;
        let connections = args.target.connections()?;
        let target = LoadTarget::connect(&args.target).await?;
        let request_ids = request_ids.map_or_else(|| target.request_ids(), RequestIds::Numbered);
        let (load, length) = run::load(&args, workload, args.load.seed);
        let info = RunInfo { title: args.load.describe(), length, objective: args.objective };
        let payloads: Arc<[Payload]> = payloads.into();
        // The coordinator reads the metrics of other programs.
        let (start, watch, exporter) = (None, Watch::new(None, Vec::new(), None), None);
        let runner = Runner { target, payloads, request_ids, connections, part, start, watch, exporter };
        Ok(Self { runner, load, warmup: args.load.warmup.unwrap_or_default(), info })
    }

    /// Waits for the start, sends the part, and sends its figures to `lines`. The load ends early when `stop` becomes
    /// true, or when the coordinator no longer receives the lines.
    pub async fn execute(
        self,
        lines: mpsc::Sender<Bytes>,
        start: oneshot::Receiver<Instant>,
        mut stop: watch::Receiver<bool>,
    ) {
        let (abandoned, sender) = (lines.clone(), lines.clone());
        let mut stop: StopSignal<'_> = Box::pin(async move {
            tokio::select! {
                () = abandoned.closed() => {}
                _stop = stop.wait_for(|stop| *stop) => {}
            }
        });
        let outcome = async {
            send(&lines, &WorkerLine::Ready).await?;
            let start = tokio::select! {
                start = tokio::time::timeout(MAX_WAIT, start) => start.ok().context("no start came within 30 minutes")?,
                () = stop.as_mut() => anyhow::bail!("the worker was stopped before the start"),
            };
            self.measure(start.context("the worker was stopped before the start")?, lines, &mut stop).await
        };
        if let Err(error) = outcome.await {
            eprintln!("the load has failed: {error:#}");
            // The coordinator may be gone.
            let _sent = send(&sender, &WorkerLine::Failed(format!("{error:#}"))).await;
        }
    }

    async fn measure(mut self, start: Instant, lines: mpsc::Sender<Bytes>, stop: &mut StopSignal<'_>) -> Result<()> {
        let Self { load, warmup, info, .. } = &self;
        let (load, warmup, info) = (load.clone(), *warmup, info.clone());
        self.runner.start = Some(start);
        let length = info.length.saturating_sub(warmup);
        let timeout = self.runner.target.timeout;
        let mut recording = PartRecording::new(info.objective, length, timeout, lines.clone());
        let part = self.runner.part;
        eprintln!(
            "sending part {} of {} of {} for {:.0} s",
            part.index + 1,
            part.count,
            info.title,
            info.length.as_secs_f64()
        );
        let mut display = Display::Coordinator(Box::new(ProgressLines::new(lines.clone())));
        let measurement = self.runner.measure(load, warmup, &info, &mut recording, &mut display, stop).await?;
        while let Some(second) = recording.seconds.take_before(Duration::MAX) {
            send(&lines, &WorkerLine::Second(Box::new(second))).await?;
        }
        let image = |image: usize| self.runner.payloads[image].name.as_str();
        let result = PartResult {
            slowest: recording.slowest.requests(&self.runner.request_ids, image),
            tally: recording.tally,
            unfinished: measurement.unfinished,
            length_us: measurement.length.as_micros() as u64,
            is_complete: measurement.is_complete,
        };
        eprintln!("sent {} requests", result.tally.offered());
        send(&lines, &WorkerLine::Result(Box::new(result))).await
    }
}

/// Sends a line, and waits for room in the channel.
async fn send(lines: &mpsc::Sender<Bytes>, line: &WorkerLine) -> Result<()> {
    let sent = tokio::time::timeout(LINE_TIMEOUT, lines.send(line.to_bytes())).await;
    sent.ok().context("the coordinator took no line for 30 s")?.context("the coordinator has closed the connection")
}
