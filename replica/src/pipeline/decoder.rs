//! The decoding threads, which convert the bodies of requests and encoded images to the model's input.

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
use std::panic::{AssertUnwindSafe, catch_unwind};
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
                Err(error) => responder.send(Err(error)),
            }
        }
    }
}

impl Drop for Decoders {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// The model's input for `image`. A panic is an error of this image only; otherwise one image of an unforeseen kind
/// would end the replica.
fn input(image: Image, limits: ImageLimits, transform: Transform) -> Result<Input, RequestError> {
    let convert = || match image {
        Image::Body(body) => input_of_file(&body.image()?, limits, transform),
        Image::Encoded(file) => input_of_file(&file, limits, transform),
        Image::Tensor(input) => Ok(input),
    };
    catch_unwind(AssertUnwindSafe(convert)).unwrap_or_else(|_panic| {
        let message = "the image could not be converted to the model's input; the log of the replica has the reason";
        Err(RequestError::new(Code::Internal, message))
    })
}

fn input_of_file(file: &[u8], limits: ImageLimits, transform: Transform) -> Result<Input, RequestError> {
    let pixels = decode::decode(file, limits).map_err(|error| request_error(&error))?;
    Ok(preprocess::input(&pixels, &transform))
}

fn request_error(error: &decode::Error) -> RequestError {
    let code = match error {
        decode::Error::TooManyPixels { .. } => Code::TooLarge,
        decode::Error::UnknownFormat | decode::Error::Corrupt { .. } => Code::BadImage,
    };
    RequestError::new(code, error.to_string())
}
