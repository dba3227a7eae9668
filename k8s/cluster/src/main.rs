//! `cluster check`, `cluster compare` and `cluster explore`; `cargo xtask` starts them.

use ::cluster::cgroup::Own;
use ::cluster::check::{self, Check, Scene};
use ::cluster::cluster::Cluster;
use ::cluster::network::Network;
use ::cluster::{compare, explore, paths, prerequisites};
use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// A Kubernetes cluster on this machine, with Roundhouse on it.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  cluster check --only burst,ceiling\n  cluster compare --hpa 70 --time-scale 2\n  cluster explore"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
    /// Cores that the node offers
    #[arg(long, global = true, default_value_t = 8.0)]
    cores: f64,
    /// What one of them is of a core of this machine; if not given, so that all replicas find room in it
    #[arg(long, global = true)]
    share: Option<f64>,
}

#[derive(Subcommand)]
enum Task {
    /// Try what must hold; exit status 0 if it does, 77 if it cannot be tried here
    Check {
        /// Only these
        #[arg(long, value_delimiter = ',')]
        only: Vec<Check>,
    },
    /// Replay one workload with the cluster's own HPA and with our scaler, and compare what they reached and cost
    Compare(compare::Options),
    /// Start it and stay until Ctrl-C
    Explore {
        /// What is applied to it; k8s/overlays/minikube if not given
        #[arg(long, value_name = "FOLDER")]
        apply: Option<PathBuf>,
    },
}

/// Exit status of what cannot be tried (automake's convention for tests).
const SKIPPED: u8 = 77;

fn main() -> Result<ExitCode> {
    let Cli { task, cores, share } = Cli::parse();
    let binaries = match prerequisites::find()? {
        Ok(binaries) => binaries,
        Err(missing) => {
            eprintln!("a cluster cannot be started here:\n  {}", missing.join("\n  "));
            return Ok(ExitCode::from(SKIPPED));
        }
    };
    // Opened in the machine's own network, which this process is about to leave.
    let doors = match task {
        Task::Explore { .. } => Some((TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?)),
        Task::Check { .. } | Task::Compare(_) => None,
    };
    let stays = matches!(task, Task::Explore { .. });
    let stopped = || if stays { Ok(()) } else { bail!("stopped") };
    let _group = Own::enter()?;
    let network = Network::enter()?;
    let start = |name: &str, replicas: f64| {
        let share = share.unwrap_or_else(|| fair_share(replicas));
        println!("starting a cluster; one of its cores is {share:.2} of this machine's");
        Cluster::start(network, binaries, paths::output(name), cores, share)
    };
    // One thread: processes end with the thread that started them, and this one lives the longest.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let work = async {
            match task {
                Task::Check { only } => {
                    let mut scene = Scene::set(start("e2e", 5.0).await?).await?;
                    println!("one replica: {:.1} pictures/s", scene.capacity);
                    let all = if only.is_empty() { Check::value_variants().to_vec() } else { only };
                    check::run(&mut scene, &all).await
                }
                Task::Compare(options) => compare::run(&start("compare", 3.0).await?, &options).await,
                Task::Explore { apply } => {
                    let cluster = start("cluster", 3.0).await?;
                    let (api, clients) = doors.context("a cluster to explore has doors")?;
                    explore::run(cluster, apply, api, clients).await
                }
            }
        };
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            done = work => done,
            _ = interrupt.recv() => stopped(),
            _ = terminate.recv() => stopped(),
        }
    });
    done.map(|()| ExitCode::SUCCESS)
}

/// So many replicas, and something for everything else.
fn fair_share(replicas: f64) -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores as f64 * 0.75 / replicas).min(1.0)
}
