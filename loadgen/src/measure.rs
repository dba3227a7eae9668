//! Sends one load, reads the server's metrics meanwhile, shows the progress, and collects the samples.

use crate::display::{Display, RunInfo, UserInput};
use crate::exporter::Exporter;
use crate::payload::Payload;
use crate::progress::Progress;
use crate::sample::Sample;
use crate::scrape::Watch;
use crate::send::{LoadPattern, RunningLoad, SendConfig};
use crate::server_metrics::{MetricsLog, ServerMetrics};
use crate::target::LoadTarget;
use anyhow::{Result, ensure};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Time between two reads of the samples that have arrived. Awaiting each sample would wake a second thread for each
/// request.
const TICK: Duration = Duration::from_millis(200);

/// A future that resolves when the user asks to stop.
pub type StopSignal<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Measures loads one after another. It holds the server and the settings that all loads of one invocation share.
#[derive(Debug, Clone)]
pub struct Runner {
    /// The server that receives the load.
    pub target: LoadTarget,
    /// The bodies that the requests carry in turn; at least one.
    pub payloads: Arc<[Payload]>,
    /// Largest number of open connections.
    pub connections: usize,
    /// The programs whose metrics are read.
    pub watch: Watch,
    /// Exports what was sent and answered; `None` without `--metrics-listen`.
    pub exporter: Option<Exporter>,
}

/// The result of one load, without its warm-up.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// The samples in order of scheduled time. Their times count from the end of the warm-up.
    pub samples: Vec<Sample>,
    /// The server's metrics, oldest first.
    pub server_metrics: Vec<ServerMetrics>,
    /// Length of the run without its warm-up. Shorter than planned if the user stopped the run.
    pub length: Duration,
    /// Requests that were still in flight when loadgen stopped waiting, after the user had stopped the run. Requests of
    /// the warm-up are included.
    pub unfinished: usize,
    /// Whether the run came to its planned end.
    pub is_complete: bool,
}

impl Runner {
    /// Sends `load`. Its first part, of length `warmup`, does not count. `info.length` includes that part.
    ///
    /// # Errors
    /// If the system cannot provide a thread or a timer. No answer of the server is an error.
    pub async fn measure(
        &self,
        load: LoadPattern,
        warmup: Duration,
        info: &RunInfo,
        display: &mut Display,
        stop: &mut StopSignal<'_>,
    ) -> Result<Measurement> {
        let Self { target, payloads, connections, .. } = self.clone();
        let mut running = RunningLoad::start(SendConfig { load, target, payloads, connections })?;
        let log = MetricsLog::default();
        let start = running.start + warmup;
        let scraping = tokio::spawn(log.clone().scrape(start, self.watch.clone()));
        let (samples, stopped_at) = collect(&mut running, &log, self.exporter.as_ref(), info, display, stop).await?;
        scraping.abort();
        let unfinished = running.started() - samples.len();
        ensure!(
            unfinished == 0 || stopped_at.is_some(),
            "{unfinished} requests were lost, which is a bug of loadgen; report it"
        );

        // A stop after the last request was sent also makes the run incomplete: loadgen did not wait for some answers.
        let length = stopped_at.map_or(info.length, |at| at.min(info.length)).saturating_sub(warmup);
        Ok(Measurement {
            samples: without_warmup(samples, warmup),
            server_metrics: log.within(length.as_secs_f64()),
            length,
            unfinished,
            is_complete: stopped_at.is_none(),
        })
    }
}

/// Collects the samples until the load is over, and shows the progress. The second result is the time since the start
/// at which the user stopped the run; `None` if the run came to its planned end.
async fn collect(
    running: &mut RunningLoad,
    log: &MetricsLog,
    exporter: Option<&Exporter>,
    info: &RunInfo,
    display: &mut Display,
    stop: &mut StopSignal<'_>,
) -> Result<(Vec<Sample>, Option<Duration>)> {
    let mut progress = Progress::default();
    let mut samples = Vec::new();
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
            progress.record(&sample, info.objective);
            if let Some(exporter) = exporter {
                exporter.record(&sample);
            }
            samples.push(sample);
        }
        let now = running.start.elapsed();
        progress.advance(now, running.started(), log.last());
        if let Some(exporter) = exporter {
            exporter.advance(running.started(), progress.in_flight);
        }
        stopping |= display.show(info, &progress, now) == UserInput::Stop;
        if stopping && stopped_at.is_none() {
            stopped_at = Some(now);
            running.stop();
        }
        // A workload may end with seconds without requests. These seconds belong to the run, because the server still
        // uses replicas.
        if is_over && (stopped_at.is_some() || now >= info.length) {
            return Ok((samples, stopped_at));
        }
    }
}

/// The samples that were scheduled after the warm-up, in order of scheduled time. Their scheduled times now count from
/// the end of the warm-up.
fn without_warmup(mut samples: Vec<Sample>, warmup: Duration) -> Vec<Sample> {
    samples.retain(|sample| sample.scheduled >= warmup);
    for sample in &mut samples {
        sample.scheduled -= warmup;
    }
    samples.sort_by_key(|sample| sample.scheduled);
    samples
}
