//! ResNet-18 (He et al. 2015, arXiv:1512.03385) with torchvision's names and shapes, for inference only:
//! every batch normalisation is folded into the convolution before it.

use super::weights::{Error, Weights};
use super::{Failure, INPUT_LENGTH, Input, Model, SIDE};
use tch::{Kind, Tensor, no_grad};

const ARCHITECTURE: &str = "resnet18";

/// Channels of the four stages, two basic blocks each.
const STAGES: [i64; 4] = [64, 128, 256, 512];

/// torchvision's `BatchNorm2d` default.
const EPSILON: f64 = 1e-5;

/// A ResNet-18 ready to classify.
pub struct ResNet18 {
    stem: Convolution,
    blocks: Vec<Block>,
    /// `[classes, 512]`
    head_weight: Tensor,
    /// `[classes]`
    head_bias: Tensor,
}

struct Block {
    first: Convolution,
    second: Convolution,
    /// Present where the block changes the shape of what passes through it.
    shortcut: Option<Convolution>,
}

struct Convolution {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    padding: i64,
}

impl ResNet18 {
    /// Builds the model.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn new(weights: &Weights) -> Result<Self, Error> {
        let stem = Convolution::folded(weights, "conv1", "bn1", [64, 3, 7], 2)?;
        let mut blocks = Vec::new();
        let mut channels_in = 64;
        for (stage, channels) in STAGES.into_iter().enumerate() {
            for index in 0..2 {
                let name = format!("layer{}.{index}", stage + 1);
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let convolution = |conv: &str, bn: &str, shape, stride| {
                    Convolution::folded(weights, &format!("{name}.{conv}"), &format!("{name}.{bn}"), shape, stride)
                };
                blocks.push(Block {
                    first: convolution("conv1", "bn1", [channels, channels_in, 3], stride)?,
                    second: convolution("conv2", "bn2", [channels, channels, 3], 1)?,
                    shortcut: match stride {
                        1 => None,
                        _ => Some(convolution("downsample.0", "downsample.1", [channels, channels_in, 1], stride)?),
                    },
                });
                channels_in = channels;
            }
        }
        Ok(Self {
            stem,
            blocks,
            head_weight: weights.get(ARCHITECTURE, "fc.weight", &[-1, 512])?,
            head_bias: weights.get(ARCHITECTURE, "fc.bias", &[-1])?,
        })
    }

    /// `[n, 3, 224, 224]` → `[n, classes]` logits.
    fn forward(&self, input: &Tensor) -> Result<Tensor, tch::TchError> {
        let stem = self.stem.apply(input)?.f_relu_()?;
        let mut x = stem.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?;
        for block in &self.blocks {
            let y = block.second.apply(&block.first.apply(&x)?.f_relu_()?)?;
            let through = match &block.shortcut {
                Some(shortcut) => shortcut.apply(&x)?,
                None => x,
            };
            x = (y + through).f_relu_()?;
        }
        x.f_adaptive_avg_pool2d([1, 1])?.f_flatten(1, -1)?.f_linear(&self.head_weight, Some(&self.head_bias))
    }
}

impl Model for ResNet18 {
    fn classes(&self) -> usize {
        self.head_bias.size()[0] as usize
    }

    fn classify(&self, pictures: &[Input]) -> Result<Vec<Vec<f32>>, Failure> {
        let side = SIDE as i64;
        let classes = self.classes();
        let mut numbers = Vec::with_capacity(pictures.len() * INPUT_LENGTH);
        pictures.iter().for_each(|picture| numbers.extend_from_slice(picture));
        let probabilities = no_grad(|| {
            // Interleaved channels are what libtorch calls channels_last: a view, no copy.
            let input = Tensor::f_from_slice(&numbers)?
                .f_view([pictures.len() as i64, side, side, 3])?
                .f_permute([0, 3, 1, 2])?;
            let softmax = self.forward(&input)?.f_softmax(-1, Kind::Float)?;
            let mut flat = vec![0.0; pictures.len() * classes];
            softmax.f_contiguous()?.f_copy_data(&mut flat, pictures.len() * classes)?;
            Ok(flat)
        })
        .map_err(|error: tch::TchError| Failure::new(error))?;
        Ok(probabilities.chunks_exact(classes).map(<[f32]>::to_vec).collect())
    }
}

impl Convolution {
    /// `shape` is `[out, in, side]`; padding keeps the size, as in every convolution of this network.
    fn folded(weights: &Weights, conv: &str, bn: &str, shape: [i64; 3], stride: i64) -> Result<Self, Error> {
        let [channels, channels_in, side] = shape;
        let weight =
            weights.get(ARCHITECTURE, &format!("{conv}.weight"), &[channels, channels_in, side, side])?;
        let norm = |name: &str| weights.get(ARCHITECTURE, &format!("{bn}.{name}"), &[channels]);
        // gamma (Wx - mean) / sqrt(var + eps) + beta  =  (W gamma / sqrt(..)) x + (beta - mean gamma / sqrt(..))
        let scale = norm("weight")? / (norm("running_var")? + EPSILON).sqrt();
        let bias = norm("bias")? - norm("running_mean")? * &scale;
        let weight = channels_last(&(weight * scale.view([-1, 1, 1, 1])));
        Ok(Self { weight, bias, stride, padding: side / 2 })
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor, tch::TchError> {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        x.f_conv2d(&self.weight, Some(&self.bias), stride, padding, [1, 1], 1)
    }
}

/// The same numbers with channels innermost in memory, which the CPU's convolutions like best.
fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}
