//! Synthetic images on which engines are measured and compared. The images look like noise, but have the range of
//! normalised images.

use super::{CHANNELS, Input};

/// `count` images of `side` by `side` pixels. All of them differ, and every call returns the same images.
pub(crate) fn images(count: usize, side: usize) -> Vec<Input> {
    let length = CHANNELS * side * side;
    (0..count).map(|image| (image * length..(image + 1) * length).map(number).collect()).collect()
}

/// A pseudo-random number from -2 to 2: the finaliser of splitmix64 (Steele, Lea and Flood 2014).
fn number(index: usize) -> f32 {
    let mut bits = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits >> 40) as f32 / (1_u32 << 22) as f32 - 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_differ_and_are_centred() {
        let two = images(2, 32);
        assert_ne!(two[0], two[1]);
        let numbers = two.concat();
        let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
        assert!(mean.abs() < 0.1 && numbers.iter().all(|number| number.abs() <= 2.0), "{mean}");
    }
}
