//! The inference threads. Each owns a model, which computes the logits of batches of inputs.

use super::batch_queue::BatchQueue;
use super::work_item::{Responder, WorkItem};
use super::{Classification, StageTimes};
use crate::batch::Batch;
use crate::metrics::{self, Stage};
use crate::model::{InferenceError, Input, Model};
use crate::served_model::ServedModel;
use crate::transform::Transform;
use service::wire::{Code, RequestError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest time for which further batch sizes are tried in the warm-up. Passes of 64 images alone would take a worker
/// over two seconds, in which the replica could serve.
const WARM_UP_TIME: Duration = Duration::from_millis(500);

/// Number of passes of each size of which the fastest counts. The first pass also gets its memory from the system.
const TRIES: u32 = 2;

/// Runs passes of 1, 2, 4, … and at last `max_batch` images of zeros, as far as they fit in [`WARM_UP_TIME`]. Otherwise a
/// request would have to wait for a slow first pass. Returns the sizes that were run, with the time of a pass.
pub(super) fn warm_up(
    model: &mut dyn Model,
    transform: Transform,
    max_batch: usize,
) -> Result<Vec<(usize, Duration)>, InferenceError> {
    let image = vec![0.0; transform.input_length()];
    let started = Instant::now();
    let mut measured: Vec<(usize, Duration)> = Vec::new();
    loop {
        let size = measured.last().map_or(1, |(size, _)| 2 * size).min(max_batch);
        let images = vec![image.clone(); size];
        let mut fastest = Duration::MAX;
        for _ in 0..TRIES {
            let start = Instant::now();
            model.logits(&images)?;
            fastest = fastest.min(start.elapsed());
        }
        measured.push((size, fastest));
        // The next size has at most twice the images.
        if size == max_batch || started.elapsed() + fastest * 2 * TRIES > WARM_UP_TIME {
            return Ok(measured);
        }
    }
}

/// Classifies batches until the queue is closed and empty.
pub(super) fn run(model: &mut dyn Model, served: &Arc<ServedModel>, queue: &BatchQueue) {
    while let Some(Batch { mut images, expired }) = queue.take() {
        let abandoned = images.extract_if(.., |item| item.is_abandoned());
        expired.into_iter().chain(abandoned).for_each(|item| item.expire("inference"));
        if !images.is_empty() {
            let count = images.len();
            let took = infer(model, served, images);
            queue.record(count, took);
        }
    }
}

/// Runs one forward pass and answers its requests. Returns the time of the pass.
fn infer(model: &mut dyn Model, served: &Arc<ServedModel>, batch: Vec<WorkItem<Input>>) -> Duration {
    let started = Instant::now();
    let (inputs, responders): (Vec<Input>, Vec<(StageTimes, bool, Responder)>) = batch
        .into_iter()
        .map(|WorkItem { image, wants_embedding, entered, mut times, responder, .. }| {
            times.batch = started.saturating_duration_since(entered);
            (image, (times, wants_embedding, responder))
        })
        .unzip();
    let outcome = match responders.iter().any(|(_, wants_embedding, _)| *wants_embedding) {
        true => model.logits_and_embeddings(&inputs),
        false => model.logits(&inputs).map(|rows| rows.into_iter().map(|logits| (logits, Vec::new())).collect()),
    };
    let inference = started.elapsed();
    metrics::batch_size().record(inputs.len() as f64);
    metrics::stage(Stage::Forward).record(inference);
    match outcome {
        Ok(rows) => {
            let answers = responders.into_iter().zip(rows).zip(&inputs);
            for (((mut times, wants_embedding, responder), (logits, embedding)), input) in answers {
                times.inference = inference;
                metrics::stage(Stage::Queue).record(times.batch);
                let embedding = wants_embedding.then_some(embedding);
                let checked = check_finite(&logits, embedding.as_deref(), input, &served.transform);
                responder.send(checked.map(|()| Classification { logits, embedding, times, model: served.clone() }));
            }
        }
        Err(failure) => {
            tracing::error!(%failure, images = inputs.len(), "a forward pass failed; its requests get status 500");
            for (_, _, responder) in responders {
                responder.send(Err(RequestError::new(Code::Internal, failure.to_string())));
            }
        }
    }
    inference
}

/// A number of the model's input is too large to be that of a picture if it is over this number of times as far from zero
/// as any number that the transform makes of a picture. Clients that normalise in another way stay far below.
const MOST_TIMES_A_PICTURE: f32 = 1e3;

/// Checks that the logits of `input`, and the embedding if the request asks for it, are finite numbers. JSON has no others,
/// and no softmax can be computed from them.
///
/// # Errors
/// If the client sent numbers that are too large for any model (status 400), or else the model is broken (500).
fn check_finite(
    logits: &[f32],
    embedding: Option<&[f32]>,
    input: &[f32],
    transform: &Transform,
) -> Result<(), RequestError> {
    let is_finite = |numbers: &[f32]| numbers.iter().all(|number| number.is_finite());
    let outputs = match (is_finite(logits), embedding.is_none_or(is_finite)) {
        (true, true) => return Ok(()),
        (false, _) => "logits",
        (true, false) => "embeddings",
    };
    let most = MOST_TIMES_A_PICTURE * transform.largest_input();
    if input.iter().any(|number| number.abs() > most) {
        let message = "its numbers are too large for the model; send normalised numbers";
        return Err(RequestError::new(Code::BadRequest, message));
    }
    metrics::not_finite().increment(1);
    let message = format!(
        "the {outputs} of the model are not finite numbers; its weights, or their precision, do not suit this image"
    );
    tracing::error!("{message}");
    Err(RequestError::new(Code::Internal, message))
}
