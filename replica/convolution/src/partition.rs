//! Checks of lengths, and the division of a convolution into parts for an [`Executor`].

use crate::{BatchShape, Epilogue, Executor};
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

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
        input_shape.numbers(inputs),
        "length of the input of {input_shape:?} with {inputs} channels"
    );
    assert_eq!(
        output.len(),
        output_shape.numbers(outputs),
        "length of the output of {output_shape:?} with {outputs} channels"
    );
    if let Some(residual) = epilogue.residual {
        assert_eq!(residual.len(), output.len(), "the residual must be as long as the output");
    }
}

/// Divides a convolution into parts, and calls `work` for each part with its range of units and its range of blocks of
/// output channels. A unit is an image, an image row or a tile. Together the parts compute every output once. The units
/// are divided if each part gets at least `least` of them; otherwise the blocks are divided.
pub(crate) fn divide(
    (units, least): (usize, usize),
    blocks: usize,
    executor: &dyn Executor,
    work: impl Fn(Range<usize>, Range<usize>) + Sync,
) {
    let (parts, by_units) = match executor.parts().max(1) {
        parts if units / parts >= least || blocks == 1 => (parts.min(units), true),
        parts => (parts.min(blocks), false),
    };
    run_once_each(parts, executor, |index| match by_units {
        true => work(part_range(units, parts, index), 0..blocks),
        false => work(0..units, part_range(blocks, parts, index)),
    });
}

/// Calls `work` with each index below `parts`, on the threads of `executor`.
///
/// # Panics
/// If the executor skips an index, repeats one or invents one. Two calls with the same index would write to the same
/// outputs.
pub(crate) fn run_once_each(parts: usize, executor: &dyn Executor, work: impl Fn(usize) + Sync) {
    let begun: Vec<AtomicBool> = (0..parts).map(|_| AtomicBool::new(false)).collect();
    executor.run(parts, &|index| {
        let is_repeated = begun.get(index).is_none_or(|begun| begun.swap(true, Relaxed));
        assert!(!is_repeated, "the executor ran part {index} of {parts} a second time");
        work(index);
    });
    assert!(begun.iter().all(|begun| begun.load(Relaxed)), "the executor did not run all of {parts} parts");
}

/// Range `index` of the `parts` ranges into which `0..whole` is divided. Their lengths differ by at most one.
pub(crate) fn part_range(whole: usize, parts: usize, index: usize) -> Range<usize> {
    whole * index / parts..whole * (index + 1) / parts
}
