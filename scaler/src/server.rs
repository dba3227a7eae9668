//! Runs the control loops, targets, elections and admin paths, and stops them when the program ends.

use crate::advice::{AdvisedTarget, AdvisedTargets};
use crate::config::scaling::TargetSpec;
use crate::config::{Args, Config};
use crate::control::{Actuation, Control, ControlSettings};
use crate::decision::{Decision, Journal};
use crate::external_metrics::ExternalMetrics;
use crate::headroom;
use crate::keda;
use crate::leader::{self, Candidate, CandidateSpec, Term};
use crate::metrics;
use crate::target::processes::ProcessesSpec;
use crate::target::{Handle, processes, scalable};
use anyhow::{Context, Error, Result, anyhow, bail};
use cgroup::Controller;
use clap::ArgMatches;
use futures_util::FutureExt;
use futures_util::future::{join_all, select_all};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use law::table::Table;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use serde_json::json;
use service::admin::Admin;
use service::readiness::Readiness;
use service::respond::{self, Reply};
use service::{shutdown, telemetry, variables};
use std::fs::{File, TryLockError};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tracing::Instrument;

/// A target with its control loop.
struct RunningTarget {
    control: Control,
    candidate: Option<Candidate>,
    /// The connection to another autoscaler that scales the target; `None` if this scaler does.
    advised: Option<AdvisedTarget>,
    /// The locked file beside the list of local replicas. Dropping it releases the lock.
    _lock: Option<File>,
}

/// A target as the admin paths show it.
struct TargetView {
    name: String,
    journal: Journal,
    leading: Option<watch::Receiver<Option<Term>>>,
    advised: Option<AdvisedTarget>,
}

#[derive(Serialize)]
struct NamedDecision<'a> {
    target: &'a str,
    #[serde(flatten)]
    decision: Decision,
}

/// Scales with the laws of a table until a signal or the end of the parent process stops it. Then drains the replicas
/// on this machine, and leaves a Deployment as it is. `given` are the matches of [`crate::config::Cli::read`].
///
/// # Errors
/// If a flag is invalid, the address is in use, another scaler uses the same list, no cluster is configured, or a task
/// of the scaler has ended.
pub fn run(args: Args, given: &ArgMatches, laws: &Table) -> Result<()> {
    let exporter = telemetry::start(&args.process.log, &telemetry::LATENCY_BUCKETS)?;
    variables::warn_of_unknown();
    metrics::describe();
    let config = Config::new(args, given, laws)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(config, exporter))
}

async fn serve(config: Config, exporter: PrometheusHandle) -> Result<()> {
    let listener = service::server::listen(config.listen).await?;
    let keda_listener = match config.keda_listen {
        Some(address) => Some(service::server::listen_as("answering KEDA on ", address).await?),
        None => None,
    };
    let external_metrics = match config.external_metrics {
        Some(config) => Some(ExternalMetrics::bind(config).await?),
        None => None,
    };
    let mut all = Vec::new();
    for (settings, target) in config.targets {
        let name = settings.name.clone();
        all.push(start(settings, target).await.with_context(|| format!("start scaling {name}"))?);
    }
    tokio::spawn(telemetry::upkeep(exporter.clone()));
    let admin = Admin { metrics: exporter, readiness: Readiness::default(), capacity: None };
    let targets: Arc<[TargetView]> = all.iter().map(RunningTarget::view).collect();
    let handle = move |request: Request<Incoming>| std::future::ready(answer(&admin, &targets, &request));
    tokio::spawn(service::server::serve(listener, None, handle, std::future::pending(), Duration::ZERO));
    let advised: AdvisedTargets = all.iter().filter_map(|running| running.advised.clone()).collect();
    let keda = keda_listener.map(|listener| keda::Server::start(listener, advised.clone()));
    external_metrics.map(|server| tokio::spawn(server.serve(advised)));
    let ended = select_all(all.iter_mut().map(|running| Box::pin(running.run())));
    let failure = tokio::select! {
        (error, ..) = ended => Err(error),
        reason = shutdown::requested(config.exit_with_parent) => {
            tracing::info!(reason = reason?, "stopping");
            Ok(())
        }
    };
    if let Some(keda) = keda {
        keda.stop().await;
    }
    let stopped = join_all(all.into_iter().map(RunningTarget::stop)).await;
    failure.and(stopped.into_iter().collect())
}

async fn start(settings: ControlSettings, target: TargetSpec) -> Result<RunningTarget> {
    let min = settings.limits.min;
    let has_headroom = settings.headroom.is_some();
    let (mut placeholders, mut candidate, mut advised_name) = (None, None, None);
    let (target, lock) = match target {
        TargetSpec::Processes(spec, replica_limits) => {
            let lock = lock(&spec.list)?;
            let controller = Controller::find_for(replica_limits);
            let share = match (&controller, replica_limits.cores) {
                (Err(reason), _) => reason.clone(),
                (Ok(_), Some(cores)) => format!("{cores} cores for each replica"),
                (Ok(_), None) => "unlimited".into(),
            };
            // The crate `harness` reads this line from the standard output of the scaler that it starts.
            println!("cpu share: {share}");
            let controller = controller.unwrap_or_default();
            (processes::run(ProcessesSpec { controller, ..spec }, min), Some(lock))
        }
        TargetSpec::Scalable(spec, lease) => {
            let client = kubernetes::client::connect().await.context(
                "find the cluster: there is neither a service account nor a usable kubeconfig; set KUBECONFIG",
            )?;
            // Several scalers may advise one autoscaler, since they write nothing.
            let mut fence = None;
            if settings.actuation == Actuation::Advice {
                advised_name = Some(spec.name.clone());
            } else {
                let (namespace, identity) = (spec.name.namespace.clone(), spec.identity.clone());
                let elected = leader::run(CandidateSpec { namespace, name: lease, identity }, client.clone());
                fence = Some(elected.fence.clone());
                candidate = Some(elected);
            }
            placeholders = has_headroom.then(|| scalable::run(headroom::spec(&spec), client.clone(), fence.clone()));
            (scalable::run(spec, client, fence), None)
        }
    };
    let leading = candidate.as_ref().map(|candidate| candidate.leading.clone());
    let mut control = Control::new(settings, target, leading);
    control.placeholders = placeholders;
    let advised = advised_name.map(|name| AdvisedTarget { name, advice: control.advice.subscribe() });
    Ok(RunningTarget { control, candidate, advised, _lock: lock })
}

impl RunningTarget {
    fn view(&self) -> TargetView {
        let Control { settings, journal, leading, .. } = &self.control;
        TargetView {
            name: settings.name.clone(),
            journal: journal.clone(),
            leading: leading.clone(),
            advised: self.advised.clone(),
        }
    }

    /// Decides at every tick until the control loop, the target's task or the candidate's task has ended. Each of them
    /// runs for ever, unless it panics. Without it, the others would act on its last word.
    async fn run(&mut self) -> Error {
        let (state, leading) = (self.control.target.state.clone(), self.control.leading.clone());
        let election = async {
            match leading {
                Some(leading) => closed(leading).await,
                None => std::future::pending().await,
            }
        };
        let name = self.control.settings.name.clone();
        let span = tracing::info_span!("scale", name);
        let part = tokio::select! {
            _ended = AssertUnwindSafe(self.control.run().instrument(span)).catch_unwind() => "control loop",
            () = closed(state) => "target's task",
            () = election => "leader election",
        };
        anyhow!("the {part} of {name} has ended, which is a bug; see the panic above, and start the scaler again")
    }

    /// Drains replicas on this machine, and then gives the Lease back.
    async fn stop(self) -> Result<()> {
        let Handle { desired, done, .. } = self.control.target;
        drop(desired);
        if let Some(Handle { desired, done, .. }) = self.control.placeholders {
            drop(desired);
            done.await
                .with_context(|| format!("the task of the placeholders of {} panicked", self.control.settings.name))?;
        }
        let drained = done.await.with_context(|| format!("the task of {} panicked", self.control.settings.name));
        if let Some(candidate) = self.candidate {
            candidate.resign().await;
        }
        drained
    }
}

/// Waits until the sender of this channel is dropped.
async fn closed<T>(mut receiver: watch::Receiver<T>) {
    while receiver.changed().await.is_ok() {}
}

/// Locks the list of local replicas, since two scalers with the same list would undo each other's changes. The system
/// releases the lock when the process ends.
fn lock(list: &Path) -> Result<File> {
    let path = list.with_extension("lock");
    let file = File::create(&path).with_context(|| format!("create the lock file {}", path.display()))?;
    locked(list, file.try_lock())?;
    Ok(file)
}

/// The outcome of an attempt to lock the file beside `list`.
fn locked(list: &Path, outcome: Result<(), TryLockError>) -> Result<()> {
    let list = list.display();
    match outcome {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            bail!("another scaler publishes its replicas in {list}; stop it, or give this scaler a --list of its own")
        }
        Err(TryLockError::Error(error)) => Err(error)
            .with_context(|| format!("lock the file beside {list}; give --list a folder whose file system has locks")),
    }
}

fn answer(admin: &Admin, targets: &[TargetView], request: &Request<Incoming>) -> Reply {
    let path = request.uri().path();
    if let Some(reply) = admin.answer(request.method(), path) {
        return reply;
    }
    match path {
        "/status" => {
            let status = |TargetView { name, journal, leading, advised }: &TargetView| {
                let lasts = |leading: &watch::Receiver<Option<Term>>| leading.borrow().is_some_and(|term| term.lasts());
                let leads = leading.as_ref().is_none_or(lasts);
                let mut status = json!({"target": name, "leads": leads, "latest": journal.latest()});
                if let Some(advised) = advised {
                    status["advice"] = json!(advised.replicas().ok());
                }
                status
            };
            respond::json(StatusCode::OK, &json!({"targets": targets.iter().map(status).collect::<Vec<_>>()}))
        }
        "/decisions" => {
            let named = |target| {
                let TargetView { name, journal, .. }: &TargetView = target;
                journal.all().into_iter().map(move |decision| NamedDecision { target: name, decision })
            };
            let mut decisions: Vec<NamedDecision<'_>> = targets.iter().flat_map(named).collect();
            decisions.sort_by(|a, b| a.decision.at_seconds.total_cmp(&b.decision.at_seconds));
            respond::json(StatusCode::OK, &decisions)
        }
        _ => respond::not_found(path, "try /status or /decisions", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::scaling::Role;
    use crate::target::{Desired, TargetState};
    use law::observation::Observation;
    use law::table::{Law, Recommendation};
    use limits::Limits;
    use readings::ReadingSource;
    use readings::dispatchers::Dispatchers;

    /// A law that has no opinion.
    #[derive(Debug)]
    struct TestLaw;

    impl Law for TestLaw {
        fn decide(&mut self, _seen: &Observation) -> Recommendation {
            Recommendation::no_data()
        }
    }

    /// The error with which a target ends. `state` and `leading` are channels whose senders the tasks hold. If `panics`,
    /// the control loop panics at once, since a timer without an interval does.
    async fn failure(
        panics: bool,
        state: watch::Receiver<TargetState>,
        leading: watch::Receiver<Option<Term>>,
    ) -> Option<String> {
        let settings = ControlSettings {
            name: "replica".into(),
            role: Role::Replicas,
            source: ReadingSource::Dispatchers(Box::new(Dispatchers::new([]))),
            law: Box::new(TestLaw),
            limits: Limits::bounds(0, 1),
            interval: Duration::from_millis(if panics { 0 } else { 10 }),
            actuation: Actuation::Direct,
            headroom: None,
        };
        let target = Handle { desired: watch::channel(Desired::default()).0, state, done: tokio::spawn(async {}) };
        let control = Control::new(settings, target, Some(leading));
        let mut running = RunningTarget { control, candidate: None, advised: None, _lock: None };
        let ended = tokio::time::timeout(Duration::from_millis(200), running.run()).await;
        ended.ok().map(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_task_that_ends_ends_its_target() {
        let ((publish, state), (lead, leading)) = (watch::channel(TargetState::default()), watch::channel(None));
        let (closed_state, closed_leading) = (watch::channel(TargetState::default()).1, watch::channel(None).1);
        assert_eq!(failure(false, state.clone(), leading.clone()).await, None, "all tasks run");
        for (ended, part) in [
            (failure(true, state.clone(), leading.clone()).await, "the control loop of replica has ended"),
            (failure(false, closed_state, leading).await, "the target's task of replica has ended"),
            (failure(false, state, closed_leading).await, "the leader election of replica has ended"),
        ] {
            let error = ended.expect("an error");
            assert!(error.contains(part), "{error}");
        }
        drop((publish, lead));
    }

    #[test]
    fn only_a_held_lock_means_that_another_scaler_runs() {
        let error = |error| format!("{:#}", locked(Path::new("/replicas"), Err(error)).expect_err("no lock"));
        assert!(error(TryLockError::WouldBlock).contains("another scaler publishes its replicas in /replicas"));
        let other = error(TryLockError::Error(std::io::Error::other("no locks available")));
        assert!(!other.contains("another scaler") && other.contains("no locks available"), "{other}");
    }
}
