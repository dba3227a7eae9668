//! The size of a batch of images.

/// The size of a batch of images: `[images, height, width]`. The number of channels is stated separately, since a
/// convolution changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchShape {
    /// Number of images.
    pub images: usize,
    /// Rows of pixels in each image.
    pub height: usize,
    /// Columns of pixels in each image.
    pub width: usize,
}

impl BatchShape {
    /// Number of pixels of all images together.
    ///
    /// # Panics
    /// If the number does not fit a `usize`.
    pub fn pixels(self) -> usize {
        self.numbers(1)
    }

    /// Number of numbers of all images together, with `channels` channels.
    ///
    /// # Panics
    /// If the number does not fit a `usize`. A product that wraps around would let a short slice pass for a large batch.
    pub fn numbers(self, channels: usize) -> usize {
        let factors = [self.images, self.height, self.width, channels];
        product(factors).unwrap_or_else(|| panic!("{self:?} with {channels} channels is larger than the memory"))
    }
}

/// The product of `factors`. `None` if it does not fit a `usize`, even if a factor is zero.
pub(crate) fn product<const N: usize>(factors: [usize; N]) -> Option<usize> {
    factors.into_iter().map(|factor| factor.max(1)).try_fold(1, usize::checked_mul)?;
    Some(factors.into_iter().product())
}
