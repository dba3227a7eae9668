//! Turns a normalised picture into levels, with a border.

use super::Int8Instructions;
use super::dot::DotVector;
use super::instructions::DotTask;

/// Number of channels of a picture.
const CHANNELS: usize = 3;

/// How many numbers are computed together: those of sixteen pixels, which fill whole vectors.
const NUMBERS: usize = 16 * CHANNELS;

/// What the levels of a picture stand for: `number = (level − zero) × scale`, for each of the three channels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PictureLevels {
    /// The difference between the numbers of two neighbouring levels.
    pub scale: [f32; CHANNELS],
    /// The level of the number 0. It need not be an integer.
    pub zero: [f32; CHANNELS],
}

/// Turns a picture of `side` by `side` pixels, `[side, side, 3]`, into levels, `[side + 2 border, side + 2 border, 3]`.
/// A level is `number / scale + zero`, clamped to 0..=255 and rounded to the nearest integer, ties to even. The border
/// has the level of the number 0. A number that is not a number gets the level 0.
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
    assert_eq!(levels.len(), CHANNELS * wide * wide, "bytes of {wide} by {wide} pixels");
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

impl DotTask for Quantisation<'_> {
    #[inline(always)]
    unsafe fn run<V: DotVector>(mut self) {
        let (row, wide) = (CHANNELS * self.side, CHANNELS * (self.side + 2 * self.border));
        let factors: [f32; NUMBERS] = std::array::from_fn(|index| self.factor[index % CHANNELS]);
        let zeros: [f32; NUMBERS] = std::array::from_fn(|index| self.zero[index % CHANNELS]);
        // SAFETY: the processor has the instructions; see `DotTask::run`.
        let [red, green, blue, ..] = unsafe { quantise_group::<V>(&[0.0; NUMBERS], &factors, &zeros) };
        let outside = [red, green, blue];
        let levels = std::mem::take(&mut self.levels);
        for (y, line) in levels.chunks_exact_mut(wide.max(1)).enumerate() {
            let pixels = line.as_chunks_mut::<CHANNELS>().0;
            let y = y.wrapping_sub(self.border);
            if y >= self.side {
                pixels.fill(outside);
                continue;
            }
            pixels[..self.border].fill(outside);
            pixels[self.border + self.side..].fill(outside);
            let numbers = self.picture[y * row..][..row].as_chunks::<NUMBERS>();
            let (levels, rest) = pixels[self.border..][..self.side].as_flattened_mut().as_chunks_mut::<NUMBERS>();
            for (levels, numbers) in levels.iter_mut().zip(numbers.0) {
                // SAFETY: the processor has the instructions; see `DotTask::run`.
                *levels = unsafe { quantise_group::<V>(numbers, &factors, &zeros) };
            }
            let mut last = [0.0; NUMBERS];
            last[..rest.len()].copy_from_slice(numbers.1);
            // SAFETY: the processor has the instructions; see `DotTask::run`.
            let last = unsafe { quantise_group::<V>(&last, &factors, &zeros) };
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
}

/// The levels of as many numbers as a group has.
///
/// # Safety
/// The conditions of [`DotVector`] hold.
#[inline(always)]
unsafe fn quantise_group<V: DotVector>(
    numbers: &[f32; NUMBERS],
    factors: &[f32; NUMBERS],
    zeros: &[f32; NUMBERS],
) -> [u8; NUMBERS] {
    const { assert!(NUMBERS.is_multiple_of(V::LANES), "a group is whole vectors") };
    let mut levels = [0; NUMBERS];
    for start in (0..NUMBERS).step_by(V::LANES) {
        // SAFETY: all four arrays have `NUMBERS` numbers, and `start + LANES` is at most that.
        unsafe {
            let (numbers, factors, zeros) =
                (numbers.as_ptr().add(start), factors.as_ptr().add(start), zeros.as_ptr().add(start));
            V::quantise(numbers, factors, zeros, levels.as_mut_ptr().add(start));
        }
    }
    levels
}
