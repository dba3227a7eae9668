//! The decoding threads, which convert the bodies of requests and encoded images to the model's input.

use super::generation::Current;
use super::work_item::WorkItem;
use super::{Image, ToDecode};
use crate::decode::{self, ImageLimits};
use crate::metrics::{self, Stage};
use crate::model::Input;
use crate::preprocess;
use crate::transform::Transform;
use crossbeam_channel::Receiver;
use service::wire::{Code, RequestError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Decodes the images of the channel `images` until the channel is closed and empty. An image without a generation gets
/// the present one.
pub(super) fn run(images: &Receiver<WorkItem<ToDecode>>, limits: ImageLimits, current: &Current) {
    for item in images {
        if item.is_abandoned() || item.deadline <= Instant::now() {
            item.expire("decoding");
            continue;
        }
        let WorkItem { image: (image, generation), wants_embedding, deadline, entered, mut times, responder } = item;
        let present = || current.get().expect("the decoders start after the first model is loaded");
        let generation = generation.unwrap_or_else(present);
        let decoded = match wants_embedding && !generation.model.has_embeddings {
            true => Err(no_embeddings(&generation.model.name)),
            false => input(image, limits, generation.model.transform),
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

fn no_embeddings(model: &str) -> RequestError {
    let message = format!("{model:?} gives no embeddings, only weights of residual networks do; send no embedding=1");
    RequestError::new(Code::BadRequest, message)
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
