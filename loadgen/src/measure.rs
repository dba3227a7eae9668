//! Sends one load, watches, shows how it goes, and keeps what came back.

use crate::display::{Display, Title};
use crate::payload::Payload;
use crate::sample::Sample;
use crate::send::{Load, Order, Sending};
use crate::tally::Tally;
use crate::target::Target;
use crate::watch::{Glimpse, Glimpses};
use anyhow::{Result, ensure};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at what came back.
const TICK: Duration = Duration::from_millis(200);

/// Somebody wants it to end.
pub type Stop<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Whom a load meets, and with what.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Where requests go.
    pub target: Target,
    /// What they carry.
    pub payloads: Arc<[Payload]>,
    /// Open at once, at most.
    pub connections: usize,
    /// `host:port` that is asked for queue length and replicas.
    pub dispatcher: String,
    /// `host:port` that is asked for desired replicas.
    pub scaler: Option<String>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Measured {
    /// By scheduled time, from the end of the warm-up.
    pub samples: Vec<Sample>,
    /// Oldest first.
    pub glimpses: Vec<Glimpse>,
    /// Without the warm-up; shorter than it was to be if somebody stopped it.
    pub length: Duration,
    /// Sent and not waited for, since somebody stopped it; those of the warm-up included.
    pub unfinished: usize,
    /// Whether nobody did.
    pub is_complete: bool,
}

impl Scene {
    /// Sends `load`, whose first part, as long as `warmup`, does not count. `title.length` includes that part.
    ///
    /// # Errors
    /// When the system has no thread or timer left; never because of what the server answers.
    pub async fn measure(
        &self,
        load: Load,
        warmup: Duration,
        title: &Title,
        display: &mut Display,
        stop: &mut Stop<'_>,
    ) -> Result<Measured> {
        let Self { target, payloads, connections, .. } = self.clone();
        let mut sending = Sending::start(Order { load, target, payloads, connections })?;
        let glimpses = Glimpses::default();
        let start = sending.start + warmup;
        let watching = tokio::spawn(glimpses.clone().follow(start, self.dispatcher.clone(), self.scaler.clone()));
        let mut tally = Tally::default();
        let mut samples = Vec::new();
        let mut stopped_at = None;
        let mut tick = tokio::time::interval(TICK);
        loop {
            let stop = async { if stopped_at.is_some() { std::future::pending().await } else { stop.as_mut().await } };
            let mut stopping = tokio::select! {
                _ = tick.tick() => false,
                () = stop => true,
            };
            let is_over = sending.is_over()?;
            for sample in sending.samples.try_iter() {
                tally.note(&sample, title.objective);
                samples.push(sample);
            }
            let now = sending.start.elapsed();
            tally.advance(now, sending.begun(), glimpses.last());
            stopping |= display.show(title, &tally, now);
            if stopping && stopped_at.is_none() {
                stopped_at = Some(now);
                sending.stop();
            }
            // A workload may end with silence: what the server does in it belongs to the run.
            if is_over && (stopped_at.is_some() || now >= title.length) {
                break;
            }
        }
        watching.abort();
        let unfinished = sending.begun() - samples.len();
        ensure!(
            unfinished == 0 || stopped_at.is_some(),
            "{unfinished} requests were lost, which is a bug of loadgen's"
        );

        // Stopped after the last request is still cut short: some answers were not waited for.
        let end = stopped_at.map_or(title.length, |at| at.min(title.length));
        let length = end.saturating_sub(warmup);
        samples.retain(|sample| sample.scheduled >= warmup);
        samples.iter_mut().for_each(|sample| sample.scheduled -= warmup);
        samples.sort_by_key(|sample| sample.scheduled);
        let glimpses = glimpses.within(length.as_secs_f64());
        Ok(Measured { samples, glimpses, length, unfinished, is_complete: stopped_at.is_none() })
    }
}
