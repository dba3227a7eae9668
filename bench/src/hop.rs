//! `bench hop`: the time that a request takes through the dispatcher, next to the same request sent to the replica
//! itself. Only one request is under way at a time.

use crate::{images, progress};
use anyhow::{Context, Result, ensure};
use harness::stack::{ScalerProgram, Setup, Stack};
use harness::{http, paths};
use std::fs;
use std::time::{Duration, Instant};

/// Pairs of requests with the same body.
struct RequestSeries {
    description: &'static str,
    body: Vec<u8>,
    pairs: u64,
    /// Status of every answer.
    status: u16,
}

/// Measures and prints a table. Requests go by turns to the replica and through the dispatcher, each on one kept
/// connection, so that a disturbance of the machine meets both alike.
///
/// # Errors
/// When a program does not start, or answers with another status than expected.
pub(crate) fn run() -> Result<()> {
    let folder = paths::output("bench").join("hop");
    let drawn = folder.join("images");
    images::draw(&drawn, &["--count=8"])?;
    let image = fs::read(drawn.join("00007.jpg")).context("read a drawn image")?;
    let scaler = vec!["--max=1".into()];
    let stack = Stack::start(Setup { listen: "127.0.0.1:0", folder, scaler, program: ScalerProgram::Scaler })?;
    let replica = stack.ready_replicas()?.pop().context("the dispatcher has no ready replica any more")?;
    let urls = [replica, stack.dispatcher.address.clone()].map(|address| format!("http://{address}/predict"));

    println!("requests          pairs   replica   through the dispatcher   added   ratio");
    let refused =
        RequestSeries { description: "refused (no JPEG)", body: b"no image".to_vec(), pairs: 3000, status: 400 };
    let classified = RequestSeries { description: "classified", body: image, pairs: 300, status: 200 };
    for series in [refused, classified] {
        let [direct, through] = medians(&urls, &series)?;
        println!(
            "{:<17} {:>5} {:>6.2} ms {:>21.2} ms {:>5.2} ms {:>7.3}",
            series.description,
            series.pairs,
            direct * 1e3,
            through * 1e3,
            (through - direct) * 1e3,
            through / direct
        );
    }
    Ok(())
}

/// Median seconds of a request to each of the two URLs.
fn medians(urls: &[String; 2], series: &RequestSeries) -> Result<[f64; 2]> {
    let progress = progress::bar(series.pairs, series.description);
    let agent = http::agent();
    let mut latencies: [Vec<Duration>; 2] = Default::default();
    for pair in 0..series.pairs {
        // The first URL of a pair changes from pair to pair.
        for index in [pair % 2, (pair + 1) % 2].map(|index| index as usize) {
            let start = Instant::now();
            let mut answer = agent.post(&urls[index]).content_type("image/jpeg").send(&series.body[..])?;
            answer.body_mut().read_to_vec()?;
            latencies[index].push(start.elapsed());
            ensure!(answer.status() == series.status, "{} answered {}", urls[index], answer.status());
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(latencies.map(|mut latencies| {
        latencies.sort_unstable();
        latencies[latencies.len() / 2].as_secs_f64()
    }))
}
