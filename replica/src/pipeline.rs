//! The threads between the handler and the models: decoders, then workers that infer.
//!
//! Every image holds one of the replica's slots until its work has ended, even if its client has left before. There are
//! as many slots as the advertised capacity, so the capacity bounds the images that wait between the threads.

mod batch_queue;
mod decoder;
mod thread;
mod work_item;
mod worker;

use crate::batch::Batcher;
use crate::decode::Limits;
use crate::model::{InferenceError, Input, Model, ModelFactory};
use crate::transform::Transform;
use batch_queue::BatchQueue;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use decoder::Decoders;
use service::wire::{Code, RequestError};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thread::FatalErrorSender;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use work_item::{Reply, WorkItem};

/// An image as a request contains it.
#[derive(Debug)]
pub enum Image {
    /// A file of a format that `decode` knows.
    Encoded(Bytes),
    /// Normalised numbers, ready for the model.
    Tensor(Input),
}

/// The times that an image spent in the stages of the pipeline.
#[derive(Debug, Clone, Copy, Default)]
pub struct StageTimes {
    /// Waiting for a decoder, decoding and transforming.
    pub decode: Duration,
    /// Waiting, decoded, for the forward pass.
    pub batch: Duration,
    /// The forward pass.
    pub inference: Duration,
}

/// The model's output for one image.
#[derive(Debug)]
pub struct Classification {
    /// The score of every class, in class order.
    pub logits: Vec<f32>,
    /// The times that the image spent in the pipeline.
    pub times: StageTimes,
}

/// The sending end of the pipeline. The threads stop when all clones are dropped.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Holds as many images as the replica has slots, and so is never full.
    images: Sender<WorkItem<Image>>,
}

/// The sizes of a pipeline.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Most images in the pipeline.
    pub capacity: usize,
    /// Most images in one forward pass.
    pub max_batch: usize,
    /// The longest time that a decoded image is held so that others may join its batch.
    pub batch_wait: Duration,
    /// Threads that decode.
    pub decoders: usize,
    /// Threads that infer, each with a model of its own.
    pub workers: usize,
}

/// A loaded model.
pub struct LoadedModel<F> {
    /// Creates a model for each worker.
    pub factory: F,
    /// The transform from pixels to the model's input.
    pub transform: Transform,
}

/// Creates models; implemented by [`ModelFactory`], and by tests.
pub trait CreateModel: Send + Sync + 'static {
    /// A model for the calling thread.
    ///
    /// # Errors
    /// When there is no memory for another copy.
    fn create(&self) -> Result<Box<dyn Model>, InferenceError>;
}

impl CreateModel for ModelFactory {
    fn create(&self) -> Result<Box<dyn Model>, InferenceError> {
        self.model()
    }
}

/// Receives the reason why a pipeline did not start or has stopped. Holds one error.
pub type FatalErrors = mpsc::Receiver<anyhow::Error>;

impl Pipeline {
    /// Starts the threads. `load` runs on a thread of its own. `ready` is called on that thread once every worker's
    /// model has run every batch size and the decoders have started.
    pub fn start<F: CreateModel>(
        sizes: Sizes,
        limits: Limits,
        load: impl FnOnce() -> anyhow::Result<LoadedModel<F>> + Send + 'static,
        ready: impl FnOnce() + Send + 'static,
    ) -> (Self, FatalErrors) {
        let (images, to_decode) = bounded(sizes.capacity);
        let (sender, fatal_errors) = mpsc::channel(1);
        let errors = FatalErrorSender(sender);
        thread::start("load".into(), errors.clone(), move || {
            if let Err(error) = start_threads(sizes, limits, load, &to_decode, &errors) {
                errors.report(error);
                // Requests are refused until the process has ended.
                for item in to_decode {
                    item.reply.send(Err(RequestError::new(Code::Internal, "the model could not be loaded")));
                }
                return;
            }
            ready();
        });
        (Self { images }, fatal_errors)
    }

    /// Classifies one image, for which the caller holds a slot.
    ///
    /// # Errors
    /// 400 or 413 for an image that cannot be decoded, 504 past the deadline, 500 when the model fails.
    pub async fn classify(
        &self,
        image: Image,
        deadline: Instant,
        slot: OwnedSemaphorePermit,
    ) -> Result<Classification, RequestError> {
        let stopped = || RequestError::new(Code::Internal, "the inference thread has stopped");
        let (outcome, answer) = oneshot::channel();
        let reply = Reply { slot, outcome };
        let item = WorkItem { image, deadline, entered: Instant::now(), times: StageTimes::default(), reply };
        self.images.try_send(item).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// Loads the model, waits until all workers are warm, and starts the decoders.
fn start_threads<F: CreateModel>(
    sizes: Sizes,
    limits: Limits,
    load: impl FnOnce() -> anyhow::Result<LoadedModel<F>>,
    to_decode: &Receiver<WorkItem<Image>>,
    errors: &FatalErrorSender,
) -> anyhow::Result<()> {
    let LoadedModel { factory, transform } = load()?;
    let queue = Arc::new(BatchQueue::default());
    let times = start_workers(sizes, Arc::new(factory), transform, &queue, errors)?;
    queue.open(Batcher::new(times, sizes.batch_wait));
    let decoders = Arc::new(Decoders::new(queue));
    for decoder in 0..sizes.decoders {
        let (images, decoders) = (to_decode.clone(), decoders.clone());
        thread::start(format!("decode-{decoder}"), errors.clone(), move || decoders.run(&images, limits, transform));
    }
    Ok(())
}

/// Starts the workers and waits until each has created and warmed up its model. Returns the slowest worker's time of a
/// pass of one image, two images, and so on.
fn start_workers<F: CreateModel>(
    sizes: Sizes,
    factory: Arc<F>,
    transform: Transform,
    queue: &Arc<BatchQueue>,
    errors: &FatalErrorSender,
) -> anyhow::Result<Vec<Duration>> {
    let (warm, warmed) = bounded(sizes.workers);
    for worker in 0..sizes.workers {
        let (factory, warm, queue) = (factory.clone(), warm.clone(), queue.clone());
        thread::start(format!("infer-{worker}"), errors.clone(), move || {
            let model = factory.create().and_then(|mut model| {
                let times = worker::warm_up(&mut *model, transform, sizes.max_batch)?;
                Ok((model, times))
            });
            match model {
                Ok((mut model, times)) => {
                    let _loading_failed = warm.send(Ok(times));
                    drop(warm);
                    worker::run(&mut *model, &queue);
                }
                Err(failure) => drop(warm.send(Err(failure))),
            }
        });
    }
    drop(warm);
    let mut slowest = vec![Duration::ZERO; sizes.max_batch];
    for _ in 0..sizes.workers {
        let times = warmed.recv().map_err(|_| anyhow::anyhow!("a worker stopped while it warmed up"))??;
        slowest.iter_mut().zip(times).for_each(|(slowest, time)| *slowest = time.max(*slowest));
    }
    Ok(slowest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::sync::Semaphore;

    /// A model that records the sizes of its batches. A pass of images that are not all zeros waits for `gate`.
    #[derive(Clone)]
    struct Gated {
        gate: Receiver<()>,
        batches: Arc<Mutex<Vec<usize>>>,
    }

    impl Model for Gated {
        fn logits(&mut self, images: &[Input]) -> Result<Vec<Vec<f32>>, InferenceError> {
            if images[0].iter().any(|&number| number != 0.0) {
                self.batches.lock().expect("no test panics here").push(images.len());
                self.gate.recv().map_err(InferenceError::new)?;
            }
            Ok(vec![vec![1.0]; images.len()])
        }
    }

    impl CreateModel for Gated {
        fn create(&self) -> Result<Box<dyn Model>, InferenceError> {
            Ok(Box::new(self.clone()))
        }
    }

    fn sizes(capacity: usize, max_batch: usize) -> Sizes {
        Sizes { capacity, max_batch, batch_wait: Duration::ZERO, decoders: 1, workers: 1 }
    }

    fn loaded(factory: Gated) -> impl FnOnce() -> anyhow::Result<LoadedModel<Gated>> + Send {
        move || Ok(LoadedModel { factory, transform: Transform::IMAGENET })
    }

    fn png() -> Bytes {
        let mut bytes = Vec::new();
        let mut writer = png::Encoder::new(&mut bytes, 4, 4);
        writer.set_color(png::ColorType::Rgb);
        let mut writer = writer.write_header().expect("a PNG");
        writer.write_image_data(&[200, 10, 10].repeat(4 * 4)).expect("a PNG");
        writer.finish().expect("a PNG");
        bytes.into()
    }

    async fn classify(pipeline: &Pipeline, image: Bytes, deadline: Instant) -> Result<Classification, RequestError> {
        let slot = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a free slot");
        pipeline.classify(Image::Encoded(image), deadline, slot).await
    }

    #[tokio::test]
    async fn a_slot_is_held_until_the_work_has_ended() {
        let (open, gate) = bounded(1);
        let batches = Arc::new(Mutex::new(Vec::new()));
        let model = Gated { gate, batches: batches.clone() };
        let sizes = sizes(1, 1);
        let (pipeline, _errors) = Pipeline::start(sizes, Limits::default(), loaded(model), || {});
        let slots = Arc::new(Semaphore::new(1));
        let far = Instant::now() + Duration::from_secs(600);
        let slot = slots.clone().try_acquire_owned().expect("a free slot");
        let client = tokio::spawn(async move { pipeline.classify(Image::Encoded(png()), far, slot).await.map(drop) });
        while batches.lock().expect("no test panics here").is_empty() {
            tokio::task::yield_now().await;
        }
        client.abort();
        assert!(client.await.expect_err("aborted").is_cancelled());
        assert_eq!(slots.available_permits(), 0, "the model still works for the client that left");
        open.send(()).expect("the model waits");
        let _free = slots.acquire().await.expect("never closed");
    }

    #[tokio::test]
    async fn waiting_images_share_a_pass_and_expired_images_are_not_computed() {
        let (open, gate) = bounded(8);
        let batches = Arc::new(Mutex::new(Vec::new()));
        let model = Gated { gate, batches: batches.clone() };
        let sizes = sizes(8, 2);
        let (pipeline, _errors) = Pipeline::start(sizes, Limits::default(), loaded(model), || {});
        let far = Instant::now() + Duration::from_secs(600);
        let spawn = |deadline| {
            let pipeline = pipeline.clone();
            tokio::spawn(
                async move { classify(&pipeline, png(), deadline).await.map(drop).map_err(|fault| fault.code) },
            )
        };
        let first = spawn(far);
        while batches.lock().expect("no test panics here").is_empty() {
            tokio::task::yield_now().await;
        }
        // While the model holds the first image, four more arrive; the deadline of one of them has passed.
        let late = spawn(Instant::now());
        assert_eq!(late.await.expect("no panic"), Err(Code::DeadlineExceeded));
        let rest = [spawn(far), spawn(far), spawn(far)];
        tokio::time::sleep(Duration::from_millis(300)).await;
        for _ in 0..4 {
            open.send(()).expect("the model waits");
        }
        assert_eq!(first.await.expect("no panic"), Ok(()));
        for task in rest {
            assert_eq!(task.await.expect("no panic"), Ok(()));
        }
        assert_eq!(*batches.lock().expect("no test panics here"), [1, 2, 1]);
    }

    #[tokio::test]
    async fn a_bad_image_fails_only_its_own_request() {
        let (open, gate) = bounded(1);
        let model = Gated { gate, batches: Arc::default() };
        let sizes = sizes(2, 1);
        let (pipeline, _errors) = Pipeline::start(sizes, Limits { max_pixels: 16 }, loaded(model), || {});
        let far = Instant::now() + Duration::from_secs(600);
        let bad = classify(&pipeline, Bytes::from_static(b"\xff\xd8\xff nonsense"), far).await;
        assert_eq!(bad.expect_err("refused").code, Code::BadImage);
        open.send(()).expect("the model waits");
        assert!(classify(&pipeline, png(), far).await.is_ok());
    }

    #[tokio::test]
    async fn a_model_that_panics_ends_the_pipeline() {
        struct Broken;
        impl Model for Broken {
            fn logits(&mut self, images: &[Input]) -> Result<Vec<Vec<f32>>, InferenceError> {
                assert!(images[0].iter().all(|&number| number == 0.0), "this model survives only the warm-up");
                Ok(vec![vec![1.0]; images.len()])
            }
        }
        impl CreateModel for Broken {
            fn create(&self) -> Result<Box<dyn Model>, InferenceError> {
                Ok(Box::new(Self))
            }
        }
        let load = || Ok(LoadedModel { factory: Broken, transform: Transform::IMAGENET });
        let (pipeline, mut errors) = Pipeline::start(sizes(1, 1), Limits::default(), load, || {});
        let refused = classify(&pipeline, png(), Instant::now() + Duration::from_secs(600)).await;
        assert_eq!(refused.expect_err("it panicked").code, Code::Internal);
        assert!(errors.recv().await.expect("a reason").to_string().contains("infer-0 thread has panicked"));
    }

    #[tokio::test]
    async fn a_model_that_does_not_load_ends_the_pipeline_with_its_reason() {
        let sizes = sizes(1, 1);
        let load = || -> anyhow::Result<LoadedModel<Gated>> { anyhow::bail!("no such file: weights") };
        let (pipeline, mut errors) = Pipeline::start(sizes, Limits::default(), load, || panic!("never ready"));
        assert_eq!(errors.recv().await.expect("a reason").to_string(), "no such file: weights");
        let refused = classify(&pipeline, png(), Instant::now() + Duration::from_secs(600)).await;
        assert_eq!(refused.expect_err("no thread infers").code, Code::Internal);
    }
}
