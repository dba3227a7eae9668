//! The sets of vector instructions: which of them this processor has, and how code is compiled for each.

use crate::vector::{Portable, Vector};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};
use std::sync::OnceLock;

/// A set of vector instructions for computing convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    /// The instructions that every processor of the target has: 4 numbers at a time.
    Portable,
    /// x86-64 with AVX2 and FMA: 8 numbers at a time.
    Avx2,
    /// x86-64 with AVX-512: 16 numbers at a time.
    Avx512,
}

impl std::str::FromStr for Instructions {
    type Err = String;

    /// The set with this name in small letters.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "portable" => Ok(Self::Portable),
            "avx2" => Ok(Self::Avx2),
            "avx512" => Ok(Self::Avx512),
            _ => Err(format!("instructions are portable, avx2 or avx512, not {name:?}")),
        }
    }
}

impl Instructions {
    /// The sets that this processor has, the fastest last.
    pub fn available() -> Vec<Self> {
        [Self::Portable, Self::Avx2, Self::Avx512]
            .into_iter()
            .filter(|instructions| instructions.is_available())
            .collect()
    }

    /// The fastest set that this processor has.
    pub fn best() -> Self {
        Self::available().pop().unwrap_or(Self::Portable)
    }

    /// Lets this process use no faster set than this one, as if the processor lacked it, and no matrix unit. With it, a
    /// benchmark measures the code for other processors. Only the first call has an effect.
    pub fn restrict(self) {
        let _restricted_before = MOST.set(self);
    }

    /// Whether the process may use all sets that the processor has, and the matrix unit.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn is_unrestricted() -> bool {
        MOST.get().is_none()
    }

    /// Whether this processor has the set, and the process may use it.
    pub(crate) fn is_available(self) -> bool {
        MOST.get().is_none_or(|most| self.lanes() <= most.lanes()) && self.is_in_processor()
    }

    /// Whether this processor has the set.
    fn is_in_processor(self) -> bool {
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

    /// Runs `task` with the vectors of this set.
    ///
    /// # Panics
    /// If the processor lacks the set.
    pub(crate) fn dispatch(self, task: impl VectorTask) {
        assert!(self.is_available(), "this processor lacks {self:?}");
        // SAFETY: the processor has the instructions.
        unsafe {
            match self {
                Self::Portable => Portable::run_apart(task),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => __m256::run_apart(task),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => __m512::run_apart(task),
                #[cfg(not(target_arch = "x86_64"))]
                Self::Avx2 | Self::Avx512 => unreachable!("the assertion above has refused the set"),
            }
        }
    }

    /// Number of columns of a product that are computed together: those of two vectors.
    pub(crate) fn columns(self) -> usize {
        2 * self.lanes()
    }
}

/// The fastest set that this process may use; see [`Instructions::restrict`].
static MOST: OnceLock<Instructions> = OnceLock::new();

/// A computation that is generic over the vector type, so that it can be compiled for each set of instructions.
pub(crate) trait VectorTask {
    /// Runs the computation. An implementation is marked `#[inline(always)]`, and so is every function that it calls:
    /// only code that is inlined into a function with `target_feature` is compiled with the instructions of `V`.
    ///
    /// # Safety
    /// The conditions of [`Vector`] hold.
    unsafe fn run<V: Vector>(self);
}
