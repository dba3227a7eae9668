//! The inference threads. Each owns a model, which computes the logits of batches of inputs.

use super::batch_queue::BatchQueue;
use super::work_item::{Responder, WorkItem};
use super::{Classification, StageTimes};
use crate::batch::Batch;
use crate::metrics::{self, Stage};
use crate::model::{InferenceError, Input, Model};
use crate::transform::Transform;
use service::wire::{Code, RequestError};
use std::time::{Duration, Instant};

/// Runs one pass of each batch size from 1 to `max_batch`, with images of zeros. Otherwise a request would have to wait
/// for a slow first pass. Returns the time of each pass.
pub(super) fn warm_up(
    model: &mut dyn Model,
    transform: Transform,
    max_batch: usize,
) -> Result<Vec<Duration>, InferenceError> {
    let image = vec![0.0; transform.input_length()];
    (1..=max_batch)
        .map(|size| {
            let start = Instant::now();
            model.logits(&vec![image.clone(); size])?;
            Ok(start.elapsed())
        })
        .collect()
}

/// Classifies batches until the queue is closed and empty.
pub(super) fn run(model: &mut dyn Model, queue: &BatchQueue) {
    while let Some(Batch { mut images, expired }) = queue.take() {
        let abandoned = images.extract_if(.., |item| item.is_abandoned());
        expired.into_iter().chain(abandoned).for_each(|item| item.expire("inference"));
        if !images.is_empty() {
            let count = images.len();
            let took = infer(model, images);
            queue.record(count, took);
        }
    }
}

/// Runs one forward pass and answers its requests. Returns the time of the pass.
fn infer(model: &mut dyn Model, batch: Vec<WorkItem<Input>>) -> Duration {
    let started = Instant::now();
    let (inputs, responders): (Vec<Input>, Vec<(StageTimes, Responder)>) = batch
        .into_iter()
        .map(|WorkItem { image, entered, mut times, responder, .. }| {
            times.batch = started.saturating_duration_since(entered);
            (image, (times, responder))
        })
        .unzip();
    let outcome = model.logits(&inputs);
    let inference = started.elapsed();
    metrics::batch_size().record(inputs.len() as f64);
    metrics::stage(Stage::Forward).record(inference);
    match outcome {
        Ok(rows) => {
            for ((mut times, responder), logits) in responders.into_iter().zip(rows) {
                times.inference = inference;
                metrics::stage(Stage::Queue).record(times.batch);
                responder.send(Ok(Classification { logits, times }));
            }
        }
        Err(failure) => {
            tracing::error!(%failure, images = inputs.len(), "a forward pass failed; its requests get status 500");
            for (_, responder) in responders {
                responder.send(Err(RequestError::new(Code::Internal, failure.to_string())));
            }
        }
    }
    inference
}
