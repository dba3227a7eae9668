//! From exec to ready, with everything in the page cache; and what libtorch takes of it before `main`.

use super::figure::Figure;
use super::{Bench, subject};
use crate::paths;
use crate::stack::Service;
use anyhow::{Context, Result, ensure};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;

/// For a median.
const STARTS: u32 = 10;

/// Seconds: as seen from outside, as the replica itself says, and of a replica that only tells its version.
///
/// # Errors
/// When it does not start.
pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let starts = bench.rounds.min(STARTS);
    let (mut outside, mut inside, mut libtorch) = (Vec::new(), Vec::new(), Vec::new());
    // Whatever is not in the page cache yet.
    subject::start(bench.folder)?;
    let progress = bench.progress(starts, "startup");
    for _ in 0..starts {
        libtorch.push(version()?);
        let start = Instant::now();
        let replica = subject::spawn(Command::new(paths::program("replica")), bench.folder)?;
        subject::wait(&replica)?;
        outside.push(start.elapsed().as_secs_f64());
        inside.push(own_account(&replica)?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(vec![
        Figure::median("startup_s", outside, "s"),
        Figure::median("startup_by_metric_s", inside, "s"),
        Figure::median("startup_libtorch_s", libtorch, "s"),
    ])
}

/// Seconds until `replica --version` has answered: libtorch's initialisers, and nothing of what it does at the end.
fn version() -> Result<f64> {
    let start = Instant::now();
    let mut replica = Command::new(paths::program("replica"));
    let mut child = replica.arg("--version").stdout(Stdio::piped()).spawn().context("start replica --version")?;
    let mut first = [0];
    child.stdout.take().expect("standard output is piped").read_exact(&mut first).context("read its version")?;
    let took = start.elapsed().as_secs_f64();
    ensure!(child.wait()?.success(), "replica --version failed");
    Ok(took)
}

fn own_account(replica: &Service) -> Result<f64> {
    let url = format!("http://{}/metrics", replica.address);
    let text = ureq::get(&url).call().with_context(|| format!("get {url}"))?.body_mut().read_to_string()?;
    gauge(&text, "replica_startup_seconds").with_context(|| format!("no replica_startup_seconds at {url}"))
}

/// Of a metric without labels, in Prometheus' text format.
fn gauge(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_is_found_by_its_whole_name() {
        let text =
            "# TYPE replica_startup_seconds gauge\nreplica_startup_seconds_sum 9\nreplica_startup_seconds 0.52\n";
        assert_eq!(gauge(text, "replica_startup_seconds"), Some(0.52));
        assert_eq!(gauge(text, "replica_startup"), None);
    }
}
