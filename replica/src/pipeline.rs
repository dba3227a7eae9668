//! The threads between the handler and the models. Decoders make the model's input of an image, and workers run the
//! model.
//!
//! Each image holds one of the replica's slots until its work has ended, even if its client has left before. The number
//! of slots is the advertised capacity, so the capacity limits the number of images that wait between the threads.

mod batch_queue;
mod decoder;
mod generation;
mod reloader;
mod thread;
mod work_item;
mod worker;

use crate::decode::ImageLimits;
use crate::model::{InferenceError, Input, Model, ModelFactory};
use crate::request_body::RequestBody;
use crate::served_model::ServedModel;
use crate::work::Work;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use decoder::Decoder;
use generation::Current;
pub use generation::Generation;
pub use reloader::Reloader;
use service::wire::{Code, RequestError};
use slots::TakenSlots;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thread::FatalErrorSender;
use tokio::sync::{mpsc, oneshot};
use work_item::{Responder, WorkItem};

/// An image as a request sends it.
#[derive(Debug)]
pub enum Image {
    /// The body of a request that contains an image file.
    Body(RequestBody),
    /// The bytes of an image file.
    Encoded(Bytes),
    /// The model's input, which needs no decoding.
    Tensor(Input),
}

/// The times that an image spent in the stages of the pipeline.
#[derive(Debug, Clone, Copy, Default)]
pub struct StageTimes {
    /// Time from entering the pipeline to the end of decoding: the wait for a decoder, decoding, and the transform.
    pub decode: Duration,
    /// Time that the decoded image waited for its forward pass.
    pub batch: Duration,
    /// Time of the forward pass.
    pub inference: Duration,
}

/// The model's output for one image.
#[derive(Debug)]
pub struct Classification {
    /// The score of every class, in class order.
    pub logits: Vec<f32>,
    /// The embedding of the image, `[features]`, if the request asks for it.
    pub embedding: Option<Vec<f32>>,
    /// The times that the image spent in the pipeline.
    pub times: StageTimes,
    /// The model that has computed the image.
    pub model: Arc<ServedModel>,
}

/// An image, and what is wanted of it.
pub struct ImageRequest {
    /// The image.
    pub image: Image,
    /// The model that must compute the image: the one for which a request was read. `None` for any.
    pub generation: Option<Arc<Generation>>,
    /// Whether the embedding is wanted, too.
    pub wants_embedding: bool,
    /// The instant by which the image must be computed.
    pub deadline: Instant,
    /// The slot of the image. It is held until the work on the image has ended.
    pub slot: TakenSlots,
    /// The work for the image's request, which is held as long.
    pub work: Work,
}

/// An image before decoding, and the generation that must compute it.
type ToDecode = (Image, Option<Arc<Generation>>);

/// Sends images to the threads of the pipeline. The threads stop when all clones are dropped.
#[derive(Clone)]
pub struct Pipeline {
    /// The channel has room for one image for each slot. It is never full, because each image in it holds a slot.
    images: Sender<WorkItem<ToDecode>>,
    current: Arc<Current>,
    sizes: Sizes,
}

/// The numbers of threads and images of a pipeline.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Most images in the pipeline.
    pub capacity: usize,
    /// Most images in one forward pass.
    pub max_batch: usize,
    /// The longest time that a decoded image waits for others to join its batch.
    pub batch_wait: Duration,
    /// The number of threads that decode images.
    pub decoders: usize,
    /// The number of threads that run forward passes, each with its own model.
    pub workers: usize,
}

/// The loaded model, before the workers create their own models of it.
pub struct LoadedModel<F> {
    /// Creates a model for each worker.
    pub factory: F,
    /// The description of the model.
    pub model: ServedModel,
}

/// Creates the models of the workers. [`ModelFactory`] implements this trait, and tests do.
pub trait CreateModel: Send + Sync + 'static {
    /// Creates a model for the calling thread.
    ///
    /// # Errors
    /// If the engine fails, for example because the memory does not suffice for another copy.
    fn create(&self) -> Result<Box<dyn Model>, InferenceError>;
}

impl CreateModel for ModelFactory {
    fn create(&self) -> Result<Box<dyn Model>, InferenceError> {
        self.model()
    }
}

/// Receives the reason why a pipeline did not start or has stopped. The channel has room for one error.
pub type FatalErrors = mpsc::Receiver<anyhow::Error>;

impl Pipeline {
    /// Starts the threads. `load` runs on its own thread. That thread calls `ready` once each worker's model is
    /// warm and the decoders have started. `ready` may go on as long as the pipeline, and replace its model.
    ///
    /// # Errors
    /// If the system refuses the thread for `load`. Later errors arrive through [`FatalErrors`].
    pub fn start<F: CreateModel>(
        sizes: Sizes,
        limits: ImageLimits,
        load: impl FnOnce() -> anyhow::Result<LoadedModel<F>> + Send + 'static,
        ready: impl FnOnce(Reloader) + Send + 'static,
    ) -> anyhow::Result<(Self, FatalErrors)> {
        let (images, to_decode) = bounded(sizes.capacity);
        let (sender, fatal_errors) = mpsc::channel(1);
        let errors = FatalErrorSender(sender);
        let current = Arc::new(Current::default());
        let pipeline = Self { images, current: current.clone(), sizes };
        thread::start("load", errors.clone(), move || {
            match start_threads(sizes, limits, load, current, &to_decode, errors.clone()) {
                Ok(reloader) => {
                    drop(to_decode);
                    ready(reloader);
                }
                Err(error) => {
                    errors.report(error);
                    // Until the process has ended, requests are refused and `ready` is not dropped.
                    for item in to_decode {
                        let message = "the model could not be loaded; the log of the replica has the reason";
                        item.responder.send(Err(RequestError::new(Code::Internal, message)));
                    }
                }
            }
        })?;
        Ok((pipeline, fatal_errors))
    }

    /// The mean time that an image costs the replica if all workers have full batches; `None` before the model is
    /// loaded, and if the replica computes one image at a time.
    pub fn full_work(&self) -> Option<Duration> {
        let Sizes { max_batch, workers, .. } = self.sizes;
        let work = self.current.get()?.queue.full_work()? / u32::try_from(workers).unwrap_or(u32::MAX);
        (max_batch * workers > 1).then_some(work)
    }

    /// The present model, which new requests use; `None` before the model is loaded.
    pub fn generation(&self) -> Option<Arc<Generation>> {
        self.current.get()
    }

    /// Classifies one image.
    ///
    /// # Errors
    /// If the image cannot be decoded (status 400), has too many pixels (413), or is not computed at its deadline (504),
    /// or if the model fails (500). The error for the deadline comes at the deadline, also while the model is loaded or
    /// the pass of the image goes on.
    pub async fn classify(&self, request: ImageRequest) -> Result<Classification, RequestError> {
        let ImageRequest { image, generation, wants_embedding, deadline, slot, work } = request;
        let message = "a thread of the replica has stopped; the log of the replica has the reason";
        let stopped = || RequestError::new(Code::Internal, message);
        let (outcome, answer) = oneshot::channel();
        let (entered, times) = (Instant::now(), StageTimes::default());
        let responder = Responder { slot, work, outcome };
        let item = WorkItem { image: (image, generation), wants_embedding, deadline, entered, times, responder };
        self.images.try_send(item).map_err(|_| stopped())?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(answer) => answer.map_err(|_| stopped())?,
            Err(_elapsed) => {
                let message = "the deadline passed before the image was classified";
                Err(RequestError::new(Code::DeadlineExceeded, message))
            }
        }
    }
}

/// Loads the model, waits until all workers are warm, and starts the decoders.
fn start_threads<F: CreateModel>(
    sizes: Sizes,
    limits: ImageLimits,
    load: impl FnOnce() -> anyhow::Result<LoadedModel<F>>,
    current: Arc<Current>,
    to_decode: &Receiver<WorkItem<ToDecode>>,
    errors: FatalErrorSender,
) -> anyhow::Result<Reloader> {
    let (generation, workers) = Generation::start(load()?, sizes, &errors)?;
    current.replace(generation);
    let decoder = Arc::new(Decoder::new(limits));
    for index in 0..sizes.decoders {
        let (decoder, images, current) = (decoder.clone(), to_decode.clone(), current.clone());
        thread::start(&format!("decode-{index}"), errors.clone(), move || {
            decoder.run(&images, &current);
        })?;
    }
    Ok(Reloader { sizes, current: Arc::downgrade(&current), errors, workers })
}

#[cfg(test)]
mod tests;
