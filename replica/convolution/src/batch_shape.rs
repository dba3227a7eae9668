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
    pub fn pixels(self) -> usize {
        self.images * self.height * self.width
    }
}
