//! Sends one load, reads the server's metrics meanwhile, shows the progress, and records the requests.

use crate::display::{Display, RunInfo, UserInput};
use crate::exporter::Exporter;
use crate::part::Part;
use crate::payload::Payload;
use crate::progress::Progress;
use crate::recording::Record;
use crate::request_id::RequestIds;
use crate::sample::{RequestOutcome, Sample};
use crate::scrape::Watch;
use crate::send::{LoadPattern, RunningLoad, SendConfig};
use crate::server_metrics::{MetricsLog, ServerMetrics};
use crate::target::LoadTarget;
use anyhow::{Result, ensure};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Time between two reads of the samples that have arrived. Awaiting each sample would wake a second thread for each
/// request.
pub const TICK: Duration = Duration::from_millis(200);

/// A future that resolves when the user asks to stop.
pub type StopSignal<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Measures loads one after another. It holds the server and the settings that all loads of one invocation share.
#[derive(Debug, Clone)]
pub struct Runner {
    /// The server that receives the load.
    pub target: LoadTarget,
    /// The bodies that the requests carry in turn; at least one.
    pub payloads: Arc<[Payload]>,
    /// The ids of the requests.
    pub request_ids: RequestIds,
    /// Largest number of open connections.
    pub connections: usize,
    /// The programs whose metrics are read.
    pub watch: Watch,
    /// Exports what was sent and answered; `None` without `--metrics-listen`.
    pub exporter: Option<Exporter>,
    /// The part of each load that this process sends.
    pub part: Part,
    /// The start of the load; `None` to start at once.
    pub start: Option<Instant>,
}

/// The course of one load, without its warm-up. The requests themselves are in a [`Record`].
#[derive(Debug, Clone)]
pub struct Measurement {
    /// The server's metrics, oldest first.
    pub server_metrics: Vec<ServerMetrics>,
    /// Length of the run without its warm-up. Shorter than planned if the user stopped the run.
    pub length: Duration,
    /// Requests that were still in flight when loadgen stopped waiting, after the user had stopped the run, and that had
    /// not missed the objective yet. Requests of the warm-up are included.
    pub unfinished: usize,
    /// Whether the run came to its planned end.
    pub is_complete: bool,
}

impl Runner {
    /// Sends `load`, and records its requests in `recording`. Its first part, of length `warmup`, does not count.
    /// `info.length` includes that part.
    ///
    /// # Errors
    /// If the system cannot provide a thread or a timer. No answer of the server is an error.
    pub async fn measure(
        &self,
        load: LoadPattern,
        warmup: Duration,
        info: &RunInfo,
        recording: &mut dyn Record,
        display: &mut Display,
        stop: &mut StopSignal<'_>,
    ) -> Result<Measurement> {
        let Self { target, payloads, request_ids, connections, part, start, .. } = self.clone();
        let config = SendConfig { load, target, payloads, request_ids, connections, part, start };
        let mut running = RunningLoad::start(config)?;
        let log = MetricsLog::default();
        let scraping = self.scrape(&log, running.start + warmup);
        let exporter = self.exporter.as_ref();
        let mut collector = Collector { recording, exporter, warmup, objective: info.objective, unfinished: 0 };
        let stopped_at = collector.collect(&mut running, &log, info, display, stop).await?;
        scraping.abort();
        // A stop after the last request was sent also makes the run incomplete: loadgen did not wait for some answers.
        let length = stopped_at.map_or(info.length, |at| at.min(info.length)).saturating_sub(warmup);
        Ok(Measurement {
            server_metrics: log.within(length.as_secs_f64()),
            length,
            unfinished: collector.unfinished,
            is_complete: stopped_at.is_none(),
        })
    }

    /// Starts to read the metrics of the watched programs into `log`, with times since `start`.
    pub fn scrape(&self, log: &MetricsLog, start: Instant) -> JoinHandle<()> {
        tokio::spawn(log.clone().scrape(start, self.watch.clone()))
    }
}

/// Passes the samples of a running load on to a record of requests, without those of the warm-up.
struct Collector<'a> {
    recording: &'a mut dyn Record,
    exporter: Option<&'a Exporter>,
    warmup: Duration,
    objective: Duration,
    /// Requests that had not ended when loadgen stopped waiting, and that are not recorded.
    unfinished: usize,
}

impl Collector<'_> {
    /// Collects the samples until the load is over, and shows the progress. Returns the time since the start at which
    /// the user stopped the run; `None` if the run came to its planned end.
    async fn collect(
        &mut self,
        running: &mut RunningLoad,
        log: &MetricsLog,
        info: &RunInfo,
        display: &mut Display,
        stop: &mut StopSignal<'_>,
    ) -> Result<Option<Duration>> {
        let mut progress = Progress::new(self.warmup, self.objective);
        let mut stopped_at = None;
        let mut tick = tokio::time::interval(TICK);
        loop {
            let mut stopping = tokio::select! {
                _ = tick.tick() => false,
                // A future that has resolved must not be polled again.
                () = stop.as_mut(), if stopped_at.is_none() => true,
            };
            // Read before the samples are taken. In the other order, a sample that arrives in between would be lost.
            let is_over = running.is_over()?;
            for sample in running.samples.try_iter() {
                progress.record(&sample);
                if let Some(exporter) = self.exporter {
                    exporter.record(&sample);
                }
                self.record(sample);
            }
            let now = running.start.elapsed();
            self.recording.advance(now.saturating_sub(self.warmup));
            progress.advance(now, running.started(), log.last());
            if let Some(exporter) = self.exporter {
                exporter.advance(running.started(), progress.in_flight);
            }
            stopping |= display.show(info, &progress, now) == UserInput::Stop;
            if stopping && stopped_at.is_none() {
                stopped_at = Some(now);
                self.recording.stop(now.saturating_sub(self.warmup));
                running.stop();
            }
            // A workload may end with seconds without requests. These seconds belong to the run, because the server
            // still uses replicas.
            if is_over && (stopped_at.is_some() || now >= info.length) {
                let lost = running.started() - progress.ended;
                ensure!(lost == 0, "{lost} requests were lost, which is a bug of loadgen; report it");
                return Ok(stopped_at);
            }
        }
    }

    /// Records a request, unless it belongs to the warm-up, or has neither ended nor missed the objective.
    fn record(&mut self, mut sample: Sample) {
        let in_warmup = sample.scheduled < self.warmup;
        let is_unfinished = sample.outcome == RequestOutcome::Unfinished;
        if is_unfinished && (in_warmup || sample.latency <= self.objective) {
            self.unfinished += 1;
        } else if !in_warmup {
            sample.scheduled -= self.warmup;
            self.recording.record(&sample);
        }
    }
}
