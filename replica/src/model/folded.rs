//! The weights of a residual network, with every batch normalisation folded into the convolution before it.

use super::CHANNELS;
use super::architecture::{Architecture, BlockKind};
use super::network::{Network, ResidualBlock};
use super::weights::{Error, Weights};
use convolution::Geometry;

/// The ε of batch normalisation: the default of torchvision's `BatchNorm2d`.
const EPSILON: f32 = 1e-5;

/// Number of output channels of the stem.
const STEM: usize = 64;

/// Number of channels within the blocks, for each of the four stages.
const STAGES: [usize; 4] = [64, 128, 256, 512];

/// Number of output channels of a bottleneck block, divided by the number of channels within the block.
const EXPANSION: usize = 4;

/// A convolution with a bias.
#[derive(Debug)]
pub(super) struct FoldedConvolution {
    /// The weights, `[outputs, inputs, side, side]`.
    pub(super) weights: Vec<f32>,
    /// The bias, `[outputs]`.
    pub(super) bias: Vec<f32>,
    /// Number of input channels.
    pub(super) inputs: usize,
    pub(super) geometry: Geometry,
}

impl Network<FoldedConvolution> {
    /// Builds the network of `architecture` from the tensors of a file.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape, has a number that is not finite, or belongs to no layer.
    pub(super) fn fold(weights: Weights, architecture: Architecture) -> Result<Self, Error> {
        let mut builder = NetworkBuilder { weights, architecture };
        let mut blocks = Vec::new();
        let mut inputs = STEM;
        for (stage, (channels, count)) in STAGES.into_iter().zip(architecture.stages()).enumerate() {
            for index in 0..count {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let block = builder.block(&format!("layer{}.{index}", stage + 1), inputs, channels, stride)?;
                inputs = block.last.bias.len();
                blocks.push(block);
            }
        }
        let stem = builder.convolution("conv1", "bn1", [STEM, CHANNELS, 7], 2)?;
        let head = builder.head(inputs)?;
        builder.weights.finish(architecture)?;
        Ok(Self { stem, blocks, head })
    }
}

/// Takes tensors from a file by torchvision's names, and folds batch normalisations into convolutions.
struct NetworkBuilder {
    weights: Weights,
    architecture: Architecture,
}

impl NetworkBuilder {
    fn block(
        &mut self,
        name: &str,
        inputs: usize,
        channels: usize,
        stride: usize,
    ) -> Result<ResidualBlock<FoldedConvolution>, Error> {
        let kind = self.architecture.block();
        let mut layer = |number: usize, [inputs, outputs]: [usize; 2], side: usize, stride: usize| {
            let (conv, bn) = (format!("{name}.conv{number}"), format!("{name}.bn{number}"));
            self.convolution(&conv, &bn, [outputs, inputs, side], stride)
        };
        let (outputs, first, last) = match kind {
            BlockKind::Basic => {
                (channels, vec![layer(1, [inputs, channels], 3, stride)?], layer(2, [channels, channels], 3, 1)?)
            }
            BlockKind::Bottleneck => {
                let outputs = EXPANSION * channels;
                // torchvision's 3×3 convolution has the stride. In the paper, the first 1×1 convolution has it.
                let first = vec![layer(1, [inputs, channels], 1, 1)?, layer(2, [channels, channels], 3, stride)?];
                (outputs, first, layer(3, [channels, outputs], 1, 1)?)
            }
        };
        let shortcut = match (inputs, stride) {
            (inputs, 1) if inputs == outputs => None,
            _ => {
                let (conv, bn) = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
                Some(self.convolution(&conv, &bn, [outputs, inputs, 1], stride)?)
            }
        };
        Ok(ResidualBlock { first, last, shortcut })
    }

    /// The convolution `conv` with the batch normalisation `bn`. `shape` is `[outputs, inputs, side]`; the padding is
    /// `side / 2`, as in every convolution of these networks.
    ///
    /// `γ (W x − mean) / √(variance + ε) + β = (W s) x + (β − mean s)` with `s = γ / √(variance + ε)`
    fn convolution(
        &mut self,
        conv: &str,
        bn: &str,
        shape: [usize; 3],
        stride: usize,
    ) -> Result<FoldedConvolution, Error> {
        let [outputs, inputs, side] = shape;
        let mut weights =
            self.take(&format!("{conv}.weight"), &[Some(outputs), Some(inputs), Some(side), Some(side)])?;
        let mut norm = |name: &str| self.take(&format!("{bn}.{name}"), &[Some(outputs)]);
        let (gamma, beta, mean, variance) =
            (norm("weight")?, norm("bias")?, norm("running_mean")?, norm("running_var")?);
        let scale: Vec<f32> = gamma.iter().zip(&variance).map(|(gamma, var)| gamma / (var + EPSILON).sqrt()).collect();
        for (weights, scale) in weights.chunks_exact_mut(inputs * side * side).zip(&scale) {
            weights.iter_mut().for_each(|weight| *weight *= scale);
        }
        let bias = beta.iter().zip(&mean).zip(&scale).map(|((beta, mean), scale)| beta - mean * scale).collect();
        Ok(FoldedConvolution { weights, bias, inputs, geometry: Geometry { side, stride, padding: side / 2 } })
    }

    /// The last, fully connected layer as a 1×1 convolution.
    fn head(&mut self, inputs: usize) -> Result<FoldedConvolution, Error> {
        let weights = self.take("fc.weight", &[None, Some(inputs)])?;
        let bias = self.take("fc.bias", &[Some(weights.len() / inputs)])?;
        Ok(FoldedConvolution { weights, bias, inputs, geometry: Geometry { side: 1, stride: 1, padding: 0 } })
    }

    fn take(&mut self, name: &str, shape: &[Option<usize>]) -> Result<Vec<f32>, Error> {
        self.weights.take(self.architecture, name, shape)
    }
}
