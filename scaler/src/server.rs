//! Brings the parts together: control loops, targets, elections and the admin paths. Drains local replicas at the end.

use crate::config::scaling::Place;
use crate::config::{Args, Config};
use crate::control::{self, Control};
use crate::decision::{Decision, Journal};
use crate::leader::{self, Candidate};
use crate::metrics;
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

/// Time for the last scrape of the admin paths.
const ADMIN_GRACE: Duration = Duration::from_millis(200);

/// A target with its control loop.
struct Running {
    control: Control,
    candidate: Option<Candidate>,
    /// The lock of the list of local replicas, held until this is dropped.
    _lock: Option<File>,
}

/// A target as the admin paths show it.
struct TargetView {
    name: String,
    journal: Journal,
    leading: Option<watch::Receiver<bool>>,
}

/// A decision with its target.
#[derive(Serialize)]
struct Named<'a> {
    target: &'a str,
    #[serde(flatten)]
    decision: Decision,
}

/// Scales with the laws of a table until it is told to stop; then drains the replicas on this machine, or leaves a Deployment
/// as it is. `given` tells which flags were typed.
///
/// # Errors
/// When a flag makes no sense, the address is taken, another scaler runs the same replicas, or there is no cluster.
pub fn run(args: Args, given: &ArgMatches, laws: &Table) -> Result<()> {
    let exporter = telemetry::start(&args.process.log)?;
    metrics::describe();
    let config = Config::new(args, given, laws)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(config, exporter))
}

async fn serve(config: Config, exporter: PrometheusHandle) -> Result<()> {
    let listener = service::server::listen(config.listen).await?;
    let mut all = Vec::new();
    for (spec, place) in config.targets {
        let name = spec.name.clone();
        all.push(start(spec, place).await.with_context(|| format!("scale {name}"))?);
    }
    tokio::spawn(telemetry::upkeep(exporter.clone()));
    let admin = Admin { metrics: exporter, readiness: Readiness::default(), capacity: None };
    let targets: Arc<[TargetView]> = all.iter().map(Running::view).collect();
    let handle = move |request: Request<Incoming>| std::future::ready(answer(&admin, &targets, &request));
    tokio::spawn(service::server::serve(listener, None, handle, std::future::pending(), ADMIN_GRACE));
    let controls = join_all(all.iter_mut().map(|running| {
        let span = tracing::info_span!("scale", name = running.control.spec.name);
        running.control.run().instrument(span)
    }));
    tokio::select! {
        _never = controls => {}
        reason = shutdown::requested(config.exit_with_parent) => tracing::info!(reason = reason?, "stopping"),
    }
    join_all(all.into_iter().map(Running::stop)).await.into_iter().collect()
}

async fn start(spec: control::Spec, place: Place) -> Result<Running> {
    let min = spec.limits.min;
    let (target, candidate, lock) = match place {
        Place::Local(spec, replica_limits) => {
            let lock = lock(&spec.list)?;
            let controller = Controller::find_for(replica_limits);
            let cores = |found: &Controller| found.limits().cores;
            let share = match controller.as_ref().map(|found| found.as_ref().and_then(cores)) {
                Ok(Some(cores)) => format!("{cores} of a core for each replica"),
                Ok(None) => "unlimited".into(),
                Err(why) => why.clone(),
            };
            // The program that started this one reads this line.
            println!("cpu share: {share}");
            let controller = controller.unwrap_or_default();
            (processes::run(processes::Spec { controller, ..spec }, min), None, Some(lock))
        }
        Place::Remote(spec, lease) => {
            let client = kube::Client::try_default().await.context(
                "find the cluster: neither a service account nor a usable kubeconfig (KUBECONFIG, ~/.kube/config)",
            )?;
            let (namespace, identity) = (spec.name.namespace.clone(), spec.identity.clone());
            let candidate = leader::run(leader::Spec { namespace, name: lease, identity }, client.clone());
            (deployment::run(spec, client), Some(candidate), None)
        }
    };
    let leading = candidate.as_ref().map(|candidate| candidate.leading.clone());
    let control = Control::new(spec, target, leading);
    Ok(Running { control, candidate, _lock: lock })
}

impl Running {
    fn view(&self) -> TargetView {
        let Control { spec, journal, leading, .. } = &self.control;
        TargetView { name: spec.name.clone(), journal: journal.clone(), leading: leading.clone() }
    }

    /// Drains replicas on this machine, and then gives the lease back.
    async fn stop(self) -> Result<()> {
        let Handle { desired, done, .. } = self.control.target;
        drop(desired);
        done.await.context("the task that owns the replicas failed")?;
        if let Some(candidate) = self.candidate {
            candidate.resign().await;
        }
        Ok(())
    }
}

/// Locks the list of local replicas: two scalers with the same list would undo each other's work. The system releases the
/// lock when the process ends.
fn lock(list: &Path) -> Result<File> {
    let path = list.with_extension("lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    file.try_lock().with_context(|| {
        let list = list.display();
        format!("another scaler publishes its replicas in {list}; end it, or give this one a --list of its own")
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
                journal.all().into_iter().map(move |decision| Named { target: name, decision })
            };
            let mut decisions: Vec<Named<'_>> = targets.iter().flat_map(named).collect();
            decisions.sort_by(|a, b| a.decision.at_seconds.total_cmp(&b.decision.at_seconds));
            respond::json(StatusCode::OK, &decisions)
        }
        _ => respond::not_found(path, "try /status or /decisions", ""),
    }
}
