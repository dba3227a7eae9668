//! Turns a normalised picture into levels, with a border.

use super::dot::{DotVector, MAX_LEVEL};
use super::instructions::DotTask;
use super::{Int8Instructions, padded};

/// Number of channels of a picture.
const CHANNELS: usize = 3;

/// What the levels of a picture stand for: `number = (level − zero) × scale`, for each of the three channels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PictureLevels {
    /// The difference between the numbers of two neighbouring levels.
    pub scale: [f32; CHANNELS],
    /// The level of the number 0. It need not be an integer.
    pub zero: [f32; CHANNELS],
}

/// Turns a picture of `side` by `side` pixels, `[side, side, 3]`, into levels, `[side + 2 border, side + 2 border, 4]`.
/// A level is `number / scale + zero`, clamped to 0..=255 and rounded to the nearest integer, ties to even. The border has
/// the level of the number 0, and the fourth channel the level 0. A number that is not a number gets the level 0.
///
/// # Panics
/// If the length of a slice does not fit, or the processor lacks the instructions.
pub fn quantise(
    picture: &[f32],
    side: usize,
    border: usize,
    by: PictureLevels,
    levels: &mut [u8],
    instructions: Int8Instructions,
) {
    let wide = side + 2 * border;
    assert_eq!(picture.len(), CHANNELS * side * side, "length of a picture of {side} by {side} pixels");
    assert_eq!(levels.len(), padded(CHANNELS) * wide * wide, "bytes of {wide} by {wide} pixels");
    let factor = by.scale.map(|scale| 1.0 / scale);
    instructions.dispatch(Quantisation { picture, side, border, factor, zero: by.zero, levels });
}

/// The arguments of [`quantise`], after their lengths were checked.
struct Quantisation<'a> {
    picture: &'a [f32],
    side: usize,
    border: usize,
    /// One divided by the scale of each channel.
    factor: [f32; CHANNELS],
    zero: [f32; CHANNELS],
    levels: &'a mut [u8],
}

impl Quantisation<'_> {
    /// The level of a number of `channel`.
    #[inline(always)]
    fn level(&self, number: f32, channel: usize) -> u8 {
        #[expect(clippy::manual_clamp, reason = "`max` turns NaN into 0, and `clamp` would keep NaN")]
        let level = number.mul_add(self.factor[channel], self.zero[channel]).max(0.0).min(MAX_LEVEL);
        level.round_ties_even() as u8
    }
}

impl DotTask for Quantisation<'_> {
    #[inline(always)]
    unsafe fn run<V: DotVector>(mut self) {
        let (row, wide) = (CHANNELS * self.side, padded(CHANNELS) * (self.side + 2 * self.border));
        let outside = [self.level(0.0, 0), self.level(0.0, 1), self.level(0.0, 2), 0];
        let levels = std::mem::take(&mut self.levels);
        for (y, line) in levels.chunks_exact_mut(wide.max(1)).enumerate() {
            let pixels = line.as_chunks_mut::<4>().0;
            let y = y.wrapping_sub(self.border);
            if y >= self.side {
                pixels.fill(outside);
                continue;
            }
            pixels[..self.border].fill(outside);
            pixels[self.border + self.side..].fill(outside);
            let numbers = self.picture[y * row..][..row].as_chunks::<CHANNELS>().0;
            for (pixel, [red, green, blue]) in pixels[self.border..].iter_mut().zip(numbers) {
                *pixel = [self.level(*red, 0), self.level(*green, 1), self.level(*blue, 2), 0];
            }
        }
    }
}
