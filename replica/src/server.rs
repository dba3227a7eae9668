//! Brings the parts together: listen at once, ready when the model is warm, drain when told to.

use crate::config::Config;
use crate::handler::Handler;
use crate::model::{ModelFile, Recipe};
use crate::pipeline::{Ended, Loaded, Pipeline};
use crate::served::Served;
use crate::startup;
use crate::transform::Transform;
use anyhow::Result;
use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;
use service::admin::Admin;
use service::body::MemoryBudget;
use service::readiness::Readiness;
use service::wire::metric;
use service::{server, telemetry};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::sync::Semaphore;

/// Serves until told to stop, or until the model cannot be loaded.
///
/// # Errors
/// When the address is taken, or the weights or labels cannot be used.
pub async fn run(config: Config, metrics: PrometheusHandle, main_entered: Instant) -> Result<()> {
    let listener = server::listen(config.listen).await?;
    tokio::spawn(telemetry::upkeep(metrics.clone()));
    let readiness = Readiness::default();
    let served = Arc::new(OnceLock::new());
    let (pipeline, mut ended) = start_pipeline(&config, &readiness, &served, main_entered);
    let capacity = config.sizes.capacity;
    let handler = Arc::new(Handler {
        pipeline,
        slots: Arc::new(Semaphore::new(capacity)),
        capacity,
        admin: Admin { metrics, readiness: readiness.clone(), capacity: Some(capacity) },
        // As many as it has slots, each at its largest.
        body: config
            .request_limits
            .body(MemoryBudget::new(capacity.saturating_mul(config.request_limits.max_body_bytes as usize))),
        request_limits: config.request_limits,
        served,
        name: config.name,
    });
    let serving = server::run(listener, None, readiness, config.drain, move |request| handler.clone().handle(request));
    tokio::select! {
        () = serving => Ok(()),
        error = ended.recv() => match error {
            Some(error) => Err(error),
            None => anyhow::bail!("every thread has stopped"),
        },
    }
}

fn start_pipeline(
    config: &Config,
    readiness: &Readiness,
    served: &Arc<OnceLock<Served>>,
    main_entered: Instant,
) -> (Pipeline, Ended) {
    let latch = readiness.latch();
    let (source, setup, flags) = (config.model.clone(), config.setup, config.transform.clone());
    let (labels, served) = (config.labels.clone(), served.clone());
    let load = move || {
        let file = ModelFile::open(&source)?;
        let (name, metadata) = (file.name().to_owned(), file.metadata());
        let transform = Transform::from(&flags, &metadata)?;
        let side = transform.crop as usize;
        let recipe = Recipe::new(file, side, setup)?;
        let from_file = metadata.get("labels").map(|labels| labels.lines().map(str::to_owned).collect());
        let labels = labels.load(from_file, recipe.classes())?;
        tracing::info!(model = name, classes = labels.len(), computed_by = %recipe, "loaded");
        served.set(Served { name, labels, side }).expect("the model is loaded once");
        Ok(Loaded { recipe, transform })
    };
    let ready = move || {
        drop(latch);
        let age = startup::age(main_entered);
        gauge!(metric::STARTUP).set(age.as_secs_f64());
        tracing::info!(startup_ms = age.as_millis() as u64, "ready");
        convolution::memory::give_back();
    };
    Pipeline::start(config.sizes, config.pixels, load, ready)
}
