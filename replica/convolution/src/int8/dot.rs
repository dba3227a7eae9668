//! Vectors of `i32` sums, with the product that adds four products of bytes to each sum.

/// Repeats a block with the constant `$index` from 0 up to `$count`, at most 6. If a loop of an index read an array of
/// registers, the compiler would keep the whole array in memory, and store every sum after every product.
macro_rules! unrolled {
    ($count:expr, $index:ident, $block:block) => {
        unrolled!(@ $count, $index, $block, 0 1 2 3 4 5)
    };
    (@ $count:expr, $index:ident, $block:block, $($value:literal)+) => {
        $(if $count > $value {
            const $index: usize = $value;
            $block
        })+
    };
}

#[cfg(target_arch = "x86_64")]
mod narrow;
mod portable;
#[cfg(target_arch = "x86_64")]
mod wide;

#[cfg(target_arch = "x86_64")]
pub(super) use narrow::Narrow;
pub(super) use portable::PortableSums;
#[cfg(target_arch = "x86_64")]
pub(super) use wide::Wide;

/// The greatest level of an activation, as `f32`.
pub(super) const MAX_LEVEL: f32 = u8::MAX as f32;

/// The greatest [`DotVector::ROWS`].
pub(super) const MAX_ROWS: usize = 6;

/// What is applied to [`DotVector::LANES`] sums before they are stored as levels.
#[derive(Clone, Copy)]
pub(super) struct Requantisation {
    /// The factors of the sums.
    pub(super) scale: *const f32,
    /// The terms that are added.
    pub(super) bias: *const f32,
    /// The levels of the residual, and their factor.
    pub(super) residual: Option<(*const u8, f32)>,
}

impl Requantisation {
    /// The same for the pixel whose levels begin `bytes` bytes later.
    ///
    /// # Safety
    /// The residual is valid for `bytes` levels.
    #[inline(always)]
    pub(super) unsafe fn down(self, bytes: usize) -> Self {
        // SAFETY: guaranteed by the caller.
        Self { residual: self.residual.map(|(levels, factor)| (unsafe { levels.add(bytes) }, factor)), ..self }
    }

    /// The same without the first `count` channels.
    ///
    /// # Safety
    /// All pointers are valid for `count` numbers.
    #[inline(always)]
    pub(super) unsafe fn skip(self, count: usize) -> Self {
        // SAFETY: guaranteed by the caller.
        unsafe {
            Self {
                scale: self.scale.add(count),
                bias: self.bias.add(count),
                residual: self.residual.map(|(levels, factor)| (levels.add(count), factor)),
            }
        }
    }
}

/// A vector register of [`DotVector::LANES`] numbers of 32 bits: sums, four weights of each output, or four
/// activations.
///
/// # Safety
/// A function of an implementation may only be called on a processor that has its instructions. A pointer must be valid
/// for the numbers that the function reads or writes. Pointers need no alignment.
pub(super) trait DotVector: Copy {
    /// Number of sums of a vector; at most 16.
    const LANES: usize;
    /// Number of vectors of output channels that are computed together.
    const VECTORS: usize;
    /// Number of pixels that are computed together, at most 6. The sums of these pixels by [`DotVector::VECTORS`]
    /// vectors fit the registers, and leave some registers for the factors.
    const ROWS: usize;

    /// Zeros.
    unsafe fn zero() -> Self;
    /// Reads four weights for each lane: `4 × LANES` bytes.
    unsafe fn load(from: *const i8) -> Self;
    /// Reads four activations, and puts them into every lane.
    unsafe fn splat(from: *const u8) -> Self;
    /// Adds the four products of each lane to the sum of the lane. The sums do not saturate.
    unsafe fn dot(self, activations: Self, weights: Self) -> Self;
    /// Stores a level for each lane: `sum × scale + bias` with one rounding, plus `residual × factor` with one
    /// rounding, clamped to 0..=255, and rounded to the nearest integer, ties to even. Reads and writes
    /// [`DotVector::LANES`] levels.
    unsafe fn requantise(self, by: Requantisation, output: *mut u8);
    /// Stores a level for each of [`DotVector::LANES`] numbers: `number × scale + bias` with one rounding, clamped to
    /// 0..=255, and rounded to the nearest integer, ties to even. A number that is not a number gets the level 0.
    unsafe fn quantise(numbers: *const f32, scale: *const f32, bias: *const f32, output: *mut u8);
    /// Stores the levels of some pixels, each of several vectors whose channels follow each other. The residual and the
    /// output have `stride` bytes from one pixel to the next.
    #[inline(always)]
    unsafe fn requantise_all<const ROWS: usize, const VECTORS: usize>(
        sums: [[Self; VECTORS]; ROWS],
        by: Requantisation,
        output: *mut u8,
        stride: usize,
    ) {
        unrolled!(ROWS, ROW, {
            for vector in 0..VECTORS {
                // SAFETY: guaranteed by the caller.
                unsafe {
                    let by = by.down(ROW * stride).skip(vector * Self::LANES);
                    sums[ROW][vector].requantise(by, output.add(ROW * stride + vector * Self::LANES));
                }
            }
        });
    }
}
