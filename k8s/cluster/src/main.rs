//! The program `cluster`: its flags, signals and exit status.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use cluster::access::Cluster;
use cluster::cgroup::OwnControlGroup;
use cluster::check::{self, Check, Fixture};
use cluster::existing::{self, ExistingOptions};
use cluster::explore::{self, ForwardedPorts};
use cluster::local::{self, Cores};
use cluster::network::Network;
use cluster::prerequisites::{self, Prerequisites};
use cluster::{compare, paths};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// A Kubernetes cluster on this machine, with Roundhouse on it.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  \
                  cluster check --only burst,ceiling\n  \
                  cluster check --kubeconfig ~/.kube/config --image-prefix registry.example/team\n  \
                  cluster compare --hpa 70 --time-scale 2\n  \
                  cluster explore"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
    #[command(flatten)]
    cores: CoreOptions,
}

#[derive(Subcommand)]
enum Task {
    /// Run the checks; exit status 0 if all held, 77 if no cluster can be started here
    Check(CheckOptions),
    /// Replay one workload with the cluster's own HPA and with the scaler, and compare attainment and cost
    Compare(compare::Options),
    /// Start a cluster for kubectl and loadgen that runs until Ctrl-C
    Explore {
        /// Folder with the kustomization to apply, k8s/overlays/minikube if not given
        #[arg(long, value_name = "FOLDER")]
        apply: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
struct CheckOptions {
    /// Run only these checks
    #[arg(long, value_delimiter = ',')]
    only: Vec<Check>,
    #[command(flatten)]
    existing: ExistingOptions,
}

#[derive(Clone, Copy, clap::Args)]
struct CoreOptions {
    /// Cores that the node of a cluster on this machine offers
    #[arg(long, global = true, default_value_t = 8.0)]
    cores: f64,
    /// The worth of one of these cores, as a share of a core of this machine; if not given, all replicas fit
    #[arg(long, global = true)]
    share: Option<f64>,
}

/// Exit status of a check that cannot run here (automake's convention for tests).
const SKIPPED: u8 = 77;

/// Replicas that the checks run at a time.
const CHECK_REPLICAS: f64 = 5.0;

/// Replicas that k8s/overlays/minikube allows.
const MINIKUBE_REPLICAS: f64 = 3.0;

fn main() -> ExitCode {
    exit::report(run(Cli::parse()))
}

fn run(Cli { task, cores }: Cli) -> Result<ExitCode> {
    if let Task::Check(options) = &task
        && let Some(kubeconfig) = &options.existing.kubeconfig
    {
        let work = check_existing(kubeconfig, options);
        return runtime()?.block_on(until_signal(work, || bail!("stopped by a signal")));
    }
    match prerequisites::find()? {
        Prerequisites::Met { binaries } => run_locally(task, cores, binaries),
        Prerequisites::Missing(missing) => {
            eprintln!("a cluster cannot be started here:\n  {}", missing.join("\n  "));
            Ok(ExitCode::from(SKIPPED))
        }
    }
}

/// Starts a cluster on this machine with the control plane's programs in `binaries`, and runs `task` on it.
fn run_locally(task: Task, cores: CoreOptions, binaries: PathBuf) -> Result<ExitCode> {
    let is_explore = matches!(task, Task::Explore { .. });
    // Opened before this process leaves the machine's own network.
    let ports = if is_explore { Some(ForwardedPorts::open()?) } else { None };
    let _group = OwnControlGroup::enter()?;
    let network = Network::enter()?;
    let start = |name: &str, replicas: f64| {
        let share = cores.share.unwrap_or_else(|| fair_share(replicas));
        println!("starting a cluster; one of its cores is {share:.2} of a core of this machine");
        local::start(network, binaries, paths::output(name), Cores { count: cores.cores, share })
    };
    let work = async {
        match task {
            Task::Check(options) => {
                let cluster = start("check", CHECK_REPLICAS).await?;
                run_checks(cluster, &paths::root().join("k8s/base"), &options.only).await
            }
            Task::Compare(options) => compare::run(&start("compare", MINIKUBE_REPLICAS).await?, &options).await,
            Task::Explore { apply } => {
                let cluster = start("explore", MINIKUBE_REPLICAS).await?;
                explore::run(&cluster, apply, ports.context("no ports were opened for exploring")?).await
            }
        }
    };
    // The runtime is dropped before the control group: its tasks hold the containers, whose processes are in the group.
    let runtime = runtime()?;
    runtime.block_on(until_signal(work, || if is_explore { Ok(()) } else { bail!("stopped by a signal") }))
}

/// A runtime of one thread: processes on the node end with the thread that started them, and the main thread lives
/// longest.
fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")
}

/// Runs the checks in a namespace of their own on a cluster that exists already.
async fn check_existing(kubeconfig: &Path, options: &CheckOptions) -> Result<()> {
    let CheckOptions { only, existing: options } = options;
    let cluster = existing::connect(kubeconfig, options.context.clone(), paths::output("check-existing")).await?;
    println!("the checks run in the namespace {}", cluster.kubectl.namespace());
    let base = options.apply.clone().unwrap_or_else(|| paths::root().join("k8s/base"));
    let manifests = cluster.folder.join("manifests");
    let prefix = options.image_prefix.as_deref();
    existing::write_kustomization(&manifests, &base, cluster.kubectl.namespace(), prefix)?;
    run_checks(cluster, &manifests, only).await
}

/// Deploys Roundhouse from `manifests` and runs the checks in `only`, or all if there are none.
async fn run_checks(cluster: Cluster, manifests: &Path, only: &[Check]) -> Result<()> {
    let mut fixture = Fixture::deploy(cluster, manifests).await?;
    println!("requests go to {}", fixture.route.url);
    println!("one replica: {:.1} images/s", fixture.replica_throughput);
    let all = Check::value_variants();
    check::run(&mut fixture, if only.is_empty() { all } else { only }).await
}

/// Runs `work` until it is over or SIGINT or SIGTERM arrives, which gives the result of `on_signal`. Everything that
/// `work` holds is dropped by then.
async fn until_signal(
    work: impl Future<Output = Result<()>>,
    on_signal: impl FnOnce() -> Result<()>,
) -> Result<ExitCode> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        result = work => result?,
        _ = interrupt.recv() => on_signal()?,
        _ = terminate.recv() => on_signal()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The share of a core of this machine that a core of the node is worth, so that `replicas` replicas of one core each
/// get three quarters of this machine. The last quarter is left for all other processes.
fn fair_share(replicas: f64) -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores as f64 * 0.75 / replicas).min(1.0)
}
