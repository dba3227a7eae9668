//! Runs the control loops, targets, elections and admin paths, and stops them when the program ends.

use crate::config::scaling::TargetSpec;
use crate::config::{Args, Config};
use crate::control::{Control, ControlSettings};
use crate::decision::{Decision, Journal};
use crate::leader::{self, Candidate, CandidateSpec};
use crate::metrics;
use crate::target::processes::ProcessesSpec;
use crate::target::{Handle, deployment, processes};
use anyhow::{Context, Result};
use cgroup::Controller;
use clap::ArgMatches;
use futures_util::future::join_all;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use law::table::Table;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use serde_json::json;
use service::admin::Admin;
use service::readiness::Readiness;
use service::respond::{self, Reply};
use service::{shutdown, telemetry};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tracing::Instrument;

/// A target with its control loop.
struct RunningTarget {
    control: Control,
    candidate: Option<Candidate>,
    /// The locked file beside the list of local replicas. Dropping it releases the lock.
    _lock: Option<File>,
}

/// A target as the admin paths show it.
struct TargetView {
    name: String,
    journal: Journal,
    leading: Option<watch::Receiver<bool>>,
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
/// If a flag is invalid, the address is in use, another scaler uses the same list, or no cluster is configured.
pub fn run(args: Args, given: &ArgMatches, laws: &Table) -> Result<()> {
    let exporter = telemetry::start(&args.process.log)?;
    metrics::describe();
    let config = Config::new(args, given, laws)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(config, exporter))
}

async fn serve(config: Config, exporter: PrometheusHandle) -> Result<()> {
    let listener = service::server::listen(config.listen).await?;
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
    let controls = join_all(all.iter_mut().map(|running| {
        let span = tracing::info_span!("scale", name = running.control.settings.name);
        running.control.run().instrument(span)
    }));
    tokio::select! {
        _never = controls => {}
        reason = shutdown::requested(config.exit_with_parent) => tracing::info!(reason = reason?, "stopping"),
    }
    join_all(all.into_iter().map(RunningTarget::stop)).await.into_iter().collect()
}

async fn start(settings: ControlSettings, target: TargetSpec) -> Result<RunningTarget> {
    let min = settings.limits.min;
    let (target, candidate, lock) = match target {
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
            (processes::run(ProcessesSpec { controller, ..spec }, min), None, Some(lock))
        }
        TargetSpec::Deployment(spec, lease) => {
            let client = kube::Client::try_default().await.context(
                "find the cluster: there is neither a service account nor a usable kubeconfig; set KUBECONFIG",
            )?;
            let (namespace, identity) = (spec.name.namespace.clone(), spec.identity.clone());
            let candidate = leader::run(CandidateSpec { namespace, name: lease, identity }, client.clone());
            (deployment::run(spec, client), Some(candidate), None)
        }
    };
    let control = Control::new(settings, target, candidate.as_ref().map(|candidate| candidate.leading.clone()));
    Ok(RunningTarget { control, candidate, _lock: lock })
}

impl RunningTarget {
    fn view(&self) -> TargetView {
        let Control { settings, journal, leading, .. } = &self.control;
        TargetView { name: settings.name.clone(), journal: journal.clone(), leading: leading.clone() }
    }

    /// Drains replicas on this machine, and then gives the Lease back.
    async fn stop(self) -> Result<()> {
        let Handle { desired, done, .. } = self.control.target;
        drop(desired);
        done.await.with_context(|| format!("the task of {} panicked", self.control.settings.name))?;
        if let Some(candidate) = self.candidate {
            candidate.resign().await;
        }
        Ok(())
    }
}

/// Locks the list of local replicas, since two scalers with the same list would undo each other's changes. The system
/// releases the lock when the process ends.
fn lock(list: &Path) -> Result<File> {
    let path = list.with_extension("lock");
    let file = File::create(&path).with_context(|| format!("create the lock file {}", path.display()))?;
    file.try_lock().with_context(|| {
        let list = list.display();
        format!("another scaler publishes its replicas in {list}; stop it, or give this scaler a --list of its own")
    })?;
    Ok(file)
}

fn answer(admin: &Admin, targets: &[TargetView], request: &Request<Incoming>) -> Reply {
    let path = request.uri().path();
    if let Some(reply) = admin.answer(request.method(), path) {
        return reply;
    }
    match path {
        "/status" => {
            let status = |TargetView { name, journal, leading }: &TargetView| {
                let leads = leading.as_ref().is_none_or(|leading| *leading.borrow());
                json!({"target": name, "leads": leads, "latest": journal.latest()})
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
