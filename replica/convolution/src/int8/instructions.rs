//! The sets of instructions for products of 8-bit integers, and how code is compiled for each.

use super::dot::{DotVector, PortableSums};
#[cfg(target_arch = "x86_64")]
use super::dot::{Narrow, Wide};
#[cfg(target_arch = "x86_64")]
use crate::Instructions;
use std::fmt;

/// A set of instructions for convolutions in 8-bit integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Int8Instructions {
    /// The instructions that every processor of the target has.
    Portable,
    /// x86-64 with AVX-VNNI: sums of 8 outputs at a time.
    AvxVnni,
    /// x86-64 with AVX-512-VNNI and AVX-512-VL, in vectors of 256 bits: sums of 8 outputs at a time.
    Avx512VnniNarrow,
    /// x86-64 with AVX-512-VNNI: sums of 16 outputs at a time.
    Avx512Vnni,
}

impl Int8Instructions {
    /// The sets that this processor has and that [`Instructions::restrict`](crate::Instructions::restrict) allows, the
    /// fastest last.
    pub fn available() -> Vec<Self> {
        [Self::Portable, Self::AvxVnni, Self::Avx512VnniNarrow, Self::Avx512Vnni]
            .into_iter()
            .filter(|instructions| instructions.is_available())
            .collect()
    }

    /// The fastest of [`available`](Self::available).
    pub fn best() -> Self {
        Self::available().pop().unwrap_or(Self::Portable)
    }

    /// Whether this processor has the set, and [`Instructions::restrict`](crate::Instructions::restrict) allows it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Instructions::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512VnniNarrow => {
                Self::Avx512Vnni.is_available()
                    && Instructions::Avx2.is_available()
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                Instructions::Avx512.is_available()
                    && is_x86_feature_detected!("avx512vnni")
                    && is_x86_feature_detected!("avx512bw")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::AvxVnni | Self::Avx512VnniNarrow | Self::Avx512Vnni => false,
        }
    }

    /// Number of output channels that are computed together.
    pub(super) fn block(self) -> usize {
        /// The block of a kind of vector.
        struct Block;
        impl Block {
            const fn of<V: DotVector>() -> usize {
                V::LANES * V::VECTORS
            }
        }
        match self {
            Self::Portable => Block::of::<PortableSums>(),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Block::of::<Narrow<true>>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512VnniNarrow => Block::of::<Narrow<false>>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Block::of::<Wide>(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::AvxVnni | Self::Avx512VnniNarrow | Self::Avx512Vnni => Block::of::<PortableSums>(),
        }
    }

    /// Runs `task` with the vectors of this set.
    ///
    /// # Panics
    /// If the processor lacks the set.
    pub(super) fn dispatch(self, task: impl DotTask) {
        assert!(self.is_available(), "this processor lacks {self:?}");
        // SAFETY: the processor has the instructions.
        unsafe {
            match self {
                Self::Portable => task.run::<PortableSums>(),
                #[cfg(target_arch = "x86_64")]
                Self::AvxVnni => run_with_avx_vnni(task),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512VnniNarrow => run_with_avx512_vnni_narrow(task),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512Vnni => run_with_avx512_vnni(task),
                #[cfg(not(target_arch = "x86_64"))]
                Self::AvxVnni | Self::Avx512VnniNarrow | Self::Avx512Vnni => {
                    unreachable!("the assertion above has refused the set")
                }
            }
        }
    }
}

impl fmt::Display for Int8Instructions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "no VNNI",
            Self::AvxVnni => "AVX-VNNI",
            Self::Avx512VnniNarrow => "AVX-512-VNNI in 256 bits",
            Self::Avx512Vnni => "AVX-512-VNNI",
        })
    }
}

/// A computation that is generic over the vector type, so that it can be compiled for each set of instructions.
pub(super) trait DotTask {
    /// Runs the computation. An implementation is marked `#[inline(always)]`, and so is every function that it calls:
    /// only code that is inlined into a function with `target_feature` is compiled with the instructions of `V`.
    ///
    /// # Safety
    /// The conditions of [`DotVector`] hold.
    unsafe fn run<V: DotVector>(self);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avxvnni")]
unsafe fn run_with_avx_vnni(task: impl DotTask) {
    // SAFETY: guaranteed by the caller.
    unsafe { task.run::<Narrow<true>>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn run_with_avx512_vnni_narrow(task: impl DotTask) {
    // SAFETY: guaranteed by the caller.
    unsafe { task.run::<Narrow<false>>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn run_with_avx512_vnni(task: impl DotTask) {
    // SAFETY: guaranteed by the caller.
    unsafe { task.run::<Wide>() }
}
