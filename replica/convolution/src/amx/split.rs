//! Splits a number of `f32` into the sum of two numbers of `bf16`, which are passed as their bits.

/// The bits of the nearest number of `bf16`, ties to even. NaN stays NaN.
#[inline(always)]
pub(super) fn to_bf16(number: f32) -> u16 {
    let bits = number.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // Rounding up the bits of NaN could give those of infinity or of zero. The highest bit of the fraction keeps NaN.
    let nan = bits >> 16 | 0x40;
    (if number.is_nan() { nan } else { rounded }) as u16
}

/// The number whose bits in `bf16` are `bits`.
#[inline(always)]
pub(super) fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The high part, which is `whole` rounded, and the low part, which is `whole` minus the high part, rounded.
#[inline(always)]
pub(super) fn split(whole: f32) -> [u16; 2] {
    let high = to_bf16(whole);
    [high, to_bf16(whole - from_bf16(high))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_parts_add_up_to_the_number_within_2_to_the_minus_16(bits: u32) {
            let whole = f32::from_bits(bits);
            // Outside these bounds, rounding overflows, or the low part is denormal and has fewer digits.
            prop_assume!(whole.is_finite() && whole.abs() < 3.38e38 && whole.abs() > 1e-30);
            let [high, low] = split(whole).map(from_bf16);
            let error = f64::from(whole) - f64::from(high) - f64::from(low);
            prop_assert!(error.abs() <= f64::from(whole).abs() * 2f64.powi(-16), "{whole:e} = {high:e} + {low:e}");
        }
    }

    #[test]
    fn nan_and_infinity_do_not_become_finite() {
        for whole in [f32::INFINITY, f32::NEG_INFINITY] {
            let [high, low] = split(whole).map(from_bf16);
            assert!(!(high + low).is_finite(), "{whole}");
        }
        // All payloads of NaN whose upper or lower half is extreme.
        for bits in
            [0x7f80_0001, 0x7f80_ffff, 0x7fc0_0000, 0x7fff_0000, 0x7fff_8000, 0x7fff_ffff, 0xff80_0001, 0xffff_ffff]
        {
            let [high, low] = split(f32::from_bits(bits)).map(from_bf16);
            assert!(high.is_nan() && low.is_nan(), "{bits:x}: {high} and {low}");
        }
    }
}
