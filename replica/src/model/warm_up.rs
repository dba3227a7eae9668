//! Pictures to measure and to compare with: nothing that anybody would send, but of the range of normalised pictures.

use super::{CHANNELS, Input};

/// `count` pictures of `side` by `side` pixels, no two alike and always the same.
pub(crate) fn pictures(count: usize, side: usize) -> Vec<Input> {
    let length = CHANNELS * side * side;
    (0..count).map(|picture| (picture * length..(picture + 1) * length).map(number).collect()).collect()
}

/// From -2 to 2 (the finaliser of splitmix64).
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
    fn pictures_differ_and_are_centred() {
        let two = pictures(2, 32);
        assert_ne!(two[0], two[1]);
        let numbers = two.concat();
        let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
        assert!(mean.abs() < 0.1 && numbers.iter().all(|number| number.abs() <= 2.0), "{mean}");
    }
}
