//! Whole requests with a JPEG of 38 KB, to the replica and to a Flask server: the servers' processor time and latency.

use super::client::{self, ImageClient};
use super::{RunContext, server};
use crate::figure::Figure;
use crate::{processor_time, progress};
use anyhow::{Context, Result};
use harness::stack::ServiceProcess;
use std::fs;

/// Requests that one server gets in a turn.
const REQUESTS: u32 = 5;

/// The `--max-batch` of the batching replica, and the number of connections to it.
const BATCH: u32 = 8;

/// A server that gets one request at a time, with its measurements.
struct MeasuredServer {
    name: &'static str,
    service: ServiceProcess,
    client: ImageClient,
    /// The processor time for a request in each round, in milliseconds.
    cpu_ms: Vec<f64>,
    /// The latency of each request, in milliseconds.
    latency_ms: Vec<f64>,
}

impl MeasuredServer {
    fn new(name: &'static str, service: ServiceProcess) -> Self {
        Self { name, client: ImageClient::new(&service), service, cpu_ms: Vec::new(), latency_ms: Vec::new() }
    }

    /// Sends [`REQUESTS`] requests and measures them.
    fn turn(&mut self, image: &[u8]) -> Result<()> {
        let before = processor_time::of(self.service.id())?;
        for _ in 0..REQUESTS {
            self.latency_ms.push(self.client.post(image)?.latency.as_secs_f64() * 1e3);
        }
        let spent = processor_time::of(self.service.id())?.saturating_sub(before);
        self.cpu_ms.push(spent.as_secs_f64() * 1e3 / f64::from(REQUESTS));
        Ok(())
    }
}

/// Figures about processor time and latency:
///
/// - `cpu_ms_NAME` and `latency_p50_ms_NAME`: those of the replica and of the Flask server, at one connection each;
/// - `cpu_ms_replica_batched`: that of a replica that classifies batches, at as many connections as a batch has images;
/// - `cpu_ratio_flask` and `cpu_ratio_flask_batched`: the processor time of either replica divided by Flask's.
///
/// # Errors
/// If a server does not start, or does not answer with status 200.
pub(super) fn measure(run: &RunContext) -> Result<Vec<Figure>> {
    let image = &run.images().small;
    let image = fs::read(image).with_context(|| format!("read {}", image.display()))?;
    let mut flask = run.torchvision()?.script("flask_server.py");
    flask.arg(server::weights());
    let replica = MeasuredServer::new("replica", server::start(run.folder)?);
    let flask = MeasuredServer::new("flask", ServiceProcess::spawn("flask", flask, run.folder)?);
    let batching = server::start_batching(BATCH, run.folder)?;
    let mut servers = [replica, flask];
    // The first requests to a server are slower, so they are not measured.
    batch(&batching, &image)?;
    for server in &servers {
        for _ in 0..REQUESTS {
            server.client.post(&image)?;
        }
    }
    let mut batched_ms = Vec::new();
    let progress = progress::bar(run.rounds.into(), "requests");
    for round in 0..run.rounds as usize {
        // The first server of a round changes from round to round.
        for index in [round % 2, (round + 1) % 2] {
            servers[index].turn(&image)?;
        }
        let before = processor_time::of(batching.id())?;
        batch(&batching, &image)?;
        let spent = processor_time::of(batching.id())?.saturating_sub(before);
        batched_ms.push(spent.as_secs_f64() * 1e3 / f64::from(BATCH * REQUESTS));
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(figures(servers, batched_ms))
}

/// Sends [`REQUESTS`] requests on each of [`BATCH`] connections. Returns the answers per second.
fn batch(server: &ServiceProcess, image: &[u8]) -> Result<f64> {
    client::answers_per_second(server, image, BATCH as usize, (BATCH * REQUESTS) as usize)
}

fn figures(servers: [MeasuredServer; 2], batched_ms: Vec<f64>) -> Vec<Figure> {
    let [replica, flask] = &servers;
    let mut figures = vec![
        Figure::ratio("cpu_ratio_flask", &replica.cpu_ms, &flask.cpu_ms),
        Figure::ratio("cpu_ratio_flask_batched", &batched_ms, &flask.cpu_ms),
        Figure::median("cpu_ms_replica_batched", batched_ms, "ms"),
    ];
    for MeasuredServer { name, cpu_ms, latency_ms, .. } in servers {
        figures.push(Figure::median(format!("cpu_ms_{name}"), cpu_ms, "ms"));
        figures.push(Figure::median(format!("latency_p50_ms_{name}"), latency_ms, "ms"));
    }
    figures
}
