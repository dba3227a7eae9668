//! A vector of `f32`: the few operations that transforms and products are made of.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

pub(crate) use portable::Four;

/// As many numbers as one register holds.
///
/// # Safety
/// Every function of an implementation may only be called on a processor that has its instructions; pointers must be
/// valid for [`Vector::LANES`] numbers, or for as many as said. No alignment is needed.
pub(crate) trait Vector: Copy {
    /// Numbers in it.
    const LANES: usize;
    /// Rows of the product that, two vectors wide, leave registers for what they are computed from.
    const ROWS: usize;

    /// The same number everywhere.
    unsafe fn splat(number: f32) -> Self;
    /// From memory.
    unsafe fn load(from: *const f32) -> Self;
    /// To memory.
    unsafe fn store(self, to: *mut f32);
    /// `self + other`
    unsafe fn add(self, other: Self) -> Self;
    /// `self - other`
    unsafe fn sub(self, other: Self) -> Self;
    /// `self * factor + term`
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The larger of each pair; where either is NaN, `other`.
    unsafe fn max(self, other: Self) -> Self;
    /// Asks for the cache line at `address`, which may lie anywhere.
    unsafe fn prefetch(address: *const f32);

    /// `count` numbers, and zeros.
    #[inline(always)]
    unsafe fn load_some(from: *const f32, count: usize) -> Self {
        let mut numbers = [0.0; 16];
        // SAFETY: `from` is valid for `count`, at most `LANES` and so at most 16.
        unsafe {
            std::ptr::copy_nonoverlapping(from, numbers.as_mut_ptr(), count);
            Self::load(numbers.as_ptr())
        }
    }

    /// The first `count` numbers.
    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, count: usize) {
        let mut numbers = [0.0; 16];
        // SAFETY: no vector is longer than 16; `to` is valid for `count`, at most `LANES`.
        unsafe {
            self.store(numbers.as_mut_ptr());
            std::ptr::copy_nonoverlapping(numbers.as_ptr(), to, count);
        }
    }
}
