//! Length checks, and the division of a convolution into parts for an [`Executor`]. Shared by all algorithms.

use crate::{Epilogue, Executor, Shape};
use std::ops::Range;

/// Checks that each slice is as long as its shape and number of channels demand.
///
/// # Panics
/// When a slice has another length.
pub(crate) fn check_lengths(
    (input, input_shape, inputs): (&[f32], Shape, usize),
    (output, output_shape, outputs): (&[f32], Shape, usize),
    epilogue: Epilogue<'_>,
) {
    assert_eq!(input.len(), input_shape.pixels() * inputs, "input of {input_shape:?} with {inputs} channels");
    assert_eq!(output.len(), output_shape.pixels() * outputs, "output of {output_shape:?} with {outputs} channels");
    if let Some(residual) = epilogue.residual {
        assert_eq!(residual.len(), output.len(), "the residual must be as long as the output");
    }
}

/// Runs `work` on ranges of images and of blocks of output channels, which together cover all outputs once. Images are
/// divided if every part gets at least one; otherwise blocks are.
pub(crate) fn divide(
    images: usize,
    blocks: usize,
    executor: &dyn Executor,
    work: impl Fn(Range<usize>, Range<usize>) + Sync,
) {
    let (parts, by_images) = match executor.parts().max(1) {
        parts if images >= parts => (parts, true),
        parts => (parts.min(blocks), false),
    };
    executor.run(parts, &|index| match by_images {
        true => work(part_range(images, parts, index), 0..blocks),
        false => work(0..images, part_range(blocks, parts, index)),
    });
}

/// Part `index` of `0..whole`, divided into `parts` ranges whose lengths differ by at most one.
pub(crate) fn part_range(whole: usize, parts: usize, index: usize) -> Range<usize> {
    whole * index / parts..whole * (index + 1) / parts
}
