//! The decoding threads, which convert encoded images to the model's input.

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

    /// Makes the model's input of an image, as soon as the memory for decoding it is free.
    fn input(&self, image: Image, deadline: Instant, transform: Transform) -> Result<Input, RequestError> {
        let file = match image {
            Image::Encoded(file) => file,
            Image::Tensor(input) => return Ok(input),
        };
        let image = decode::Image::read(&file, self.limits).map_err(|error| request_error(&error))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A grey PNG of 4×4 pixels.
    fn image() -> Image {
        let mut file = Vec::new();
        let mut writer = png::Encoder::new(&mut file, 4, 4).write_header().expect("a PNG");
        writer.write_image_data(&[7; 16]).expect("a PNG");
        writer.finish().expect("a PNG");
        Image::Encoded(file.into())
    }

    fn code(decoders: &Decoders, deadline: Instant) -> Option<Code> {
        decoders.input(image(), deadline, Transform::IMAGENET).err().map(|error| error.code)
    }

    #[test]
    fn an_image_waits_for_memory_until_its_deadline() {
        let limits = ImageLimits { memory_bytes: 8 << 20, ..ImageLimits::default() };
        let decoders = Decoders::new(Arc::default(), limits);
        let far = Instant::now() + Duration::from_secs(600);
        let held = decoders.memory.reserve(8 << 20, far).expect("all is free");
        assert_eq!(code(&decoders, Instant::now() + Duration::from_millis(20)), Some(Code::DeadlineExceeded));
        drop(held);
        assert_eq!(code(&decoders, far), None);
    }

    #[test]
    fn an_image_that_needs_more_than_all_memory_is_too_large() {
        let decoders = Decoders::new(Arc::default(), ImageLimits { memory_bytes: 1000, ..ImageLimits::default() });
        assert_eq!(code(&decoders, Instant::now() + Duration::from_secs(600)), Some(Code::TooLarge));
    }
}
