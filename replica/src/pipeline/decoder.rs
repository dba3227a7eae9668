//! The decoding threads, which convert encoded images to the model's input.

use super::Image;
use super::batch_queue::BatchQueue;
use super::work_item::WorkItem;
use crate::decode::{self, ImageLimits};
use crate::metrics::{self, Stage};
use crate::model::Input;
use crate::preprocess;
use crate::transform::Transform;
use crossbeam_channel::Receiver;
use service::wire::{Code, RequestError};
use std::sync::Arc;
use std::time::Instant;

/// The part that all decoders share. It closes the queue when the last decoder has ended.
pub(super) struct Decoders {
    queue: Arc<BatchQueue>,
}

impl Decoders {
    pub(super) fn new(queue: Arc<BatchQueue>) -> Self {
        Self { queue }
    }

    /// Decodes the images of the channel `images` until the channel is closed and empty.
    pub(super) fn run(&self, images: &Receiver<WorkItem<Image>>, limits: ImageLimits, transform: Transform) {
        for item in images {
            if item.is_abandoned() || item.deadline <= Instant::now() {
                item.expire("decoding");
                continue;
            }
            let WorkItem { image, deadline, entered, mut times, responder } = item;
            match input(image, limits, transform) {
                Ok(input) => {
                    times.decode = entered.elapsed();
                    metrics::stage(Stage::Decode).record(times.decode);
                    self.queue.push(WorkItem { image: input, deadline, entered: Instant::now(), times, responder });
                }
                Err(error) => responder.send(Err(request_error(&error))),
            }
        }
    }
}

impl Drop for Decoders {
    fn drop(&mut self) {
        self.queue.close();
    }
}

fn input(image: Image, limits: ImageLimits, transform: Transform) -> Result<Input, decode::Error> {
    match image {
        Image::Encoded(file) => {
            let pixels = decode::decode(&file, limits)?;
            Ok(preprocess::input(&pixels, &transform))
        }
        Image::Tensor(input) => Ok(input),
    }
}

fn request_error(error: &decode::Error) -> RequestError {
    let code = match error {
        decode::Error::TooManyPixels { .. } => Code::TooLarge,
        decode::Error::UnknownFormat | decode::Error::Corrupt { .. } => Code::BadImage,
    };
    RequestError::new(code, error.to_string())
}
