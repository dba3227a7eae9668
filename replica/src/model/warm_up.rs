//! Synthetic images on which engines are measured and compared: images of noise, and pictures of surfaces, edges and
//! textures, whose activations are as unevenly spread as those of photographs. All have the range of normalised images.

use super::{CHANNELS, Input};

/// `count` images of `side` by `side` pixels. All of them differ, and every call returns the same images.
pub(crate) fn images(count: usize, side: usize) -> Vec<Input> {
    let length = CHANNELS * side * side;
    (0..count).map(|image| (image * length..(image + 1) * length).map(number).collect()).collect()
}

/// Four images of `side` by `side` pixels: noise, a disc before a smooth gradient, bars that get narrower with
/// hard edges between them, and a rough texture with large and small structures.
pub(crate) fn pictures(side: usize) -> Vec<Input> {
    let noise = images(1, side);
    let painted = [gradient as fn(f32, f32) -> [f32; CHANNELS], bars, texture].map(|paint| {
        let pixel = |index: usize| ((index % side) as f32 / side as f32, (index / side) as f32 / side as f32);
        (0..side * side).map(pixel).flat_map(|(x, y)| paint(x, y)).collect()
    });
    noise.into_iter().chain(painted).collect()
}

/// A dark disc before a gradient. `x` and `y` are from 0 to 1, as in the next functions.
fn gradient(x: f32, y: f32) -> [f32; CHANNELS] {
    let inside = (x - 0.6).hypot(y - 0.4) < 0.25;
    if inside { [-1.8, -1.2, -1.6] } else { [2.0 * x - 0.5, y, 1.5 - 2.0 * x * y] }
}

/// Light and dark bars. The upper half has upright bars, and the lower half has level ones.
fn bars(x: f32, y: f32) -> [f32; CHANNELS] {
    let along = if y < 0.5 { x } else { y };
    let is_light = ((8.0 * (2.0 * along).exp2()) as usize).is_multiple_of(2);
    if is_light { [2.2, 2.0, 0.3] } else { [-2.0, -1.9, 1.1] }
}

/// The sum of random patterns with cells of a quarter of the side, an eighth, and so on. A pattern with smaller cells
/// has less contrast, as in photographs.
fn texture(x: f32, y: f32) -> [f32; CHANNELS] {
    std::array::from_fn(|channel| {
        let octave = |octave: usize| {
            let cells = 4 << octave;
            let cell = ((y * cells as f32) as usize * cells + (x * cells as f32) as usize) * CHANNELS + channel;
            number(cell + (octave << 20)) / (1 << octave) as f32
        };
        (0..6).map(octave).sum()
    })
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

    #[test]
    fn pictures_differ_and_have_structure_in_the_range_of_images() {
        let pictures = pictures(64);
        assert_eq!(pictures.len(), 4);
        let steps = |picture: &Input| -> f32 {
            picture.windows(4).map(|numbers| (numbers[3] - numbers[0]).abs()).sum::<f32>() / picture.len() as f32
        };
        for (index, picture) in pictures.iter().enumerate() {
            assert_eq!(picture.len(), 64 * 64 * CHANNELS);
            assert!(picture.iter().all(|number| number.abs() <= 4.0), "picture {index}");
            let spread = picture.iter().fold(0.0_f32, |largest, number| largest.max((number - picture[0]).abs()));
            assert!(spread > 1.0, "picture {index} is even");
            // Neighbouring pixels of noise have nothing in common. Those of a picture do.
            assert!(index == 0 || steps(picture) < 0.7 * steps(&pictures[0]), "picture {index} is noise");
        }
    }
}
