//! ResNet-18 (He et al. 2015, arXiv:1512.03385) with torchvision's names and shapes, for inference only:
//! every batch normalisation is folded into the convolution before it.

use super::weights::{Error, Weights};
use super::{Failure, INPUT_LENGTH, Input, Model, SIDE};
use tch::{Tensor, no_grad};

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

    fn logits(&self, pictures: &[Input]) -> Result<Vec<Vec<f32>>, Failure> {
        let side = SIDE as i64;
        let classes = self.classes();
        let mut numbers = Vec::with_capacity(pictures.len() * INPUT_LENGTH);
        pictures.iter().for_each(|picture| numbers.extend_from_slice(picture));
        let flat = no_grad(|| {
            // Interleaved channels are what libtorch calls channels_last: a view, no copy.
            let input = Tensor::f_from_slice(&numbers)?
                .f_view([pictures.len() as i64, side, side, 3])?
                .f_permute([0, 3, 1, 2])?;
            let logits = self.forward(&input)?;
            let mut flat = vec![0.0; pictures.len() * classes];
            logits.f_contiguous()?.f_copy_data(&mut flat, pictures.len() * classes)?;
            Ok(flat)
        })
        .map_err(|error: tch::TchError| Failure::new(error))?;
        Ok(flat.chunks_exact(classes).map(<[f32]>::to_vec).collect())
    }
}

impl Convolution {
    /// `shape` is `[out, in, side]`; padding keeps the size, as in every convolution of this network.
    fn folded(weights: &Weights, conv: &str, bn: &str, shape: [i64; 3], stride: i64) -> Result<Self, Error> {
        let [channels, channels_in, side] = shape;
        let weight = weights.get(ARCHITECTURE, &format!("{conv}.weight"), &[channels, channels_in, side, side])?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::{Dtype, tensor::TensorView};
    use tch::nn::{self, ModuleT};
    use tch::{Device, Kind, vision};

    /// Random weights with normalisations that are not the identity, as a file, and the model they belong to.
    fn reference(classes: i64) -> (nn::VarStore, impl ModuleT, Vec<u8>) {
        tch::manual_seed(3);
        let store = nn::VarStore::new(Device::Cpu);
        let model = vision::resnet::resnet18(&store.root(), classes);
        let mut stored = Vec::new();
        for (name, mut variable) in store.variables() {
            if name.contains("running_mean") || name.contains("bn") && name.ends_with("bias") {
                no_grad(|| variable.copy_(&(Tensor::randn_like(&variable) * 0.1)));
            } else if name.contains("running_var") {
                no_grad(|| variable.copy_(&(Tensor::rand_like(&variable) + 0.5)));
            }
            let mut bytes = vec![0; variable.numel() * 4];
            variable.contiguous().copy_data_u8(&mut bytes, variable.numel());
            stored.push((name, variable.size().iter().map(|&side| side as usize).collect::<Vec<_>>(), bytes));
        }
        let views = stored.iter().map(|(name, shape, bytes)| {
            (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many bytes as the shape says"))
        });
        let file = safetensors::serialize(views, None).expect("serialisable");
        (store, model, file)
    }

    #[test]
    fn folding_changes_nothing() {
        let (_store, theirs, file) = reference(7);
        let weights = Weights::from_safetensors(&file, "reference").expect("well formed");
        let ours = ResNet18::new(&weights).expect("complete");
        let pictures: Vec<Input> = (0..2)
            .map(|_| {
                Vec::<f32>::try_from(Tensor::randn([INPUT_LENGTH as i64], (Kind::Float, Device::Cpu))).expect("flat")
            })
            .collect();
        let ours = ours.logits(&pictures).expect("classified");
        for (picture, ours) in pictures.iter().zip(ours) {
            let input = Tensor::from_slice(picture).view([1, 224, 224, 3]).permute([0, 3, 1, 2]);
            let theirs = no_grad(|| theirs.forward_t(&input, false).view([-1]));
            let theirs = Vec::<f32>::try_from(theirs).expect("flat");
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert!((ours - theirs).abs() <= 1e-5 * theirs.abs().max(1.0), "{ours} instead of {theirs}");
            }
        }
    }

    #[test]
    fn a_wrong_file_says_which_tensor() {
        let (_store, _model, file) = reference(7);
        let message = |change: &dyn Fn(&str) -> Option<Vec<usize>>| {
            let parsed = safetensors::SafeTensors::deserialize(&file).expect("well formed");
            let views: Vec<_> = parsed
                .iter()
                .filter_map(|(name, view)| match change(name) {
                    Some(shape) if shape.is_empty() => None,
                    Some(shape) => Some((name, TensorView::new(Dtype::F32, shape, view.data()).expect("same size"))),
                    None => Some((name, view)),
                })
                .collect();
            let changed = safetensors::serialize(views, None).expect("serialisable");
            let weights = Weights::from_safetensors(&changed, "file").expect("well formed");
            ResNet18::new(&weights).err().expect("refused").to_string()
        };
        let missing = message(&|name| (name == "layer3.1.bn2.weight").then(Vec::new));
        assert!(missing.contains("layer3.1.bn2.weight is missing"), "{missing}");
        let misshaped = message(&|name| (name == "fc.weight").then(|| vec![512, 7]));
        assert!(misshaped.contains("fc.weight has shape [512, 7]"), "{misshaped}");
    }

    #[test]
    fn damaged_files_are_refused() {
        let (_store, _model, file) = reference(2);
        for bytes in [&b""[..], b"hello", &file[..file.len() / 2], &file[..4]] {
            assert!(Weights::from_safetensors(bytes, "file").is_err());
        }
        assert!(Weights::open(std::path::Path::new("no/such.safetensors")).is_err());
        assert!(Weights::open(std::path::Path::new("weights.zip")).is_err());
    }
}
