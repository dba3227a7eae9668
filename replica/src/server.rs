//! Brings the parts of a replica together: it listens at once, is ready when the model is warm, and drains when told to
//! stop.

use crate::config::Config;
use crate::handler::Handler;
use crate::metrics;
use crate::model::{ModelFactory, ModelFile};
use crate::pipeline::{FatalErrors, LoadedModel, Pipeline};
use crate::served_model::ServedModel;
use crate::startup;
use crate::transform::Transform;
use anyhow::Result;
use metrics_exporter_prometheus::PrometheusHandle;
use service::admin::Admin;
use service::body::MemoryBudget;
use service::readiness::{Latch, Readiness};
use service::{server, telemetry};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Serves until the process is told to stop, or until the pipeline fails.
///
/// The runtime is made here and not by the program's `main`, so that the server is compiled once, in this crate.
///
/// # Errors
/// When the address is taken, the model or its labels cannot be used, or a thread of the pipeline panics.
pub fn run(config: Config, prometheus: PrometheusHandle, main_entered: Instant) -> Result<()> {
    // The runtime's own thread serves sockets only; decoding and inference have named threads. Tensors are parsed on
    // one blocking thread: with several, the memory that parsing a long body takes would be needed several times.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().thread_name("parse").max_blocking_threads(1).build()?;
    runtime.block_on(serve(config, prometheus, main_entered))
}

async fn serve(config: Config, prometheus: PrometheusHandle, main_entered: Instant) -> Result<()> {
    metrics::register();
    let listener = server::listen(config.listen).await?;
    tokio::spawn(telemetry::upkeep(prometheus.clone()));
    let readiness = Readiness::default();
    let model = Arc::new(OnceLock::new());
    let (pipeline, mut fatal_errors) = start_pipeline(&config, readiness.latch(), model.clone(), main_entered);
    let capacity = config.sizes.capacity;
    // Every slot may hold a body of the largest size.
    let body_memory = capacity.saturating_mul(config.request_limits.max_body_bytes as usize);
    let handler = Arc::new(Handler {
        pipeline,
        slots: Arc::new(Semaphore::new(capacity)),
        capacity,
        admin: Admin { metrics: prometheus, readiness: readiness.clone(), capacity: Some(capacity) },
        body: config.request_limits.body(MemoryBudget::new(body_memory)),
        request_limits: config.request_limits,
        model,
        name: config.name,
    });
    let serving = server::run(listener, None, readiness, config.drain, move |request| handler.clone().handle(request));
    tokio::select! {
        () = serving => Ok(()),
        error = fatal_errors.recv() => match error {
            Some(error) => Err(error),
            None => anyhow::bail!("every thread of the pipeline has stopped"),
        },
    }
}

/// Starts loading the model. `latch` is released when the replica is ready, and `model` is set before that.
fn start_pipeline(
    config: &Config,
    latch: Latch,
    model: Arc<OnceLock<ServedModel>>,
    main_entered: Instant,
) -> (Pipeline, FatalErrors) {
    let (source, setup, flags) = (config.model.clone(), config.setup, config.transform.clone());
    let labels = config.labels.clone();
    let load = move || {
        let file = ModelFile::open(&source)?;
        let (name, metadata) = (file.name().to_owned(), file.metadata());
        let transform = Transform::from(&flags, &metadata)?;
        let side = transform.crop as usize;
        let factory = ModelFactory::new(file, side, setup)?;
        let from_file = metadata.get("labels").map(|labels| labels.lines().map(str::to_owned).collect());
        let labels = labels.load(from_file, factory.classes())?;
        tracing::info!(model = name, classes = labels.len(), computed_by = %factory, "loaded");
        model.set(ServedModel { name, labels, side }).expect("the model is loaded once");
        Ok(LoadedModel { factory, transform })
    };
    let ready = move || {
        become_ready(latch, startup::age(main_entered));
        // Not before: no client should wait for this.
        convolution::memory::return_freed_memory();
    };
    Pipeline::start(config.sizes, config.pixels, load, ready)
}

/// Says that the replica is ready, `startup` after exec. The latch is released last, so that a client for which
/// `/readyz` succeeds may rely on all metrics and on the description of the model.
fn become_ready(latch: Latch, startup: Duration) {
    metrics::startup().set(startup.as_secs_f64());
    tracing::info!(startup_ms = startup.as_millis() as u64, "ready");
    drop(latch);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::metrics::{
        Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, with_local_recorder,
    };
    use std::sync::Mutex;

    /// Records each gauge that is set, with whether the replica was ready at that time.
    struct GaugesBeforeReady {
        readiness: Readiness,
        set: Arc<Mutex<Vec<(String, bool)>>>,
    }

    /// One gauge of [`GaugesBeforeReady`].
    struct ProbedGauge {
        name: String,
        readiness: Readiness,
        set: Arc<Mutex<Vec<(String, bool)>>>,
    }

    impl GaugeFn for ProbedGauge {
        fn increment(&self, _value: f64) {}

        fn decrement(&self, _value: f64) {}

        fn set(&self, _value: f64) {
            let mut set = self.set.lock().expect("no test panics here");
            set.push((self.name.clone(), self.readiness.is_ready()));
        }
    }

    impl Recorder for GaugesBeforeReady {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            let (readiness, set) = (self.readiness.clone(), self.set.clone());
            Gauge::from_arc(Arc::new(ProbedGauge { name: key.name().to_owned(), readiness, set }))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn the_startup_gauge_is_set_before_the_replica_is_ready() {
        let readiness = Readiness::default();
        let latch = readiness.latch();
        let set = Arc::new(Mutex::new(Vec::new()));
        let recorder = GaugesBeforeReady { readiness: readiness.clone(), set: set.clone() };
        with_local_recorder(&recorder, || become_ready(latch, Duration::from_millis(700)));
        assert_eq!(*set.lock().expect("no test panics here"), [(metrics::STARTUP.to_owned(), false)]);
        assert!(readiness.is_ready());
    }
}
