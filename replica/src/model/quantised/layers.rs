//! Packs the layers of a quantised network for the kernels: turns the scales of weights and activations into the factors
//! and terms that follow the sums.

use super::{QuantisedConvolution, QuantisedNetwork, SIGNED_ZERO};
use crate::model::network::{Network, ResidualBlock};
use convolution::Geometry;
use convolution::int8::{Int8Classifier, Int8Filter, Int8Instructions, PictureLevels};

/// A packed layer.
pub(super) enum Int8Layer {
    /// A convolution from levels to levels. The levels of its residual, if it has one, are multiplied by the factor.
    Convolution(Int8Filter, f32),
    /// The head, from the means of levels to logits.
    Classifier(Int8Classifier),
}

/// Packs all layers.
pub(super) fn pack(network: &QuantisedNetwork, instructions: Int8Instructions) -> Network<Int8Layer> {
    let QuantisedNetwork { layers, picture } = network;
    let stem = stem(&layers.stem, picture, instructions);
    let mut scale = layers.stem.output_scale;
    let mut blocks = Vec::new();
    for block in &layers.blocks {
        let mut inner = scale;
        let mut first = Vec::new();
        for layer in &block.first {
            first.push(packed(layer, inner, 0.0, 0.0, instructions));
            inner = layer.output_scale;
        }
        // The shortcut has no ReLU, so its levels are signed. Where there is none, the block's input is the residual.
        let (residual, zero) = block.shortcut.as_ref().map_or((scale, 0.0), |layer| (layer.output_scale, SIGNED_ZERO));
        let factor = residual / block.last.output_scale;
        blocks.push(ResidualBlock {
            first,
            last: packed(&block.last, inner, -zero * factor, factor, instructions),
            shortcut: block.shortcut.as_ref().map(|layer| packed(layer, scale, SIGNED_ZERO, 0.0, instructions)),
        });
        scale = block.last.output_scale;
    }
    let head = &layers.head;
    let of_means: Vec<f32> = head.weight_scale.iter().map(|weight| weight * scale).collect();
    let head = Int8Classifier::new(&head.weights, (&of_means, &head.bias), head.inputs, instructions);
    Network { stem, blocks, head: Int8Layer::Classifier(head) }
}

/// A convolution whose input has the scale `input_scale`. `shift` is added to every level of its output.
fn packed(
    layer: &QuantisedConvolution,
    input_scale: f32,
    shift: f32,
    residual_factor: f32,
    instructions: Int8Instructions,
) -> Int8Layer {
    let QuantisedConvolution { weights, weight_scale, bias, inputs, geometry, output_scale } = layer;
    let scale: Vec<f32> = weight_scale.iter().map(|weight| input_scale * weight / output_scale).collect();
    let bias: Vec<f32> = bias.iter().map(|bias| bias / output_scale + shift).collect();
    Int8Layer::Convolution(Int8Filter::new(weights, (&scale, &bias), *inputs, *geometry, instructions), residual_factor)
}

/// The stem. Its picture has a border, so it has no padding. The zero of the picture's levels is taken into the bias:
/// `Σ w (level − zero) = Σ w level − Σ w zero`.
fn stem(layer: &QuantisedConvolution, picture: &PictureLevels, instructions: Int8Instructions) -> Int8Layer {
    let QuantisedConvolution { weights, weight_scale, bias, inputs, geometry, output_scale } = layer;
    let taps = geometry.side * geometry.side;
    let mut shifted = Vec::new();
    for (output, bias) in bias.iter().enumerate() {
        let of_output = weights[output * inputs * taps..][..inputs * taps].chunks_exact(taps);
        let zero = |(weights, zero): (&[i8], &f32)| {
            weights.iter().map(|weight| f64::from(*weight)).sum::<f64>() * f64::from(*zero)
        };
        let zeros: f64 = of_output.zip(&picture.zero).map(zero).sum();
        let number = f64::from(*bias) - zeros * f64::from(weight_scale[output]);
        shifted.push((number / f64::from(*output_scale)) as f32);
    }
    let scale: Vec<f32> = weight_scale.iter().map(|weight| weight / output_scale).collect();
    let geometry = Geometry { padding: 0, ..*geometry };
    Int8Layer::Convolution(Int8Filter::new(weights, (&scale, &shifted), *inputs, geometry, instructions), 0.0)
}
