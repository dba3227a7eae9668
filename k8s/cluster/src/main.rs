//! The program `cluster`: its flags, signals and exit status.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use cluster::access::Cluster;
use cluster::cgroup::OwnControlGroup;
use cluster::check::{self, Check, Fixture};
use cluster::compare::{self, Comparison};
use cluster::existing::{self, ExistingOptions};
use cluster::explore::{self, ForwardedPorts};
use cluster::kustomization::Kustomization;
use cluster::local::{self, Cores};
use cluster::network::{IpFamilies, Network};
use cluster::node;

use cluster::prerequisites::{self, Prerequisites};
use cluster::{endpoints, paths};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Runs Roundhouse on a Kubernetes cluster on this machine, or checks it on another cluster.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  \
                  cluster check --only burst,ceiling\n  \
                  cluster check --kubeconfig ~/.kube/config --image-prefix registry.example/team\n  \
                  cluster compare --seeds 1,2,3 --hpa 50,70 --hpa-tuned 70\n  \
                  cluster endpoints --count 1000,4000\n  \
                  cluster explore"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
    #[command(flatten)]
    node: NodeOptions,
}

#[derive(Subcommand)]
enum Task {
    /// Run the checks; exit status 0 if all passed, 77 if no cluster can be started on this machine
    Check(CheckOptions),
    /// Replay one workload with the HPA and with the scaler, several times, and compare attainment and cost
    Compare(compare::Options),
    /// Measure a dispatcher and a scaler with thousands of endpoints and pods of a real API server
    Endpoints(endpoints::Options),
    /// Start a cluster for kubectl and loadgen that runs until Ctrl-C
    Explore {
        /// Folder with the kustomization to apply; by default k8s/overlays/minikube
        #[arg(long, value_name = "FOLDER")]
        apply: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
struct CheckOptions {
    /// Checks to run; by default all
    #[arg(long, value_delimiter = ',')]
    only: Vec<Check>,
    #[command(flatten)]
    existing: ExistingOptions,
}

#[derive(Clone, Copy, clap::Args)]
struct NodeOptions {
    /// Number of cores that the node of a cluster on this machine offers
    #[arg(long, global = true, default_value_t = 8.0)]
    cores: f64,
    /// Processor time of a core of the node, as a share of a core of this machine; by default all replicas together get
    /// three quarters of this machine
    #[arg(long, global = true)]
    share: Option<f64>,
    /// Version of the Internet Protocol of a cluster on this machine: ipv4, ipv6, or both (ipv4,ipv6 or ipv6,ipv4), of
    /// which the first is that of Services
    #[arg(long, global = true, value_name = "FAMILIES", default_value_t)]
    ip_family: IpFamilies,
}

/// The exit status if no cluster can be started here: automake's for a skipped test.
const SKIPPED: u8 = 77;

/// Most replicas that k8s/overlays/minikube allows.
const MINIKUBE_REPLICAS: f64 = 3.0;

fn main() -> ExitCode {
    exit::report(run(Cli::parse()))
}

fn run(Cli { task, node }: Cli) -> Result<ExitCode> {
    if let Task::Check(options) = &task
        && let Some(kubeconfig) = &options.existing.kubeconfig
    {
        let work = check_existing(kubeconfig, options);
        return runtime()?.block_on(until_signal(work, || bail!("a signal stopped the checks")));
    }
    match prerequisites::find()? {
        Prerequisites::Met { binaries } => run_locally(task, node, binaries),
        Prerequisites::Missing(missing) => {
            eprintln!("a cluster cannot be started on this machine:\n  {}", missing.join("\n  "));
            Ok(ExitCode::from(SKIPPED))
        }
    }
}

/// Starts a cluster on this machine, and runs `task` on it. `binaries` is the folder with the programs of the control
/// plane.
fn run_locally(task: Task, node: NodeOptions, binaries: PathBuf) -> Result<ExitCode> {
    let is_explore = matches!(task, Task::Explore { .. });
    // This must come before `Network::enter`, after which this process cannot listen on the machine's own network.
    let ports = if is_explore { Some(ForwardedPorts::open()?) } else { None };
    let _group = OwnControlGroup::enter()?;
    let network = Network::enter(node.ip_family)?;
    if let Task::Endpoints(options) = &task {
        let work = endpoints::run(&network, binaries, options);
        return runtime()?.block_on(until_signal(work, || bail!("a signal stopped the measurement")));
    }
    let cores = |replicas| Cores { count: node.cores, share: node.share.unwrap_or_else(|| fair_share(replicas)) };
    let start = |name: &str, cores: Cores| {
        let share = cores.share;
        println!("starting a cluster whose cores each have {share:.2} of the processor time of a core of this machine");
        local::start(network, binaries, paths::output(name), cores)
    };
    let work = async {
        match task {
            Task::Check(options) => {
                let cluster = start("check", cores(f64::from(check::MAX_REPLICAS))).await?;
                let base = paths::root().join("k8s/base");
                let mut manifests = Kustomization::new(base, cluster.kubectl.namespace());
                // The images of the node are made of the programs on this machine.
                manifests.architecture = Some(node::architecture().into());
                run_checks(cluster, manifests, &options.only).await
            }
            Task::Endpoints(_) => unreachable!("this task needs no node"),
            Task::Compare(options) => {
                let cores = cores(MINIKUBE_REPLICAS);
                let comparison = Comparison::new(&options, cores)?;
                comparison.run(&mut start("compare", cores).await?).await
            }
            Task::Explore { apply } => {
                let cluster = start("explore", cores(MINIKUBE_REPLICAS)).await?;
                explore::run(&cluster, apply, ports.expect("`explore` opens its ports first")).await
            }
        }
    };
    // The runtime must be dropped before the control group: its tasks hold containers, whose processes are in the
    // group.
    let runtime = runtime()?;
    runtime.block_on(until_signal(work, || if is_explore { Ok(()) } else { bail!("a signal stopped the cluster") }))
}

/// A runtime on the main thread alone. Processes on the node end with the thread that started them, and no other thread
/// lives as long.
fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime; see ulimit -n")
}

/// Runs the checks on a cluster that exists already, in a new namespace.
async fn check_existing(kubeconfig: &Path, options: &CheckOptions) -> Result<()> {
    let CheckOptions { only, existing: options } = options;
    let cluster = existing::connect(kubeconfig, options.context.clone(), paths::output("check-existing")).await?;
    println!("the checks run in the namespace {}", cluster.kubectl.namespace());
    let base = options.apply.clone().unwrap_or_else(|| paths::root().join("k8s/base"));
    let mut manifests = Kustomization::new(base, cluster.kubectl.namespace());
    manifests.image_prefix = options.image_prefix.clone();
    run_checks(cluster, manifests, only).await
}

/// Deploys Roundhouse from `manifests` and runs the checks in `only`, or all if `only` is empty.
async fn run_checks(cluster: Cluster, manifests: Kustomization, only: &[Check]) -> Result<()> {
    let mut fixture = Fixture::deploy(cluster, manifests).await?;
    println!("requests go to {}", fixture.route.url);
    let objective = fixture.objective.as_millis();
    println!(
        "the throughput of one replica is {:.1} images/s, the objective {objective} ms",
        fixture.replica_throughput
    );
    let all = Check::value_variants();
    check::run(&mut fixture, if only.is_empty() { all } else { only }).await
}

/// Runs `work` to its end, or until SIGINT or SIGTERM arrives. Returns the result of `work`, or after a signal that of
/// `on_signal`. `work` and all that it holds are dropped before this returns.
async fn until_signal(
    work: impl Future<Output = Result<()>>,
    on_signal: impl FnOnce() -> Result<()>,
) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    tokio::select! {
        result = work => result?,
        _ = interrupt.recv() => on_signal()?,
        _ = terminate.recv() => on_signal()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The processor time of a core of the node, as a share of a core of this machine. With it, `replicas` replicas of one
/// core each get three quarters of this machine. The last quarter is left for all other processes.
fn fair_share(replicas: f64) -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores as f64 * 0.75 / replicas).min(1.0)
}
