//! The matrix products that take most of a convolution's time. A few rows are multiplied by two vectors of columns at a
//! time, so that all sums stay in registers.

use crate::partition::part_range;
use crate::vector::Vector;
use std::ops::Range;

/// The rows of a product's left matrix in memory. Each row consists of runs of consecutive numbers, and all runs have
/// the same length. The runs of a row may lie anywhere, so that rows of neighbouring outputs can share their inputs.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    /// The first numbers of all runs, `[runs][pitch]`: for each run one address for each row.
    pub(crate) starts: *const *const f32,
    /// Addresses from a run to the next.
    pub(crate) pitch: usize,
    /// Numbers that are added to each address.
    pub(crate) offset: usize,
    /// Number of runs in a row.
    pub(crate) runs: usize,
    /// Number of consecutive numbers in a run.
    pub(crate) run_length: usize,
    /// Largest number of rows that are computed together, from 1 on.
    pub(crate) at_once: usize,
}

/// Bytes after which rows use the same set of a first-level cache.
const ALIASED_BYTES: usize = 4096;

/// Largest number of rows that use the same set of a first-level cache, which has 8 ways on most processors.
const ALIASED_ROWS: usize = 6;

/// The number of rows to compute together, if rows are `stride` numbers apart. More rows than the ways of the
/// first-level cache would displace each other from it, if all of them used the same set.
pub(crate) fn rows_at_once(stride: usize) -> usize {
    if (stride * size_of::<f32>()).is_multiple_of(ALIASED_BYTES) { ALIASED_ROWS } else { usize::MAX }
}

/// Numbers that will be read after the current product, and are prefetched while it is computed. The prefetches are
/// spread evenly over the multiplications, because memory would not deliver the numbers faster in a burst.
#[derive(Clone, Copy)]
pub(crate) struct Prefetch {
    /// The address of the first number. It may be invalid, since a prefetch never faults.
    pub(crate) start: *const f32,
    /// How many numbers are prefetched.
    pub(crate) length: usize,
}

impl Prefetch {
    /// Part `index` of `parts` parts of nearly equal length.
    #[inline(always)]
    pub(crate) fn part(self, index: usize, parts: usize) -> Self {
        let part = part_range(self.length, parts, index);
        Self { start: self.start.wrapping_add(part.start), length: part.len() }
    }
}

/// Receives the sums of a product.
pub(crate) trait Sink {
    /// Whether the sums of all rows have memory, and [`Self::finish`] does nothing. The rows are then multiplied by one
    /// call of a kernel for all groups of the same size.
    const HAS_ALL_ROWS: bool;

    /// The memory for the sums of the group of rows that begins with `row`. It has [`Self::stride`] numbers for each
    /// row.
    fn memory(&self, row: usize) -> *mut f32;

    /// Numbers from a row of sums to the next.
    fn stride(&self) -> usize;

    /// Takes the sums of a group of rows, which have been written to [`Self::memory`].
    ///
    /// # Safety
    /// The conditions of [`Vector`] hold, and the memory has the sums of all these rows.
    unsafe fn finish<V: Vector>(&self, rows: Range<usize>);
}

/// Number of multiplications of each sum between two prefetches.
const STEPS: usize = 4;

/// Numbers of a cache line.
const LINE: usize = 16;

/// Multiplies the first `count` rows by a block of `2 * LANES` columns, which is stored as
/// `[runs * run_length][2 * LANES]`, and gives the sums to `sink`.
///
/// # Safety
/// The conditions of [`Vector`] hold. `rows` and `block` are valid for all numbers that the product reads, and `sink`
/// has memory for `2 * LANES` numbers in each of `count` rows.
#[inline(always)]
pub(crate) unsafe fn multiply<V: Vector, S: Sink>(
    rows: Rows,
    count: usize,
    block: *const f32,
    prefetch: Prefetch,
    sink: &S,
) {
    // Groups have nearly equal sizes. If 16 rows made groups of 12 and 4, the second would leave most registers unused.
    let groups = count.div_ceil(rows.at_once.min(V::ROWS));
    let (least, longer) = (count / groups, count % groups);
    let stretches = (rows.runs * (rows.run_length / STEPS)).max(1);
    let mut lines = prefetch.length.div_ceil(LINE);
    let lines_at_once = lines.div_ceil(groups * stretches);
    let (mut starts, mut next, mut first) = (rows.starts, prefetch.start, 0);
    let mut done = 0;
    while done < groups {
        let (size, end) = if done < longer { (least + 1, longer) } else { (least, groups) };
        let together = if S::HAS_ALL_ROWS { end - done } else { 1 };
        let ahead = lines.min(lines_at_once * stretches * together);
        let product = GroupProduct {
            rows: Rows { starts, ..rows },
            groups: together,
            block,
            next,
            lines: ahead,
            lines_at_once,
            sums: sink.memory(first),
            stride: sink.stride(),
        };
        // SAFETY: guaranteed by the caller; the rows of all groups add up to `count`.
        unsafe {
            V::KERNELS[size - 1](&product);
            sink.finish::<V>(first..first + together * size);
        }
        (starts, next) = (starts.wrapping_add(together * size), next.wrapping_add(ahead * LINE));
        (first, lines, done) = (first + together * size, lines - ahead, done + together);
    }
}

/// A function that multiplies a group of rows. It is called through a pointer, so that the compiler cannot inline it:
/// an inlined kernel was seen to lose registers to the code around it, and to keep sums in memory.
///
/// # Safety
/// The conditions of [`multiply`] hold, and the group has as many rows as the kernel is made for.
pub(crate) type Kernel = unsafe fn(&GroupProduct);

/// A product of one or more groups of rows.
#[derive(Clone, Copy)]
pub(crate) struct GroupProduct {
    rows: Rows,
    /// Number of groups.
    groups: usize,
    block: *const f32,
    /// The first cache line to prefetch.
    next: *const f32,
    /// Number of cache lines to prefetch.
    lines: usize,
    /// Number of cache lines that are prefetched at once, every [`STEPS`] steps.
    lines_at_once: usize,
    /// The memory for the sums.
    sums: *mut f32,
    /// Numbers from a row of sums to the next.
    stride: usize,
}

impl GroupProduct {
    /// Multiplies `ROWS` rows. `ROWS` is a constant, so that the compiler keeps the sums in registers.
    ///
    /// # Safety
    /// See [`Kernel`].
    #[inline(always)]
    pub(crate) unsafe fn multiply<V: Vector, const ROWS: usize>(&self) {
        let Self { rows, groups, block, mut next, mut lines, lines_at_once, sums: mut to, stride } = *self;
        let mut first = rows.starts;
        // SAFETY: guaranteed by the caller.
        unsafe {
            for _ in 0..groups {
                let zero = V::splat(0.0);
                let mut sums = [[zero; 2]; ROWS];
                let mut columns = block;
                for run in 0..rows.runs {
                    let starts = first.add(run * rows.pitch);
                    let from: [*const f32; ROWS] =
                        std::array::from_fn(|row| (*starts.add(row)).wrapping_add(rows.offset));
                    macro_rules! step {
                        ($k:expr) => {
                            let (first, second) = (V::load(columns), V::load(columns.add(V::LANES)));
                            for row in 0..ROWS {
                                let factor = V::splat(*from[row].add($k));
                                sums[row][0] = factor.mul_add(first, sums[row][0]);
                                sums[row][1] = factor.mul_add(second, sums[row][1]);
                            }
                            columns = columns.add(2 * V::LANES);
                        };
                    }
                    let mut k = 0;
                    while k + STEPS <= rows.run_length {
                        for _ in 0..lines_at_once.min(lines) {
                            V::prefetch(next);
                            next = next.wrapping_add(LINE);
                            lines -= 1;
                        }
                        step!(k);
                        step!(k + 1);
                        step!(k + 2);
                        step!(k + 3);
                        k += STEPS;
                    }
                    while k < rows.run_length {
                        step!(k);
                        k += 1;
                    }
                }
                for row in 0..ROWS {
                    let to = to.add(row * stride);
                    sums[row][0].store(to);
                    sums[row][1].store(to.add(V::LANES));
                }
                (first, to) = (first.add(ROWS), to.wrapping_add(ROWS * stride));
            }
        }
    }
}
