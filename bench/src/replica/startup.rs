//! The replica's cold start with all files in the page cache, and the part of it that libtorch takes before `main`.

use super::{RunContext, server};
use crate::figure::Figure;
use crate::progress;
use anyhow::{Context, Result, ensure};
use harness::stack::ServiceProcess;
use harness::{http, paths};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Most starts that are measured. This number suffices for a median.
const MAX_STARTS: u32 = 10;

/// Three medians over all starts, in seconds:
///
/// - `startup_s`: the time from exec until `/readyz` answers with status 200;
/// - `startup_by_metric_s`: the start-up time that the replica exports as a metric;
/// - `startup_libtorch_s`: the time from exec until `replica --version` prints its first byte.
///
/// # Errors
/// If the replica does not start.
pub(super) fn measure(run: &RunContext) -> Result<Vec<Figure>> {
    let starts = run.rounds.min(MAX_STARTS);
    let (mut outside, mut by_metric, mut libtorch) = (Vec::new(), Vec::new(), Vec::new());
    // The first start reads the files into the page cache.
    server::start(run.folder)?;
    let progress = progress::bar(starts.into(), "startup");
    for _ in 0..starts {
        libtorch.push(version_seconds()?);
        let start = Instant::now();
        let replica = server::spawn(Command::new(paths::program("replica")), run.folder)?;
        server::wait_until_ready(&replica)?;
        outside.push(start.elapsed().as_secs_f64());
        by_metric.push(startup_metric(&replica)?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(vec![
        Figure::median("startup_s", outside, "s"),
        Figure::median("startup_by_metric_s", by_metric, "s"),
        Figure::median("startup_libtorch_s", libtorch, "s"),
    ])
}

/// The seconds until `replica --version` has printed its first byte. They contain the time of libtorch's initialisers,
/// but not that of its destructors.
fn version_seconds() -> Result<f64> {
    let start = Instant::now();
    let mut replica = Command::new(paths::program("replica"));
    let mut child = replica.arg("--version").stdout(Stdio::piped()).spawn().context("start replica --version")?;
    let mut first = [0];
    child
        .stdout
        .take()
        .expect("standard output is piped")
        .read_exact(&mut first)
        .context("read the output of replica --version")?;
    let seconds = start.elapsed().as_secs_f64();
    let status = child.wait().context("wait for replica --version")?;
    ensure!(status.success(), "replica --version failed ({status})");
    Ok(seconds)
}

fn startup_metric(replica: &ServiceProcess) -> Result<f64> {
    let name = service::wire::metric::STARTUP;
    let url = format!("http://{}/metrics", replica.address);
    gauge(&http::get(&url)?, name).with_context(|| format!("no {name} at {url}"))
}

/// The value of the metric `name`, which has no labels, in a text of Prometheus's format. `None` if it is missing.
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
