//! Side, stride and padding of a convolution.

use crate::BatchShape;
use crate::batch_shape::product;

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
    ///
    /// # Panics
    /// If the stride is 0, or a padded length does not fit a `usize`.
    pub fn output(self, input: BatchShape) -> BatchShape {
        assert!(self.stride > 0, "a convolution needs a stride");
        let along = |length: usize| {
            let padded = self.padding.checked_mul(2).and_then(|padding| length.checked_add(padding));
            let padded = padded.unwrap_or_else(|| panic!("{self:?} pads {input:?} beyond the memory"));
            match padded.checked_sub(self.side) {
                Some(room) if length > 0 => room / self.stride + 1,
                _ => 0,
            }
        };
        BatchShape { images: input.images, height: along(input.height), width: along(input.width) }
    }

    /// Checks the sizes of a filter, and returns its number of output channels. `weights` is
    /// `[outputs, inputs, side, side]`, and `bias` is `[outputs]`.
    ///
    /// # Panics
    /// If the length of `weights` does not fit the other sizes, or one of these is zero.
    pub(crate) fn check_filter(self, weights: &[f32], bias: &[f32], inputs: usize) -> usize {
        let (outputs, Self { side, stride, .. }) = (bias.len(), self);
        assert!(
            inputs > 0 && outputs > 0 && side > 0 && stride > 0,
            "a convolution needs channels, a side and a stride"
        );
        let expected = product([side, side, outputs, inputs]);
        assert_eq!(Some(weights.len()), expected, "number of weights for {outputs} x {inputs} channels of {self:?}");
        outputs
    }
}
