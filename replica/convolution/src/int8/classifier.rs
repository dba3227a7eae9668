//! The last, fully connected layer: weights of 8 bits, and means and logits in `f32`.

use super::dot::DotVector;
use super::instructions::DotTask;
use super::{Bytes, Int8Instructions};
use crate::aligned::AlignedBuffer;
use crate::batch_shape::product;

/// Number of classes whose sums are kept in registers.
const BLOCK: usize = 64;

/// A fully connected layer from the mean of each channel to the logits.
pub struct Int8Classifier {
    /// The weights, `[block of classes][input][class]`. Classes that only fill a block have zero weights.
    weights: Bytes,
    /// The factor of each class, padded with zeros to whole blocks.
    scale: AlignedBuffer,
    /// The term of each class, padded with zeros to whole blocks.
    bias: AlignedBuffer,
    inputs: usize,
    classes: usize,
    instructions: Int8Instructions,
}

impl Int8Classifier {
    /// Packs `weights`, `[classes, inputs]`. A weight stands for itself times the `scale` of its class.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn new(weights: &[i8], (scale, bias): (&[f32], &[f32]), inputs: usize, instructions: Int8Instructions) -> Self {
        let classes = bias.len();
        let expected = product([classes, inputs]);
        assert_eq!(Some(weights.len()), expected, "number of weights for {classes} classes and {inputs} inputs");
        assert_eq!(scale.len(), classes, "one scale for each class");
        let blocks = classes.div_ceil(BLOCK);
        let mut packed = Bytes::zeroed(blocks * inputs * BLOCK);
        for (index, &weight) in weights.iter().enumerate() {
            let (class, input) = (index / inputs, index % inputs);
            packed[(class / BLOCK * inputs + input) * BLOCK + class % BLOCK] = weight as u8;
        }
        Self {
            weights: packed,
            scale: AlignedBuffer::padded(scale, blocks * BLOCK),
            bias: AlignedBuffer::padded(bias, blocks * BLOCK),
            inputs,
            classes,
            instructions,
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The logits of `means`, `[images, inputs]`: for each image and class, the sum of all `mean × weight`, times `scale`,
    /// plus `bias`. The products are added in the order of the inputs, each with one rounding, so that every processor
    /// computes the same logits.
    ///
    /// # Panics
    /// If the length of a slice does not fit.
    pub fn logits(&self, means: &[f32], logits: &mut [f32]) {
        let images = means.len() / self.inputs.max(1);
        assert_eq!(means.len(), images * self.inputs, "{} means for each image", self.inputs);
        assert_eq!(logits.len(), images * self.classes, "{} logits for each image", self.classes);
        self.instructions.dispatch(Classification { classifier: self, means, logits });
    }
}

/// The arguments of [`Int8Classifier::logits`], after their lengths were checked.
struct Classification<'a> {
    classifier: &'a Int8Classifier,
    means: &'a [f32],
    logits: &'a mut [f32],
}

impl DotTask for Classification<'_> {
    #[inline(always)]
    unsafe fn run<V: DotVector>(self) {
        let Int8Classifier { weights, scale, bias, inputs, classes, .. } = self.classifier;
        let blocks = weights.chunks_exact((inputs * BLOCK).max(1));
        for (block, weights) in blocks.enumerate() {
            let first = block * BLOCK;
            let of_images =
                self.means.chunks_exact((*inputs).max(1)).zip(self.logits.chunks_exact_mut((*classes).max(1)));
            for (means, logits) in of_images {
                let mut sums = [0.0_f32; BLOCK];
                for (mean, weights) in means.iter().zip(weights.as_chunks::<BLOCK>().0) {
                    for lane in 0..BLOCK {
                        sums[lane] = mean.mul_add(f32::from(weights[lane] as i8), sums[lane]);
                    }
                }
                for (lane, logit) in logits[first..].iter_mut().take(BLOCK).enumerate() {
                    *logit = sums[lane].mul_add(scale[first + lane], bias[first + lane]);
                }
            }
        }
    }
}
