//! What threads with a model do.

use super::Classified;
use super::Times;
use super::hopper::Hopper;
use super::job::{Job, Reply};
use crate::batch::Batch;
use crate::model::{Failure, Input, Model};
use crate::transform::Transform;
use metrics::histogram;
use service::wire::{Code, RequestError};
use std::time::{Duration, Instant};

/// Runs every batch size once, so that no client pays for a first time: how long each took.
pub(super) fn warm_up(model: &mut dyn Model, transform: Transform, max_batch: usize) -> Result<Vec<Duration>, Failure> {
    let picture = vec![0.0; transform.input_length()];
    (1..=max_batch)
        .map(|size| {
            let start = Instant::now();
            model.logits(&vec![picture.clone(); size])?;
            Ok(start.elapsed())
        })
        .collect()
}

/// Classifies until nothing can come any more.
pub(super) fn run(model: &mut dyn Model, hopper: &Hopper) {
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
                reply.send(Err(RequestError::new(Code::Internal, failure.to_string())));
            }
        }
    }
    inference
}
