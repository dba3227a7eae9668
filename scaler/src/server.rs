//! Brings the parts together: control, target, election, and the admin paths; drains local replicas on the way out.

use crate::config::{Config, Local, Place, Remote};
use crate::control::Control;
use crate::decision::Journal;
use crate::leader::{self, Candidate};
use crate::limits::Limiter;
use crate::target::cgroup::Controller;
use crate::target::processes::{self, Spec};
use crate::target::{Handle, deployment};
use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use service::admin::Admin;
use service::readiness::Readiness;
use service::respond::{self, Reply};
use service::{shutdown, telemetry};
use std::fs::File;
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;

/// For the last scrape of the admin paths.
const ADMIN_GRACE: Duration = Duration::from_millis(200);

/// Scales until told to stop; then drains the replicas on this machine, or leaves a Deployment as it is.
///
/// # Errors
/// When the address is taken, another scaler runs the same replicas, or there is no cluster to talk to.
pub async fn run(config: Config, metrics: PrometheusHandle) -> Result<()> {
    let listener = service::server::listen(config.listen).await?;
    let (target, candidate, _lock) = match config.place {
        Place::Local(local) => {
            let lock = lock(&local.list)?;
            (run_here(local, config.limits.min), None, Some(lock))
        }
        Place::Remote(remote) => {
            let (target, candidate) = run_there(remote).await?;
            (target, Some(candidate), None)
        }
    };
    tokio::spawn(telemetry::upkeep(metrics.clone()));
    let journal = Journal::default();
    let leading = candidate.as_ref().map(|candidate| candidate.leading.clone());
    let admin = Admin { metrics, readiness: Readiness::default(), capacity: None };
    let (kept, led) = (journal.clone(), leading.clone());
    let handle = move |request: Request<Incoming>| std::future::ready(answer(&admin, &kept, led.as_ref(), &request));
    tokio::spawn(service::server::serve(listener, None, handle, std::future::pending(), ADMIN_GRACE));
    let mut control = Control {
        source: config.source,
        policy: config.policy,
        limiter: Limiter::new(config.limits),
        target,
        interval: config.interval,
        is_dry_run: config.is_dry_run,
        leading,
        journal,
        complaint: None,
    };
    tokio::select! {
        () = control.run() => {}
        reason = shutdown::requested(config.exit_with_parent) => tracing::info!(reason = reason?, "stopping"),
    }
    let Handle { desired, done, .. } = control.target;
    drop(desired);
    done.await.context("the task that owns the replicas failed")?;
    if let Some(candidate) = candidate {
        candidate.resign().await;
    }
    Ok(())
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
    let share = share(local.cpu_share);
    // For whoever started this: what a replica gets.
    println!("cpu share: {}", share.as_ref().map_or_else(String::clone, |share| share_text(share.as_ref())));
    let spec = Spec {
        program: local.replica,
        arguments: local.replica_arguments,
        list: local.list,
        share: share.unwrap_or_default(),
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

/// The controller and the share, nothing if none was asked for, or why there is none.
fn share(cores: Option<f64>) -> Result<Option<(Controller, f64)>, String> {
    let Some(cores) = cores else { return Ok(None) };
    Controller::find().map(|controller| Some((controller, cores))).map_err(|error| {
        let text = format!("unlimited, as control groups are not permitted here ({error})");
        tracing::warn!("replicas are {text}");
        text
    })
}

fn share_text(share: Option<&(Controller, f64)>) -> String {
    share.map_or_else(|| "unlimited".into(), |(_, cores)| format!("{cores} of a core for each replica"))
}

fn answer(
    admin: &Admin,
    journal: &Journal,
    leading: Option<&watch::Receiver<bool>>,
    request: &Request<Incoming>,
) -> Reply {
    let path = request.uri().path();
    if let Some(reply) = admin.answer(request.method(), path) {
        return reply;
    }
    match path {
        "/status" => {
            let status = json!({"leads": leading.is_none_or(|leading| *leading.borrow()), "latest": journal.latest()});
            respond::json(StatusCode::OK, &status)
        }
        "/decisions" => respond::json(StatusCode::OK, &journal.all()),
        _ => respond::not_found(path, "try /status or /decisions", ""),
    }
}
