//! Vectors of 4 numbers in plain arithmetic, which the compiler turns into the vector instructions of the target.

use super::Vector;
use crate::instructions::VectorTask;
use crate::product::{GroupProduct, Kernel};

/// A vector of four numbers that needs no particular processor.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 4]);

impl Portable {
    #[inline(always)]
    fn zip_with(self, other: Self, operation: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|lane| operation(self.0[lane], other.0[lane])))
    }
}

impl Vector for Portable {
    const LANES: usize = 4;
    const KERNELS: &[Kernel] = &[kernel::<1>, kernel::<2>, kernel::<3>, kernel::<4>];

    #[inline(never)]
    unsafe fn run_apart(task: impl VectorTask) {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { task.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn splat(number: f32) -> Self {
        Self([number; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: guaranteed by the caller; see `Vector`.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: guaranteed by the caller; see `Vector`.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip_with(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip_with(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // `f32::mul_add` would round once instead of twice, but it calls a library function where the target has no
        // instruction for it.
        self.zip_with(factor, |a, b| a * b).zip_with(term, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip_with(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn max_or_nan(self, other: Self) -> Self {
        self.zip_with(other, |a, b| if a > b || a.is_nan() { a } else { b })
    }

    #[inline(always)]
    unsafe fn prefetch(_address: *const f32) {}
}

unsafe fn kernel<const ROWS: usize>(product: &GroupProduct) {
    // SAFETY: guaranteed by the caller; see `Vector::KERNELS`.
    unsafe { product.multiply::<Portable, ROWS>() }
}
