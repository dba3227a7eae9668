//! Brings the parts together: control, target, election, and the admin paths; drains local replicas on the way out.

use crate::config::scaling::{Local, Place, Remote, Scaling};
use crate::config::{Args, Config};
use crate::control::Control;
use crate::decision::{Decision, Journal};
use crate::leader::{self, Candidate};
use crate::remarks::Remarks;
use crate::target::cgroup::{self, Controller};
use crate::target::processes::{self, Spec};
use crate::target::{Handle, deployment};
use anyhow::{Context, Result};
use clap::ArgMatches;
use futures_util::future::join_all;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use law::limits::Limiter;
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

/// For the last scrape of the admin paths.
const ADMIN_GRACE: Duration = Duration::from_millis(200);

/// One target with all that belongs to it.
struct Running {
    control: Control,
    candidate: Option<Candidate>,
    /// On the list of local replicas, while this lives.
    _lock: Option<File>,
}

/// What is told of one target.
struct Shown {
    name: String,
    journal: Journal,
    leading: Option<watch::Receiver<bool>>,
}

/// A decision and whose it is.
#[derive(Serialize)]
struct Named<'a> {
    target: &'a str,
    #[serde(flatten)]
    decision: Decision,
}

/// Scales with one of `laws` until told to stop; then drains the replicas on this machine, or leaves a Deployment as it is.
/// `given` tells which flags were typed.
///
/// # Errors
/// When a flag makes no sense, the address is taken, another scaler runs the same replicas, or there is no cluster to talk
/// to.
pub fn run(args: Args, given: &ArgMatches, laws: &Table) -> Result<()> {
    let metrics = telemetry::start(&args.process.log)?;
    let config = Config::new(args, given, laws)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(config, metrics))
}

async fn serve(config: Config, metrics: PrometheusHandle) -> Result<()> {
    let listener = service::server::listen(config.listen).await?;
    let mut all = Vec::new();
    for scaling in config.scalings {
        let name = scaling.name.clone();
        all.push(start(scaling).await.with_context(|| format!("scale {name}"))?);
    }
    tokio::spawn(telemetry::upkeep(metrics.clone()));
    let admin = Admin { metrics, readiness: Readiness::default(), capacity: None };
    let shown: Arc<[Shown]> = all.iter().map(Running::shown).collect();
    let handle = move |request: Request<Incoming>| std::future::ready(answer(&admin, &shown, &request));
    tokio::spawn(service::server::serve(listener, None, handle, std::future::pending(), ADMIN_GRACE));
    let controls = join_all(all.iter_mut().map(|running| {
        let span = tracing::info_span!("scale", name = running.control.name);
        running.control.run().instrument(span)
    }));
    tokio::select! {
        _never = controls => {}
        reason = shutdown::requested(config.exit_with_parent) => tracing::info!(reason = reason?, "stopping"),
    }
    for ended in join_all(all.into_iter().map(Running::stop)).await {
        ended?;
    }
    Ok(())
}

async fn start(scaling: Scaling) -> Result<Running> {
    let (target, candidate, lock) = match scaling.place {
        Place::Local(local) => {
            let lock = lock(&local.list)?;
            (run_here(local, scaling.limits.min), None, Some(lock))
        }
        Place::Remote(remote) => {
            let (target, candidate) = run_there(remote).await?;
            (target, Some(candidate), None)
        }
    };
    let control = Control {
        name: scaling.name,
        role: scaling.role,
        source: scaling.source,
        law: scaling.law,
        limiter: Limiter::new(scaling.limits),
        target,
        interval: scaling.interval,
        is_dry_run: scaling.is_dry_run,
        leading: candidate.as_ref().map(|candidate| candidate.leading.clone()),
        journal: Journal::default(),
        remarks: Remarks::default(),
    };
    Ok(Running { control, candidate, _lock: lock })
}

impl Running {
    fn shown(&self) -> Shown {
        let Control { name, journal, leading, .. } = &self.control;
        Shown { name: name.clone(), journal: journal.clone(), leading: leading.clone() }
    }

    /// Once what it runs on this machine is drained.
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

/// Two scalers of the same list would undo each other's work; the system releases this when the process ends.
fn lock(list: &Path) -> Result<File> {
    let path = list.with_extension("lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    file.try_lock().with_context(|| {
        format!(
            "another scaler publishes its replicas in {}; end it, or give this one a --list of its own",
            list.display()
        )
    })?;
    Ok(file)
}

fn run_here(local: Local, min: usize) -> Handle {
    let controller = controller(local.limits);
    // For whoever started this: what a replica gets.
    println!("cpu share: {}", controller.as_ref().map_or_else(String::clone, |found| share_text(found.as_ref())));
    let spec = Spec {
        program: local.replica,
        arguments: local.replica_arguments,
        list: local.list,
        controller: controller.unwrap_or_default(),
        drain_delay: local.drain_delay,
        grace: local.grace,
    };
    processes::run(spec, min)
}

async fn run_there(remote: Remote) -> Result<(Handle, Candidate)> {
    let client = kube::Client::try_default()
        .await
        .context("find the cluster: neither a service account nor a usable kubeconfig (KUBECONFIG, ~/.kube/config)")?;
    let Remote { name, lease, identity } = remote;
    let candidate = leader::run(
        leader::Spec { namespace: name.namespace.clone(), name: lease, identity: identity.clone() },
        client.clone(),
    );
    Ok((deployment::run(deployment::Spec { name, identity }, client), candidate))
}

/// What limits replicas, nothing if no limit was asked for, or why there is nothing. Shares are permitted where limits of
/// memory are not.
fn controller(limits: cgroup::Limits) -> Result<Option<Controller>, String> {
    if limits == cgroup::Limits::default() {
        return Ok(None);
    }
    let found = Controller::find(limits).or_else(|error| match limits.memory {
        Some(memory) if limits.cores.is_some() => {
            tracing::warn!(%error, "replicas run without --memory-limit {memory}, as control groups do not permit it here");
            Controller::find(cgroup::Limits { memory: None, ..limits })
        }
        _ => Err(error),
    });
    found.map(Some).map_err(|error| {
        let text = format!("unlimited, as control groups are not permitted here ({error})");
        tracing::warn!("replicas are {text}");
        text
    })
}

fn share_text(controller: Option<&Controller>) -> String {
    let cores = controller.and_then(|controller| controller.limits().cores);
    cores.map_or_else(|| "unlimited".into(), |cores| format!("{cores} of a core for each replica"))
}

fn answer(admin: &Admin, shown: &[Shown], request: &Request<Incoming>) -> Reply {
    let path = request.uri().path();
    if let Some(reply) = admin.answer(request.method(), path) {
        return reply;
    }
    match path {
        "/status" => {
            let status = |Shown { name, journal, leading }: &Shown| {
                let leads = leading.as_ref().is_none_or(|leading| *leading.borrow());
                json!({"target": name, "leads": leads, "latest": journal.latest()})
            };
            respond::json(StatusCode::OK, &json!({"targets": shown.iter().map(status).collect::<Vec<_>>()}))
        }
        "/decisions" => {
            let named = |shown| {
                let Shown { name, journal, .. }: &Shown = shown;
                journal.all().into_iter().map(move |decision| Named { target: name, decision })
            };
            let mut decisions: Vec<Named<'_>> = shown.iter().flat_map(named).collect();
            decisions.sort_by(|a, b| a.decision.at_seconds.total_cmp(&b.decision.at_seconds));
            respond::json(StatusCode::OK, &decisions)
        }
        _ => respond::not_found(path, "try /status or /decisions", ""),
    }
}
