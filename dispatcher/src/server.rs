//! Brings the parts together, and takes them down in order: not ready, still accepting, finishing, gone.

use crate::config::Config;
use crate::handler::Handler;
use crate::worker;
use anyhow::{Context, Result};
use metrics_exporter_prometheus::PrometheusHandle;
use service::admin::Admin;
use service::readiness::Readiness;
use service::{shutdown, telemetry};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::net::TcpListener;

/// Serves until told to stop.
///
/// # Errors
/// When the address is taken or the source of replicas cannot be watched.
pub async fn run(config: Config, metrics: PrometheusHandle) -> Result<()> {
    let listener = TcpListener::bind(config.listen).await.with_context(|| format!("listen on {}", config.listen))?;
    // The one line on standard output: whoever started this on port 0 reads the port here.
    println!("listening on http://{}", listener.local_addr()?);
    let published = config.replicas.clone().watch()?;
    tokio::spawn(telemetry::upkeep(metrics.clone()));
    let readiness = Readiness::default();
    let handler = Arc::new(Handler {
        worker: worker::spawn(config.queue, published),
        admin: Admin { metrics, readiness: readiness.clone(), capacity: None },
        body: config.body,
        deadline: config.deadline,
        next_ticket: AtomicU64::new(0),
    });
    let service = tower::service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.handle(request).await) }
    });
    let stop = async {
        match shutdown::requested(config.exit_with_parent).await {
            Ok(reason) => tracing::info!(reason, "draining"),
            Err(error) => tracing::error!(%error, "cannot wait for signals; stopping"),
        }
        readiness.drain();
        tokio::time::sleep(config.drain_delay).await;
    };
    service::server::serve(listener, service, stop, config.grace).await;
    Ok(())
}
