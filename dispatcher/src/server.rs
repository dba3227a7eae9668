//! Brings the parts together, and takes them down in order: not ready, still accepting, finishing, gone.

use crate::config::Config;
use crate::handler::{Handler, Meters};
use crate::inspection::Inspection;
use crate::token::Token;
use crate::worker;
use anyhow::Result;
use metrics_exporter_prometheus::PrometheusHandle;
use service::admin::Admin;
use service::body::MemoryBudget;
use service::readiness::Readiness;
use service::tls::Tls;
use service::{server, telemetry};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Serves until told to stop.
///
/// # Errors
/// When an address is taken, certificate or token cannot be used, or the source of replicas cannot be watched.
pub async fn run(config: Config, metrics: PrometheusHandle) -> Result<()> {
    let tls = config.tls.map(|(certificate, key)| Tls::open(certificate, key)).transpose()?;
    let token = config.token_file.map(Token::open).transpose()?;
    let announcement = if tls.is_some() { "listening on https://" } else { "listening on http://" };
    let listener = server::listen_as(announcement, config.listen).await?;
    let admin_listener = match config.admin_listen {
        Some(address) => Some(server::listen_as("admin paths on http://", address).await?),
        None => None,
    };
    let published = config.replicas.clone().watch()?;
    tokio::spawn(telemetry::upkeep(metrics.clone()));
    let readiness = Readiness::default();
    let worker = worker::spawn(config.rules, published);
    let inspection =
        Inspection { worker: worker.clone(), admin: Admin { metrics, readiness: readiness.clone(), capacity: None } };
    let handler = Arc::new(Handler {
        worker,
        inspection: admin_listener.is_none().then(|| inspection.clone()),
        token,
        body: config.request_limits.body(MemoryBudget::new(config.queue_bytes)),
        request_limits: config.request_limits,
        objective: config.objective,
        next_ticket: AtomicU64::new(0),
        meters: Meters::default(),
    });
    if let Some(listener) = admin_listener {
        let handle = move |request| {
            let inspection = inspection.clone();
            async move { inspection.handle(&request).await }
        };
        // It goes on while the requests are finished, and ends with the process.
        tokio::spawn(server::serve(listener, None, handle, std::future::pending(), Duration::ZERO));
    }
    server::run(listener, tls, readiness, config.drain, move |request| handler.handle(request)).await;
    Ok(())
}
