//! Named threads between the handler and the model: decode, then infer, joined by bounded channels.
//!
//! Every job holds one of the replica's slots until its work has ended, even if its client has left by then; there are
//! as many slots as the advertised capacity, so the channels, which hold as many jobs, never fill.

use crate::decode::{self, Limits};
use crate::model::{Input, Model};
use crate::preprocess;
use crate::transform::Transform;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use metrics::histogram;
use service::wire::{Code, Fault};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// A picture on its way to the model.
struct Job<Stage> {
    stage: Stage,
    deadline: Instant,
    /// When it entered the present stage.
    entered: Instant,
    times: Times,
    reply: Reply,
}

/// What a request brings.
#[derive(Debug)]
pub enum Picture {
    /// A file of a format that `decode` knows.
    Encoded(Bytes),
    /// Ready for the model.
    Tensor(Input),
}

/// Where a job's outcome goes.
struct Reply {
    slot: OwnedSemaphorePermit,
    outcome: oneshot::Sender<Result<Classified, Fault>>,
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
}

/// Why a pipeline did not start, or stopped: a receiver that ends tells its owner.
pub type Ended = oneshot::Receiver<anyhow::Error>;

impl Pipeline {
    /// Starts the threads. `load` runs on the inference thread, which owns the model; `ready` is called once the
    /// model has been loaded and has run every batch size that will be used.
    pub fn start<M: Model>(
        sizes: Sizes,
        limits: Limits,
        load: impl FnOnce() -> anyhow::Result<M> + Send + 'static,
        ready: impl FnOnce(&M) + Send + 'static,
    ) -> (Self, Ended) {
        let (encoded, to_decode) = bounded(sizes.capacity);
        let (decoded, to_infer) = bounded(sizes.capacity);
        let (ended, end) = oneshot::channel();
        thread("decode", move || decode_all(&to_decode, &decoded, limits));
        thread("infer", move || {
            let failed = load().and_then(|model| {
                warm_up(&model, sizes.max_batch)?;
                ready(&model);
                infer_all(&model, &to_infer, sizes.max_batch);
                Ok(())
            });
            if let Err(error) = failed {
                // Nobody listens any more once the process is stopping.
                let _stopping = ended.send(error);
                // Whatever still comes is refused, until the process has ended.
                for job in to_infer {
                    job.fail(Fault::new(Code::Internal, "the model is not there"));
                }
            }
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
    ) -> Result<Classified, Fault> {
        let stopped = || Fault::new(Code::Internal, "the inference thread has stopped");
        let (outcome, answer) = oneshot::channel();
        let reply = Reply { slot, outcome };
        let job = Job { stage: picture, deadline, entered: Instant::now(), times: Times::default(), reply };
        self.encoded.try_send(job).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl<Stage> Job<Stage> {
    fn expired(&self) -> bool {
        // A closed reply means that the client, or the dispatcher, no longer waits.
        self.deadline <= Instant::now() || self.reply.outcome.is_closed()
    }

    fn fail(self, fault: Fault) {
        self.reply.send(Err(fault));
    }
}

impl Reply {
    /// The slot first: whoever reads the outcome may send the next request at once.
    fn send(self, outcome: Result<Classified, Fault>) {
        drop(self.slot);
        let _gone = self.outcome.send(outcome);
    }
}

fn decode_all(encoded: &Receiver<Job<Picture>>, decoded: &Sender<Job<Input>>, limits: Limits) {
    for mut job in encoded {
        if job.expired() {
            job.fail(Fault::new(Code::DeadlineExceeded, "the deadline passed before decoding"));
            continue;
        }
        match input(job.stage, limits) {
            Ok(input) => {
                job.times.decode = job.entered.elapsed();
                histogram!("inference_stage_seconds", "stage" => "decode").record(job.times.decode);
                let job = Job {
                    stage: input,
                    deadline: job.deadline,
                    entered: Instant::now(),
                    times: job.times,
                    reply: job.reply,
                };
                // Fails only when the inference thread has stopped; the job's reply then closes by itself.
                let _stopped = decoded.send(job);
            }
            Err(error) => {
                let code = match error {
                    decode::Error::TooManyPixels { .. } => Code::TooLarge,
                    decode::Error::UnknownFormat | decode::Error::Corrupt { .. } => Code::BadImage,
                };
                job.reply.send(Err(Fault::new(code, error.to_string())));
            }
        }
    }
}

fn input(picture: Picture, limits: Limits) -> Result<Input, decode::Error> {
    match picture {
        Picture::Encoded(file) => {
            let pixels = decode::decode(&file, limits)?;
            Ok(preprocess::input(&pixels, &Transform::IMAGENET))
        }
        Picture::Tensor(input) => Ok(input),
    }
}

/// Takes what is waiting, up to a batch, and never waits for more.
fn infer_all<M: Model>(model: &M, decoded: &Receiver<Job<Input>>, max_batch: usize) {
    while let Ok(first) = decoded.recv() {
        let (expired, batch): (Vec<_>, Vec<_>) =
            std::iter::once(first).chain(decoded.try_iter().take(max_batch - 1)).partition(Job::expired);
        for job in expired {
            job.fail(Fault::new(Code::DeadlineExceeded, "the deadline passed before inference"));
        }
        if !batch.is_empty() {
            infer(model, batch);
        }
    }
}

fn infer<M: Model>(model: &M, batch: Vec<Job<Input>>) {
    let started = Instant::now();
    let (inputs, jobs): (Vec<Input>, Vec<Job<()>>) = batch
        .into_iter()
        .map(|Job { stage, deadline, entered, mut times, reply }| {
            times.batch = started.saturating_duration_since(entered);
            (stage, Job { stage: (), deadline, entered, times, reply })
        })
        .unzip();
    let outcome = model.logits(&inputs);
    let inference = started.elapsed();
    histogram!("inference_batch_size").record(inputs.len() as f64);
    histogram!("inference_stage_seconds", "stage" => "forward").record(inference);
    match outcome {
        Ok(rows) => {
            for (mut job, logits) in jobs.into_iter().zip(rows) {
                job.times.inference = inference;
                histogram!("inference_stage_seconds", "stage" => "queue").record(job.times.batch);
                job.reply.send(Ok(Classified { logits, times: job.times }));
            }
        }
        Err(failure) => {
            tracing::error!(%failure, "a forward pass failed");
            for job in jobs {
                job.fail(Fault::new(Code::Internal, failure.to_string()));
            }
        }
    }
}

/// Runs every batch size once, so that no client pays for libtorch's first time.
fn warm_up<M: Model>(model: &M, max_batch: usize) -> anyhow::Result<()> {
    for size in 1..=max_batch {
        model.logits(&vec![vec![0.0; crate::model::INPUT_LENGTH]; size])?;
    }
    Ok(())
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().name(name.into()).spawn(body).expect("the system has a thread to spare");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Failure;
    use std::sync::{Arc, Mutex};
    use tokio::sync::Semaphore;

    /// Answers with the batch size; the first pass of real work waits until it is let go.
    struct Gated {
        gate: Receiver<()>,
        batches: Arc<Mutex<Vec<usize>>>,
    }

    impl Model for Gated {
        fn logits(&self, pictures: &[Input]) -> Result<Vec<Vec<f32>>, Failure> {
            if pictures[0].iter().any(|&number| number != 0.0) {
                self.batches.lock().expect("no test panics here").push(pictures.len());
                self.gate.recv().map_err(Failure::new)?;
            }
            Ok(vec![vec![1.0]; pictures.len()])
        }

        fn classes(&self) -> usize {
            1
        }
    }

    fn png() -> Bytes {
        let mut bytes = Vec::new();
        let picture = image::RgbImage::from_pixel(4, 4, image::Rgb([200, 10, 10]));
        picture.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).expect("a PNG");
        bytes.into()
    }

    async fn classify(pipeline: &Pipeline, picture: Bytes, deadline: Instant) -> Result<Classified, Fault> {
        let slot = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a free slot");
        pipeline.classify(Picture::Encoded(picture), deadline, slot).await
    }

    #[tokio::test]
    async fn a_slot_is_held_until_the_work_has_ended() {
        let (open, gate) = bounded(1);
        let batches = Arc::new(Mutex::new(Vec::new()));
        let model = Gated { gate, batches: batches.clone() };
        let sizes = Sizes { capacity: 1, max_batch: 1 };
        let (pipeline, _end) = Pipeline::start(sizes, Limits::default(), || Ok(model), |_| {});
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
        let sizes = Sizes { capacity: 8, max_batch: 2 };
        let (pipeline, _end) = Pipeline::start(sizes, Limits::default(), || Ok(model), |_| {});
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
        let sizes = Sizes { capacity: 2, max_batch: 1 };
        let (pipeline, _end) = Pipeline::start(sizes, Limits { max_pixels: 16 }, || Ok(model), |_| {});
        let far = Instant::now() + Duration::from_secs(600);
        let bad = classify(&pipeline, Bytes::from_static(b"\xff\xd8\xff nonsense"), far).await;
        assert_eq!(bad.expect_err("refused").code, Code::BadImage);
        open.send(()).expect("the model waits");
        assert!(classify(&pipeline, png(), far).await.is_ok());
    }

    #[tokio::test]
    async fn a_model_that_does_not_load_ends_the_pipeline_with_its_reason() {
        let sizes = Sizes { capacity: 1, max_batch: 1 };
        let load = || -> anyhow::Result<Gated> { anyhow::bail!("no such file: weights") };
        let (pipeline, end) = Pipeline::start(sizes, Limits::default(), load, |_| panic!("never ready"));
        assert_eq!(end.await.expect("a reason").to_string(), "no such file: weights");
        let refused = classify(&pipeline, png(), Instant::now() + Duration::from_secs(600)).await;
        assert_eq!(refused.expect_err("nobody infers").code, Code::Internal);
    }
}
