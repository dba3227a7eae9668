//! A network that ONNX Runtime computes for one thread.

use crate::file::File;
use crate::runtime;
use crate::signature::Signature;
use ort::session::SessionInputValue;
use ort::session::builder::SessionBuilder;
use ort::value::TensorRef;

/// The number of channels of an image.
const CHANNELS: usize = 3;

/// A network with its own copy of the weights, which belongs to one thread.
pub struct Session {
    session: ort::session::Session,
    signature: Signature,
    side: usize,
    /// The input of a pass, `[n, 3, side, side]`. Its memory is kept for the next pass.
    input: Vec<f32>,
}

impl Session {
    pub(crate) fn new(file: &File, side: usize, threads: usize) -> Result<Self, String> {
        let environment = runtime::environment()?;
        let build = || -> Result<SessionBuilder, ort::Error> {
            let mut builder = ort::session::Session::builder(environment)?
                .with_intra_threads(threads)?
                // Threads that wait in busy loops would take processor time from decoders and other workers.
                .with_intra_op_spinning(false)?;
            for external in &file.external {
                builder = builder.with_external_initializer_file_in_memory(&external.name, external.bytes.clone())?;
            }
            Ok(builder)
        };
        let session = build().and_then(|mut builder| builder.commit_from_memory(&file.bytes));
        let session = session.map_err(|error| message(&error))?;
        Ok(Self { session, signature: file.signature.clone(), side, input: Vec::new() })
    }

    /// The logits of images, `[n][classes]`. Each image has `side * side * 3` numbers, row by row, channels innermost. If
    /// the network ends with a softmax, the logits are the logarithms of its probabilities. A network with a fixed
    /// number of images computes as many passes as needed, and the last one is filled up with zeros.
    ///
    /// # Errors
    /// If ONNX Runtime fails, or the output has another shape than `[n, classes]`. The message says why.
    pub fn logits(&mut self, images: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, String> {
        let mut rows = Vec::with_capacity(images.len());
        for part in images.chunks(self.signature.batch.unwrap_or(images.len().max(1))) {
            rows.extend(self.pass(part)?);
        }
        Ok(rows)
    }

    /// One pass of at most as many images as the network takes at once.
    fn pass(&mut self, images: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, String> {
        let count = self.signature.batch.unwrap_or(images.len());
        let pixels = self.side * self.side;
        self.input.clear();
        self.input.resize(count * CHANNELS * pixels, 0.0);
        for (image, planes) in images.iter().zip(self.input.chunks_exact_mut(CHANNELS * pixels)) {
            for (channel, plane) in planes.chunks_exact_mut(pixels).enumerate() {
                for (number, pixel) in plane.iter_mut().zip(image.chunks_exact(CHANNELS)) {
                    *number = pixel[channel];
                }
            }
        }
        let input = TensorRef::from_array_view(([count, CHANNELS, self.side, self.side], self.input.as_slice()));
        let input: [SessionInputValue<'_>; 1] = [input.map_err(|error| message(&error))?.into()];
        let outputs = self.session.run(input).map_err(|error| message(&error))?;
        let (shape, logits) = outputs[0].try_extract_tensor::<f32>().map_err(|error| message(&error))?;
        let classes = match &shape[..] {
            // Networks that end with a convolution leave two sides of one element.
            [n, classes, others @ ..] if *n == count as i64 && *classes > 0 && others.iter().all(|&side| side == 1) => {
                *classes as usize
            }
            other => {
                return Err(format!(
                    "the output of a classifier has shape [{count}, classes], but that of this network has shape \
                     {other:?}"
                ));
            }
        };
        let rows = logits.chunks_exact(classes).take(images.len()).map(<[f32]>::to_vec);
        Ok(if self.signature.is_softmax { rows.map(logarithms).collect() } else { rows.collect() })
    }
}

/// The logarithms of probabilities. That of 0 is the one of the smallest normal number, because logits must be finite.
fn logarithms(mut probabilities: Vec<f32>) -> Vec<f32> {
    for number in &mut probabilities {
        *number = number.max(f32::MIN_POSITIVE).ln();
    }
    probabilities
}

/// The first line of ONNX Runtime's message. The others are for its developers.
fn message(error: &ort::Error) -> String {
    let first = error.message().lines().next().unwrap_or_default();
    format!("ONNX Runtime: {}", first.chars().take(500).collect::<String>())
}
