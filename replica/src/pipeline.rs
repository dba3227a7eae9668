//! The threads between the handler and the models. Decoders make the model's input of an image, and workers run the
//! model.
//!
//! Each image holds one of the replica's slots until its work has ended, even if its client has left before. The number
//! of slots is the advertised capacity, so the capacity limits the number of images that wait between the threads.

mod batch_queue;
mod decoder;
mod thread;
mod work_item;
mod worker;

use crate::batch::Batcher;
use crate::decode::ImageLimits;
use crate::model::{InferenceError, Input, Model, ModelFactory};
use crate::pass_times::PassTimes;
use crate::request_body::RequestBody;
use crate::transform::Transform;
use crate::work::Work;
use batch_queue::BatchQueue;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use decoder::Decoders;
use service::wire::{Code, RequestError};
use slots::TakenSlots;
use std::collections::BTreeMap;
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
    /// The times that the image spent in the pipeline.
    pub times: StageTimes,
}

/// Sends images to the threads of the pipeline. The threads stop when all clones are dropped.
#[derive(Clone)]
pub struct Pipeline {
    /// The channel has room for one image for each slot. It is never full, because each image in it holds a slot.
    images: Sender<WorkItem<Image>>,
    queue: Arc<BatchQueue>,
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
    /// The transform from pixels to the model's input.
    pub transform: Transform,
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
    /// warm and the decoders have started.
    ///
    /// # Errors
    /// If the system refuses the thread for `load`. Later errors arrive through [`FatalErrors`].
    pub fn start<F: CreateModel>(
        sizes: Sizes,
        limits: ImageLimits,
        load: impl FnOnce() -> anyhow::Result<LoadedModel<F>> + Send + 'static,
        ready: impl FnOnce() + Send + 'static,
    ) -> anyhow::Result<(Self, FatalErrors)> {
        let (images, to_decode) = bounded(sizes.capacity);
        let (sender, fatal_errors) = mpsc::channel(1);
        let errors = FatalErrorSender(sender);
        let queue = Arc::new(BatchQueue::default());
        let pipeline = Self { images, queue: queue.clone(), sizes };
        thread::start("load", errors.clone(), move || {
            if let Err(error) = start_threads(sizes, limits, load, queue, &to_decode, &errors) {
                errors.report(error);
                // Until the process has ended, requests are refused and `ready` is not dropped.
                for item in to_decode {
                    let message = "the model could not be loaded; the log of the replica has the reason";
                    item.responder.send(Err(RequestError::new(Code::Internal, message)));
                }
                return;
            }
            ready();
        })?;
        Ok((pipeline, fatal_errors))
    }

    /// The mean time that an image costs the replica if all workers have full batches; `None` before the model is
    /// loaded, and if the replica computes one image at a time.
    pub fn full_work(&self) -> Option<Duration> {
        let Sizes { max_batch, workers, .. } = self.sizes;
        let work = self.queue.full_work()? / u32::try_from(workers).unwrap_or(u32::MAX);
        (max_batch * workers > 1).then_some(work)
    }

    /// Classifies one image. `slot` and `work`, the work for the image's request, are held until the work on the image
    /// has ended.
    ///
    /// # Errors
    /// If the image cannot be decoded (status 400), has too many pixels (413), or is not computed at its deadline (504),
    /// or if the model fails (500). The error for the deadline comes at the deadline, also while the model is loaded or
    /// the pass of the image goes on.
    pub async fn classify(
        &self,
        image: Image,
        deadline: Instant,
        slot: TakenSlots,
        work: Work,
    ) -> Result<Classification, RequestError> {
        let message = "a thread of the replica has stopped; the log of the replica has the reason";
        let stopped = || RequestError::new(Code::Internal, message);
        let (outcome, answer) = oneshot::channel();
        let responder = Responder { slot, work, outcome };
        let item = WorkItem { image, deadline, entered: Instant::now(), times: StageTimes::default(), responder };
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
    queue: Arc<BatchQueue>,
    to_decode: &Receiver<WorkItem<Image>>,
    errors: &FatalErrorSender,
) -> anyhow::Result<()> {
    let LoadedModel { factory, transform } = load()?;
    let times = start_workers(sizes, Arc::new(factory), transform, &queue, errors)?;
    queue.open(Batcher::new(times, sizes.batch_wait));
    let decoders = Arc::new(Decoders::new(queue, limits));
    for decoder in 0..sizes.decoders {
        let (images, decoders) = (to_decode.clone(), decoders.clone());
        thread::start(&format!("decode-{decoder}"), errors.clone(), move || {
            decoders.run(&images, transform);
        })?;
    }
    Ok(())
}

/// Starts the workers, and waits until each has created and warmed up its model. Returns the times of passes. The time for
/// each measured number of images is that of the slowest worker.
fn start_workers<F: CreateModel>(
    sizes: Sizes,
    factory: Arc<F>,
    transform: Transform,
    queue: &Arc<BatchQueue>,
    errors: &FatalErrorSender,
) -> anyhow::Result<PassTimes> {
    let (warm, warmed) = bounded(sizes.workers);
    for worker in 0..sizes.workers {
        let (factory, warm, queue) = (factory.clone(), warm.clone(), queue.clone());
        thread::start(&format!("infer-{worker}"), errors.clone(), move || {
            let model = factory.create().and_then(|mut model| {
                let times = worker::warm_up(&mut *model, transform, sizes.max_batch)?;
                Ok((model, times))
            });
            match model {
                Ok((mut model, times)) => {
                    let _loading_failed = warm.send(Ok(times));
                    drop(warm);
                    worker::run(&mut *model, transform, &queue);
                }
                Err(failure) => drop(warm.send(Err(failure))),
            }
        })?;
    }
    drop(warm);
    let mut slowest: BTreeMap<usize, Duration> = BTreeMap::new();
    let stopped = |_| anyhow::anyhow!("a worker stopped during its warm-up; its message is in the log");
    for _ in 0..sizes.workers {
        for (images, time) in warmed.recv().map_err(stopped)?? {
            let slowest = slowest.entry(images).or_default();
            *slowest = time.max(*slowest);
        }
    }
    let measured: Vec<_> = slowest.into_iter().collect();
    Ok(PassTimes::through(&measured, sizes.max_batch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::WorkMeter;
    use slots::{SlotClient, Slots};
    use std::sync::Mutex;

    /// A model that records the sizes of its batches. A pass waits for a message from `gate`, but not in the warm-up,
    /// whose images are zeros.
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
        let slot = Slots::new(1).take(SlotClient::default(), 1).expect("a free slot");
        pipeline.classify(Image::Encoded(image), deadline, slot, WorkMeter::default().begin()).await
    }

    #[tokio::test]
    async fn a_slot_is_held_until_the_work_has_ended() {
        let (open, gate) = bounded(1);
        let batches = Arc::new(Mutex::new(Vec::new()));
        let model = Gated { gate, batches: batches.clone() };
        let sizes = sizes(1, 1);
        let (pipeline, _errors) =
            Pipeline::start(sizes, ImageLimits::default(), loaded(model), || {}).expect("the thread starts");
        let slots = Slots::new(1);
        let far = Instant::now() + Duration::from_secs(600);
        let slot = slots.take(SlotClient::default(), 1).expect("a free slot");
        let work = WorkMeter::default().begin();
        let client =
            tokio::spawn(async move { pipeline.classify(Image::Encoded(png()), far, slot, work).await.map(drop) });
        while batches.lock().expect("no test panics here").is_empty() {
            tokio::task::yield_now().await;
        }
        client.abort();
        assert!(client.await.expect_err("aborted").is_cancelled());
        assert_eq!(slots.taken(), 1, "the model still computes the image of the client that left");
        open.send(()).expect("the model waits");
        while slots.taken() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn waiting_images_share_a_pass_and_expired_images_are_not_computed() {
        let (open, gate) = bounded(8);
        let batches = Arc::new(Mutex::new(Vec::new()));
        let model = Gated { gate, batches: batches.clone() };
        let sizes = sizes(8, 2);
        let (pipeline, _errors) =
            Pipeline::start(sizes, ImageLimits::default(), loaded(model), || {}).expect("the thread starts");
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

    /// Waits until all slots are free.
    async fn until_free(slots: &Slots) {
        while slots.taken() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_client_is_answered_at_its_deadline_although_the_work_goes_on() {
        let (open, gate) = bounded(1);
        let (loaded_now, wait) = bounded(0);
        let model = Gated { gate, batches: Arc::default() };
        let load = move || {
            wait.recv()?;
            Ok(LoadedModel { factory: model, transform: Transform::IMAGENET })
        };
        let (pipeline, _errors) =
            Pipeline::start(sizes(1, 1), ImageLimits::default(), load, || {}).expect("the thread starts");
        let slots = Slots::new(1);
        let classify = async || {
            let slot = slots.take(SlotClient::default(), 1).expect("a free slot");
            let (start, wait) = (Instant::now(), Duration::from_millis(100));
            let (image, work) = (Image::Encoded(png()), WorkMeter::default().begin());
            let outcome = pipeline.classify(image, start + wait, slot, work).await;
            assert_eq!(outcome.expect_err("no pass has ended").code, Code::DeadlineExceeded);
            assert!(start.elapsed() >= wait && start.elapsed() < 50 * wait, "{:?}", start.elapsed());
            assert_eq!(slots.taken(), 1, "the image is still in the pipeline");
        };
        classify().await;
        loaded_now.send(()).expect("the model is being loaded");
        until_free(&slots).await;
        classify().await;
        open.send(()).expect("the model waits");
        until_free(&slots).await;
    }

    #[tokio::test]
    async fn a_panic_in_the_transform_fails_only_its_own_request() {
        let (open, gate) = bounded(1);
        let model = Gated { gate, batches: Arc::default() };
        // No flag gives such a transform, which divides by zero.
        let transform = Transform { resize: 0, ..Transform::IMAGENET };
        let load = move || Ok(LoadedModel { factory: model, transform });
        let (pipeline, mut errors) =
            Pipeline::start(sizes(2, 1), ImageLimits::default(), load, || {}).expect("the thread starts");
        let far = Instant::now() + Duration::from_secs(600);
        let failed = classify(&pipeline, png(), far).await;
        assert_eq!(failed.expect_err("it panicked").code, Code::Internal);
        open.send(()).expect("the model waits");
        let slot = Slots::new(1).take(SlotClient::default(), 1).expect("a free slot");
        let tensor = Image::Tensor(vec![1.0; transform.input_length()]);
        assert!(pipeline.classify(tensor, far, slot, WorkMeter::default().begin()).await.is_ok());
        assert!(errors.try_recv().is_err(), "the replica goes on");
    }

    #[tokio::test]
    async fn logits_that_are_not_finite_are_an_error_of_the_model_or_of_its_input() {
        struct Overflowing;
        impl Model for Overflowing {
            fn logits(&mut self, images: &[Input]) -> Result<Vec<Vec<f32>>, InferenceError> {
                let sum = |image: &Input| image.iter().sum::<f32>();
                Ok(images.iter().map(|image| vec![0.5, sum(image) / 0.0 * 0.0]).collect())
            }
        }
        impl CreateModel for Overflowing {
            fn create(&self) -> Result<Box<dyn Model>, InferenceError> {
                Ok(Box::new(Self))
            }
        }
        let load = || Ok(LoadedModel { factory: Overflowing, transform: Transform::IMAGENET });
        let (pipeline, _errors) =
            Pipeline::start(sizes(1, 1), ImageLimits::default(), load, || {}).expect("the thread starts");
        let far = Instant::now() + Duration::from_secs(600);
        let tensor = |number| Image::Tensor(vec![number; Transform::IMAGENET.input_length()]);
        for (image, code, reason) in [
            (Image::Encoded(png()), Code::Internal, "not finite numbers"),
            (tensor(2.6), Code::Internal, "not finite numbers"),
            (tensor(-1e30), Code::BadRequest, "too large for the model"),
        ] {
            let slot = Slots::new(1).take(SlotClient::default(), 1).expect("a free slot");
            let outcome = pipeline.classify(image, far, slot, WorkMeter::default().begin()).await;
            let fault = outcome.expect_err("NaN is no answer");
            assert!(fault.code == code && fault.message.contains(reason), "{fault}");
        }
    }

    #[tokio::test]
    async fn a_bad_image_fails_only_its_own_request() {
        let (open, gate) = bounded(1);
        let model = Gated { gate, batches: Arc::default() };
        let sizes = sizes(2, 1);
        let (pipeline, _errors) =
            Pipeline::start(sizes, ImageLimits { max_pixels: 16, ..ImageLimits::default() }, loaded(model), || {})
                .expect("the thread starts");
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
                assert!(images[0].iter().all(|&number| number == 0.0), "this model panics after the warm-up");
                Ok(vec![vec![1.0]; images.len()])
            }
        }
        impl CreateModel for Broken {
            fn create(&self) -> Result<Box<dyn Model>, InferenceError> {
                Ok(Box::new(Self))
            }
        }
        let load = || Ok(LoadedModel { factory: Broken, transform: Transform::IMAGENET });
        let (pipeline, mut errors) =
            Pipeline::start(sizes(1, 1), ImageLimits::default(), load, || {}).expect("the thread starts");
        let refused = classify(&pipeline, png(), Instant::now() + Duration::from_secs(600)).await;
        assert_eq!(refused.expect_err("it panicked").code, Code::Internal);
        assert!(errors.recv().await.expect("a reason").to_string().contains("thread infer-0 has panicked"));
    }

    #[tokio::test]
    async fn a_model_that_does_not_load_ends_the_pipeline_with_its_reason() {
        let sizes = sizes(1, 1);
        let load = || -> anyhow::Result<LoadedModel<Gated>> { anyhow::bail!("no such file: weights") };
        let (pipeline, mut errors) =
            Pipeline::start(sizes, ImageLimits::default(), load, || panic!("never ready")).expect("the thread starts");
        assert_eq!(errors.recv().await.expect("a reason").to_string(), "no such file: weights");
        let refused = classify(&pipeline, png(), Instant::now() + Duration::from_secs(600)).await;
        assert_eq!(refused.expect_err("no thread infers").code, Code::Internal);
    }
}
