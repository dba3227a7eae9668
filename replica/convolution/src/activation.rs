//! What happens to a sum before it is stored.

use crate::vector::Vector;

/// An addition and a rectification.
#[derive(Debug, Clone, Copy, Default)]
pub struct Activation<'a> {
    /// Added to the output, and of its size.
    pub residual: Option<&'a [f32]>,
    /// Negative numbers become zero, after the addition.
    pub rectify: bool,
}

impl Activation<'_> {
    /// Adds, rectifies and stores the first `count` of `sum` at index `at` of `output`.
    ///
    /// # Safety
    /// As for [`Vector`]; the residual and `output` hold `count` numbers from `at` on, and nobody else uses these.
    #[inline(always)]
    pub(crate) unsafe fn store<V: Vector>(&self, mut sum: V, output: *mut f32, at: usize, count: usize) {
        // SAFETY: the caller's.
        unsafe {
            if let Some(residual) = self.residual {
                let residual = residual.as_ptr().add(at);
                sum = sum.add(if count == V::LANES { V::load(residual) } else { V::load_some(residual, count) });
            }
            if self.rectify {
                // In this order NaN stays NaN.
                sum = V::splat(0.0).max(sum);
            }
            let to = output.add(at);
            if count == V::LANES { sum.store(to) } else { sum.store_some(to, count) }
        }
    }
}
