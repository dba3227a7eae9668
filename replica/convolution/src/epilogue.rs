//! The operations that are applied to a finished sum of a convolution before the sum is stored.

use crate::vector::Vector;

/// The function that is applied to each output of a convolution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Nonlinearity {
    /// The output is stored as it is.
    #[default]
    None,
    /// `max(0, x)`; NaN stays NaN.
    Relu,
}

/// A residual addition and a nonlinearity, in this order.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// The activations that are added to the output; a slice as long as the output.
    pub residual: Option<&'a [f32]>,
    /// The function that is applied after the addition.
    pub nonlinearity: Nonlinearity,
}

impl Epilogue<'_> {
    /// Applies the epilogue to the first `count` lanes of `sum` and stores them at `output[at..at + count]`.
    ///
    /// # Safety
    /// The conditions of [`Vector`] hold. The residual and `output` have `count` numbers from index `at` on, and no
    /// other thread uses these numbers of `output`.
    #[inline(always)]
    pub(crate) unsafe fn store<V: Vector>(&self, mut sum: V, output: *mut f32, at: usize, count: usize) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            if let Some(residual) = self.residual {
                let residual = residual.as_ptr().add(at);
                sum = sum.add(if count == V::LANES { V::load(residual) } else { V::load_some(residual, count) });
            }
            if self.nonlinearity == Nonlinearity::Relu {
                // With the operands exchanged, `max` would turn NaN into zero.
                sum = V::splat(0.0).max(sum);
            }
            let to = output.add(at);
            if count == V::LANES { sum.store(to) } else { sum.store_some(to, count) }
        }
    }

    /// Applies the epilogue to vectors of neighbouring pixels, and stores them at `output[at]`, `output[at + pixel]`,
    /// and so on. The choices of the epilogue are made once for all of them.
    ///
    /// # Safety
    /// As for [`Self::store`] with whole vectors.
    #[inline(always)]
    pub(crate) unsafe fn store_pixels<V: Vector, const COUNT: usize>(
        &self,
        mut sums: [V; COUNT],
        output: *mut f32,
        at: usize,
        pixel: usize,
    ) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            if let Some(residual) = self.residual {
                for index in 0..COUNT {
                    sums[index] = sums[index].add(V::load(residual.as_ptr().add(at + index * pixel)));
                }
            }
            let least = V::splat(match self.nonlinearity {
                Nonlinearity::Relu => 0.0,
                Nonlinearity::None => f32::NEG_INFINITY,
            });
            for index in 0..COUNT {
                // With the operands exchanged, `max` would turn NaN into a number.
                least.max(sums[index]).store(output.add(at + index * pixel));
            }
        }
    }
}
