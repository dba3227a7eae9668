//! The decoding threads: encoded images → the model's input.

use super::Image;
use super::batch_queue::BatchQueue;
use super::work_item::WorkItem;
use crate::decode::{self, Limits};
use crate::metrics::{self, Stage};
use crate::model::Input;
use crate::preprocess;
use crate::transform::Transform;
use crossbeam_channel::Receiver;
use service::wire::{Code, RequestError};
use std::sync::Arc;
use std::time::Instant;

/// The queue that all decoders fill. Closed when the last decoder has ended.
pub(super) struct Decoders {
    queue: Arc<BatchQueue>,
}

impl Decoders {
    pub(super) fn new(queue: Arc<BatchQueue>) -> Self {
        Self { queue }
    }

    /// Decodes images until the channel is closed and empty.
    pub(super) fn run(&self, images: &Receiver<WorkItem<Image>>, limits: Limits, transform: Transform) {
        for item in images {
            if item.is_abandoned() || item.deadline <= Instant::now() {
                item.expire("decoding");
                continue;
            }
            let WorkItem { image, deadline, entered, mut times, reply } = item;
            match input(image, limits, transform) {
                Ok(input) => {
                    times.decode = entered.elapsed();
                    metrics::stage(Stage::Decode).record(times.decode);
                    self.queue.push(WorkItem { image: input, deadline, entered: Instant::now(), times, reply });
                }
                Err(error) => reply.send(Err(fault(&error))),
            }
        }
    }
}

impl Drop for Decoders {
    fn drop(&mut self) {
        self.queue.close();
    }
}

fn input(image: Image, limits: Limits, transform: Transform) -> Result<Input, decode::Error> {
    match image {
        Image::Encoded(file) => {
            let pixels = decode::decode(&file, limits)?;
            Ok(preprocess::input(&pixels, &transform))
        }
        Image::Tensor(input) => Ok(input),
    }
}

fn fault(error: &decode::Error) -> RequestError {
    let code = match error {
        decode::Error::TooManyPixels { .. } => Code::TooLarge,
        decode::Error::UnknownFormat | decode::Error::Corrupt { .. } => Code::BadImage,
    };
    RequestError::new(code, error.to_string())
}
