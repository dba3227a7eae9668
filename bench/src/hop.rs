//! What a request costs through the dispatcher, next to the same request sent to the replica itself. Idle: no load.

use crate::stack::{Setup, Stack};
use crate::{build, paths};
use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// Pairs of requests of one kind, and what they are.
struct Series {
    what: &'static str,
    body: Vec<u8>,
    pairs: u64,
    status: u16,
}

/// Requests go by turns to the replica and through the dispatcher, each on one kept connection, one at a time, so
/// that whatever else the machine does happens to both.
///
/// # Errors
/// When something does not start or answers other than it should.
pub fn run() -> Result<()> {
    build::programs()?;
    let folder = paths::output("bench").join("hop");
    let pictures = folder.join("pictures");
    let drawn = Command::new(paths::program("loadgen")).arg("pictures").arg(&pictures).arg("--count=8").output();
    ensure!(drawn.context("run loadgen")?.status.success(), "loadgen could not draw pictures");
    let picture = fs::read(pictures.join("00007.jpg")).context("read a drawn picture")?;
    let stack = Stack::start(Setup { listen: "127.0.0.1:0", folder, scaler: vec!["--max=1".into()] })?;
    let replica = stack.ready_replicas()?.pop().context("the replica has left")?;
    let urls = [replica, stack.dispatcher.address.clone()].map(|address| format!("http://{address}/predict"));

    println!("requests          pairs   replica   through the dispatcher   added   ratio");
    let refused = Series { what: "refused (no JPEG)", body: b"not a picture".to_vec(), pairs: 3000, status: 400 };
    let classified = Series { what: "classified", body: picture, pairs: 300, status: 200 };
    for series in [refused, classified] {
        let [direct, through] = medians(&urls, &series)?;
        println!(
            "{:<17} {:>5} {:>6.2} ms {:>21.2} ms {:>5.2} ms {:>7.3}",
            series.what,
            series.pairs,
            direct * 1e3,
            through * 1e3,
            (through - direct) * 1e3,
            through / direct
        );
    }
    Ok(())
}

/// Median seconds at each of the two addresses.
fn medians(urls: &[String; 2], series: &Series) -> Result<[f64; 2]> {
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} pairs  {msg}").expect("the template is valid");
    let progress = ProgressBar::new(series.pairs).with_style(style).with_message(series.what);
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).no_delay(true).build().into();
    let mut took: [Vec<Duration>; 2] = Default::default();
    for pair in 0..series.pairs {
        // Neither is always the first of its pair.
        for turn in [pair % 2, (pair + 1) % 2].map(|turn| turn as usize) {
            let start = Instant::now();
            let mut answer = agent.post(&urls[turn]).content_type("image/jpeg").send(&series.body[..])?;
            answer.body_mut().read_to_vec()?;
            took[turn].push(start.elapsed());
            ensure!(answer.status() == series.status, "{} answered {}", urls[turn], answer.status());
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(took.map(|mut all| {
        all.sort_unstable();
        all[all.len() / 2].as_secs_f64()
    }))
}
