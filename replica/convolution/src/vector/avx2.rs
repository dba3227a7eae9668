//! Vectors of 8 numbers: AVX2 with FMA.

use super::Vector;
use crate::instructions::VectorTask;
use crate::product::{GroupProduct, Kernel};
use std::arch::x86_64::*;

impl Vector for __m256 {
    const LANES: usize = 8;
    const KERNELS: &[Kernel] = &[kernel::<1>, kernel::<2>, kernel::<3>, kernel::<4>, kernel::<5>, kernel::<6>];

    #[inline(always)]
    unsafe fn run_apart(task: impl VectorTask) {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { run(task) }
    }

    #[inline(always)]
    unsafe fn splat(number: f32) -> Self {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { _mm256_set1_ps(number) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { _mm256_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { _mm256_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { _mm256_sub_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { _mm256_fmadd_ps(self, factor, term) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { _mm256_max_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn max_or_nan(self, other: Self) -> Self {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { _mm256_blendv_ps(_mm256_max_ps(self, other), self, _mm256_cmp_ps::<_CMP_UNORD_Q>(self, self)) }
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const f32) {
        // SAFETY: a prefetch of any address never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn kernel<const ROWS: usize>(product: &GroupProduct) {
    // SAFETY: guaranteed by the caller; see `Vector::KERNELS`.
    unsafe { product.multiply::<__m256, ROWS>() }
}

#[target_feature(enable = "avx2,fma")]
#[inline(never)]
unsafe fn run(task: impl VectorTask) {
    // SAFETY: guaranteed by the caller; see `Vector::run_apart`.
    unsafe { task.run::<__m256>() }
}
