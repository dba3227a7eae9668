//! Connects the parts of a replica. The replica listens at once, is ready when the model is warm, and drains after a
//! request to stop.

use crate::config::Config;
use crate::handler::ReplicaHandler;
use crate::metrics;
use crate::model_files::ModelFiles;
use crate::model_loader::ModelLoader;
use crate::pipeline::{FatalErrors, Pipeline, Reloader};
use crate::reload::{self, Watch};
use crate::startup;
use crate::work::WorkMeter;
use anyhow::Result;
use metrics_exporter_prometheus::PrometheusHandle;
use service::admin::Admin;
use service::body::REQUEST_BYTES;
use service::memory_budget::MemoryBudget;
use service::readiness::{Latch, Readiness};
use service::{server, telemetry};
use slots::Slots;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Serves until the process should stop, or the pipeline fails.
///
/// This function makes the runtime. If the program's `main` did so, the server would be compiled a second time for the
/// program.
///
/// # Errors
/// If the address is taken, the model or its labels cannot be used, or a thread of the pipeline cannot start or panics.
pub fn run(config: Config, prometheus: PrometheusHandle, main_entered: Instant) -> Result<()> {
    // The thread of the runtime only serves sockets. Decoding and inference have threads of their own. Only one
    // blocking thread parses tensors and writes long answers. Several threads would need the memory for parsing a long
    // body several times.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().thread_name("parse").max_blocking_threads(1).build()?;
    runtime.block_on(serve(config, prometheus, main_entered))
}

async fn serve(config: Config, prometheus: PrometheusHandle, main_entered: Instant) -> Result<()> {
    metrics::register();
    let listener = server::listen(config.listen).await?;
    tokio::spawn(telemetry::upkeep(prometheus.clone()));
    let readiness = Readiness::default();
    let (pipeline, mut fatal_errors) = start_pipeline(&config, readiness.latch(), main_entered)?;
    let capacity = config.sizes.capacity;
    // Each slot may have a body of the largest size.
    let request_memory = (config.request_limits.max_body_bytes as usize).saturating_add(REQUEST_BYTES);
    let body_memory = capacity.saturating_mul(request_memory);
    let handler = Arc::new(ReplicaHandler {
        pipeline,
        slots: Slots::new(capacity),
        work: WorkMeter::default(),
        capacity,
        admin: Admin { metrics: prometheus, readiness: readiness.clone(), capacity: Some(capacity) },
        body_limits: config.request_limits.body(readiness.clone()),
        memory_budget: MemoryBudget::new(body_memory),
        request_limits: config.request_limits,
        name: config.name,
    });
    let handle = move |request| handler.clone().handle(request);
    let serving = server::run(listener, None, config.connection_limits, readiness, config.drain, None, handle);
    tokio::select! {
        () = serving => Ok(()),
        error = fatal_errors.recv() => match error {
            Some(error) => Err(error),
            None => anyhow::bail!("all threads of the pipeline have stopped without an error; restart the replica"),
        },
    }
}

/// Starts loading the model. `latch` is released when the replica is ready. From then on, the thread that has loaded the
/// model replaces it when its files change.
fn start_pipeline(config: &Config, latch: Latch, main_entered: Instant) -> Result<(Pipeline, FatalErrors)> {
    let loader = ModelLoader {
        source: config.model.clone(),
        files: ModelFiles::new(
            config.model.paths().into_iter().chain(config.labels.path()).map(Path::to_path_buf).collect(),
        ),
        setup: config.setup,
        transform: config.transform.clone(),
        labels: config.labels.clone(),
        min_agreement: config.min_agreement,
    };
    let interval = config.reload_interval.filter(|_| !loader.files.is_empty());
    let watch = Watch::new(loader.files.snapshot());
    let loader = Arc::new(loader);
    let first = loader.clone();
    let ready = move |reloader: Reloader| {
        metrics::model_info(reloader.version().unwrap_or_default()).set(1.0);
        become_ready(latch, startup::age(main_entered));
        // This call comes after readiness, which it would delay.
        convolution::memory::return_freed_memory();
        if let Some(interval) = interval {
            reload::run(&loader.files, watch, interval, reloader, |present| loader.load_other(present));
        }
    };
    Pipeline::start(config.sizes, config.pixels, move || first.load(), ready)
}

/// Makes the replica ready. `startup` is the time since exec. The latch is released last, so that all metrics and the
/// model's metadata exist once `/readyz` succeeds.
fn become_ready(latch: Latch, startup: Duration) {
    metrics::startup().set(startup.as_secs_f64());
    tracing::info!(startup_ms = startup.as_millis() as u64, "the replica is ready");
    drop(latch);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::metrics::{
        Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, with_local_recorder,
    };
    use std::sync::Mutex;

    /// Records the name of each gauge that is set, and whether the replica was ready at that time.
    struct GaugeRecorder {
        readiness: Readiness,
        set: Arc<Mutex<Vec<(String, bool)>>>,
    }

    /// One gauge of [`GaugeRecorder`].
    struct RecordedGauge {
        name: String,
        readiness: Readiness,
        set: Arc<Mutex<Vec<(String, bool)>>>,
    }

    impl GaugeFn for RecordedGauge {
        fn increment(&self, _value: f64) {}

        fn decrement(&self, _value: f64) {}

        fn set(&self, _value: f64) {
            let mut set = self.set.lock().expect("no test panics here");
            set.push((self.name.clone(), self.readiness.is_ready()));
        }
    }

    impl Recorder for GaugeRecorder {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            let (readiness, set) = (self.readiness.clone(), self.set.clone());
            Gauge::from_arc(Arc::new(RecordedGauge { name: key.name().to_owned(), readiness, set }))
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
        let recorder = GaugeRecorder { readiness: readiness.clone(), set: set.clone() };
        with_local_recorder(&recorder, || become_ready(latch, Duration::from_millis(700)));
        assert_eq!(*set.lock().expect("no test panics here"), [(metrics::STARTUP.to_owned(), false)]);
        assert!(readiness.is_ready());
    }
}
