//! Sends one load, reads the server's metrics meanwhile, shows the progress, and collects the samples.

use crate::display::{Display, RunInfo, UserInput};
use crate::payload::Payload;
use crate::progress::Progress;
use crate::sample::Sample;
use crate::send::{LoadPattern, RunningLoad, SendConfig};
use crate::server_metrics::{MetricsLog, ServerMetrics};
use crate::target::LoadTarget;
use anyhow::{Result, ensure};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Time between two looks at the samples that have arrived. They are not awaited one by one, so that no request wakes a
/// second thread.
const TICK: Duration = Duration::from_millis(200);

/// Resolves when the user asks to stop.
pub type StopSignal<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Measures loads: the server and the settings that all loads of one invocation share.
#[derive(Debug, Clone)]
pub struct Runner {
    /// The server that is loaded.
    pub target: LoadTarget,
    /// The bodies, which the requests carry in turn; at least one.
    pub payloads: Arc<[Payload]>,
    /// Largest number of open connections.
    pub connections: usize,
    /// `host:port` whose `/metrics` tell the queue length and the replicas in rotation.
    pub dispatcher: String,
    /// `host:port` whose `/metrics` tell the desired replicas; `None` if no scaler is known.
    pub scaler: Option<String>,
}

/// The result of one load, without its warm-up.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// The samples in the order of their scheduled times, which count from the end of the warm-up.
    pub samples: Vec<Sample>,
    /// The server's metrics, oldest first.
    pub server_metrics: Vec<ServerMetrics>,
    /// Length of the run. Shorter than planned if the user stopped it.
    pub length: Duration,
    /// Requests that were started and not waited for, since the user stopped the run. Requests of the warm-up are
    /// included.
    pub unfinished: usize,
    /// Whether the run came to its planned end.
    pub is_complete: bool,
}

impl Runner {
    /// Sends `load`, whose first part, as long as `warmup`, does not count. `info.length` includes that part.
    ///
    /// # Errors
    /// When the system cannot provide a thread or a timer. Answers of the server are never an error.
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
        let scraping = tokio::spawn(log.clone().scrape(start, self.dispatcher.clone(), self.scaler.clone()));
        let (samples, stopped_at) = collect(&mut running, &log, info, display, stop).await?;
        scraping.abort();
        let unfinished = running.started() - samples.len();
        ensure!(unfinished == 0 || stopped_at.is_some(), "{unfinished} requests were lost, which is a bug of loadgen");

        // A stop after the last request was sent also makes the run incomplete: some answers were not waited for.
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
/// at which the user stopped the run; `None` if it came to its planned end.
async fn collect(
    running: &mut RunningLoad,
    log: &MetricsLog,
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
        // Read before the samples are taken: once the load is over, no further sample can arrive.
        let is_over = running.is_over()?;
        for sample in running.samples.try_iter() {
            progress.record(&sample, info.objective);
            samples.push(sample);
        }
        let now = running.start.elapsed();
        progress.advance(now, running.started(), log.last());
        stopping |= display.show(info, &progress, now) == UserInput::Stop;
        if stopping && stopped_at.is_none() {
            stopped_at = Some(now);
            running.stop();
        }
        // A workload may end with seconds without requests. They belong to the run: the server still uses replicas.
        if is_over && (stopped_at.is_some() || now >= info.length) {
            return Ok((samples, stopped_at));
        }
    }
}

/// The samples that were scheduled after the warm-up, in the order of their scheduled times, which count from its end.
fn without_warmup(mut samples: Vec<Sample>, warmup: Duration) -> Vec<Sample> {
    samples.retain(|sample| sample.scheduled >= warmup);
    for sample in &mut samples {
        sample.scheduled -= warmup;
    }
    samples.sort_by_key(|sample| sample.scheduled);
    samples
}
