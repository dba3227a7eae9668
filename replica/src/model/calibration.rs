//! Quantises a residual network: computes pictures in f32, records the range of every activation, and chooses the scales.

use super::factory::Error;
use super::folded::FoldedConvolution;
use super::histogram::Histogram;
use super::libtorch::{LibtorchEngine, LibtorchLayer, TensorOptions, input, rows};
use super::network::{Engine, Network, ResidualBlock};
use super::quantised::{LEVELS, QuantisedConvolution, QuantisedFile, QuantisedNetwork, SIGNED_LEVELS};
use super::weights::Weights;
use super::{Architecture, InferenceError, Input};
use crate::labels;
use crate::transform::Transform;
use convolution::Nonlinearity;
use convolution::int8::PictureLevels;
use std::collections::HashMap;
use tch::{Tensor, no_grad};

/// The greatest magnitude of a weight. -128 is left out, so that the levels are symmetric.
const WEIGHT_LEVELS: f32 = 127.0;

/// A network in f32, and the ranges of its activations on the pictures so far.
pub struct Calibration {
    folded: Network<FoldedConvolution>,
    layers: Network<(usize, LibtorchLayer)>,
    /// The magnitudes of each layer's output, in the order in which [`Network::map`] visits the layers.
    magnitudes: Vec<Histogram>,
    architecture: Architecture,
    transform: Transform,
    /// The transform and the labels, as the file records them.
    metadata: HashMap<String, String>,
}

impl Calibration {
    /// Loads a network in f32 whose pictures go through `transform`.
    ///
    /// # Errors
    /// If the weights do not fit the architecture, the last class has an empty name, or libtorch cannot load the weights.
    pub fn new(weights: Weights, architecture: Architecture, transform: Transform) -> Result<Self, Error> {
        let text = weights.description.labels.as_ref().map(|labels| {
            let text = labels::text(&labels.names);
            text.map_err(|reason| weights.malformed(format!("names of the classes in {}: {reason}", labels.source)))
        });
        let labels = text.transpose()?.map(|text| ("labels".to_owned(), text));
        let metadata = transform.metadata().into_iter().chain(labels).collect();
        let folded = Network::fold(weights, architecture)?;
        if folded.layers().any(|layer| layer.groups > 1) {
            let reason = "convolutions with groups (ResNeXt) have no 8-bit kernels; serve the weights in f32";
            return Err(InferenceError::new(reason).into());
        }
        let mut count = 0;
        let layers = folded.each_ref().try_map(|layer| {
            count += 1;
            Ok::<_, InferenceError>((count - 1, LibtorchLayer::new(layer, TensorOptions::CPU_F32)?))
        })?;
        let magnitudes = (0..count).map(|_| Histogram::default()).collect();
        Ok(Self { folded, layers, magnitudes, architecture, transform, metadata })
    }

    /// The logits of a picture in f32. Records the magnitudes of all activations.
    ///
    /// # Errors
    /// If libtorch fails, or the logits are not finite.
    pub fn observe(&mut self, image: &Input) -> Result<Vec<f32>, InferenceError> {
        let TensorOptions { device, kind, .. } = TensorOptions::CPU_F32;
        let images = std::slice::from_ref(image);
        let logits = no_grad(|| -> Result<Vec<Vec<f32>>, InferenceError> {
            let input = input(images, self.transform.crop as usize, device, kind)?;
            let mut engine =
                RecordingEngine { engine: LibtorchEngine(TensorOptions::CPU_F32), magnitudes: &mut self.magnitudes };
            rows(&self.layers.forward(&mut engine, &input)?, 1)
        })?;
        match logits.iter().flatten().all(|logit| logit.is_finite()) {
            true => Ok(logits.concat()),
            false => {
                Err(InferenceError::new("the weights give logits that are not finite numbers; give other weights"))
            }
        }
    }

    /// The network in 8-bit integers, with scales that fit the pictures so far.
    ///
    /// # Errors
    /// If the network cannot be computed.
    pub fn quantise(&self) -> Result<QuantisedFile, InferenceError> {
        let mut number = 0;
        let mut next = |layer: &FoldedConvolution, levels: f32, inputs: &[f32]| {
            let clip = self.magnitudes[number].clip(levels);
            number += 1;
            quantised(layer, clip / levels, inputs)
        };
        let picture = picture_levels(&self.transform);
        let Network { stem, blocks, head } = &self.folded;
        // The order of the layers is that of `Network::map`.
        let layers = Network {
            stem: next(stem, LEVELS, &picture.scale),
            blocks: blocks
                .iter()
                .map(|block| ResidualBlock {
                    first: block.first.iter().map(|layer| next(layer, LEVELS, &[])).collect(),
                    last: next(&block.last, LEVELS, &[]),
                    shortcut: block.shortcut.as_ref().map(|layer| next(layer, SIGNED_LEVELS, &[])),
                })
                .collect(),
            head: quantised(head, 1.0, &[]),
        };
        let network = QuantisedNetwork { layers, picture };
        QuantisedFile::new(network, &self.architecture.name(), self.transform.crop as usize, self.metadata.clone())
    }
}

/// The levels of a picture are those of its pixels: `number = (level / 255 − mean) / std`.
fn picture_levels(transform: &Transform) -> PictureLevels {
    PictureLevels {
        scale: transform.std.map(|std| 1.0 / (LEVELS * std)),
        zero: transform.mean.map(|mean| LEVELS * mean),
    }
}

/// A layer with 8-bit weights. The weights of input channel `i` are multiplied by `input_scales[i]` first, if there are
/// such scales.
fn quantised(layer: &FoldedConvolution, output_scale: f32, input_scales: &[f32]) -> QuantisedConvolution {
    let FoldedConvolution { weights, bias, inputs, geometry, .. } = layer;
    let taps = geometry.side * geometry.side;
    let mut levels = Vec::with_capacity(weights.len());
    let mut scales = Vec::with_capacity(bias.len());
    for weights in weights.chunks_exact(inputs * taps) {
        let weights: Vec<f32> = weights
            .iter()
            .enumerate()
            .map(|(index, weight)| weight * input_scales.get(index / taps).copied().unwrap_or(1.0))
            .collect();
        let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
        // A channel without weights, or with weights of no consequence, gets any scale above zero.
        let scale = Some(largest / WEIGHT_LEVELS).filter(|scale| scale.is_normal()).unwrap_or(1.0);
        let level = |weight: &f32| (weight / scale).round_ties_even().clamp(-WEIGHT_LEVELS, WEIGHT_LEVELS) as i8;
        levels.extend(weights.iter().map(level));
        scales.push(scale);
    }
    QuantisedConvolution {
        weights: levels,
        weight_scale: scales,
        bias: bias.clone(),
        inputs: *inputs,
        geometry: *geometry,
        output_scale,
    }
}

/// An engine that records the magnitudes of each layer's output.
struct RecordingEngine<'a> {
    engine: LibtorchEngine,
    magnitudes: &'a mut [Histogram],
}

impl Engine<(usize, LibtorchLayer)> for RecordingEngine<'_> {
    type Activations = Tensor;

    fn convolve(
        &mut self,
        (number, layer): &(usize, LibtorchLayer),
        input: &Tensor,
        residual: Option<&Tensor>,
        nonlinearity: Nonlinearity,
    ) -> Result<Tensor, InferenceError> {
        let output = self.engine.convolve(layer, input, residual, nonlinearity)?;
        let mut numbers = vec![0.0; output.numel()];
        output.f_contiguous()?.f_copy_data(&mut numbers, output.numel())?;
        self.magnitudes[*number].add(&numbers);
        Ok(output)
    }

    fn max_pool(&mut self, input: &Tensor) -> Result<Tensor, InferenceError> {
        self.engine.max_pool(input)
    }

    fn average_pool(&mut self, input: &Tensor) -> Result<Tensor, InferenceError> {
        self.engine.average_pool(input)
    }
}
