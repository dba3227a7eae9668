//! Converts a block of 8×8 coefficients to samples: dequantisation and the inverse discrete cosine transform (T.81
//! A.3.3).
//!
//! Source: libjpeg's `jidctint.c`, with the algorithm of Loeffler, Ligtenberg and Moschytz (1989). Every rounding is
//! the same as there, so that the pixels are the same as Pillow's.

/// The coefficients of one block, row by row.
pub(super) type Block = [i16; 64];

/// The index in a [`Block`] of each coefficient in zigzag order, in which a file stores coefficients (T.81 figure A.6). Some
/// encoders write coefficients beyond the last one. As in libjpeg, they count as the last one.
#[rustfmt::skip]
pub(super) const ZIGZAG: [u8; 64 + 16] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63,
];

/// The index in a [`Block`] of the coefficient whose index in zigzag order is `zigzag_index`.
#[inline(always)]
pub(super) fn natural_index(zigzag_index: usize) -> Result<usize, &'static str> {
    ZIGZAG.get(zigzag_index).map(|&place| usize::from(place)).ok_or(super::huffman::DAMAGED)
}

/// The number of fractional bits of the transform's constants (libjpeg's `CONST_BITS`).
const CONSTANT_BITS: i32 = 13;
/// The number of fractional bits of the values between the two passes (libjpeg's `PASS1_BITS`).
const FIRST_PASS_BITS: i32 = 2;

/// The samples of a block, row by row. The coefficients are first multiplied by the factors in `quantisation`.
#[inline(always)]
pub(super) fn samples(coefficients: &Block, quantisation: &[u16; 64]) -> [u8; 64] {
    let mut columns = *coefficients;
    for (coefficient, &factor) in columns.iter_mut().zip(quantisation) {
        *coefficient = coefficient.wrapping_mul(factor as i16);
    }
    let rows = if coefficients[8..].iter().fold(0, |any, coefficient| any | coefficient) == 0 {
        // Each column has one value. libjpeg-turbo's SIMD code drops bits above the sixteenth here, and saturates below.
        std::array::from_fn(|place| columns[place / 8] << FIRST_PASS_BITS)
    } else {
        transposed(&pass::<{ CONSTANT_BITS - FIRST_PASS_BITS }>(&columns))
    };
    let levels = pass::<{ CONSTANT_BITS + FIRST_PASS_BITS + 3 }>(&rows);
    transposed(&levels.map(|level| level.saturating_add(128).clamp(0, 255) as u8))
}

/// Whether all coefficients except the first are zero.
#[inline(always)]
pub(super) fn is_flat(coefficients: &Block) -> bool {
    // This test has no branch for each coefficient, so the compiler can test several at once.
    coefficients[1..].iter().fold(0, |any, coefficient| any | coefficient) == 0
}

/// The value of every sample of a block whose coefficients except the first are zero. It is the same as that of
/// [`samples`], and takes less time.
#[inline(always)]
pub(super) fn flat(coefficient: i16, factor: u16) -> u8 {
    let first_pass = coefficient.wrapping_mul(factor as i16) << FIRST_PASS_BITS;
    (((i32::from(first_pass) + 16) >> 5) + 128).clamp(0, 255) as u8
}

/// The block after an exchange of rows and columns.
#[inline(always)]
fn transposed<T: Copy + Default>(block: &[T; 64]) -> [T; 64] {
    let mut turned = [T::default(); 64];
    for row in 0..8 {
        for column in 0..8 {
            turned[column * 8 + row] = block[row * 8 + column];
        }
    }
    turned
}

/// The inverse transform of each column. The results are rounded to drop `SHIFT` fractional bits.
///
/// The factors of all products have 16 bits, and results are saturated to 16 bits, because SSE2 has instructions for
/// both. Files that overflow get the same pixels as from libjpeg-turbo's SIMD code.
#[inline(always)]
fn pass<const SHIFT: i32>(block: &Block) -> Block {
    let mut out = [0; 64];
    for column in 0..8 {
        let at = |row: usize| block[row * 8 + column];
        let times = |number: i16, factor: i16| i32::from(number) * i32::from(factor);
        let (x0, x1, x2, x3, x4, x5, x6, x7) = (at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7));
        // The even part of the transform.
        let t0 = i32::from(x0.wrapping_add(x4)) << CONSTANT_BITS;
        let t1 = i32::from(x0.wrapping_sub(x4)) << CONSTANT_BITS;
        let t2 = times(x2, 4433) + times(x6, 4433 - 15_137);
        let t3 = times(x2, 4433 + 6270) + times(x6, 4433);
        let even = [t0.wrapping_add(t3), t1.wrapping_add(t2), t1.wrapping_sub(t2), t0.wrapping_sub(t3)];
        // The odd part of the transform.
        let (z3, z4) = (x7.wrapping_add(x3), x5.wrapping_add(x1));
        let y3 = times(z3, 9633 - 16_069) + times(z4, 9633);
        let y4 = times(z3, 9633) + times(z4, 9633 - 3196);
        let odd = [
            (times(x1, 12_299 - 7373) + times(x7, -7373)).wrapping_add(y4),
            (times(x3, 25_172 - 20_995) + times(x5, -20_995)).wrapping_add(y3),
            (times(x5, 16_819 - 20_995) + times(x3, -20_995)).wrapping_add(y4),
            (times(x7, 2446 - 7373) + times(x1, -7373)).wrapping_add(y3),
        ];
        for row in 0..4 {
            let whole = |sum: i32| (sum.wrapping_add(1 << (SHIFT - 1)) >> SHIFT).clamp(-32_768, 32_767) as i16;
            out[row * 8 + column] = whole(even[row].wrapping_add(odd[row]));
            out[(7 - row) * 8 + column] = whole(even[row].wrapping_sub(odd[row]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zigzag_order_contains_every_index_once() {
        let mut places: Vec<u8> = ZIGZAG[..64].to_vec();
        places.sort_unstable();
        assert!(places.iter().copied().eq(0..64));
    }

    #[test]
    fn only_a_block_without_further_coefficients_is_flat() {
        for first in [-1024, -300, -5, -4, 0, 3, 4, 77, 1023, i16::MAX] {
            let mut block = [0; 64];
            block[0] = first;
            assert_eq!(samples(&block, &[3; 64]), [flat(first, 3); 64], "{first}");
            assert!(is_flat(&block), "{first}");
        }
        for place in 1..64 {
            let mut block = [0; 64];
            block[place] = -1;
            assert!(!is_flat(&block), "{place}");
        }
    }

    #[test]
    fn samples_differ_from_the_exact_cosine_transform_only_by_rounding() {
        // The block has a mean and two frequencies. The samples are compared with the formula of T.81 A.3.3.
        let mut block = [0; 64];
        (block[0], block[3], block[8 * 2 + 5]) = (40, -200, 90);
        let scale = |u: usize| if u == 0 { 0.5_f64.sqrt() } else { 1.0 };
        let found = samples(&block, &[1; 64]);
        for (place, &sample) in found.iter().enumerate() {
            let (y, x) = ((place / 8) as f64, (place % 8) as f64);
            let wave = |at: f64, u: usize| ((2.0 * at + 1.0) * u as f64 * std::f64::consts::PI / 16.0).cos();
            let terms = (0..64).map(|i| {
                let (v, u) = (i / 8, i % 8);
                scale(u) * scale(v) / 4.0 * f64::from(block[i]) * wave(x, u) * wave(y, v)
            });
            let expected = terms.sum::<f64>() + 128.0;
            assert!((f64::from(sample) - expected).abs() < 0.6, "{sample} instead of {expected} at {place}");
        }
    }
}
