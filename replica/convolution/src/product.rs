//! The matrix products that take most of a convolution's time. A few rows are multiplied by two vectors of columns at a
//! time, so that all sums stay in registers.

use crate::partition::part_range;
use crate::vector::Vector;

/// The rows of a product's left matrix in memory. Each row consists of runs, and each run of consecutive numbers. All
/// rows have the same structure.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    /// The first number of the first row.
    pub(crate) start: *const f32,
    /// Numbers from the start of a row to the start of the next.
    pub(crate) stride: usize,
    /// Number of runs in a row.
    pub(crate) runs: usize,
    /// Number of consecutive numbers in a run.
    pub(crate) run_length: usize,
    /// Numbers from the start of a run to the start of the next.
    pub(crate) run_stride: usize,
}

impl Rows {
    /// The rows without the first `count`.
    #[inline(always)]
    pub(crate) fn skip(self, count: usize) -> Self {
        Self { start: self.start.wrapping_add(count * self.stride), ..self }
    }
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
pub(crate) trait Sink<V> {
    /// Takes the sums of one row for two vectors of columns.
    ///
    /// # Safety
    /// The conditions of [`Vector`] hold. `row` is less than the number of rows that the sink was made for.
    unsafe fn put(&self, row: usize, sums: [V; 2]);
}

/// Multiplies the first `count` rows by a block of `2 * LANES` columns, which is stored as
/// `[runs * run_length][2 * LANES]`, and gives the sums to `sink`.
///
/// # Safety
/// The conditions of [`Vector`] hold. `rows` and `block` are valid for all numbers that the product reads, and `sink`
/// takes `count` rows.
#[inline(always)]
pub(crate) unsafe fn multiply<V: Vector>(
    rows: Rows,
    count: usize,
    block: *const f32,
    prefetch: Prefetch,
    sink: &impl Sink<V>,
) {
    let groups = count.div_ceil(V::ROWS);
    let mut done = 0;
    for group in 0..groups {
        // Groups have nearly equal sizes. If 16 rows made groups of 14 and 2, the second would leave most registers
        // unused.
        let group_rows = (count - done).div_ceil(groups - group);
        let prefetch = prefetch.part(group, groups);
        macro_rules! multiply_exactly {
            ($($rows:literal)*) => {
                match group_rows {
                    // SAFETY: guaranteed by the caller; the rows of all groups add up to `count`.
                    $($rows if $rows <= V::ROWS => unsafe {
                        multiply_group::<V, $rows>(rows.skip(done), block, prefetch, done, sink);
                    },)*
                    _ => unreachable!("a group has 1 to ROWS rows"),
                }
            };
        }
        multiply_exactly!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
        done += group_rows;
    }
}

/// Multiplies `ROWS` rows, the first of which is row `first` for the sink. `ROWS` is a constant, so that the compiler
/// keeps the sums in registers.
///
/// # Safety
/// The conditions of [`multiply`] hold.
#[inline(always)]
unsafe fn multiply_group<V: Vector, const ROWS: usize>(
    rows: Rows,
    block: *const f32,
    prefetch: Prefetch,
    first: usize,
    sink: &impl Sink<V>,
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let zero = V::splat(0.0);
        let mut sums = [[zero; 2]; ROWS];
        let (mut columns, mut next) = (block, prefetch.start);
        let step = prefetch.length.div_ceil(rows.runs * rows.run_length);
        for run in 0..rows.runs {
            let start = rows.start.add(run * rows.run_stride);
            for k in 0..rows.run_length {
                let (left, right) = (V::load(columns), V::load(columns.add(V::LANES)));
                V::prefetch(next);
                V::prefetch(next.wrapping_add(step / 2));
                next = next.wrapping_add(step);
                for row in 0..ROWS {
                    let factor = V::splat(*start.add(row * rows.stride + k));
                    sums[row][0] = factor.mul_add(left, sums[row][0]);
                    sums[row][1] = factor.mul_add(right, sums[row][1]);
                }
                columns = columns.add(2 * V::LANES);
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            sink.put(first + row, sums);
        }
    }
}
