//! Starts the parts of the dispatcher, connects them, and serves until the process is told to stop.

use crate::admin::Admin;
use crate::config::Config;
use crate::dispatch::RequestDispatcher;
use crate::handler::Handler;
use crate::inference_protocol::InferenceProtocol;
use crate::meters::RequestMeters;
use crate::plain::PlainHandler;
use crate::request_log::RequestLog;
use crate::spans::SpanExport;
use crate::token::{TenantMemory, Tokens};
use crate::{metrics, worker};
use anyhow::{Context, Result};
use metrics_exporter_prometheus::PrometheusHandle;
use service::memory_budget::MemoryBudget;
use service::readiness::Readiness;
use service::server::{ConnectionLimits, NamedListener};
use service::tls::Tls;
use service::{admin, server, telemetry};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tracing_appender::non_blocking::WorkerGuard;

/// Serves until the process is told to stop, and finishes the requests that it has accepted.
///
/// The runtime is made here and not by the program's `main`, so that the whole dispatcher is compiled once, in this
/// crate.
///
/// # Errors
/// If an address is in use, the certificate or the token file cannot be used, or the source of replicas cannot be watched.
pub fn run(config: Config, recorder: PrometheusHandle) -> Result<()> {
    // One thread is used. With several, tasks would pass requests from core to core, which would cost more than all
    // other work for a request.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("start the runtime; raise the limit of open files if it is reached")?;
    let (log, guard) = runtime.block_on(serve(config, recorder))?;
    // The requests that are dropped at the end of the grace are logged, too.
    drop(runtime);
    log.close(guard);
    Ok(())
}

/// Serves until the process is told to stop. Returns the log of requests, and the guard with which it is closed.
async fn serve(config: Config, recorder: PrometheusHandle) -> Result<(Arc<RequestLog>, Option<WorkerGuard>)> {
    metrics::describe();
    let tls = config.tls.map(|(certificate, key)| Tls::open(certificate, key)).transpose()?;
    let memory_budget = MemoryBudget::new(config.queue_bytes);
    let tenant_memory = TenantMemory { budget: memory_budget.clone(), bytes: config.tenant_bytes };
    let tokens = config.token_file.map(|path| open_tokens(path, tenant_memory)).transpose()?;
    let announcement = if tls.is_some() { "listening on https://" } else { "listening on http://" };
    let listener = server::listen_as(announcement, config.listen).await?;
    let admin_listener = match config.admin_listen {
        Some(address) => Some(server::listen_as("admin paths on http://", address).await?),
        None => None,
    };
    let published = config.replicas.watch()?;
    tokio::spawn(telemetry::upkeep(recorder.clone()));
    let readiness = Readiness::default();
    let worker = worker::spawn(config.settings, published, readiness.latch());
    let common = admin::Admin { metrics: recorder, readiness: readiness.clone(), capacity: None };
    let admin = Admin { worker: worker.clone(), common };
    let inference_protocol = InferenceProtocol::new(worker.clone(), readiness.clone());
    let admin = match admin_listener {
        Some(listener) => {
            tokio::spawn(serve_admin_paths(listener, config.connection_limits.clone(), admin));
            None
        }
        None => Some(admin),
    };
    let spans = config.otlp_endpoint.map(|endpoint| SpanExport::open(&endpoint, config.trace_ratio)).transpose()?;
    let (log, guard) = RequestLog::open(config.access_log.as_deref(), config.slow_log, spans)?;
    let log = Arc::new(log);
    let handler = Arc::new(Handler {
        log: log.clone(),
        dispatcher: RequestDispatcher::new(worker, config.objective),
        admin,
        inference_protocol,
        tokens,
        body_limits: config.request_limits.body(readiness.clone()),
        memory_budget,
        request_limits: config.request_limits,
        meters: RequestMeters::new(config.objective, config.attainment),
    });
    let plain = Arc::new(PlainHandler(handler.clone()));
    let handle = move |request| handler.handle(request);
    server::run(listener, tls, config.connection_limits, readiness, config.drain, Some(plain), handle).await;
    Ok((log, guard))
}

/// Reads the tokens. The error names the flag and the file.
fn open_tokens(path: PathBuf, memory: TenantMemory) -> Result<Tokens> {
    let flag = format!("--token-file {}", path.display());
    Tokens::open(path, memory).context(flag)
}

/// Serves the admin paths on an address of their own until the process ends, so that the metrics can be read while the
/// last requests are finished.
async fn serve_admin_paths(listener: TcpListener, limits: ConnectionLimits, admin: Admin) {
    let handle = move |request| {
        let admin = admin.clone();
        async move { admin.handle(&request).await }
    };
    let listener = NamedListener { name: "admin", listener };
    server::serve_within(listener, None, limits, None, handle, std::future::pending(), Duration::ZERO).await;
}
