//! The weights of a residual network, with every batch normalisation folded into the convolution before it.

use super::CHANNELS;
use super::architecture::{Architecture, BlockKind, STAGES, StridePlace};
use super::network::{Network, ResidualBlock};
use super::weights::{Error, Weights};
use convolution::Geometry;

/// The ε of batch normalisation: the default of torchvision's `BatchNorm2d`.
const EPSILON: f64 = 1e-5;

/// A convolution with a bias.
#[derive(Debug)]
pub(super) struct FoldedConvolution {
    /// The weights, `[outputs, inputs / groups, side, side]`.
    pub(super) weights: Vec<f32>,
    /// The bias, `[outputs]`.
    pub(super) bias: Vec<f32>,
    /// Number of input channels.
    pub(super) inputs: usize,
    /// Number of groups. The outputs of a group depend only on the inputs of the same group.
    pub(super) groups: usize,
    pub(super) geometry: Geometry,
}

impl Network<FoldedConvolution> {
    /// Builds the network of `architecture` from the tensors of a file.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape, has a number that is not finite, or belongs to another network.
    pub(super) fn fold(weights: Weights, architecture: Architecture) -> Result<Self, Error> {
        weights.check(architecture)?;
        let mut builder = NetworkBuilder { weights, architecture };
        let mut blocks = Vec::new();
        let mut inputs = architecture.stem;
        for stage in 0..STAGES {
            for index in 0..architecture.blocks[stage] {
                blocks.push(builder.block(stage, index, inputs)?);
                inputs = architecture.outputs[stage];
            }
        }
        let stem = builder.convolution("conv1", "bn1", [architecture.stem, CHANNELS, 7], 2, 1)?;
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
    fn block(&mut self, stage: usize, index: usize, inputs: usize) -> Result<ResidualBlock<FoldedConvolution>, Error> {
        let architecture = self.architecture;
        let (inner, outputs) = (architecture.inner[stage], architecture.outputs[stage]);
        let stride = if stage > 0 && index == 0 { 2 } else { 1 };
        let name = format!("layer{}.{index}", stage + 1);
        let mut layer = |number: usize, shape: [usize; 3], stride: usize, groups: usize| {
            self.convolution(&format!("{name}.conv{number}"), &format!("{name}.bn{number}"), shape, stride, groups)
        };
        let (first, last) = match architecture.block {
            BlockKind::Basic => (vec![layer(1, [inner, inputs, 3], stride, 1)?], layer(2, [outputs, inner, 3], 1, 1)?),
            BlockKind::Bottleneck => {
                let (first, second) = match architecture.stride {
                    StridePlace::First => (stride, 1),
                    StridePlace::Second => (1, stride),
                };
                let first = vec![
                    layer(1, [inner, inputs, 1], first, 1)?,
                    layer(2, [inner, inner, 3], second, architecture.groups)?,
                ];
                (first, layer(3, [outputs, inner, 1], 1, 1)?)
            }
        };
        let shortcut = match architecture.has_shortcut(stage, index) {
            false => None,
            true => {
                let (conv, bn) = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
                Some(self.convolution(&conv, &bn, [outputs, inputs, 1], stride, 1)?)
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
        groups: usize,
    ) -> Result<FoldedConvolution, Error> {
        let [outputs, inputs, side] = shape;
        let group = inputs / groups;
        let mut weights =
            self.take(&format!("{conv}.weight"), &[Some(outputs), Some(group), Some(side), Some(side)])?;
        let mut norm = |name: &str| self.take(&format!("{bn}.{name}"), &[Some(outputs)]);
        let (gamma, beta, mean, variance) =
            (norm("weight")?, norm("bias")?, norm("running_mean")?, norm("running_var")?);
        // f64 keeps the roundings of the scale out of every weight of a channel.
        let scale =
            gamma.iter().zip(&variance).map(|(&gamma, &var)| f64::from(gamma) / (f64::from(var) + EPSILON).sqrt());
        let scale: Vec<f64> = scale.collect();
        for (weights, scale) in weights.chunks_exact_mut(group * side * side).zip(&scale) {
            weights.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * scale) as f32);
        }
        let bias = |((&beta, &mean), scale)| (f64::from(beta) - f64::from(mean) * scale) as f32;
        let bias = beta.iter().zip(&mean).zip(&scale).map(bias).collect();
        Ok(FoldedConvolution { weights, bias, inputs, groups, geometry: Geometry { side, stride, padding: side / 2 } })
    }

    /// The last, fully connected layer as a 1×1 convolution.
    fn head(&mut self, inputs: usize) -> Result<FoldedConvolution, Error> {
        let weights = self.take("fc.weight", &[None, Some(inputs)])?;
        let bias = self.take("fc.bias", &[Some(weights.len() / inputs)])?;
        let geometry = Geometry { side: 1, stride: 1, padding: 0 };
        Ok(FoldedConvolution { weights, bias, inputs, groups: 1, geometry })
    }

    fn take(&mut self, name: &str, shape: &[Option<usize>]) -> Result<Vec<f32>, Error> {
        self.weights.take(self.architecture, name, shape)
    }
}
