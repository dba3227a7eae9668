//! The decoding threads, which convert the bodies of requests and encoded images to the model's input.

use super::Image;
use super::batch_queue::BatchQueue;
use super::work_item::WorkItem;
use crate::decode::memory::DecodeMemory;
use crate::decode::{self, ImageLimits};
use crate::metrics::{self, Stage};
use crate::model::Input;
use crate::preprocess;
use crate::transform::Transform;
use crossbeam_channel::Receiver;
use service::wire::{Code, RequestError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// The part that all decoders share. It closes the queue when the last decoder has ended.
pub(super) struct Decoders {
    queue: Arc<BatchQueue>,
    limits: ImageLimits,
    memory: DecodeMemory,
}

impl Decoders {
    pub(super) fn new(queue: Arc<BatchQueue>, limits: ImageLimits) -> Self {
        Self { queue, limits, memory: DecodeMemory::new(limits.memory_bytes) }
    }

    /// Decodes the images of the channel `images` until the channel is closed and empty.
    pub(super) fn run(&self, images: &Receiver<WorkItem<Image>>, transform: Transform) {
        for item in images {
            if item.is_abandoned() || item.deadline <= Instant::now() {
                item.expire("decoding");
                continue;
            }
            let WorkItem { image, deadline, entered, mut times, responder } = item;
            match self.input(image, deadline, transform) {
                Ok(input) => {
                    times.decode = entered.elapsed();
                    metrics::stage(Stage::Decode).record(times.decode);
                    self.queue.push(WorkItem { image: input, deadline, entered: Instant::now(), times, responder });
                }
                Err(error) => responder.send(Err(error)),
            }
        }
    }

    /// The model's input for `image`. A panic is an error of this image only; otherwise one image of an unforeseen kind
    /// would end the replica.
    fn input(&self, image: Image, deadline: Instant, transform: Transform) -> Result<Input, RequestError> {
        let convert = || match image {
            Image::Body(body) => self.input_of_file(&body.image()?, deadline, transform),
            Image::Encoded(file) => self.input_of_file(&file, deadline, transform),
            Image::Tensor(input) => Ok(input),
        };
        catch_unwind(AssertUnwindSafe(convert)).unwrap_or_else(|_panic| {
            let message =
                "the image could not be converted to the model's input; the log of the replica has the reason";
            Err(RequestError::new(Code::Internal, message))
        })
    }

    /// The model's input for an image file, which is decoded as soon as the memory for that is free.
    fn input_of_file(&self, file: &[u8], deadline: Instant, transform: Transform) -> Result<Input, RequestError> {
        let image = decode::Image::read(file, self.limits).map_err(|error| request_error(&error))?;
        let Some(_reserved) = self.memory.reserve(image.memory_bytes(), deadline) else {
            let message = "the deadline passed before the memory for decoding was free";
            return Err(RequestError::new(Code::DeadlineExceeded, message));
        };
        let pixels = image.decode().map_err(|error| request_error(&error))?;
        Ok(preprocess::input(&pixels, &transform))
    }
}

impl Drop for Decoders {
    fn drop(&mut self) {
        self.queue.close();
    }
}

fn request_error(error: &decode::Error) -> RequestError {
    let code = match error {
        decode::Error::TooManyPixels { .. } | decode::Error::TooLong { .. } | decode::Error::TooMuchMemory { .. } => {
            Code::TooLarge
        }
        decode::Error::UnknownFormat | decode::Error::Corrupt { .. } => Code::BadImage,
    };
    RequestError::new(code, error.to_string())
}
