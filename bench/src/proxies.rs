//! `bench dispatcher`: the dispatcher next to NGINX, HAProxy, and HAProxy with a queue. The same load goes through each
//! in turn, to the same stub replica.

mod cell;
mod measurements;
mod peer;
mod table;
mod tool;
mod wrk;

use crate::output::Output;
use crate::stub::{AnswerDelay, StubReplicas, StubSettings};
use crate::{processor_time, progress};
use anyhow::{Context, Result, ensure};
use cell::{CellMeasurement, ServerKind, TableCell};
use clap::{Args, value_parser};
use harness::paths;
use harness::stack::{ServiceProcess, Stack};
use measurements::{CellMeasurements, PEERS};
use peer::Peer;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use wrk::WrkLoad;

/// Time in which the dispatcher must find the stub replica.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Slots of the stub replica, and so the most connections that can be measured.
const CAPACITY: u32 = 1024;

/// Flags of `bench dispatcher`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds, each of which measures every server, body and number of connections once
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of load for each server, body and number of connections
    #[arg(long, default_value_t = 2, value_parser = value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Sizes of the bodies in bytes, at most 262144, which is what NGINX holds in memory
    #[arg(long, value_delimiter = ',', default_values_t = [200, 38_000, 166_000],
          value_parser = value_parser!(u32).range(1..=256 << 10))]
    bodies: Vec<u32>,
    /// Numbers of connections, each with one request at a time
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 512],
          value_parser = value_parser!(u32).range(1..=i64::from(CAPACITY)))]
    connections: Vec<u32>,
    /// Time after which the stub replica answers a request, such as 2ms, or 0
    #[arg(long, default_value = "2ms", value_parser = delay)]
    delay: Duration,
    #[command(flatten)]
    output: Output,
}

impl Options {
    /// The cells of one round, in the order in which they are measured. The first server changes from round to round.
    fn cells(&self, round: u32) -> Vec<TableCell> {
        let mut cells = Vec::new();
        for &body in &self.bodies {
            for &connections in &self.connections {
                let mut servers = vec![ServerKind::Roundhouse];
                servers.extend(PEERS);
                if connections == 1 {
                    servers.push(ServerKind::Direct);
                }
                let first = round as usize % servers.len();
                servers.rotate_left(first);
                cells.extend(servers.into_iter().map(|server| TableCell { body, connections, server }));
            }
        }
        cells
    }
}

fn delay(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { service::options::positive_duration(text) }
}

/// Measures all servers, prints the tables and writes the figures.
///
/// # Errors
/// If a program is not installed or does not start, or a request failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    tool::check()?;
    let servers = RunningServers::start(options.delay, &paths::output("bench").join("dispatcher"))?;
    let (measurements, failures) = servers.measure(options)?;
    table::print(&measurements);
    ensure!(failures.is_empty(), "requests failed:\n{}", failures.join("\n"));
    options.output.write(&serde_json::json!({ "figures": measurements.named() }))
}

/// The running servers. The stub replica is dropped last: a proxy that lost it before would log errors.
struct RunningServers {
    dispatcher: ServiceProcess,
    nginx: Peer,
    haproxy: Peer,
    haproxy_queue: Peer,
    direct: String,
    _stub: StubReplicas,
}

impl RunningServers {
    fn start(delay: Duration, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let answer_delay = if delay.is_zero() { AnswerDelay::None } else { AnswerDelay::Fixed(delay) };
        let capacity = CAPACITY as usize;
        let stub =
            StubReplicas::start(StubSettings { capacity, answer_delay, records: false, ..StubSettings::default() })?;
        let upstream = stub.addresses[0];
        let dispatcher = start_dispatcher(upstream, folder)?;
        let nginx = Peer::nginx(upstream, folder)?;
        let haproxy = Peer::haproxy(upstream, folder)?;
        let haproxy_queue = Peer::haproxy_with_queue(upstream, CAPACITY, folder)?;
        Ok(Self { dispatcher, nginx, haproxy, haproxy_queue, direct: upstream.to_string(), _stub: stub })
    }

    /// Measures all rounds. Returns the measurements, and a line for each cell in which requests failed.
    fn measure(&self, options: &Options) -> Result<(CellMeasurements, Vec<String>)> {
        let rounds: Vec<(u32, TableCell)> = (0..options.rounds)
            .flat_map(|round| options.cells(round).into_iter().map(move |cell| (round, cell)))
            .collect();
        let progress = progress::bar(rounds.len() as u64, "");
        let (mut measurements, mut failures) = (CellMeasurements::default(), Vec::new());
        for (round, cell) in rounds {
            progress.set_message(cell.to_string());
            let (address, process) = self.server(cell.server);
            let load = WrkLoad { address, body: cell.body, connections: cell.connections };
            load.warm_up()?;
            let before = process.map(processor_time::of).transpose()?;
            let report = load.send(options.seconds).with_context(|| format!("measure {cell}"))?;
            let after = process.map(processor_time::of).transpose()?;
            let cpu = after.zip(before).map(|(after, before)| after.saturating_sub(before));
            measurements.add(cell, CellMeasurement::new(&report, cpu));
            if !report.errors.is_empty() {
                failures.push(format!("  {cell}, round {}: {}", round + 1, report.errors));
            }
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok((measurements, failures))
    }

    /// The address of `server`, and the id of the process whose processor time is measured. The id is `None` for the
    /// stub replica, which runs in the benchmark's own process.
    fn server(&self, server: ServerKind) -> (&str, Option<u32>) {
        match server {
            ServerKind::Roundhouse => (&self.dispatcher.address, Some(self.dispatcher.id())),
            ServerKind::Nginx => (&self.nginx.address, Some(self.nginx.id())),
            ServerKind::Haproxy => (&self.haproxy.address, Some(self.haproxy.id())),
            ServerKind::HaproxyQueue => (&self.haproxy_queue.address, Some(self.haproxy_queue.id())),
            ServerKind::Direct => (&self.direct, None),
        }
    }
}

/// Starts a dispatcher and waits until the stub replica at `upstream` is in rotation.
fn start_dispatcher(upstream: SocketAddr, folder: &Path) -> Result<ServiceProcess> {
    let flags = [
        format!("--replicas=static:{upstream}"),
        "--listen=127.0.0.1:0".into(),
        "--log=warn".into(),
        "--queue-length=4096".into(),
    ];
    let dispatcher = ServiceProcess::start("dispatcher", &flags, folder)?;
    let deadline = Instant::now() + READY_TIMEOUT;
    while Stack::status(&dispatcher)?["replicas"][0]["state"] != "ready" {
        ensure!(
            Instant::now() < deadline,
            "the stub replica at {upstream} is not in rotation after {READY_TIMEOUT:?}; see {}",
            folder.join("dispatcher.log").display()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(dispatcher)
}
