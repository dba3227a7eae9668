//! Brings the parts together: listen at once, ready when the model is warm, drain when told to.

use crate::config::Config;
use crate::handler::Handler;
use crate::model::{Model, resnet::ResNet18, threads, weights::Weights};
use crate::pipeline::Pipeline;
use crate::startup;
use anyhow::Result;
use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;
use service::admin::Admin;
use service::body::Allowance;
use service::readiness::Readiness;
use service::{server, telemetry};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::sync::Semaphore;

/// Twelve textured shapes; `models/README.md` says how it was made.
static BUNDLED: &[u8] = include_bytes!("../models/shapes.safetensors");

/// Serves until told to stop, or until the model cannot be loaded.
///
/// # Errors
/// When the address is taken, or the weights or labels cannot be used.
pub async fn run(config: Config, metrics: PrometheusHandle, main_entered: Instant) -> Result<()> {
    let listener = server::listen(config.listen).await?;
    tokio::spawn(telemetry::upkeep(metrics.clone()));
    let readiness = Readiness::default();
    let labels = Arc::new(OnceLock::new());
    let (pipeline, ended) = start_pipeline(&config, &readiness, &labels, main_entered);
    let capacity = config.sizes.capacity;
    let handler = Arc::new(Handler {
        pipeline,
        slots: Arc::new(Semaphore::new(capacity)),
        capacity,
        admin: Admin { metrics, readiness: readiness.clone(), capacity: Some(capacity) },
        // As many as it has slots, each at its largest.
        body: config.intake.body(Allowance::new(capacity.saturating_mul(config.intake.max_body_bytes as usize))),
        intake: config.intake,
        model: "resnet18".into(),
        labels,
        name: config.name,
    });
    let serving = server::run(listener, None, readiness, config.drain, move |request| handler.clone().handle(request));
    tokio::select! {
        () = serving => Ok(()),
        ended = ended => match ended {
            Ok(error) => Err(error),
            Err(_gone) => anyhow::bail!("the inference thread has stopped"),
        },
    }
}

fn start_pipeline(
    config: &Config,
    readiness: &Readiness,
    labels: &Arc<OnceLock<Vec<String>>>,
    main_entered: Instant,
) -> (Pipeline, crate::pipeline::Ended) {
    let latch = readiness.latch();
    let (weights_file, label_source, labels) = (config.weights.clone(), config.labels.clone(), labels.clone());
    let threads = config.threads;
    let load = move || {
        threads::limit(threads);
        let weights = match weights_file {
            Some(path) => Weights::open(&path)?,
            None => Weights::from_safetensors(BUNDLED, "the bundled weights")?,
        };
        let model = ResNet18::new(&weights)?;
        let names = label_source.load(weights.labels, model.classes())?;
        labels.set(names).expect("the model is loaded once");
        Ok(model)
    };
    let ready = move |model: &ResNet18| {
        drop(latch);
        let age = startup::age(main_entered);
        gauge!("replica_startup_seconds").set(age.as_secs_f64());
        tracing::info!(classes = model.classes(), startup_ms = age.as_millis() as u64, "ready");
    };
    Pipeline::start(config.sizes, config.pixels, load, ready)
}
