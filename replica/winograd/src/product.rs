//! The matrix product that takes most of a convolution's time: a few rows by two vectors of columns at a time, whose
//! sums stay in registers.

use crate::vector::Vector;

/// Computes `c = a b`, where `a` has `rows` rows of `depth` numbers, `stride_a` apart; `b` has `blocks` blocks of columns, each
/// `[depth][2 * LANES]`; and `c` gets rows `stride_c` apart.
///
/// # Safety
/// As for [`Vector`]; `a` and `c` are valid for `rows` rows of their strides, `b` for `blocks * depth * 2 * LANES` numbers.
#[inline(always)]
pub(crate) unsafe fn multiply<V: Vector>(
    (rows, depth, blocks): (usize, usize, usize),
    (a, stride_a): (*const f32, usize),
    b: *const f32,
    (c, stride_c): (*mut f32, usize),
) {
    let columns = 2 * V::LANES;
    let groups = rows.div_ceil(V::ROWS);
    for block in 0..blocks {
        // SAFETY: within `b` and `c` as the caller says; the rows of all groups add up to `rows`.
        unsafe {
            let b = b.add(block * depth * columns);
            let mut done = 0;
            for group in 0..groups {
                // Groups of like size, none of them small: 16 rows are 8 and 8, not 14 and 2.
                let here = (rows - done).div_ceil(groups - group);
                let (a, c) = (a.add(done * stride_a), c.add(done * stride_c + block * columns));
                // The last group asks for the next block, which only the first would wait for.
                let ahead = if group + 1 == groups { depth * columns } else { 0 };
                few_rows::<V>(here, depth, (a, stride_a), b, (c, stride_c), ahead);
                done += here;
            }
        }
    }
}

#[inline(always)]
unsafe fn few_rows<V: Vector>(
    rows: usize,
    depth: usize,
    a: (*const f32, usize),
    b: *const f32,
    c: (*mut f32, usize),
    ahead: usize,
) {
    macro_rules! exactly {
        ($($count:literal)*) => {
            match rows {
                // SAFETY: the caller's.
                $($count if $count <= V::ROWS => unsafe { block::<V, $count>(depth, a, b, c, ahead) },)*
                _ => unreachable!("at most ROWS rows"),
            }
        };
    }
    exactly!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

#[inline(always)]
unsafe fn block<V: Vector, const ROWS: usize>(
    depth: usize,
    (a, stride_a): (*const f32, usize),
    b: *const f32,
    (c, stride_c): (*mut f32, usize),
    ahead: usize,
) {
    // SAFETY: within `a`, `b` and `c` as the caller says.
    unsafe {
        let zero = V::splat(0.0);
        let mut sums = [[zero; 2]; ROWS];
        let mut row_of_b = b;
        for k in 0..depth {
            let (left, right) = (V::load(row_of_b), V::load(row_of_b.add(V::LANES)));
            V::prefetch(row_of_b.wrapping_add(ahead));
            V::prefetch(row_of_b.wrapping_add(ahead + V::LANES));
            for row in 0..ROWS {
                let factor = V::splat(*a.add(row * stride_a + k));
                sums[row][0] = factor.mul_add(left, sums[row][0]);
                sums[row][1] = factor.mul_add(right, sums[row][1]);
            }
            row_of_b = row_of_b.add(2 * V::LANES);
        }
        for (row, [left, right]) in sums.into_iter().enumerate() {
            left.store(c.add(row * stride_c));
            right.store(c.add(row * stride_c + V::LANES));
        }
    }
}
