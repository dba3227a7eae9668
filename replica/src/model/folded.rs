//! A residual network's weights, with every batch normalisation folded into the convolution before it.

use super::architecture::{Architecture, BlockKind};
use super::network::{Block, Network};
use super::weights::{Error, Weights};
use convolution::direct::Geometry;

/// torchvision's `BatchNorm2d` default.
const EPSILON: f32 = 1e-5;

/// Red, green and blue.
const CHANNELS: usize = 3;

/// Channels of the stem and of the four stages.
const STEM: usize = 64;
const STAGES: [usize; 4] = [64, 128, 256, 512];

/// How many times as many channels leave a bottleneck as are within.
const EXPANSION: usize = 4;

/// A convolution with a bias.
#[derive(Debug)]
pub(super) struct Folded {
    /// `[outputs, inputs, side, side]`
    pub(super) weights: Vec<f32>,
    /// `[outputs]`
    pub(super) bias: Vec<f32>,
    pub(super) inputs: usize,
    pub(super) geometry: Geometry,
}

impl Network<Folded> {
    /// Finds and folds what `architecture` needs.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape, or has no place.
    pub(super) fn fold(weights: Weights, architecture: Architecture) -> Result<Self, Error> {
        let mut source = Source { weights, architecture };
        let mut blocks = Vec::new();
        let mut inputs = STEM;
        for (stage, (channels, count)) in STAGES.into_iter().zip(architecture.stages()).enumerate() {
            for index in 0..count {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let block = source.block(&format!("layer{}.{index}", stage + 1), inputs, channels, stride)?;
                inputs = block.last.bias.len();
                blocks.push(block);
            }
        }
        let network =
            Self { stem: source.layer("conv1", "bn1", [STEM, CHANNELS, 7], 2)?, blocks, head: source.head(inputs)? };
        source.weights.finish(architecture)?;
        Ok(network)
    }
}

struct Source {
    weights: Weights,
    architecture: Architecture,
}

impl Source {
    fn block(&mut self, name: &str, inputs: usize, channels: usize, stride: usize) -> Result<Block<Folded>, Error> {
        let kind = self.architecture.block();
        let mut layer = |number: usize, [inputs, outputs]: [usize; 2], side: usize, stride: usize| {
            let (conv, bn) = (format!("{name}.conv{number}"), format!("{name}.bn{number}"));
            self.layer(&conv, &bn, [outputs, inputs, side], stride)
        };
        let (outputs, first, last) = match kind {
            BlockKind::Basic => {
                (channels, vec![layer(1, [inputs, channels], 3, stride)?], layer(2, [channels, channels], 3, 1)?)
            }
            BlockKind::Bottleneck => {
                let outputs = EXPANSION * channels;
                // torchvision strides in the 3x3, not in the first 1x1 as the paper does.
                let first = vec![layer(1, [inputs, channels], 1, 1)?, layer(2, [channels, channels], 3, stride)?];
                (outputs, first, layer(3, [channels, outputs], 1, 1)?)
            }
        };
        let shortcut = match (inputs, stride) {
            (inputs, 1) if inputs == outputs => None,
            _ => {
                let (conv, bn) = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
                Some(self.layer(&conv, &bn, [outputs, inputs, 1], stride)?)
            }
        };
        Ok(Block { first, last, shortcut })
    }

    /// `shape` is `[outputs, inputs, side]`; padding keeps the size, as in every convolution of these networks.
    fn layer(&mut self, conv: &str, bn: &str, shape: [usize; 3], stride: usize) -> Result<Folded, Error> {
        let [outputs, inputs, side] = shape;
        let mut weights =
            self.get(&format!("{conv}.weight"), &[Some(outputs), Some(inputs), Some(side), Some(side)])?;
        let mut norm = |name: &str| self.get(&format!("{bn}.{name}"), &[Some(outputs)]);
        let (gamma, beta, mean, variance) =
            (norm("weight")?, norm("bias")?, norm("running_mean")?, norm("running_var")?);
        // gamma (Wx - mean) / sqrt(var + eps) + beta  =  (W gamma / sqrt(..)) x + (beta - mean gamma / sqrt(..))
        let scale: Vec<f32> = gamma.iter().zip(&variance).map(|(gamma, var)| gamma / (var + EPSILON).sqrt()).collect();
        for (weights, scale) in weights.chunks_exact_mut(inputs * side * side).zip(&scale) {
            weights.iter_mut().for_each(|weight| *weight *= scale);
        }
        let bias = beta.iter().zip(&mean).zip(&scale).map(|((beta, mean), scale)| beta - mean * scale).collect();
        Ok(Folded { weights, bias, inputs, geometry: Geometry { side, stride, padding: side / 2 } })
    }

    /// A matrix is a convolution of side 1.
    fn head(&mut self, inputs: usize) -> Result<Folded, Error> {
        let weights = self.get("fc.weight", &[None, Some(inputs)])?;
        let bias = self.get("fc.bias", &[Some(weights.len() / inputs)])?;
        Ok(Folded { weights, bias, inputs, geometry: Geometry { side: 1, stride: 1, padding: 0 } })
    }

    fn get(&mut self, name: &str, shape: &[Option<usize>]) -> Result<Vec<f32>, Error> {
        self.weights.take(self.architecture, name, shape)
    }
}
