//! The decoding threads, which convert the bodies of requests and encoded images to the model's input.

use super::generation::Current;
use super::work_item::WorkItem;
use super::{Image, ToDecode};
use crate::decode::memory::DecodeMemory;
use crate::decode::{self, ImageLimits};
use crate::metrics::{self, Stage};
use crate::model::Input;
use crate::preprocess;
use crate::transform::Transform;
use crossbeam_channel::Receiver;
use service::wire::{Code, RequestError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Decodes images. All threads that decode share it, and with it the memory for decoding.
pub(super) struct Decoder {
    limits: ImageLimits,
    memory: DecodeMemory,
}

impl Decoder {
    pub(super) fn new(limits: ImageLimits) -> Self {
        Self { limits, memory: DecodeMemory::new(limits.memory_bytes) }
    }

    /// Decodes the images of the channel `images` until the channel is closed and empty. An image without a generation gets
    /// the present one.
    pub(super) fn run(&self, images: &Receiver<WorkItem<ToDecode>>, current: &Current) {
        for item in images {
            if item.is_abandoned() || item.deadline <= Instant::now() {
                item.expire("decoding");
                continue;
            }
            let WorkItem { image: (image, generation), wants_embedding, deadline, entered, mut times, responder } =
                item;
            let present = || current.get().expect("the decoders start after the first model is loaded");
            let generation = generation.unwrap_or_else(present);
            let decoded = match wants_embedding && !generation.model.has_embeddings {
                true => Err(no_embeddings(&generation.model.name)),
                false => self.input(image, deadline, generation.model.transform),
            };
            match decoded {
                Ok(image) => {
                    times.decode = entered.elapsed();
                    metrics::stage(Stage::Decode).record(times.decode);
                    let entered = Instant::now();
                    generation.queue.push(WorkItem { image, wants_embedding, deadline, entered, times, responder });
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

fn no_embeddings(model: &str) -> RequestError {
    let message = format!("the engine of {model:?} gives no embeddings; send the request without embedding=1");
    RequestError::new(Code::BadRequest, message)
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

    fn code(decoder: &Decoder, deadline: Instant) -> Option<Code> {
        decoder.input(image(), deadline, Transform::IMAGENET).err().map(|error| error.code)
    }

    #[test]
    fn an_image_waits_for_memory_until_its_deadline() {
        let limits = ImageLimits { memory_bytes: 8 << 20, ..ImageLimits::default() };
        let decoder = Decoder::new(limits);
        let far = Instant::now() + Duration::from_secs(600);
        let held = decoder.memory.reserve(8 << 20, far).expect("all is free");
        assert_eq!(code(&decoder, Instant::now() + Duration::from_millis(20)), Some(Code::DeadlineExceeded));
        drop(held);
        assert_eq!(code(&decoder, far), None);
    }

    #[test]
    fn an_image_that_needs_more_than_all_memory_is_too_large() {
        let decoder = Decoder::new(ImageLimits { memory_bytes: 1000, ..ImageLimits::default() });
        assert_eq!(code(&decoder, Instant::now() + Duration::from_secs(600)), Some(Code::TooLarge));
    }
}
