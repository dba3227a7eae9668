//! Estimates low coefficients that a progressive file leaves incomplete, from the first coefficients of 5×5 blocks.
//!
//! Source: the weights and roundings of libjpeg-turbo 3, which extends T.81 section K.8 to 5×5 blocks. A coefficient is
//! estimated only if it is zero and not known to be complete.

use crate::block::Block;

/// The number of coefficients, in zigzag order, that decide about estimates: the first one and nine others.
pub(crate) const ESTIMATED: usize = 10;

/// The places in a [`Block`] of these coefficients.
pub(crate) const PLACES: [usize; ESTIMATED] = [0, 1, 8, 16, 9, 2, 3, 10, 17, 24];

/// The weights of 5×5 blocks, row by row.
type Weights = [i64; 25];

/// The weights for each of [`PLACES`] if no coefficient but the first is known.
#[rustfmt::skip]
const FROM_FIRST_ALONE: [Weights; ESTIMATED] = [
    [-2, -6, -8, -6, -2, -6, 6, 42, 6, -6, -8, 42, 152, 42, -8, -6, 6, 42, 6, -6, -2, -6, -8, -6, -2],
    [-1, -1, 0, 1, 1, -3, 13, 0, -13, 3, -3, 38, 0, -38, 3, -3, 13, 0, -13, 3, -1, -1, 0, 1, 1],
    [-1, -3, -3, -3, -1, -1, 13, 38, 13, -1, 0, 0, 0, 0, 0, 1, -13, -38, -13, 1, 1, 3, 3, 3, 1],
    [0, 0, 1, 0, 0, 0, 2, 7, 2, 0, 0, -5, -14, -5, 0, 0, 2, 7, 2, 0, 0, 0, 1, 0, 0],
    [-1, 0, 0, 0, 1, 0, 9, 0, -9, 0, 0, 0, 0, 0, 0, 0, -9, 0, 9, 0, 1, 0, 0, 0, -1],
    [0, 0, 0, 0, 0, 0, 2, -5, 2, 0, 1, 7, -14, 7, 1, 0, 2, -5, 2, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 1, 0, -1, 0, 0, 2, 0, -2, 0, 0, 1, 0, -1, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 1, -3, 1, 0, 0, 0, 0, 0, 0, 0, -1, 3, -1, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 1, 0, -1, 0, 0, -3, 0, 3, 0, 0, 1, 0, -1, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0, -1, -2, -1, 0, 0, 0, 0, 0, 0],
];

/// The weights for the second to the sixth of [`PLACES`] if some of the other coefficients are known.
#[rustfmt::skip]
const BESIDE_OTHERS: [Weights; 5] = [
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -7, 50, 0, -50, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [0, 0, -7, 0, 0, 0, 0, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0, -50, 0, 0, 0, 0, 7, 0, 0],
    [0, 0, -1, 0, 0, 0, 0, 13, 0, 0, 0, 0, -24, 0, 0, 0, 0, 13, 0, 0, 0, 0, -1, 0, 0],
    [0, -1, 0, 1, 0, -1, 10, 0, -10, 1, 0, 0, 0, 0, 0, 1, -10, 0, 10, -1, 0, 1, 0, -1, 0],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, 13, -24, 13, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
];

/// The coefficients of a component.
pub(crate) struct Blocks<'blocks> {
    pub(crate) coefficients: &'blocks [Block],
    /// The number of stored blocks in a row.
    pub(crate) stride: usize,
    /// The number of blocks that belong to the image, across and down.
    pub(crate) size: (usize, usize),
    /// The number of rows of blocks in a row of MCUs.
    pub(crate) down: usize,
}

impl Blocks<'_> {
    /// Calls `put` with the column, the row and the coefficients of each block of the image, estimates included. `missing` is the
    /// number of missing bits of each coefficient in zigzag order; `None` for an unknown coefficient.
    pub(crate) fn smooth(
        &self,
        quantisation: &[u16; 64],
        missing: &[Option<u8>; 64],
        mut put: impl FnMut(usize, usize, &Block),
    ) {
        let first_alone = missing[1..ESTIMATED].iter().all(Option::is_none);
        let weights: &[Weights] = if first_alone { &FROM_FIRST_ALONE[1..] } else { &BESIDE_OTHERS };
        let factors = PLACES.map(|place| i64::from(quantisation[place]));
        for y in 0..self.size.1 {
            let rows = self.rows_around(y);
            for x in 0..self.size.0 {
                let firsts = self.firsts_around(&rows, x);
                let mut block = self.coefficients[y * self.stride + x];
                let estimates = weights.iter().zip(&PLACES[1..]).zip(&factors[1..]).zip(&missing[1..]);
                for (((weights, &place), &factor), &bits) in estimates {
                    if bits != Some(0) && block[place] == 0 {
                        let most = bits.map_or(i64::MAX, |bits| (1 << bits) - 1);
                        block[place] = estimate(weights, &firsts, factors[0], factor, most);
                    }
                }
                if first_alone {
                    block[0] = estimate(&FROM_FIRST_ALONE[0], &firsts, factors[0], factors[0], i64::MAX);
                }
                put(x, y, &block);
            }
        }
    }

    /// The two rows of blocks before row `y`, that row, and the two rows after it. At the upper and the lower edge, rows
    /// are repeated. Rows below the image that fill the last row of MCUs count as neighbours of rows above that row.
    fn rows_around(&self, y: usize) -> [usize; 5] {
        let mcu_rows = self.size.1.div_ceil(self.down);
        let mcu_row = y / self.down;
        // In the last row of MCUs, libjpeg counts rows as if all rows of MCUs had that number of rows.
        let in_mcu = if mcu_row + 1 == mcu_rows { self.size.1 - mcu_row * self.down } else { self.down };
        let (counted, count) = (mcu_row * in_mcu + y % self.down, in_mcu * mcu_rows);
        let before = if counted > 0 { y - 1 } else { y };
        let before_that = if counted > 1 { y - 2 } else { before };
        let after = if counted + 1 < count { y + 1 } else { y };
        let after_that = if counted + 2 < count { y + 2 } else { after };
        [before_that, before, y, after, after_that]
    }

    /// The first coefficients of 5×5 blocks around column `x`. At the left and the right edge, columns are repeated.
    fn firsts_around(&self, rows: &[usize; 5], x: usize) -> [i64; 25] {
        let columns: [usize; 5] = std::array::from_fn(|column| (x + column).saturating_sub(2).min(self.size.0 - 1));
        let mut firsts = [0; 25];
        for (row, firsts) in rows.iter().zip(firsts.as_chunks_mut::<5>().0) {
            *firsts = columns.map(|column| i64::from(self.coefficients[row * self.stride + column][0]));
        }
        firsts
    }
}

/// The weighted sum of first coefficients, which have the factor `first_factor`, as a coefficient with the factor
/// `factor`. Its magnitude is at most `most`.
fn estimate(weights: &Weights, firsts: &[i64; 25], first_factor: i64, factor: i64, most: i64) -> i16 {
    let sum: i64 = weights.iter().zip(firsts).map(|(weight, first)| weight * first).sum::<i64>() * first_factor;
    let magnitude = (((factor << 7) + sum.abs()) / (factor << 8)).min(most);
    (magnitude * sum.signum()) as i16
}
