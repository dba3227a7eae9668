//! Sixteen sums: AVX-512-VNNI.

use super::{DotVector, MAX_LEVEL, Requantisation};
use std::arch::x86_64::*;

/// A register of 512 bits.
#[derive(Clone, Copy)]
pub(in crate::int8) struct Wide(__m512i);

impl DotVector for Wide {
    const LANES: usize = 16;
    const VECTORS: usize = 4;
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: guaranteed by the caller; see `DotVector`.
        Self(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    unsafe fn load(from: *const i8) -> Self {
        // SAFETY: guaranteed by the caller; see `DotVector`.
        Self(unsafe { _mm512_loadu_si512(from.cast()) })
    }

    #[inline(always)]
    unsafe fn splat(from: *const u8) -> Self {
        // SAFETY: guaranteed by the caller; see `DotVector`.
        Self(unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) })
    }

    #[inline(always)]
    unsafe fn dot(self, activations: Self, weights: Self) -> Self {
        // SAFETY: guaranteed by the caller; see `DotVector`.
        Self(unsafe { _mm512_dpbusd_epi32(self.0, activations.0, weights.0) })
    }

    #[inline(always)]
    unsafe fn requantise(self, by: Requantisation, output: *mut u8) {
        // SAFETY: guaranteed by the caller; see `DotVector`.
        unsafe {
            let (scale, bias) = (_mm512_loadu_ps(by.scale), _mm512_loadu_ps(by.bias));
            let levels = _mm512_max_epi32(self.levels(scale, bias, by.residual), _mm512_setzero_si512());
            _mm_storeu_si128(output.cast(), _mm512_cvtepi32_epi8(levels));
        }
    }

    #[inline(always)]
    unsafe fn quantise(numbers: *const f32, scale: *const f32, bias: *const f32, output: *mut u8) {
        // SAFETY: guaranteed by the caller; see `DotVector`.
        unsafe {
            let (numbers, scale, bias) = (_mm512_loadu_ps(numbers), _mm512_loadu_ps(scale), _mm512_loadu_ps(bias));
            let levels = Self::rounded(_mm512_fmadd_ps(numbers, scale, bias));
            _mm_storeu_si128(output.cast(), _mm512_cvtepi32_epi8(_mm512_max_epi32(levels, _mm512_setzero_si512())));
        }
    }

    #[inline(always)]
    unsafe fn requantise_all<const ROWS: usize, const VECTORS: usize>(
        sums: [[Self; VECTORS]; ROWS],
        by: Requantisation,
        output: *mut u8,
        stride: usize,
    ) {
        // SAFETY: guaranteed by the caller; see `DotVector`.
        unsafe {
            let mut levels = [[_mm512_setzero_si512(); 6]; ROWS];
            unrolled!(VECTORS, VECTOR, {
                let by = by.skip(VECTOR * Self::LANES);
                // Read once for all pixels. Reading them for each takes a percent of a convolution.
                let (scale, bias) = (_mm512_loadu_ps(by.scale), _mm512_loadu_ps(by.bias));
                unrolled!(ROWS, ROW, {
                    levels[ROW][VECTOR] = sums[ROW][VECTOR].levels(scale, bias, by.down(ROW * stride).residual);
                });
            });
            unrolled!(ROWS, ROW, {
                let [a, b, c, d, ..] = levels[ROW];
                // A pack clamps to unsigned numbers, and takes four channels of each operand in turn: the bytes are the
                // channels 0-3 of `a`, `b`, `c` and `d`, then the channels 4-7 of them, and so on.
                let bytes = _mm512_packus_epi16(_mm512_packus_epi32(a, b), _mm512_packus_epi32(c, d));
                let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
                _mm512_storeu_si512(output.add(ROW * stride).cast(), _mm512_permutexvar_epi32(order, bytes));
            });
        }
    }
}

impl Wide {
    /// The levels of the sums, each in 32 bits. Levels below 0 are not yet clamped.
    ///
    /// # Safety
    /// As for [`DotVector::requantise`].
    #[inline(always)]
    unsafe fn levels(self, scale: __m512, bias: __m512, residual: Option<(*const u8, f32)>) -> __m512i {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let mut value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(self.0), scale, bias);
            if let Some((residual, factor)) = residual {
                let levels = _mm512_cvtepu8_epi32(_mm_loadu_si128(residual.cast()));
                value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(levels), _mm512_set1_ps(factor), value);
            }
            Self::rounded(value)
        }
    }

    /// The nearest integers of numbers, at most 255. Numbers below 0 are not yet clamped.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[inline(always)]
    unsafe fn rounded(numbers: __m512) -> __m512i {
        // SAFETY: guaranteed by the caller.
        unsafe {
            // With the operands exchanged, a number that is not a number would become 255, and not 0 as by the
            // definition.
            let clamped = _mm512_min_ps(_mm512_set1_ps(MAX_LEVEL), numbers);
            // The conversion rounds to the nearest integer, ties to even: the rounding mode that Rust programs keep.
            // Values below all integers become the least one.
            _mm512_cvtps_epi32(clamped)
        }
    }
}
