//! A loaded model with the workers that compute it. A reload starts a new generation beside the present one, and the
//! requests that follow use it. The old one ends when its last request has ended.

use super::batch_queue::BatchQueue;
use super::thread::{self, FatalErrorSender};
use super::{CreateModel, LoadedModel, Sizes, worker};
use crate::batch::Batcher;
use crate::model::{InferenceError, Model};
use crate::pass_times::PassTimes;
use crate::served_model::ServedModel;
use crate::transform::Transform;
use crossbeam_channel::bounded;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// A loaded model, and the queue of its workers. When the last reference is dropped, the workers compute the images that
/// wait, and stop.
pub struct Generation {
    /// The description of the model.
    pub model: Arc<ServedModel>,
    pub(super) queue: Arc<BatchQueue>,
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Generation {
    /// Starts the workers, and waits until each has created and warmed up its model. Returns the workers, too.
    ///
    /// # Errors
    /// If a model cannot be made or fails in its warm-up, or the system refuses a thread. All workers then stop.
    pub(super) fn start<F: CreateModel>(
        loaded: LoadedModel<F>,
        sizes: Sizes,
        errors: &FatalErrorSender,
    ) -> anyhow::Result<(Arc<Self>, Vec<JoinHandle<()>>)> {
        let LoadedModel { factory, model } = loaded;
        // An early return drops this value, which closes the queue and so ends the workers that have started.
        let generation = Self { model: Arc::new(model), queue: Arc::default() };
        let (factory, queue) = (Arc::new(factory), &generation.queue);
        let (warm, warmed) = bounded(sizes.workers);
        let mut workers = Vec::new();
        for worker in 0..sizes.workers {
            let (factory, served) = (factory.clone(), generation.model.clone());
            let (warm, queue) = (warm.clone(), queue.clone());
            workers.push(thread::start(&format!("infer-{worker}"), errors.clone(), move || {
                match warm_model(&*factory, served.transform, sizes.max_batch) {
                    Ok((mut model, times)) => {
                        let _loading_failed = warm.send(Ok(times));
                        drop((warm, factory));
                        worker::run(&mut *model, &served, &queue);
                    }
                    Err(failure) => drop(warm.send(Err(failure))),
                }
            })?);
        }
        drop(warm);
        // The time for each measured number of images is that of the slowest worker.
        let mut slowest: BTreeMap<usize, Duration> = BTreeMap::new();
        for _ in 0..sizes.workers {
            let stopped = |_| anyhow::anyhow!("a worker stopped during its warm-up; its message is in the log");
            for (images, time) in warmed.recv().map_err(stopped)?? {
                let slowest = slowest.entry(images).or_default();
                *slowest = time.max(*slowest);
            }
        }
        let measured: Vec<_> = slowest.into_iter().collect();
        queue.open(Batcher::new(PassTimes::through(&measured, sizes.max_batch), sizes.batch_wait));
        Ok((Arc::new(generation), workers))
    }
}

/// A model after its warm-up, and the times of its passes. A panic is an error here, because the model that is served
/// while a broken one is loaded must go on.
#[expect(clippy::type_complexity, reason = "a pair that is taken apart at once")]
fn warm_model<F: CreateModel>(
    factory: &F,
    transform: Transform,
    max_batch: usize,
) -> Result<(Box<dyn Model>, Vec<(usize, Duration)>), InferenceError> {
    let create = || {
        let mut model = factory.create()?;
        let times = worker::warm_up(&mut *model, transform, max_batch)?;
        Ok((model, times))
    };
    catch_unwind(AssertUnwindSafe(create))
        .unwrap_or_else(|_panic| Err(InferenceError::new("it panicked in its warm-up; the log has the reason")))
}

/// The generation that new requests use; none until the model is loaded.
#[derive(Default)]
pub(super) struct Current(RwLock<Option<Arc<Generation>>>);

impl Current {
    pub(super) fn get(&self) -> Option<Arc<Generation>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets requests use `next` from now on. Returns the generation so far.
    pub(super) fn replace(&self, next: Arc<Generation>) -> Option<Arc<Generation>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).replace(next)
    }
}
