//! Side, stride and padding of a convolution.

use crate::Shape;

/// How a square filter moves over an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Rows and columns of the filter.
    pub side: usize,
    /// Pixels of the input between neighbouring outputs, both across and down.
    pub stride: usize,
    /// Rows and columns of zeros that are added at each edge of the image.
    pub padding: usize,
}

impl Geometry {
    /// The shape of the output of a convolution of `input`: `⌊(length + 2 padding − side) / stride⌋ + 1` along each
    /// side, and 0 where the filter does not fit.
    pub fn output(self, input: Shape) -> Shape {
        let along = |length: usize| match (length + 2 * self.padding).checked_sub(self.side) {
            Some(room) if length > 0 => room / self.stride + 1,
            _ => 0,
        };
        Shape { images: input.images, height: along(input.height), width: along(input.width) }
    }
}
