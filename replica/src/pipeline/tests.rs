//! Tests of the pipeline with models made for each test.

use super::*;
use crate::model::Outputs;
use crate::transform::Transform;
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

/// A loaded model of `factory`, which is called "test" and has one class.
fn served<F>(factory: F, transform: Transform) -> LoadedModel<F> {
    let (name, labels, version) = ("test".to_owned(), vec!["class".to_owned()], "1".to_owned());
    LoadedModel {
        factory,
        model: ServedModel { name, platform: "test", version, labels, transform, has_embeddings: false },
    }
}

fn loaded(factory: Gated) -> impl FnOnce() -> anyhow::Result<LoadedModel<Gated>> + Send {
    move || Ok(served(factory, Transform::IMAGENET))
}

fn request(image: Image, deadline: Instant, slot: TakenSlots) -> ImageRequest {
    let work = WorkMeter::default().begin();
    ImageRequest { image, generation: None, wants_embedding: false, deadline, slot, work }
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
    pipeline.classify(request(Image::Encoded(image), deadline, slot)).await
}

#[tokio::test]
async fn a_slot_is_held_until_the_work_has_ended() {
    let (open, gate) = bounded(1);
    let batches = Arc::new(Mutex::new(Vec::new()));
    let model = Gated { gate, batches: batches.clone() };
    let sizes = sizes(1, 1);
    let (pipeline, _errors) =
        Pipeline::start(sizes, ImageLimits::default(), loaded(model), |_| {}).expect("the thread starts");
    let slots = Slots::new(1);
    let far = Instant::now() + Duration::from_secs(600);
    let slot = slots.take(SlotClient::default(), 1).expect("a free slot");
    let request = request(Image::Encoded(png()), far, slot);
    let client = tokio::spawn(async move { pipeline.classify(request).await.map(drop) });
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
        Pipeline::start(sizes, ImageLimits::default(), loaded(model), |_| {}).expect("the thread starts");
    let far = Instant::now() + Duration::from_secs(600);
    let spawn = |deadline| {
        let pipeline = pipeline.clone();
        tokio::spawn(async move { classify(&pipeline, png(), deadline).await.map(drop).map_err(|fault| fault.code) })
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
        Ok(served(model, Transform::IMAGENET))
    };
    let (pipeline, _errors) =
        Pipeline::start(sizes(1, 1), ImageLimits::default(), load, |_| {}).expect("the thread starts");
    let slots = Slots::new(1);
    let classify = async || {
        let slot = slots.take(SlotClient::default(), 1).expect("a free slot");
        let (start, wait) = (Instant::now(), Duration::from_millis(100));
        let outcome = pipeline.classify(request(Image::Encoded(png()), start + wait, slot)).await;
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
    let load = move || Ok(served(model, transform));
    let (pipeline, mut errors) =
        Pipeline::start(sizes(2, 1), ImageLimits::default(), load, |_| {}).expect("the thread starts");
    let far = Instant::now() + Duration::from_secs(600);
    let failed = classify(&pipeline, png(), far).await;
    assert_eq!(failed.expect_err("it panicked").code, Code::Internal);
    open.send(()).expect("the model waits");
    let slot = Slots::new(1).take(SlotClient::default(), 1).expect("a free slot");
    let tensor = Image::Tensor(vec![1.0; transform.input_length()]);
    assert!(pipeline.classify(request(tensor, far, slot)).await.is_ok());
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
    let load = || Ok(served(Overflowing, Transform::IMAGENET));
    let (pipeline, _errors) =
        Pipeline::start(sizes(1, 1), ImageLimits::default(), load, |_| {}).expect("the thread starts");
    let far = Instant::now() + Duration::from_secs(600);
    let tensor = |number| Image::Tensor(vec![number; Transform::IMAGENET.input_length()]);
    for (image, code, reason) in [
        (Image::Encoded(png()), Code::Internal, "not finite numbers"),
        (tensor(2.6), Code::Internal, "not finite numbers"),
        (tensor(-1e30), Code::BadRequest, "too large for the model"),
    ] {
        let slot = Slots::new(1).take(SlotClient::default(), 1).expect("a free slot");
        let outcome = pipeline.classify(request(image, far, slot)).await;
        let fault = outcome.expect_err("NaN is no answer");
        assert!(fault.code == code && fault.message.contains(reason), "{fault}");
    }
}

#[tokio::test]
async fn an_embedding_that_is_not_finite_fails_only_the_request_that_asks_for_it() {
    #[derive(Clone)]
    struct Infinite(Gated);
    impl Model for Infinite {
        fn logits(&mut self, images: &[Input]) -> Result<Vec<Vec<f32>>, InferenceError> {
            self.0.logits(images)
        }

        fn logits_and_embeddings(&mut self, images: &[Input]) -> Result<Vec<Outputs>, InferenceError> {
            Ok(images.iter().map(|_| (vec![1.0], vec![0.5, f32::INFINITY])).collect())
        }
    }
    impl CreateModel for Infinite {
        fn create(&self) -> Result<Box<dyn Model>, InferenceError> {
            Ok(Box::new(self.clone()))
        }
    }
    let (open, gate) = bounded(8);
    let batches = Arc::new(Mutex::new(Vec::new()));
    let mut loaded = served(Infinite(Gated { gate, batches: batches.clone() }), Transform::IMAGENET);
    loaded.model.has_embeddings = true;
    let (pipeline, _errors) =
        Pipeline::start(sizes(3, 2), ImageLimits::default(), || Ok(loaded), |_| {}).expect("the thread starts");
    let spawn = |wants_embedding| {
        let (pipeline, far) = (pipeline.clone(), Instant::now() + Duration::from_secs(600));
        let slot = Slots::new(1).take(SlotClient::default(), 1).expect("a free slot");
        let tensor = Image::Tensor(vec![0.5; Transform::IMAGENET.input_length()]);
        let request = ImageRequest { wants_embedding, ..request(tensor, far, slot) };
        tokio::spawn(async move { pipeline.classify(request).await.map(|found| found.embedding) })
    };
    let first = spawn(false);
    while batches.lock().expect("no test panics here").is_empty() {
        tokio::task::yield_now().await;
    }
    // While the model holds the first image, two more arrive, which share a pass.
    let (with, without) = (spawn(true), spawn(false));
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..2 {
        open.send(()).expect("the model waits");
    }
    assert_eq!(first.await.expect("no panic").ok(), Some(None));
    assert_eq!(without.await.expect("no panic").ok(), Some(None));
    let fault = with.await.expect("no panic").expect_err("infinity is no answer");
    assert!(fault.code == Code::Internal && fault.message.contains("the embeddings of the model are not"), "{fault}");
    assert_eq!(*batches.lock().expect("no test panics here"), [1], "two images shared a pass with embeddings");
}

#[tokio::test]
async fn a_bad_image_fails_only_its_own_request() {
    let (open, gate) = bounded(1);
    let model = Gated { gate, batches: Arc::default() };
    let sizes = sizes(2, 1);
    let (pipeline, _errors) =
        Pipeline::start(sizes, ImageLimits { max_pixels: 16, ..ImageLimits::default() }, loaded(model), |_| {})
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
    let load = || Ok(served(Broken, Transform::IMAGENET));
    let (pipeline, mut errors) =
        Pipeline::start(sizes(1, 1), ImageLimits::default(), load, |_| {}).expect("the thread starts");
    let refused = classify(&pipeline, png(), Instant::now() + Duration::from_secs(600)).await;
    assert_eq!(refused.expect_err("it panicked").code, Code::Internal);
    assert!(errors.recv().await.expect("a reason").to_string().contains("thread infer-0 has panicked"));
}

/// A model that gives its number as the logit, and tells when it is dropped.
#[derive(Clone)]
struct Numbered {
    number: f32,
    /// Dropped with the model.
    _alive: Arc<()>,
}

impl Model for Numbered {
    fn logits(&mut self, images: &[Input]) -> Result<Vec<Vec<f32>>, InferenceError> {
        assert!(self.number >= 0.0, "a broken model");
        Ok(vec![vec![self.number]; images.len()])
    }

    fn logits_and_embeddings(&mut self, images: &[Input]) -> Result<Vec<Outputs>, InferenceError> {
        Ok(images.iter().map(|image| (vec![self.number], vec![image[0]])).collect())
    }
}

impl CreateModel for Numbered {
    fn create(&self) -> Result<Box<dyn Model>, InferenceError> {
        Ok(Box::new(self.clone()))
    }
}

/// A loaded [`Numbered`] of a version.
fn numbered(number: f32, alive: &Arc<()>) -> LoadedModel<Numbered> {
    let mut loaded = served(Numbered { number, _alive: alive.clone() }, Transform::IMAGENET);
    loaded.model.version = number.to_string();
    loaded
}

#[tokio::test]
async fn a_model_is_replaced_without_a_lost_request_and_a_bad_one_is_refused() {
    let (reloaders, receiver) = bounded(1);
    let (old, new) = (Arc::new(()), Arc::new(()));
    let first = numbered(1.0, &old);
    let ready = move |reloader| reloaders.send(reloader).expect("the test waits");
    let (pipeline, mut errors) =
        Pipeline::start(sizes(8, 2), ImageLimits::default(), || Ok(first), ready).expect("the thread starts");
    let far = Instant::now() + Duration::from_secs(600);
    let mut reloader = tokio::task::spawn_blocking(move || receiver.recv().expect("ready")).await.expect("no panic");
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let pipeline = pipeline.clone();
            tokio::spawn(async move {
                let mut found = Vec::new();
                for _ in 0..50 {
                    let classification = classify(&pipeline, png(), far).await.expect("no request is lost");
                    assert_eq!(classification.model.version, classification.logits[0].to_string());
                    found.push(classification.logits[0]);
                }
                found
            })
        })
        .collect();
    let second = numbered(2.0, &new);
    let replaced = tokio::task::spawn_blocking(move || {
        assert_eq!(reloader.version().as_deref(), Some("1"));
        for bad in [-1.0, -2.0] {
            let refused = reloader.replace(|| Ok(Some(numbered(bad, &Arc::default()))));
            assert!(refused.expect_err("a panic").to_string().contains("panicked in its warm-up"));
        }
        let refused = reloader.replace::<Numbered>(|| anyhow::bail!("no such file"));
        assert_eq!(refused.expect_err("no file").to_string(), "no such file");
        assert!(reloader.replace::<Numbered>(|| panic!("while loading")).is_err());
        assert_eq!(reloader.replace::<Numbered>(|| Ok(None)).expect("the same version"), None);
        (reloader.replace(|| Ok(Some(second))).expect("a good model"), reloader)
    });
    let (replaced, reloader) = replaced.await.expect("no panic");
    assert_eq!(replaced.as_deref(), Some("1"));
    assert_eq!(Arc::strong_count(&old), 1, "the old models are freed");
    for client in clients {
        let found = client.await.expect("no panic");
        assert!(found.is_sorted(), "{found:?}");
    }
    let last = classify(&pipeline, png(), far).await.expect("the new model");
    assert_eq!((last.logits[0], reloader.version().as_deref()), (2.0, Some("2")));
    assert!(errors.try_recv().is_err(), "the replica goes on");
    drop(pipeline);
    while Arc::strong_count(&new) > 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(reloader.version(), None, "the pipeline has ended");
}

#[tokio::test]
async fn an_image_stays_with_the_generation_that_its_request_was_read_for() {
    let (reloaders, receiver) = bounded(1);
    let alive = Arc::new(());
    let first = numbered(1.0, &alive);
    let ready = move |reloader| reloaders.send(reloader).expect("the test waits");
    let (pipeline, _errors) =
        Pipeline::start(sizes(8, 2), ImageLimits::default(), || Ok(first), ready).expect("the thread starts");
    let mut reloader: Reloader =
        tokio::task::spawn_blocking(move || receiver.recv().expect("ready")).await.expect("no panic");
    let generation = pipeline.generation();
    let second = numbered(2.0, &Arc::default());
    let replacing = tokio::task::spawn_blocking(move || reloader.replace(|| Ok(Some(second))).map(|_| ()));
    while pipeline.generation().expect("loaded").model.version == "1" {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let slot = Slots::new(1).take(SlotClient::default(), 1).expect("a free slot");
    let far = Instant::now() + Duration::from_secs(600);
    let pinned = ImageRequest { generation, ..request(Image::Encoded(png()), far, slot) };
    assert_eq!(pipeline.classify(pinned).await.expect("computed").logits, [1.0]);
    replacing.await.expect("no panic").expect("replaced once the image is computed");
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[tokio::test]
async fn an_embedding_is_given_if_asked_for_and_if_the_model_has_it() {
    for has_embeddings in [true, false] {
        let mut loaded = numbered(1.0, &Arc::default());
        loaded.model.has_embeddings = has_embeddings;
        let (pipeline, _errors) =
            Pipeline::start(sizes(1, 1), ImageLimits::default(), || Ok(loaded), |_| {}).expect("the thread starts");
        for wants_embedding in [true, false] {
            let slot = Slots::new(1).take(SlotClient::default(), 1).expect("a free slot");
            let far = Instant::now() + Duration::from_secs(600);
            let tensor = Image::Tensor(vec![0.5; Transform::IMAGENET.input_length()]);
            let request = ImageRequest { wants_embedding, ..request(tensor, far, slot) };
            let found = pipeline.classify(request).await.map(|found| found.embedding).map_err(|fault| fault.code);
            let expected = match (wants_embedding, has_embeddings) {
                (true, true) => Ok(Some(vec![0.5])),
                (true, false) => Err(Code::BadRequest),
                (false, _) => Ok(None),
            };
            assert_eq!(found, expected, "{wants_embedding} {has_embeddings}");
        }
    }
}

#[tokio::test]
async fn a_model_that_does_not_load_ends_the_pipeline_with_its_reason() {
    let sizes = sizes(1, 1);
    let load = || -> anyhow::Result<LoadedModel<Gated>> { anyhow::bail!("no such file: weights") };
    let (pipeline, mut errors) =
        Pipeline::start(sizes, ImageLimits::default(), load, |_| panic!("never ready")).expect("the thread starts");
    assert_eq!(errors.recv().await.expect("a reason").to_string(), "no such file: weights");
    let refused = classify(&pipeline, png(), Instant::now() + Duration::from_secs(600)).await;
    assert_eq!(refused.expect_err("no thread infers").code, Code::Internal);
}
