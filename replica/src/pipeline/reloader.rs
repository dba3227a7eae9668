//! Replaces the model of a running pipeline.

use super::generation::{Current, Generation};
use super::thread::FatalErrorSender;
use super::{CreateModel, LoadedModel, Sizes};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Weak;
use std::thread::JoinHandle;

/// Replaces the model of a pipeline, one at a time. Does not keep the pipeline alive.
pub struct Reloader {
    pub(super) sizes: Sizes,
    pub(super) current: Weak<Current>,
    pub(super) errors: FatalErrorSender,
    /// The workers of the present generation.
    pub(super) workers: Vec<JoinHandle<()>>,
}

impl Reloader {
    /// The version of the present model; `None` if the pipeline has ended.
    pub fn version(&self) -> Option<String> {
        let generation = self.current.upgrade()?.get()?;
        Some(generation.model.version.clone())
    }

    /// Loads a model by `load` and warms it up beside the present one. From then on, requests use the new one. Returns the
    /// version of the old one when its last image is computed and its memory is freed; `None` if `load` returns no model.
    ///
    /// # Errors
    /// If the model cannot be loaded or warmed up. The present one goes on.
    pub fn replace<F: CreateModel>(
        &mut self,
        load: impl FnOnce() -> anyhow::Result<Option<LoadedModel<F>>>,
    ) -> anyhow::Result<Option<String>> {
        let loaded = catch_unwind(AssertUnwindSafe(load))
            .unwrap_or_else(|_panic| Err(anyhow::anyhow!("loading panicked; the log has the reason")))?;
        let (Some(loaded), Some(current)) = (loaded, self.current.upgrade()) else { return Ok(None) };
        let (generation, workers) = Generation::start(loaded, self.sizes, &self.errors)?;
        let old = current.replace(generation);
        let version = old.as_ref().map(|old| old.model.version.clone());
        drop((current, old));
        for worker in std::mem::replace(&mut self.workers, workers) {
            // A panic of a worker ends the process; see `thread`.
            let _panicked = worker.join();
        }
        Ok(version)
    }
}
