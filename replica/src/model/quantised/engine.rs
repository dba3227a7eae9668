//! Computes a quantised network with this project's convolutions in 8-bit integers.

use super::QuantisedNetwork;
use super::layers::{Int8Layer, pack};
use crate::model::network::{Engine, Network};
use crate::model::thread_team::ThreadTeam;
use crate::model::{CHANNELS, InferenceError, Input, Model};
use convolution::int8::{self, Bytes, Int8Instructions, PictureLevels, Residual};
use convolution::{BatchShape, Nonlinearity, pool};
use std::sync::Arc;

/// A packed network, which all workers share.
pub(in crate::model) struct Int8Network {
    layers: Network<Int8Layer>,
    picture: PictureLevels,
    /// Number of pixels of the border that the stem needs around a picture.
    border: usize,
    /// Number of bytes that the stem reads after the last pixel of a picture.
    stem_slack: usize,
    /// The first block that all images of a batch pass together. Each image passes the blocks before it by itself:
    /// there the activations of one image fill the near caches, and in later blocks the weights do.
    batched_from: usize,
    instructions: Int8Instructions,
}

impl Int8Network {
    /// Packs the network.
    pub(in crate::model) fn new(network: &QuantisedNetwork, instructions: Int8Instructions) -> Self {
        let layers = pack(network, instructions);
        let stem_slack = match &layers.stem {
            Int8Layer::Convolution(filter, _) => filter.bytes_after_the_last_pixel(),
            Int8Layer::Classifier(_) => unreachable!("the stem is a convolution"),
        };
        Self {
            layers,
            stem_slack,
            picture: network.picture,
            border: network.layers.stem.geometry.padding,
            // The last stage.
            batched_from: network.layers.stage_starts().last().unwrap_or(0),
            instructions,
        }
    }

    /// The instructions that compute the network.
    pub(in crate::model) fn instructions(&self) -> Int8Instructions {
        self.instructions
    }
}

/// A network, and the engine that computes it for one worker.
pub(in crate::model) struct Int8Model {
    network: Arc<Int8Network>,
    engine: Int8Engine,
    side: usize,
}

impl Int8Model {
    /// A model for images of `side` by `side` pixels, with a team of `threads` threads.
    ///
    /// # Errors
    /// If the operating system refuses a thread.
    pub(in crate::model) fn new(
        network: Arc<Int8Network>,
        side: usize,
        threads: usize,
    ) -> Result<Self, InferenceError> {
        let team = ThreadTeam::new(threads)?;
        let engine = Int8Engine { team, instructions: network.instructions, free: Vec::new() };
        Ok(Self { network, engine, side })
    }
}

impl Model for Int8Model {
    fn logits(&mut self, images: &[Input]) -> Result<Vec<Vec<f32>>, InferenceError> {
        let Self { network, engine, side } = self;
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let mut parts = Vec::new();
        for image in images {
            let picture = engine.picture(image, *side, network);
            parts.push(network.layers.forward_to_block(engine, &picture, network.batched_from)?);
            engine.release(picture);
        }
        let batch = engine.concatenate(parts);
        match network.layers.forward_from_block(engine, batch, network.batched_from)? {
            Int8Activations::Numbers(logits, classes) => {
                Ok(logits.chunks_exact(classes.max(1)).map(<[f32]>::to_vec).collect())
            }
            Int8Activations::Levels { .. } => unreachable!("the last layer is a classifier"),
        }
    }
}

/// The activations of a batch of images.
enum Int8Activations {
    /// The levels at the beginning of some memory, and the number of bytes that they take. They are
    /// `[images, height, width, padded channels]`, but for a picture, whose pixels are not padded.
    Levels { memory: Bytes, length: usize, shape: BatchShape, channels: usize },
    /// The means or logits `[images, channels]`, and the number of channels.
    Numbers(Vec<f32>, usize),
}

/// Computes layers with a team of threads, and keeps the memory of released activations.
struct Int8Engine {
    team: ThreadTeam,
    instructions: Int8Instructions,
    free: Vec<Bytes>,
}

impl Int8Engine {
    /// The levels of a picture with a border.
    fn picture(&mut self, image: &Input, side: usize, network: &Int8Network) -> Int8Activations {
        let wide = side + 2 * network.border;
        let shape = BatchShape { images: 1, height: wide, width: wide };
        let pixels = shape.pixels() * CHANNELS;
        // The stem reads a few bytes after the last pixel, whose levels have no effect.
        let length = pixels + network.stem_slack;
        let mut memory = self.allocate(length);
        int8::quantise(image, side, network.border, network.picture, &mut memory[..pixels], self.instructions);
        Int8Activations::Levels { memory, length, shape, channels: CHANNELS }
    }

    /// Memory for `length` levels, which may be longer and holds arbitrary levels.
    fn allocate(&mut self, length: usize) -> Bytes {
        let long_enough = self.free.iter().enumerate().filter(|(_, memory)| memory.len() >= length);
        match long_enough.min_by_key(|(_, memory)| memory.len()) {
            Some((index, _)) => self.free.swap_remove(index),
            None => Bytes::zeroed(length),
        }
    }

    /// Joins the levels of batches, of which there is at least one, and which differ only in their number of images.
    fn concatenate(&mut self, mut parts: Vec<Int8Activations>) -> Int8Activations {
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let images = parts.iter().map(|part| part.levels().1.images).sum();
        let (_, shape, channels) = parts[0].levels();
        let shape = BatchShape { images, ..shape };
        let length = shape.pixels() * int8::padded(channels);
        let mut memory = self.allocate(length);
        let mut filled = 0;
        for part in parts {
            let levels = part.levels().0;
            memory[filled..filled + levels.len()].copy_from_slice(levels);
            filled += levels.len();
            self.release(part);
        }
        Int8Activations::Levels { memory, length, shape, channels }
    }
}

impl Int8Activations {
    /// The levels, their shape and the number of channels.
    fn levels(&self) -> (&[u8], BatchShape, usize) {
        match self {
            Self::Levels { memory, length, shape, channels } => (&memory[..*length], *shape, *channels),
            Self::Numbers(..) => unreachable!("only the head has numbers as its input"),
        }
    }
}

impl Engine<Int8Layer> for Int8Engine {
    type Activations = Int8Activations;

    /// The nonlinearity is in the layer: its levels are clamped at the number 0, or are signed.
    fn convolve(
        &mut self,
        layer: &Int8Layer,
        input: &Int8Activations,
        residual: Option<&Int8Activations>,
        _nonlinearity: Nonlinearity,
    ) -> Result<Int8Activations, InferenceError> {
        let (filter, factor) = match (layer, input) {
            (Int8Layer::Convolution(filter, factor), _) => (filter, *factor),
            (Int8Layer::Classifier(classifier), Int8Activations::Numbers(means, channels)) => {
                let classes = classifier.classes();
                let mut logits = vec![0.0; means.len() / channels.max(&1) * classes];
                classifier.logits(means, &mut logits);
                return Ok(Int8Activations::Numbers(logits, classes));
            }
            (Int8Layer::Classifier(_), Int8Activations::Levels { .. }) => {
                unreachable!("the head follows the average pooling")
            }
        };
        let (levels, shape, _) = input.levels();
        let (outputs, channels) = (filter.geometry().output(shape), filter.outputs());
        let length = outputs.pixels() * int8::padded(channels);
        let mut memory = self.allocate(length);
        let residual = residual.map(|residual| Residual { levels: residual.levels().0, factor });
        int8::convolve(levels, shape, filter, residual, &mut memory[..length], &self.team);
        Ok(Int8Activations::Levels { memory, length, shape: outputs, channels })
    }

    fn max_pool(&mut self, input: &Int8Activations) -> Result<Int8Activations, InferenceError> {
        let (levels, shape, channels) = input.levels();
        let pooled = pool::max_output(shape);
        let length = pooled.pixels() * int8::padded(channels);
        let mut memory = self.allocate(length);
        int8::max(levels, shape, channels, &mut memory[..length], self.instructions);
        Ok(Int8Activations::Levels { memory, length, shape: pooled, channels })
    }

    /// The mean level of each channel.
    fn average_pool(&mut self, input: &Int8Activations) -> Result<Int8Activations, InferenceError> {
        let (levels, shape, channels) = input.levels();
        let pixels = (shape.height * shape.width) as f32;
        let means = int8::sums(levels, shape, channels).into_iter().map(|sum| sum as f32 / pixels).collect();
        Ok(Int8Activations::Numbers(means, channels))
    }

    fn release(&mut self, activations: Int8Activations) {
        if let Int8Activations::Levels { memory, .. } = activations {
            self.free.push(memory);
        }
    }
}
