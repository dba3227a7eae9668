//! What decoding threads do.

use super::Picture;
use super::hopper::Hopper;
use super::job::Job;
use crate::decode::{self, Limits};
use crate::model::Input;
use crate::preprocess;
use crate::transform::Transform;
use crossbeam_channel::Receiver;
use metrics::histogram;
use service::wire::{Code, RequestError};
use std::sync::Arc;
use std::time::Instant;

/// The hopper that decoders fill, closed when the last of them has ended.
pub(super) struct Decoders {
    hopper: Arc<Hopper>,
}

impl Decoders {
    pub(super) fn new(hopper: Arc<Hopper>) -> Self {
        Self { hopper }
    }

    /// Decodes until nothing can come any more.
    pub(super) fn run(&self, encoded: &Receiver<Job<Picture>>, limits: Limits, transform: Transform) {
        for job in encoded {
            if job.is_abandoned() || job.deadline <= Instant::now() {
                job.expire("decoding");
                continue;
            }
            let Job { stage, deadline, entered, mut times, reply } = job;
            match input(stage, limits, transform) {
                Ok(input) => {
                    times.decode = entered.elapsed();
                    histogram!("inference_stage_seconds", "stage" => "decode").record(times.decode);
                    self.hopper.push(Job { stage: input, deadline, entered: Instant::now(), times, reply });
                }
                Err(error) => {
                    let code = match error {
                        decode::Error::TooManyPixels { .. } => Code::TooLarge,
                        decode::Error::UnknownFormat | decode::Error::Corrupt { .. } => Code::BadImage,
                    };
                    reply.send(Err(RequestError::new(code, error.to_string())));
                }
            }
        }
    }
}

impl Drop for Decoders {
    fn drop(&mut self) {
        self.hopper.close();
    }
}

fn input(picture: Picture, limits: Limits, transform: Transform) -> Result<Input, decode::Error> {
    match picture {
        Picture::Encoded(file) => {
            let pixels = decode::decode(&file, limits)?;
            Ok(preprocess::input(&pixels, &transform))
        }
        Picture::Tensor(input) => Ok(input),
    }
}
