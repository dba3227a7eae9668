//! Checks of lengths, and the division of a convolution into parts for an [`Executor`].

use crate::{BatchShape, Epilogue, Executor};
use std::ops::Range;

/// Checks that each slice is as long as its shape and number of channels demand.
///
/// # Panics
/// If a slice has another length.
pub(crate) fn check_lengths(
    (input, input_shape, inputs): (&[f32], BatchShape, usize),
    (output, output_shape, outputs): (&[f32], BatchShape, usize),
    epilogue: Epilogue<'_>,
) {
    assert_eq!(
        input.len(),
        input_shape.pixels() * inputs,
        "length of the input of {input_shape:?} with {inputs} channels"
    );
    assert_eq!(
        output.len(),
        output_shape.pixels() * outputs,
        "length of the output of {output_shape:?} with {outputs} channels"
    );
    if let Some(residual) = epilogue.residual {
        assert_eq!(residual.len(), output.len(), "the residual must be as long as the output");
    }
}

/// Divides a convolution into parts, and calls `work` for each part with its range of images and its range of blocks of
/// output channels. Together the parts compute every output once. The images are divided if there is at least one for
/// each part; otherwise the blocks are divided.
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

/// Range `index` of the `parts` ranges into which `0..whole` is divided. Their lengths differ by at most one.
pub(crate) fn part_range(whole: usize, parts: usize, index: usize) -> Range<usize> {
    whole * index / parts..whole * (index + 1) / parts
}
