//! A number as the sum of two of `bf16`.

/// The nearest number of `bf16` (ties to even), as its bits.
#[inline(always)]
pub(super) fn rounded(number: f32) -> u16 {
    let bits = number.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// What bits of `bf16` stand for.
#[inline(always)]
pub(super) fn number(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The bits of the high and the low part.
#[inline(always)]
pub(super) fn split(whole: f32) -> [u16; 2] {
    let high = rounded(whole);
    [high, rounded(whole - number(high))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_parts_add_up(bits: u32) {
            let whole = f32::from_bits(bits);
            // Beyond, rounding overflows; below, the parts have fewer digits.
            prop_assume!(whole.is_finite() && whole.abs() < 3.38e38 && whole.abs() > 1e-30);
            let [high, low] = split(whole).map(number);
            let error = f64::from(whole) - f64::from(high) - f64::from(low);
            prop_assert!(error.abs() <= f64::from(whole).abs() * 2f64.powi(-16), "{whole:e} = {high:e} + {low:e}");
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for whole in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let [high, low] = split(whole).map(number);
            assert!(!(high + low).is_finite(), "{whole}");
        }
    }
}
