//! The dispatcher next to NGINX and HAProxy: the same load through each in turn, to the same stub replica.

use super::cell::{Cell, Sample, Server};
use super::figures::Figures;
use super::peer::Peer;
use super::wrk::Load;
use super::{accounting, report, tool};
use crate::stack::{Service, Stack};
use crate::{build, paths};
use anyhow::{Context, Result, ensure};
use clap::{Args, value_parser};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The example of the dispatcher's package that answers.
const STUB: &str = "examples/stub";

/// For the dispatcher to find it.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Flags of `cargo xtask bench dispatcher`.
#[derive(Debug, Args)]
pub struct Options {
    /// Rounds; each measures everything once
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of load for each server, body and number of connections
    #[arg(long, default_value_t = 2, value_parser = value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Bytes of the bodies; up to what the peers are set up to hold in memory
    #[arg(long, value_delimiter = ',', default_values_t = [200, 38_000, 166_000],
          value_parser = value_parser!(u32).range(1..=256 << 10))]
    bodies: Vec<u32>,
    /// Connections, each with one request at a time; up to the stub's capacity
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 512], value_parser = value_parser!(u32).range(1..=1024))]
    connections: Vec<u32>,
    /// What the replica takes for a request, such as 2ms; 0 for nothing
    #[arg(long, default_value = "2ms")]
    delay: String,
    /// Write every figure there, too
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Options {
    /// What one round measures, in turn; nobody is always the first.
    fn round(&self, number: u32) -> Vec<Cell> {
        let mut cells = Vec::new();
        for &body in &self.bodies {
            for &connections in &self.connections {
                let mut servers = vec![Server::Roundhouse, Server::Nginx, Server::Haproxy];
                if connections == 1 {
                    servers.push(Server::Direct);
                }
                let first = number as usize % servers.len();
                servers.rotate_left(first);
                cells.extend(servers.into_iter().map(|server| Cell { body, connections, server }));
            }
        }
        cells
    }
}

/// Measures, prints and writes.
///
/// # Errors
/// When something is not installed, does not start, or failed to answer a request.
pub fn run(options: &Options) -> Result<()> {
    tool::check()?;
    build::programs()?;
    build::example("stub")?;
    let rig = Rig::start(&options.delay, &paths::output("bench").join("dispatcher"))?;
    let (figures, failures) = rig.measure(options)?;
    report::print(&figures);
    ensure!(failures.is_empty(), "requests failed:\n{}", failures.join("\n"));
    if let Some(path) = &options.json {
        let json = serde_json::json!({ "figures": figures.named() });
        fs::write(path, format!("{json:#}\n")).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Everything that answers; the replica ends last.
struct Rig {
    dispatcher: Service,
    nginx: Peer,
    haproxy: Peer,
    stub: Service,
}

impl Rig {
    fn start(delay: &str, folder: &Path) -> Result<Self> {
        let logs = folder.join(STUB);
        let logs = logs.parent().expect("the example is in a folder");
        fs::create_dir_all(logs).with_context(|| format!("create {}", logs.display()))?;
        let stub = Service::start(STUB, &[format!("--delay={delay}")], folder)?;
        let flags = [
            format!("--replicas=static:{}", stub.address),
            "--listen=127.0.0.1:0".into(),
            "--log=warn".into(),
            "--queue-length=4096".into(),
        ];
        let dispatcher = Service::start("dispatcher", &flags, folder)?;
        let nginx = Peer::nginx(&stub.address, folder)?;
        let haproxy = Peer::haproxy(&stub.address, folder)?;
        let deadline = Instant::now() + READY_TIMEOUT;
        while Stack::status(&dispatcher)?["replicas"][0]["state"] != "ready" {
            ensure!(Instant::now() < deadline, "the dispatcher did not find the stub; see {}", folder.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { dispatcher, nginx, haproxy, stub })
    }

    /// All rounds, and in words where requests failed.
    fn measure(&self, options: &Options) -> Result<(Figures, Vec<String>)> {
        let rounds: Vec<(u32, Cell)> = (0..options.rounds)
            .flat_map(|round| options.round(round).into_iter().map(move |cell| (round, cell)))
            .collect();
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {eta} left  {msg}").expect("it is valid");
        let progress = ProgressBar::new(rounds.len() as u64).with_style(style);
        progress.enable_steady_tick(Duration::from_millis(500));
        let (mut figures, mut failures) = (Figures::default(), Vec::new());
        for (round, cell) in rounds {
            progress.set_message(cell.to_string());
            let (address, process) = self.server(cell.server);
            let load = Load { address, body: cell.body, connections: cell.connections };
            load.warm_up()?;
            let before = process.map(accounting::spent).transpose()?;
            let outcome = load.send(options.seconds).with_context(|| format!("measure {cell}"))?;
            let after = process.map(accounting::spent).transpose()?;
            let cpu = after.zip(before).map(|(after, before)| after.saturating_sub(before));
            figures.add(cell, Sample::of(&outcome, cpu));
            if !outcome.errors.is_empty() {
                failures.push(format!("  {cell}, round {}: {}", round + 1, outcome.errors));
            }
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok((figures, failures))
    }

    /// Its address, and the process whose time counts.
    fn server(&self, server: Server) -> (&str, Option<u32>) {
        match server {
            Server::Roundhouse => (&self.dispatcher.address, Some(self.dispatcher.id())),
            Server::Nginx => (&self.nginx.address, Some(self.nginx.id())),
            Server::Haproxy => (&self.haproxy.address, Some(self.haproxy.id())),
            Server::Direct => (&self.stub.address, None),
        }
    }
}
