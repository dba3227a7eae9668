//! `e2e check` and `e2e cluster`; `cargo xtask e2e` and `cargo xtask cluster` start them.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use e2e::check::{self, Check, Scene};
use e2e::cluster::Cluster;
use e2e::network::Network;
use e2e::{binaries, explore, paths};
use std::net::TcpListener;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

/// A Kubernetes cluster on this machine, with Roundhouse on it.
#[derive(Parser)]
#[command(version, after_help = "Examples:\n  e2e check --only burst,ceiling\n  e2e cluster")]
struct Cli {
    #[command(subcommand)]
    task: Task,
    /// The node's cores
    #[arg(long, global = true, default_value_t = 8.0)]
    cores: f64,
    /// What one of them is of a core of this machine; if not given, so that six replicas share all of it
    #[arg(long, global = true)]
    share: Option<f64>,
}

#[derive(Subcommand)]
enum Task {
    /// Try what must hold; exit status 0 if it does, and 77 if there is no control plane to try it on
    Check {
        /// Only these
        #[arg(long, value_delimiter = ',')]
        only: Vec<Check>,
    },
    /// Start it and stay until Ctrl-C
    Cluster {
        /// Applied to it; k8s/overlays/minikube if not given
        #[arg(long, value_name = "FOLDER")]
        apply: Option<PathBuf>,
    },
}

/// Exit status of a test that was skipped (the convention of automake).
const SKIPPED: i32 = 77;

fn main() -> Result<()> {
    let Cli { task, cores, share } = Cli::parse();
    let share = share.unwrap_or_else(fair_share);
    let Some(binaries) = binaries::find(&paths::root(), &paths::control_plane())? else {
        eprintln!("{}", binaries::advice());
        std::process::exit(SKIPPED);
    };
    // Opened in the machine's own network, which this process is about to leave.
    let doors = match task {
        Task::Cluster { .. } => Some([(); 2].map(|()| TcpListener::bind("127.0.0.1:0"))),
        Task::Check { .. } => None,
    };
    let network = Network::enter()?;
    // One thread: processes end with the thread that started them, and this one lives the longest.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let work = async {
            match task {
                Task::Check { only } => {
                    println!("starting a control plane from {}", binaries.display());
                    let cluster = Cluster::start(network, binaries, paths::output("e2e"), cores, share).await?;
                    let mut scene = Scene::set(cluster).await?;
                    println!("one replica, {share:.2} of a core: {:.1} pictures/s", scene.capacity);
                    let all = if only.is_empty() { Check::value_variants().to_vec() } else { only };
                    check::run(&mut scene, &all).await
                }
                Task::Cluster { apply } => {
                    let cluster = Cluster::start(network, binaries, paths::output("cluster"), cores, share).await?;
                    let [api, clients] = doors.context("a cluster to explore has doors")?;
                    explore::run(cluster, apply, api?, clients?).await
                }
            }
        };
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            done = work => done,
            _ = interrupt.recv() => Err(anyhow::anyhow!("stopped")),
            _ = terminate.recv() => Err(anyhow::anyhow!("stopped")),
        }
    })
}

/// Six replicas, and a tenth for everything else.
fn fair_share() -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores as f64 * 0.9 / 6.0).min(1.0)
}
