//! Which vector instructions this processor has, and how code comes to be compiled with them.

use crate::vector::{Four, Vector};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

/// A set of vector instructions that a convolution can be computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    /// What every processor of the target has.
    Portable,
    /// x86-64 with AVX2 and FMA: 8 numbers at a time.
    Avx2,
    /// x86-64 with AVX-512: 16 numbers at a time.
    Avx512,
}

impl Instructions {
    /// Those of this processor, the fastest last.
    pub fn available() -> Vec<Self> {
        [Self::Portable, Self::Avx2, Self::Avx512]
            .into_iter()
            .filter(|instructions| instructions.is_available())
            .collect()
    }

    /// The fastest of this processor.
    pub fn best() -> Self {
        Self::available().pop().unwrap_or(Self::Portable)
    }

    pub(crate) fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// Numbers in one vector.
    pub(crate) fn lanes(self) -> usize {
        match self {
            Self::Portable => 4,
            Self::Avx2 => 8,
            Self::Avx512 => 16,
        }
    }

    /// Does `work` with vectors of these instructions.
    ///
    /// # Panics
    /// When the processor lacks them.
    pub(crate) fn perform(self, work: impl Work) {
        assert!(self.is_available(), "this processor lacks {self:?}");
        // SAFETY: it has them.
        unsafe {
            match self {
                Self::Portable => work.perform::<Four>(),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => with_avx2(work),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => with_avx512(work),
                #[cfg(not(target_arch = "x86_64"))]
                Self::Avx2 | Self::Avx512 => unreachable!("not available"),
            }
        }
    }

    /// Columns of the product that are computed together: two vectors.
    pub(crate) fn columns(self) -> usize {
        2 * self.lanes()
    }
}

/// Something that is done with vectors.
pub(crate) trait Work {
    /// Does it. To be inlined, with all that it calls, so that it is compiled with the instructions of `V`.
    ///
    /// # Safety
    /// As for [`Vector`].
    unsafe fn perform<V: Vector>(self);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn with_avx2(work: impl Work) {
    // SAFETY: the caller's.
    unsafe { work.perform::<__m256>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn with_avx512(work: impl Work) {
    // SAFETY: the caller's.
    unsafe { work.perform::<__m512>() }
}
