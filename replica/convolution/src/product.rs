//! The products that take most of a convolution's time: a few rows by two vectors of columns at a time, whose sums stay in
//! registers.

use crate::division::cut;
use crate::vector::Vector;

/// Rows of numbers at equal distances, each in runs of consecutive numbers.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    /// The first number of the first row.
    pub(crate) start: *const f32,
    /// From row to row.
    pub(crate) stride: usize,
    /// Runs in a row.
    pub(crate) runs: usize,
    /// Numbers in a run.
    pub(crate) run: usize,
    /// From run to run.
    pub(crate) run_stride: usize,
}

impl Rows {
    /// From row `count` on.
    #[inline(always)]
    pub(crate) fn after(self, count: usize) -> Self {
        Self { start: self.start.wrapping_add(count * self.stride), ..self }
    }
}

/// What will be read next, and is asked for meanwhile: evenly, since memory gives it no faster than it is used.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    /// The first number. It may lie anywhere.
    pub(crate) start: *const f32,
    /// How many numbers.
    pub(crate) length: usize,
}

impl Ahead {
    /// Part `index` of `parts`.
    #[inline(always)]
    pub(crate) fn part(self, index: usize, parts: usize) -> Self {
        let part = cut(self.length, parts, index);
        Self { start: self.start.wrapping_add(part.start), length: part.len() }
    }
}

/// Where the sums go.
pub(crate) trait Sink<V> {
    /// Takes the sums of a row for two vectors of columns.
    ///
    /// # Safety
    /// As for [`Vector`].
    unsafe fn put(&self, row: usize, sums: [V; 2]);
}

/// Multiplies `count` rows with a block of `2 * LANES` columns, stored as `[runs * run][2 * LANES]`.
///
/// # Safety
/// As for [`Vector`]; `rows` and `block` are valid for what is read of them, and `sink` for `count` rows.
#[inline(always)]
pub(crate) unsafe fn multiply<V: Vector>(
    rows: Rows,
    count: usize,
    block: *const f32,
    ahead: Ahead,
    sink: &impl Sink<V>,
) {
    let groups = count.div_ceil(V::ROWS);
    let mut done = 0;
    for group in 0..groups {
        // Groups of like size, none of them small: 16 rows are 8 and 8, not 14 and 2.
        let here = (count - done).div_ceil(groups - group);
        let ahead = ahead.part(group, groups);
        macro_rules! exactly {
            ($($few:literal)*) => {
                match here {
                    // SAFETY: the caller's; the rows of all groups add up to `count`.
                    $($few if $few <= V::ROWS => unsafe {
                        group_of::<V, $few>(rows.after(done), block, ahead, done, sink);
                    },)*
                    _ => unreachable!("at most ROWS rows"),
                }
            };
        }
        exactly!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
        done += here;
    }
}

#[inline(always)]
unsafe fn group_of<V: Vector, const ROWS: usize>(
    rows: Rows,
    block: *const f32,
    ahead: Ahead,
    first: usize,
    sink: &impl Sink<V>,
) {
    // SAFETY: the caller's.
    unsafe {
        let zero = V::splat(0.0);
        let mut sums = [[zero; 2]; ROWS];
        let (mut columns, mut next) = (block, ahead.start);
        let step = ahead.length.div_ceil(rows.runs * rows.run);
        for run in 0..rows.runs {
            let start = rows.start.add(run * rows.run_stride);
            for k in 0..rows.run {
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
