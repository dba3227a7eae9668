//! A vector of `f32`, with the operations that transforms, products and poolings need.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

pub(crate) use portable::Portable;

use crate::instructions::VectorTask;
use crate::product::Kernel;

/// A vector register of [`Vector::LANES`] numbers.
///
/// # Safety
/// A function of an implementation may only be called on a processor that has its instructions. A pointer must be valid
/// for [`Vector::LANES`] numbers, or for `count` numbers where the function takes a count. Pointers need no alignment.
pub(crate) trait Vector: Copy {
    /// How many numbers a vector has; at most 16.
    const LANES: usize;
    /// The functions that multiply a group of 1, 2, 3, … rows of a product, each compiled with the instructions of the
    /// vector. The sums of the largest group by two vectors of columns fit the registers, and leave some registers for
    /// the factors.
    const KERNELS: &[Kernel];
    /// Largest number of rows of a product that are computed together.
    const ROWS: usize = Self::KERNELS.len();

    /// Runs `task` in a function of its own, compiled with the instructions of the vector. The compiler inlines all of
    /// a task into one function, and a task of several loops was seen to keep the addresses and numbers of each loop in
    /// memory.
    unsafe fn run_apart(task: impl VectorTask);
    /// `number` in every lane.
    unsafe fn splat(number: f32) -> Self;
    /// Reads [`Vector::LANES`] numbers.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes [`Vector::LANES`] numbers.
    unsafe fn store(self, to: *mut f32);
    /// `self + other`
    unsafe fn add(self, other: Self) -> Self;
    /// `self - other`
    unsafe fn sub(self, other: Self) -> Self;
    /// `self * factor + term`
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The larger number of each lane. If one of the two is NaN, the result is the number of `other`.
    unsafe fn max(self, other: Self) -> Self;
    /// The larger number of each lane; NaN if one of the two is NaN.
    unsafe fn max_or_nan(self, other: Self) -> Self;
    /// Asks the processor to bring the cache line of `address` into the second-level cache. Any address is allowed.
    unsafe fn prefetch(address: *const f32);

    /// Reads `count` numbers, at most [`Vector::LANES`]; the other lanes are zero.
    #[inline(always)]
    unsafe fn load_some(from: *const f32, count: usize) -> Self {
        let mut numbers = [0.0; 16];
        // SAFETY: `from` is valid for `count` numbers, which are at most `LANES` and so at most 16.
        unsafe {
            std::ptr::copy_nonoverlapping(from, numbers.as_mut_ptr(), count);
            Self::load(numbers.as_ptr())
        }
    }

    /// Writes the first `count` numbers, at most [`Vector::LANES`].
    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, count: usize) {
        let mut numbers = [0.0; 16];
        // SAFETY: no vector has more than 16 lanes, and `to` is valid for `count` numbers.
        unsafe {
            self.store(numbers.as_mut_ptr());
            std::ptr::copy_nonoverlapping(numbers.as_ptr(), to, count);
        }
    }
}
