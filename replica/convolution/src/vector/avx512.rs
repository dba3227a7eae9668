//! Vectors of 16 numbers: AVX-512 Foundation.

use super::Vector;
use crate::instructions::{VectorTask, run_with_avx512};
use std::arch::x86_64::*;

impl Vector for __m512 {
    const LANES: usize = 16;
    const ROWS: usize = 14;

    #[inline(always)]
    unsafe fn splat(number: f32) -> Self {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { _mm512_set1_ps(number) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { _mm512_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { _mm512_sub_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { _mm512_fmadd_ps(self, factor, term) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { _mm512_max_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const f32) {
        // SAFETY: a prefetch of any address never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }

    #[inline(always)]
    unsafe fn call(task: impl VectorTask) {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { run_with_avx512(task) }
    }
}
