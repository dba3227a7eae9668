//! Whole requests with a 38 KB JPEG, next to a Flask server: processor time of the server, and latency.

use super::clients::{self, Client};
use super::figure::Figure;
use super::{Bench, subject};
use crate::bench::accounting;
use crate::stack::Service;
use anyhow::{Context, Result};
use std::fs;

/// Requests in a turn.
const REQUESTS: u32 = 5;

/// Pictures that a second replica takes together, and connections that it is asked over.
const BATCH: u32 = 8;

/// What one of the two servers took.
#[derive(Default)]
struct Taken {
    /// Milliseconds on a processor for a request, by round.
    cpu_ms: Vec<f64>,
    /// Of every request.
    latency_ms: Vec<f64>,
}

/// Ratio of processor time, and each server's own figures; and the ratio of a replica that computes batches, at as many
/// connections, to the same Flask server at one: it answers one after the other.
///
/// # Errors
/// When a server does not start, or fails to answer.
pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let picture = &bench.pictures().small;
    let picture = fs::read(picture).with_context(|| format!("read {}", picture.display()))?;
    let mut flask = bench.torchvision()?.script("flask_server.py");
    flask.arg(subject::weights());
    let servers = [subject::start(bench.folder)?, Service::spawn("flask", flask, bench.folder)?];
    let batching = subject::start_batching(BATCH, bench.folder)?;
    let clients = servers.each_ref().map(Client::of);
    let batch = |requests: u32| clients::rate(&batching, &picture, BATCH as usize, (BATCH * requests) as usize);
    batch(REQUESTS)?;
    for client in &clients {
        // The first requests find nothing prepared.
        for _ in 0..REQUESTS {
            client.post(&picture)?;
        }
    }
    let mut taken: [Taken; 2] = Default::default();
    let mut batched_ms = Vec::new();
    let progress = bench.progress(bench.rounds, "requests");
    for round in 0..bench.rounds as usize {
        // Neither is always the first.
        for turn in [round % 2, (round + 1) % 2] {
            let before = accounting::spent(servers[turn].id())?;
            for _ in 0..REQUESTS {
                taken[turn].latency_ms.push(clients[turn].post(&picture)?.latency.as_secs_f64() * 1e3);
            }
            let spent = accounting::spent(servers[turn].id())?.saturating_sub(before);
            taken[turn].cpu_ms.push(spent.as_secs_f64() * 1e3 / f64::from(REQUESTS));
        }
        let before = accounting::spent(batching.id())?;
        batch(REQUESTS)?;
        let spent = accounting::spent(batching.id())?.saturating_sub(before);
        batched_ms.push(spent.as_secs_f64() * 1e3 / f64::from(BATCH * REQUESTS));
        progress.inc(1);
    }
    progress.finish_and_clear();
    let mut figures = vec![
        Figure::ratio("cpu_ratio_flask", &taken[0].cpu_ms, &taken[1].cpu_ms),
        Figure::ratio("cpu_ratio_flask_batched", &batched_ms, &taken[1].cpu_ms),
        Figure::median("cpu_ms_replica_batched", batched_ms, "ms"),
    ];
    for (taken, server) in taken.into_iter().zip(["replica", "flask"]) {
        figures.push(Figure::median(format!("cpu_ms_{server}"), taken.cpu_ms, "ms"));
        figures.push(Figure::median(format!("latency_p50_ms_{server}"), taken.latency_ms, "ms"));
    }
    Ok(figures)
}
