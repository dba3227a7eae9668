//! What every kind of convolution begins with: sizes that fit, and parts for threads.

use crate::{Activation, Shape, Spread};
use std::ops::Range;

/// Checks that slices are as long as pictures of a shape with so many channels.
///
/// # Panics
/// When one is not.
pub(crate) fn check(
    (input, shape, inputs): (&[f32], Shape, usize),
    (output, outputs_shape, outputs): (&[f32], Shape, usize),
    activation: Activation<'_>,
) {
    assert_eq!(input.len(), shape.pixels() * inputs, "input of {shape:?} with {inputs} channels");
    assert_eq!(output.len(), outputs_shape.pixels() * outputs, "output of {outputs_shape:?} with {outputs} channels");
    if let Some(residual) = activation.residual {
        assert_eq!(residual.len(), output.len(), "what is added has the size of the output");
    }
}

/// Runs `work` on ranges of images and of blocks of output channels: of images if there is one for every part.
pub(crate) fn divide(
    images: usize,
    blocks: usize,
    spread: &dyn Spread,
    work: impl Fn(Range<usize>, Range<usize>) + Sync,
) {
    let (parts, by_images) = match spread.parts().max(1) {
        parts if images >= parts => (parts, true),
        parts => (parts.min(blocks), false),
    };
    spread.run(parts, &|index| match by_images {
        true => work(cut(images, parts, index), 0..blocks),
        false => work(0..images, cut(blocks, parts, index)),
    });
}

/// Part `index` of `parts` of a whole.
pub(crate) fn cut(whole: usize, parts: usize, index: usize) -> Range<usize> {
    whole * index / parts..whole * (index + 1) / parts
}
