//! The size of a batch of images.

/// The size of a batch of images: `[images, height, width]`. The number of channels belongs to the filter that reads or
/// writes the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of images.
    pub images: usize,
    /// Rows of pixels in each image.
    pub height: usize,
    /// Columns of pixels in each image.
    pub width: usize,
}

impl Shape {
    /// Number of pixels of all images together.
    pub fn pixels(self) -> usize {
        self.images * self.height * self.width
    }
}
