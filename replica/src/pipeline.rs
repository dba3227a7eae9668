//! Named threads between the handler and the models: decode, then infer.
//!
//! Every job holds one of the replica's slots until its work has ended, even if its client has left by then; there are
//! as many slots as the advertised capacity, so what waits between the threads is bounded by it.

mod decoder;
mod hopper;
mod job;
mod thread;
mod worker;

use crate::batch::Batcher;
use crate::decode::Limits;
use crate::model::{Failure, Input, Model};
use crate::transform::Transform;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use decoder::Decoders;
use hopper::Hopper;
use job::{Job, Reply};
use service::wire::{Code, RequestError};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thread::Alarm;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// What a request brings.
#[derive(Debug)]
pub enum Picture {
    /// A file of a format that `decode` knows.
    Encoded(Bytes),
    /// Ready for the model.
    Tensor(Input),
}

/// Where a picture's time went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// Decoding and transforming, the wait for a decoder included.
    pub decode: Duration,
    /// Decoded and waiting for the model.
    pub batch: Duration,
    /// The forward pass.
    pub inference: Duration,
}

/// The model's answer.
#[derive(Debug)]
pub struct Classified {
    /// Of every class.
    pub logits: Vec<f32>,
    /// Where the time went.
    pub times: Times,
}

/// The way in.
#[derive(Debug, Clone)]
pub struct Pipeline {
    encoded: Sender<Job<Picture>>,
}

/// Sizes of the pipeline.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Requests that are in it at most.
    pub capacity: usize,
    /// Pictures in one forward pass at most.
    pub max_batch: usize,
    /// How long a picture may wait for others to go with.
    pub batch_wait: Duration,
    /// Threads that decode.
    pub decoders: usize,
    /// Threads that have a model each.
    pub workers: usize,
}

/// What a pipeline is made of, once it has been loaded.
pub struct Loaded<R> {
    /// Makes a model for each worker.
    pub recipe: R,
    /// What the model wants pictures to be.
    pub transform: Transform,
}

/// Makes models.
pub trait Recipe: Send + Sync + 'static {
    /// A model for the calling thread.
    ///
    /// # Errors
    /// When there is no room for another.
    fn model(&self) -> Result<Box<dyn Model>, Failure>;
}

impl Recipe for crate::model::Recipe {
    fn model(&self) -> Result<Box<dyn Model>, Failure> {
        self.model()
    }
}

/// Why a pipeline did not start, or stopped.
pub type Ended = mpsc::Receiver<anyhow::Error>;

impl Pipeline {
    /// Starts the threads. `load` runs on a thread of its own; `ready` is called once every worker's model has run every
    /// batch size that will be used.
    pub fn start<R: Recipe>(
        sizes: Sizes,
        limits: Limits,
        load: impl FnOnce() -> anyhow::Result<Loaded<R>> + Send + 'static,
        ready: impl FnOnce() + Send + 'static,
    ) -> (Self, Ended) {
        let (encoded, to_decode) = bounded(sizes.capacity);
        let (alarm, end) = mpsc::channel(1);
        let alarm = Alarm(alarm);
        thread::start("load".into(), alarm.clone(), move || {
            if let Err(error) = start_threads(sizes, limits, load, &to_decode, &alarm) {
                alarm.ring(error);
                // Whatever still comes is refused, until the process has ended.
                for job in to_decode {
                    job.reply.send(Err(RequestError::new(Code::Internal, "the model is not there")));
                }
                return;
            }
            ready();
        });
        (Self { encoded }, end)
    }

    /// Classifies one picture, for which the caller holds a slot.
    ///
    /// # Errors
    /// 4xx for a picture that cannot be decoded, 504 past the deadline, 500 when the model fails.
    pub async fn classify(
        &self,
        picture: Picture,
        deadline: Instant,
        slot: OwnedSemaphorePermit,
    ) -> Result<Classified, RequestError> {
        let stopped = || RequestError::new(Code::Internal, "the inference thread has stopped");
        let (outcome, answer) = oneshot::channel();
        let reply = Reply { slot, outcome };
        let job = Job { stage: picture, deadline, entered: Instant::now(), times: Times::default(), reply };
        self.encoded.try_send(job).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// Loads, has every worker make and warm up its model, and then starts to decode.
fn start_threads<R: Recipe>(
    sizes: Sizes,
    limits: Limits,
    load: impl FnOnce() -> anyhow::Result<Loaded<R>>,
    to_decode: &Receiver<Job<Picture>>,
    alarm: &Alarm,
) -> anyhow::Result<()> {
    let Loaded { recipe, transform } = load()?;
    let recipe = Arc::new(recipe);
    let (warm, warmed) = bounded(sizes.workers);
    let hopper = Arc::new(Hopper::default());
    for worker in 0..sizes.workers {
        let (recipe, warm, hopper) = (recipe.clone(), warm.clone(), hopper.clone());
        thread::start(format!("infer-{worker}"), alarm.clone(), move || {
            let model = recipe.model().and_then(|mut model| {
                let times = worker::warm_up(&mut *model, transform, sizes.max_batch)?;
                Ok((model, times))
            });
            match model {
                Ok((mut model, times)) => {
                    let _loading = warm.send(Ok(times));
                    drop(warm);
                    worker::run(&mut *model, &hopper);
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
    hopper.open(Batcher::new(slowest, sizes.batch_wait));
    let decoders = Arc::new(Decoders::new(hopper));
    for decoder in 0..sizes.decoders {
        let (encoded, decoders) = (to_decode.clone(), decoders.clone());
        thread::start(format!("decode-{decoder}"), alarm.clone(), move || decoders.run(&encoded, limits, transform));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::sync::Semaphore;

    /// Keeps the batch sizes; a pass of real work waits until it is let go.
    #[derive(Clone)]
    struct Gated {
        gate: Receiver<()>,
        batches: Arc<Mutex<Vec<usize>>>,
    }

    impl Model for Gated {
        fn logits(&mut self, pictures: &[Input]) -> Result<Vec<Vec<f32>>, Failure> {
            if pictures[0].iter().any(|&number| number != 0.0) {
                self.batches.lock().expect("no test panics here").push(pictures.len());
                self.gate.recv().map_err(Failure::new)?;
            }
            Ok(vec![vec![1.0]; pictures.len()])
        }
    }

    impl Recipe for Gated {
        fn model(&self) -> Result<Box<dyn Model>, Failure> {
            Ok(Box::new(self.clone()))
        }
    }

    fn sizes(capacity: usize, max_batch: usize) -> Sizes {
        Sizes { capacity, max_batch, batch_wait: Duration::ZERO, decoders: 1, workers: 1 }
    }

    fn loaded(recipe: Gated) -> impl FnOnce() -> anyhow::Result<Loaded<Gated>> + Send {
        move || Ok(Loaded { recipe, transform: Transform::IMAGENET })
    }

    fn png() -> Bytes {
        let mut bytes = Vec::new();
        let picture = image::RgbImage::from_pixel(4, 4, image::Rgb([200, 10, 10]));
        picture.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).expect("a PNG");
        bytes.into()
    }

    async fn classify(pipeline: &Pipeline, picture: Bytes, deadline: Instant) -> Result<Classified, RequestError> {
        let slot = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a free slot");
        pipeline.classify(Picture::Encoded(picture), deadline, slot).await
    }

    #[tokio::test]
    async fn a_slot_is_held_until_the_work_has_ended() {
        let (open, gate) = bounded(1);
        let batches = Arc::new(Mutex::new(Vec::new()));
        let model = Gated { gate, batches: batches.clone() };
        let sizes = sizes(1, 1);
        let (pipeline, _end) = Pipeline::start(sizes, Limits::default(), loaded(model), || {});
        let slots = Arc::new(Semaphore::new(1));
        let far = Instant::now() + Duration::from_secs(600);
        let slot = slots.clone().try_acquire_owned().expect("a free slot");
        let client = tokio::spawn(async move { pipeline.classify(Picture::Encoded(png()), far, slot).await.map(drop) });
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
    async fn what_waits_goes_together_and_expired_pictures_are_not_computed() {
        let (open, gate) = bounded(8);
        let batches = Arc::new(Mutex::new(Vec::new()));
        let model = Gated { gate, batches: batches.clone() };
        let sizes = sizes(8, 2);
        let (pipeline, _end) = Pipeline::start(sizes, Limits::default(), loaded(model), || {});
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
        // While the first is held in the model, three more queue up; one of them is already too late.
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
    async fn a_bad_picture_costs_only_itself() {
        let (open, gate) = bounded(1);
        let model = Gated { gate, batches: Arc::default() };
        let sizes = sizes(2, 1);
        let (pipeline, _end) = Pipeline::start(sizes, Limits { max_pixels: 16 }, loaded(model), || {});
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
            fn logits(&mut self, pictures: &[Input]) -> Result<Vec<Vec<f32>>, Failure> {
                assert!(pictures[0].iter().all(|&number| number == 0.0), "only warm-up is survived");
                Ok(vec![vec![1.0]; pictures.len()])
            }
        }
        impl Recipe for Broken {
            fn model(&self) -> Result<Box<dyn Model>, Failure> {
                Ok(Box::new(Self))
            }
        }
        let load = || Ok(Loaded { recipe: Broken, transform: Transform::IMAGENET });
        let (pipeline, mut end) = Pipeline::start(sizes(1, 1), Limits::default(), load, || {});
        let refused = classify(&pipeline, png(), Instant::now() + Duration::from_secs(600)).await;
        assert_eq!(refused.expect_err("it panicked").code, Code::Internal);
        assert!(end.recv().await.expect("a reason").to_string().contains("infer-0 thread has panicked"));
    }

    #[tokio::test]
    async fn a_model_that_does_not_load_ends_the_pipeline_with_its_reason() {
        let sizes = sizes(1, 1);
        let load = || -> anyhow::Result<Loaded<Gated>> { anyhow::bail!("no such file: weights") };
        let (pipeline, mut end) = Pipeline::start(sizes, Limits::default(), load, || panic!("never ready"));
        assert_eq!(end.recv().await.expect("a reason").to_string(), "no such file: weights");
        let refused = classify(&pipeline, png(), Instant::now() + Duration::from_secs(600)).await;
        assert_eq!(refused.expect_err("nobody infers").code, Code::Internal);
    }
}
