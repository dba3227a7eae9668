//! Eight sums: AVX-VNNI, or AVX-512-VNNI in registers of 256 bits. The two differ only in the encoding of one
//! instruction, so a processor with either tests all the other lines for both.

use super::{DotVector, MAX_LEVEL, Requantisation};
use std::arch::x86_64::*;

/// A register of 256 bits. `VEX` says that the product is encoded as AVX-VNNI's.
#[derive(Clone, Copy)]
pub(in crate::int8) struct Narrow<const VEX: bool>(__m256i);

impl<const VEX: bool> DotVector for Narrow<VEX> {
    const LANES: usize = 8;
    const VECTORS: usize = 2;
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: guaranteed by the caller; see `DotVector`.
        Self(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn load(from: *const i8) -> Self {
        // SAFETY: guaranteed by the caller; see `DotVector`.
        Self(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[inline(always)]
    unsafe fn splat(from: *const u8) -> Self {
        // SAFETY: guaranteed by the caller; see `DotVector`.
        Self(unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) })
    }

    #[inline(always)]
    unsafe fn dot(self, activations: Self, weights: Self) -> Self {
        // SAFETY: guaranteed by the caller; see `DotVector`.
        Self(unsafe {
            match VEX {
                true => _mm256_dpbusd_avx_epi32(self.0, activations.0, weights.0),
                false => _mm256_dpbusd_epi32(self.0, activations.0, weights.0),
            }
        })
    }

    #[inline(always)]
    unsafe fn requantise(self, by: Requantisation, output: *mut u8) {
        // SAFETY: guaranteed by the caller; see `DotVector`.
        unsafe {
            let (scale, bias) = (_mm256_loadu_ps(by.scale), _mm256_loadu_ps(by.bias));
            let mut value = _mm256_fmadd_ps(_mm256_cvtepi32_ps(self.0), scale, bias);
            if let Some((residual, factor)) = by.residual {
                let levels = _mm256_cvtepu8_epi32(_mm_loadl_epi64(residual.cast()));
                value = _mm256_fmadd_ps(_mm256_cvtepi32_ps(levels), _mm256_set1_ps(factor), value);
            }
            Self::store_levels(value, output);
        }
    }

    #[inline(always)]
    unsafe fn quantise(numbers: *const f32, scale: *const f32, bias: *const f32, output: *mut u8) {
        // SAFETY: guaranteed by the caller; see `DotVector`.
        unsafe {
            let (numbers, scale, bias) = (_mm256_loadu_ps(numbers), _mm256_loadu_ps(scale), _mm256_loadu_ps(bias));
            Self::store_levels(_mm256_fmadd_ps(numbers, scale, bias), output);
        }
    }
}

impl<const VEX: bool> Narrow<VEX> {
    /// Stores the nearest levels of eight numbers.
    ///
    /// # Safety
    /// The processor has AVX2. `output` is valid for eight levels.
    #[inline(always)]
    unsafe fn store_levels(numbers: __m256, output: *mut u8) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let clamped = _mm256_min_ps(_mm256_max_ps(numbers, _mm256_setzero_ps()), _mm256_set1_ps(MAX_LEVEL));
            // The conversion rounds to the nearest integer, ties to even: the rounding mode that Rust programs keep.
            let levels = _mm256_cvtps_epi32(clamped);
            let (low, high) = (_mm256_castsi256_si128(levels), _mm256_extracti128_si256::<1>(levels));
            let words = _mm_packus_epi32(low, high);
            _mm_storel_epi64(output.cast(), _mm_packus_epi16(words, words));
        }
    }
}
