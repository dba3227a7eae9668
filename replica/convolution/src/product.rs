//! The matrix products that take most of a convolution's time. A few rows are multiplied by two vectors of columns at a
//! time, so that all sums stay in registers.

use crate::instructions::VectorTask;
use crate::partition::part_range;
use crate::vector::Vector;

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

impl Rows {
    /// The rows without the first `count`.
    #[inline(always)]
    pub(crate) fn skip(self, count: usize) -> Self {
        Self { starts: self.starts.wrapping_add(count), ..self }
    }
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

/// The memory that receives the sums of a product.
#[derive(Clone, Copy)]
pub(crate) struct Sums {
    /// The first sum of the first row.
    pub(crate) start: *mut f32,
    /// Numbers from a row of sums to the next.
    pub(crate) stride: usize,
}

/// Number of rows in each of the groups into which `count` rows are divided. Groups have nearly equal sizes: if 16 rows
/// made groups of 14 and 2, the second would leave most registers unused.
#[inline(always)]
pub(crate) fn groups(count: usize, at_once: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let groups = count.div_ceil(at_once);
    (0..groups).map(move |group| part_range(count, groups, group))
}

/// Multiplies the first `count` rows by a block of `2 * LANES` columns, which is stored as
/// `[runs * run_length][2 * LANES]`, and stores the sums.
///
/// # Safety
/// The conditions of [`Vector`] hold. `rows` and `block` are valid for all numbers that the product reads, and `sums`
/// for `2 * LANES` numbers in each of `count` rows.
#[inline(always)]
pub(crate) unsafe fn multiply<V: Vector>(
    rows: Rows,
    count: usize,
    block: *const f32,
    prefetch: Prefetch,
    sums: Sums,
) {
    let at_once = rows.at_once.min(V::ROWS);
    let parts = count.div_ceil(at_once);
    for (part, group) in groups(count, at_once).enumerate() {
        let to = sums.start.wrapping_add(group.start * sums.stride);
        let product = Product {
            rows: rows.skip(group.start),
            block,
            prefetch: prefetch.part(part, parts),
            sums: Sums { start: to, ..sums },
        };
        // SAFETY: guaranteed by the caller; the rows of all groups add up to `count`.
        unsafe { product.multiply_rows::<V>(group.len()) };
    }
}

/// A product of a few rows.
#[derive(Clone, Copy)]
struct Product {
    rows: Rows,
    block: *const f32,
    prefetch: Prefetch,
    sums: Sums,
}

impl Product {
    /// Multiplies `count` rows, at most [`Vector::ROWS`].
    ///
    /// # Safety
    /// The conditions of [`multiply`] hold.
    #[inline(always)]
    unsafe fn multiply_rows<V: Vector>(self, count: usize) {
        macro_rules! multiply_exactly {
            ($($rows:literal)*) => {
                match count {
                    // SAFETY: guaranteed by the caller.
                    $($rows if $rows <= V::ROWS => unsafe { V::call(RowsTask::<$rows>(self)) },)*
                    _ => unreachable!("a group has 1 to ROWS rows"),
                }
            };
        }
        multiply_exactly!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}

/// Multiplies `ROWS` rows. `ROWS` is a constant, so that the compiler keeps the sums in registers. The task is a
/// function of its own: inlined into a larger function, it was seen to lose registers to that function, and to keep
/// sums in memory.
struct RowsTask<const ROWS: usize>(Product);

/// Number of multiplications of each sum between two prefetches of a row's next cache line.
const STEPS: usize = 16;

impl<const ROWS: usize> VectorTask for RowsTask<ROWS> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Product { rows, block, prefetch, sums: to } = self.0;
        /// Numbers of a cache line.
        const LINE: usize = 16;
        // SAFETY: guaranteed by the caller of `multiply`.
        unsafe {
            let zero = V::splat(0.0);
            let mut sums = [[zero; 2]; ROWS];
            let mut columns = block;
            // The cache lines to prefetch in each stretch of at most `STEPS` steps.
            let stretches = rows.runs * rows.run_length.div_ceil(STEPS);
            let lines = prefetch.length.div_ceil(LINE).div_ceil(stretches);
            let mut next = prefetch.start;
            for run in 0..rows.runs {
                let starts = rows.starts.add(run * rows.pitch);
                let mut from: [*const f32; ROWS] =
                    std::array::from_fn(|row| (*starts.add(row)).wrapping_add(rows.offset));
                let mut left = rows.run_length;
                while left > 0 {
                    for _ in 0..lines {
                        V::prefetch(next);
                        next = next.wrapping_add(LINE);
                    }
                    let steps = left.min(STEPS);
                    for k in 0..steps {
                        let (first, second) = (V::load(columns), V::load(columns.add(V::LANES)));
                        for row in 0..ROWS {
                            let factor = V::splat(*from[row].add(k));
                            sums[row][0] = factor.mul_add(first, sums[row][0]);
                            sums[row][1] = factor.mul_add(second, sums[row][1]);
                        }
                        columns = columns.add(2 * V::LANES);
                    }
                    from = from.map(|row| row.wrapping_add(steps));
                    left -= steps;
                }
            }
            for (row, [first, second]) in sums.into_iter().enumerate() {
                let to = to.start.add(row * to.stride);
                first.store(to);
                second.store(to.add(V::LANES));
            }
        }
    }
}
