//! Brings the parts together, and takes them down in order: not ready, still accepting, finishing, gone.

use crate::config::Config;
use crate::handler::Handler;
use crate::worker;
use anyhow::Result;
use metrics_exporter_prometheus::PrometheusHandle;
use service::admin::Admin;
use service::readiness::Readiness;
use service::{server, telemetry};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Serves until told to stop.
///
/// # Errors
/// When the address is taken or the source of replicas cannot be watched.
pub async fn run(config: Config, metrics: PrometheusHandle) -> Result<()> {
    let listener = server::listen(config.listen).await?;
    let published = config.replicas.clone().watch()?;
    tokio::spawn(telemetry::upkeep(metrics.clone()));
    let readiness = Readiness::default();
    let handler = Arc::new(Handler {
        worker: worker::spawn(config.queue, published),
        admin: Admin { metrics, readiness: readiness.clone(), capacity: None },
        intake: config.intake,
        next_ticket: AtomicU64::new(0),
    });
    server::run(listener, readiness, config.drain, move |request| handler.clone().handle(request)).await;
    Ok(())
}
