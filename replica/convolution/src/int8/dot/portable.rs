//! Four sums in plain Rust, for processors without VNNI.

use super::{DotVector, MAX_LEVEL, Requantisation};

/// Four sums, or four bytes for each of four sums.
#[derive(Clone, Copy)]
pub(in crate::int8) struct PortableSums([i32; 4]);

impl DotVector for PortableSums {
    const LANES: usize = 4;
    const VECTORS: usize = 1;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const i8) -> Self {
        // SAFETY: guaranteed by the caller: 16 bytes.
        Self(unsafe { from.cast::<[i32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn splat(from: *const u8) -> Self {
        // SAFETY: guaranteed by the caller: 4 bytes.
        Self([unsafe { from.cast::<i32>().read_unaligned() }; 4])
    }

    #[inline(always)]
    unsafe fn dot(self, activations: Self, weights: Self) -> Self {
        let mut sums = self.0;
        for lane in 0..Self::LANES {
            let (levels, weights) = (activations.0[lane].to_ne_bytes(), weights.0[lane].to_ne_bytes());
            for input in 0..4 {
                sums[lane] = sums[lane].wrapping_add(i32::from(levels[input]) * i32::from(weights[input] as i8));
            }
        }
        Self(sums)
    }

    #[inline(always)]
    unsafe fn requantise(self, by: Requantisation, output: *mut u8) {
        for lane in 0..Self::LANES {
            // SAFETY: guaranteed by the caller; see `DotVector`.
            unsafe {
                let mut value = (self.0[lane] as f32).mul_add(*by.scale.add(lane), *by.bias.add(lane));
                if let Some((residual, factor)) = by.residual {
                    value = f32::from(*residual.add(lane)).mul_add(factor, value);
                }
                *output.add(lane) = level(value);
            }
        }
    }

    #[inline(always)]
    unsafe fn quantise(numbers: *const f32, scale: *const f32, bias: *const f32, output: *mut u8) {
        for lane in 0..Self::LANES {
            // SAFETY: guaranteed by the caller; see `DotVector`.
            unsafe { *output.add(lane) = level((*numbers.add(lane)).mul_add(*scale.add(lane), *bias.add(lane))) };
        }
    }
}

/// The nearest level of a number; 0 if it is not a number.
#[inline(always)]
fn level(number: f32) -> u8 {
    number.clamp(0.0, MAX_LEVEL).round_ties_even() as u8
}
