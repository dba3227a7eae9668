//! Side, stride and padding of a convolution.

use crate::BatchShape;

/// The side of a square filter, and how the filter moves over an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Number of rows of the filter, and of columns.
    pub side: usize,
    /// Pixels by which the filter moves between neighbouring outputs, across and down.
    pub stride: usize,
    /// Number of rows or columns of zeros that are added at each edge of the image.
    pub padding: usize,
}

impl Geometry {
    /// The shape of the output of a convolution of `input`. Its height and width are
    /// `⌊(length + 2 padding − side) / stride⌋ + 1`, where `length` is the height or width of `input`. They are 0 if
    /// `length` is 0 or the filter is larger than the padded image.
    pub fn output(self, input: BatchShape) -> BatchShape {
        let along = |length: usize| match (length + 2 * self.padding).checked_sub(self.side) {
            Some(room) if length > 0 => room / self.stride + 1,
            _ => 0,
        };
        BatchShape { images: input.images, height: along(input.height), width: along(input.width) }
    }
}
