//! Named threads between the handler and the models: decode, then infer.
//!
//! Every job holds one of the replica's slots until its work has ended, even if its client has left by then; there are
//! as many slots as the advertised capacity, so what waits between the threads is bounded by it.

use crate::batch::{Batch, Batcher};
use crate::decode::{self, Limits};
use crate::model::{Failure, Input, Model};
use crate::preprocess::{self, Transform};
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use metrics::histogram;
use service::wire::{Code, Fault};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

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
        thread("load".into(), alarm.clone(), move || {
            if let Err(error) = start_threads(sizes, limits, load, &to_decode, &alarm) {
                alarm.ring(error);
                // Whatever still comes is refused, until the process has ended.
                for job in to_decode {
                    job.reply.send(Err(Fault::new(Code::Internal, "the model is not there")));
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
    /// A closed reply means that the client, or the dispatcher, no longer waits.
    fn is_abandoned(&self) -> bool {
        self.reply.outcome.is_closed()
    }

    fn expire(self, before: &str) {
        self.reply.send(Err(Fault::new(Code::DeadlineExceeded, format!("the deadline passed before {before}"))));
    }
}

impl Reply {
    /// The slot first: whoever reads the outcome may send the next request at once.
    fn send(self, outcome: Result<Classified, Fault>) {
        drop(self.slot);
        let _gone = self.outcome.send(outcome);
    }
}

/// Tells the pipeline's owner that it cannot go on, also when a thread panics.
#[derive(Clone)]
struct Alarm(mpsc::Sender<anyhow::Error>);

impl Alarm {
    fn ring(&self, error: anyhow::Error) {
        // The first one counts; and nobody listens any more once the process is stopping.
        let _heard = self.0.try_send(error);
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.ring(anyhow::anyhow!(
                "the {} thread has panicked",
                std::thread::current().name().unwrap_or("nameless")
            ));
        }
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
        thread(format!("infer-{worker}"), alarm.clone(), move || {
            let model = recipe.model().and_then(|mut model| {
                let times = warm_up(&mut *model, transform, sizes.max_batch)?;
                Ok((model, times))
            });
            match model {
                Ok((mut model, times)) => {
                    let _loading = warm.send(Ok(times));
                    drop(warm);
                    infer_all(&mut *model, &hopper);
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
    let decoders = Arc::new(Decoders { hopper });
    for decoder in 0..sizes.decoders {
        let (encoded, decoders) = (to_decode.clone(), decoders.clone());
        thread(format!("decode-{decoder}"), alarm.clone(), move || {
            decode_all(&encoded, &decoders.hopper, limits, transform)
        });
    }
    Ok(())
}

/// Runs every batch size once, so that no client pays for libtorch's first time: how long each took.
fn warm_up(model: &mut dyn Model, transform: Transform, max_batch: usize) -> Result<Vec<Duration>, Failure> {
    let picture = vec![0.0; transform.input_length()];
    (1..=max_batch)
        .map(|size| {
            let start = Instant::now();
            model.logits(&vec![picture.clone(); size])?;
            Ok(start.elapsed())
        })
        .collect()
}

/// Decoded pictures on their way to the workers.
#[derive(Default)]
struct Hopper {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// There once the times of passes are known.
    batcher: Option<Batcher<Job<Input>>>,
    is_closed: bool,
}

impl Hopper {
    fn open(&self, batcher: Batcher<Job<Input>>) {
        self.with(|state| state.batcher = Some(batcher));
    }

    /// No more will come; what is there is still computed.
    fn close(&self) {
        self.with(|state| state.is_closed = true);
        self.changed.notify_all();
    }

    fn push(&self, job: Job<Input>) {
        self.with(|state| {
            let batcher = state.batcher.as_mut().expect("opened before anything is decoded");
            batcher.push(job.entered, job.deadline, job);
        });
        self.changed.notify_one();
    }

    /// Waits for a batch; none once it is closed and empty.
    fn take(&self) -> Option<Batch<Job<Input>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            let due = state.batcher.as_ref().and_then(|batcher| batcher.due(now));
            state = match due {
                Some(due) if due <= now || state.is_closed => return state.batcher.as_mut().map(|all| all.take(now)),
                Some(due) => self.changed.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner).0,
                None if state.is_closed => return None,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn record(&self, count: usize, took: Duration) {
        self.with(|state| state.batcher.iter_mut().for_each(|batcher| batcher.record(count, took)));
    }

    fn with(&self, change: impl FnOnce(&mut State)) {
        // No thread leaves it half changed: what a panicking one left is whole.
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Closes the hopper when the last of them has ended.
struct Decoders {
    hopper: Arc<Hopper>,
}

impl Drop for Decoders {
    fn drop(&mut self) {
        self.hopper.close();
    }
}

fn decode_all(encoded: &Receiver<Job<Picture>>, hopper: &Hopper, limits: Limits, transform: Transform) {
    for job in encoded {
        if job.is_abandoned() || job.deadline <= Instant::now() {
            job.expire("decoding");
            continue;
        }
        let Job { stage, deadline, entered, mut times, reply } = job;
        match input(stage, limits, transform) {
            Ok(input) => {
                times.decode = entered.elapsed();
                histogram!("inference_stage_seconds", "stage" => "decode").record(times.decode);
                hopper.push(Job { stage: input, deadline, entered: Instant::now(), times, reply });
            }
            Err(error) => {
                let code = match error {
                    decode::Error::TooManyPixels { .. } => Code::TooLarge,
                    decode::Error::UnknownFormat | decode::Error::Corrupt { .. } => Code::BadImage,
                };
                reply.send(Err(Fault::new(code, error.to_string())));
            }
        }
    }
}

fn input(picture: Picture, limits: Limits, transform: Transform) -> Result<Input, decode::Error> {
    match picture {
        Picture::Encoded(file) => {
            let pixels = decode::decode(&file, limits)?;
            Ok(preprocess::normalise(&preprocess::crop(&pixels, transform)))
        }
        Picture::Tensor(input) => Ok(input),
    }
}

fn infer_all(model: &mut dyn Model, hopper: &Hopper) {
    while let Some(Batch { mut pictures, expired }) = hopper.take() {
        let abandoned = pictures.extract_if(.., |job| job.is_abandoned());
        expired.into_iter().chain(abandoned).for_each(|job| job.expire("inference"));
        if !pictures.is_empty() {
            let count = pictures.len();
            let took = infer(model, pictures);
            hopper.record(count, took);
        }
    }
}

fn infer(model: &mut dyn Model, batch: Vec<Job<Input>>) -> Duration {
    let started = Instant::now();
    let (inputs, replies): (Vec<Input>, Vec<(Times, Reply)>) = batch
        .into_iter()
        .map(|Job { stage, entered, mut times, reply, .. }| {
            times.batch = started.saturating_duration_since(entered);
            (stage, (times, reply))
        })
        .unzip();
    let outcome = model.logits(&inputs);
    let inference = started.elapsed();
    histogram!("inference_batch_size").record(inputs.len() as f64);
    histogram!("inference_stage_seconds", "stage" => "forward").record(inference);
    match outcome {
        Ok(rows) => {
            for ((mut times, reply), logits) in replies.into_iter().zip(rows) {
                times.inference = inference;
                histogram!("inference_stage_seconds", "stage" => "queue").record(times.batch);
                reply.send(Ok(Classified { logits, times }));
            }
        }
        Err(failure) => {
            tracing::error!(%failure, "a forward pass failed");
            for (_, reply) in replies {
                reply.send(Err(Fault::new(Code::Internal, failure.to_string())));
            }
        }
    }
    inference
}

fn thread(name: String, alarm: Alarm, body: impl FnOnce() + Send + 'static) {
    let run = move || {
        // Dropped last, and so also when `body` panics.
        let _alarm = alarm;
        body();
    };
    std::thread::Builder::new().name(name).spawn(run).expect("the system has a thread to spare");
}

#[cfg(test)]
mod tests {
    use super::*;
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

    async fn classify(pipeline: &Pipeline, picture: Bytes, deadline: Instant) -> Result<Classified, Fault> {
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
    async fn a_model_that_does_not_load_ends_the_pipeline_with_its_reason() {
        let sizes = sizes(1, 1);
        let load = || -> anyhow::Result<Loaded<Gated>> { anyhow::bail!("no such file: weights") };
        let (pipeline, mut end) = Pipeline::start(sizes, Limits::default(), load, || panic!("never ready"));
        assert_eq!(end.recv().await.expect("a reason").to_string(), "no such file: weights");
        let refused = classify(&pipeline, png(), Instant::now() + Duration::from_secs(600)).await;
        assert_eq!(refused.expect_err("nobody infers").code, Code::Internal);
    }
}
