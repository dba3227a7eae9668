//! `bench hop`: the latency of a request through the dispatcher, next to that of the same request sent directly to the
//! replica. Only one request is in flight at a time.

use crate::{images, progress};
use anyhow::{Context, Result, ensure};
use harness::stack::{ScalerProgram, Stack, StackSetup};
use harness::{http, paths};
use std::fs;
use std::time::{Duration, Instant};

/// A series of pairs of requests. All requests have the same body; one of each pair goes to the replica, the other
/// through the dispatcher.
struct RequestSeries {
    description: &'static str,
    body: Vec<u8>,
    pairs: u64,
    /// The status that every answer must have.
    status: u16,
}

/// Measures the latencies and prints a table. Requests go to the replica and through the dispatcher in turns, so that a
/// disturbance of the machine affects both. Each way has one connection, which is kept.
///
/// # Errors
/// If a program does not start, or answers with a status other than the expected one.
pub(crate) fn run() -> Result<()> {
    let folder = paths::output("bench").join("hop");
    let drawn = folder.join("images");
    images::draw(&drawn, &["--count=8"])?;
    let image = drawn.join("00007.jpg");
    let image = fs::read(&image).with_context(|| format!("read {}", image.display()))?;
    let scaler = vec!["--max=1".into()];
    let stack = Stack::start(StackSetup { listen: "127.0.0.1:0", folder, scaler, program: ScalerProgram::Scaler })?;
    let replica = stack.ready_replicas()?.pop();
    let replica =
        replica.context("the dispatcher lists no ready replica; the replica may have died after its start")?;
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

/// The median latency of the requests to each of the two URLs, in seconds.
fn medians(urls: &[String; 2], series: &RequestSeries) -> Result<[f64; 2]> {
    let progress = progress::bar(series.pairs, series.description);
    let agent = http::agent();
    let mut latencies: [Vec<Duration>; 2] = Default::default();
    for pair in 0..series.pairs {
        // The first URL of a pair changes from pair to pair.
        for index in [pair % 2, (pair + 1) % 2].map(|index| index as usize) {
            let start = Instant::now();
            let url = &urls[index];
            let answer = agent.post(url).content_type("image/jpeg").send(&series.body[..]);
            let mut answer = answer.with_context(|| format!("post to {url}"))?;
            answer.body_mut().read_to_vec().with_context(|| format!("read the answer of {url}"))?;
            latencies[index].push(start.elapsed());
            ensure!(answer.status() == series.status, "{url} answered {}, not {}", answer.status(), series.status);
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(latencies.map(|mut latencies| {
        latencies.sort_unstable();
        latencies[latencies.len() / 2].as_secs_f64()
    }))
}
