//! Brings the parts together: control, target, and the admin paths; drains every replica on the way out.

use crate::config::Config;
use crate::control::{Control, Journal};
use crate::limits::Limiter;
use crate::target::Handle;
use crate::target::cgroup::Controller;
use crate::target::processes::{self, Spec};
use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use metrics_exporter_prometheus::PrometheusHandle;
use service::admin::Admin;
use service::readiness::Readiness;
use service::respond::{self, Reply};
use service::{shutdown, telemetry};
use std::time::Duration;

/// For the last scrape of the admin paths.
const ADMIN_GRACE: Duration = Duration::from_millis(200);

/// Scales until told to stop, then drains every replica.
///
/// # Errors
/// When the address is taken.
pub async fn run(config: Config, metrics: PrometheusHandle) -> Result<()> {
    let listener = service::server::listen(config.listen).await?;
    let share = share(config.cpu_share);
    // For whoever started this: what a replica gets.
    println!("cpu share: {}", share.as_ref().map_or_else(String::clone, |share| share_text(share.as_ref())));
    let target = processes::run(
        Spec {
            program: config.replica,
            arguments: config.replica_arguments,
            list: config.list,
            share: share.unwrap_or_default(),
            drain_delay: config.drain_delay,
            grace: config.grace,
        },
        config.limits.min,
    );
    tokio::spawn(telemetry::upkeep(metrics.clone()));
    let journal = Journal::default();
    let admin = Admin { metrics, readiness: Readiness::default(), capacity: None };
    let kept = journal.clone();
    let handle = move |request: Request<Incoming>| std::future::ready(answer(&admin, &kept, &request));
    tokio::spawn(service::server::serve(listener, None, handle, std::future::pending(), ADMIN_GRACE));
    let mut control = Control {
        source: config.source,
        policy: config.policy,
        limiter: Limiter::new(config.limits),
        target,
        interval: config.interval,
        journal,
    };
    tokio::select! {
        () = control.run() => {}
        reason = shutdown::requested(config.exit_with_parent) => {
            tracing::info!(reason = reason?, "draining every replica");
        }
    }
    let Handle { desired, done, .. } = control.target;
    drop(desired);
    done.await.context("the task that owns the replicas failed")
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

fn answer(admin: &Admin, journal: &Journal, request: &Request<Incoming>) -> Reply {
    let path = request.uri().path();
    if let Some(reply) = admin.answer(request.method(), path) {
        return reply;
    }
    match path {
        "/status" => respond::json(StatusCode::OK, &*journal.lock().expect("nobody panics while holding the journal")),
        _ => respond::not_found(path, "try /status", ""),
    }
}
