//! Compares convolutions, poolings and the classifier in 8-bit integers with their definitions, byte by byte, for many
//! sizes and for every set of instructions that this processor has.

mod threads;

use convolution::int8::{self, Bytes, Int8Classifier, Int8Filter, Int8Instructions, PictureLevels, Residual, padded};
use convolution::{BatchShape, CurrentThread, Executor, Geometry};
use proptest::prelude::*;
use threads::Threads;

/// One convolution with its data.
struct Case {
    shape: BatchShape,
    geometry: Geometry,
    inputs: usize,
    input: Vec<u8>,
    weights: Vec<i8>,
    scale: Vec<f32>,
    bias: Vec<f32>,
    residual: Option<(Vec<u8>, f32)>,
}

/// Whether a filter reads pixels without gaps.
fn is_dense(geometry: Geometry) -> bool {
    geometry.padding == 0 && geometry.side > 1
}

/// Number of bytes after the last pixel that such a filter reads.
fn slack(geometry: Geometry, inputs: usize) -> usize {
    padded(geometry.side * inputs) - geometry.side * inputs
}

impl Case {
    /// A case of pseudo-random levels and weights. `scale` is that of the sums, such that most levels of the output are
    /// neither 0 nor 255 for a scale near 1.
    fn new(
        shape: BatchShape,
        geometry: Geometry,
        (inputs, outputs): (usize, usize),
        factor: Option<f32>,
        scale: f32,
    ) -> Self {
        let random = |count: usize, seed: u64| (0..count as u64).map(move |index| bits(index, seed));
        let pixels = |shape: BatchShape, channels: usize, seed: u64| -> Vec<u8> {
            let bytes = random(shape.pixels() * padded(channels), seed).map(|bits| bits as u8);
            bytes.enumerate().map(|(at, byte)| if at % padded(channels) < channels { byte } else { 0 }).collect()
        };
        let taps = geometry.side * geometry.side;
        let input = match is_dense(geometry) {
            // The bytes after the last pixel may have any levels.
            true => random(shape.pixels() * inputs + slack(geometry, inputs), 1).map(|bits| bits as u8).collect(),
            false => pixels(shape, inputs, 1),
        };
        let magnitude = scale / (300.0 * ((taps * inputs) as f32).sqrt());
        Self {
            shape,
            geometry,
            inputs,
            input,
            weights: random(taps * inputs * outputs, 2).map(|bits| bits as i8).collect(),
            scale: random(outputs, 3).map(|bits| magnitude * (1.0 + (bits % 1000) as f32 / 1000.0)).collect(),
            bias: random(outputs, 4).map(|bits| (bits % 2560) as f32 / 10.0).collect(),
            residual: factor.map(|factor| (pixels(geometry.output(shape), outputs, 5), factor)),
        }
    }

    /// The output by the definition.
    fn defined(&self) -> Vec<u8> {
        let BatchShape { images, height, width } = self.geometry.output(self.shape);
        let channels = padded(self.bias.len());
        let mut levels = vec![0; images * height * width * channels];
        for (pixel, levels) in levels.chunks_exact_mut(channels.max(1)).enumerate() {
            let (image, y, x) = (pixel / (height * width), pixel / width % height, pixel % width);
            for output in 0..self.bias.len() {
                let sum = self.sum(image, (y, x), output);
                let mut value = (sum as f32).mul_add(self.scale[output], self.bias[output]);
                if let Some((residual, factor)) = &self.residual {
                    value = f32::from(residual[pixel * channels + output]).mul_add(*factor, value);
                }
                levels[output] = value.round_ties_even().clamp(0.0, 255.0) as u8;
            }
        }
        levels
    }

    /// The sum of the products for one output.
    fn sum(&self, image: usize, (y, x): (usize, usize), output: usize) -> i32 {
        let (Geometry { side, stride, padding }, BatchShape { height, width, .. }) = (self.geometry, self.shape);
        let mut sum = 0;
        for (down, across) in (0..side * side).map(|index| (index / side, index % side)) {
            let row = (y * stride + down).wrapping_sub(padding);
            let column = (x * stride + across).wrapping_sub(padding);
            if row < height && column < width {
                let bytes = if is_dense(self.geometry) { self.inputs } else { padded(self.inputs) };
                let at = ((image * height + row) * width + column) * bytes;
                for (input, level) in self.input[at..][..self.inputs].iter().enumerate() {
                    let weight = self.weights[((output * self.inputs + input) * side + down) * side + across];
                    sum += i32::from(*level) * i32::from(weight);
                }
            }
        }
        sum
    }

    fn output(&self, instructions: Int8Instructions, executor: &dyn Executor) -> Vec<u8> {
        let filter =
            Int8Filter::new(&self.weights, (&self.scale, &self.bias), self.inputs, self.geometry, instructions);
        let residual = self.residual.as_ref().map(|(levels, factor)| Residual { levels, factor: *factor });
        // A level that is not written stays 77.
        let mut output = Bytes::zeroed(self.geometry.output(self.shape).pixels() * padded(self.bias.len()));
        output.fill(77);
        int8::convolve(&self.input, self.shape, &filter, residual, &mut output, executor);
        output.to_vec()
    }

    /// Checks the output of every set of instructions.
    fn check(&self, executor: &dyn Executor) -> Result<(), TestCaseError> {
        let expected = self.defined();
        for instructions in Int8Instructions::available() {
            let found = self.output(instructions, executor);
            let differs = found.iter().zip(&expected).position(|(found, expected)| found != expected);
            if let Some(at) = differs {
                let message = format!("{instructions:?}: byte {at} is {}, not {}", found[at], expected[at]);
                return Err(TestCaseError::fail(message));
            }
            prop_assert_eq!(found.len(), expected.len());
        }
        Ok(())
    }
}

/// Pseudo-random bits: the finaliser of splitmix64 (Steele, Lea and Flood 2014).
fn bits(index: u64, seed: u64) -> u64 {
    let mut bits = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed << 32);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_filter_gives_the_defined_bytes(
        (images, height, width) in (1..4_usize, 1..14_usize, 1..14_usize),
        (side, stride, padding) in (1..8_usize, 1..4_usize, 0..4_usize),
        (inputs, outputs) in (1..40_usize, 1..150_usize),
        factor in prop_oneof![Just(None), (0.01_f32..2.0).prop_map(Some)],
        scale in 0.01_f32..30.0,
        threads in 1..5_usize,
    ) {
        let geometry = Geometry { side, stride, padding };
        let case = Case::new(BatchShape { images, height, width }, geometry, (inputs, outputs), factor, scale);
        case.check(&Threads(threads))?;
    }

    #[test]
    fn any_classifier_gives_the_defined_bits(
        (images, inputs, classes) in (0..4_usize, 1..70_usize, 1..150_usize),
    ) {
        let number = |index: usize, seed: u64| (bits(index as u64, seed) % 20_001) as f32 / 1e4 - 1.0;
        let weights: Vec<i8> = (0..inputs * classes).map(|index| bits(index as u64, 1) as i8).collect();
        let scale: Vec<f32> = (0..classes).map(|class| number(class, 2)).collect();
        let bias: Vec<f32> = (0..classes).map(|class| number(class, 3)).collect();
        let means: Vec<f32> = (0..images * inputs).map(|index| number(index, 4)).collect();
        let sum = |image: usize, class: usize| {
            (0..inputs).fold(0.0_f32, |sum, input| {
                means[image * inputs + input].mul_add(f32::from(weights[class * inputs + input]), sum)
            })
        };
        let expected: Vec<u32> = (0..images * classes)
            .map(|index| (index / classes, index % classes))
            .map(|(image, class)| sum(image, class).mul_add(scale[class], bias[class]).to_bits())
            .collect();
        for instructions in Int8Instructions::available() {
            let classifier = Int8Classifier::new(&weights, (&scale, &bias), inputs, instructions);
            let mut logits = vec![f32::NAN; images * classes];
            classifier.logits(&means, &mut logits);
            let found: Vec<u32> = logits.iter().map(|logit| logit.to_bits()).collect();
            prop_assert_eq!(&found, &expected, "{:?}", instructions);
        }
    }

    #[test]
    fn any_picture_gets_the_defined_levels(
        (side, border) in (1..40_usize, 0..4_usize),
        scale in 0.001_f32..0.1,
    ) {
        let by = PictureLevels { scale: [scale, 0.7 * scale, 1.3 * scale], zero: [120.25, 0.0, 254.9] };
        let mut picture: Vec<f32> =
            (0..3 * side * side).map(|index| (bits(index as u64, 6) % 20_001) as f32 / 2e3 - 5.0).collect();
        picture[0] = f32::NAN;
        if let [_, second, third, ..] = &mut picture[..] {
            (*second, *third) = (f32::NEG_INFINITY, f32::INFINITY);
        }
        let level = |number: f32, channel: usize| {
            let value = number.mul_add(1.0 / by.scale[channel], by.zero[channel]);
            if value.is_nan() { 0 } else { value.round_ties_even().clamp(0.0, 255.0) as u8 }
        };
        let wide = side + 2 * border;
        let mut expected = Vec::new();
        for (y, x, channel) in (0..wide * wide * 3).map(|at| (at / 3 / wide, at / 3 % wide, at % 3)) {
            let (row, column) = (y.wrapping_sub(border), x.wrapping_sub(border));
            expected.push(match row < side && column < side {
                true => level(picture[(row * side + column) * 3 + channel], channel),
                false => level(0.0, channel),
            });
        }
        for instructions in Int8Instructions::available() {
            let mut levels = vec![77; expected.len()];
            int8::quantise(&picture, side, border, by, &mut levels, instructions);
            prop_assert_eq!(&levels, &expected, "{:?}", instructions);
        }
    }
}

#[test]
fn the_layers_of_a_resnet_give_the_defined_bytes() {
    let three = Geometry { side: 3, stride: 1, padding: 1 };
    for (inputs, outputs, side, geometry, images) in [
        (3, 64, 61, Geometry { side: 7, stride: 2, padding: 0 }, 1),
        (64, 64, 28, three, 1),
        (128, 128, 14, three, 2),
        (512, 512, 7, three, 1),
        (64, 128, 29, Geometry { side: 3, stride: 2, padding: 1 }, 1),
        (128, 256, 14, Geometry { side: 1, stride: 2, padding: 0 }, 2),
        (128, 512, 14, Geometry { side: 1, stride: 1, padding: 0 }, 1),
    ] {
        let shape = BatchShape { images, height: side, width: side };
        let case = Case::new(shape, geometry, (inputs, outputs), Some(0.3), 1.0);
        let inside = case.defined().iter().filter(|level| (1..255).contains(*level)).count();
        assert!(2 * inside > case.defined().len(), "{inside} levels say something about rounding");
        for threads in [1, 2] {
            case.check(&Threads(threads)).unwrap_or_else(|error| panic!("{inputs} to {outputs} channels: {error}"));
        }
    }
}

#[test]
fn the_largest_sums_do_not_saturate() {
    let shape = BatchShape { images: 1, height: 3, width: 3 };
    let geometry = Geometry { side: 3, stride: 1, padding: 1 };
    for weight in [i8::MIN, i8::MAX] {
        let mut case = Case::new(shape, geometry, (512, 64), None, 1.0);
        case.input.fill(255);
        case.weights.fill(weight);
        // Every largest sum becomes about ±100, and a bias of 130 keeps both signs inside the levels.
        case.scale.fill(100.0 / (4608.0 * 255.0 * 128.0));
        case.bias.fill(130.0);
        let centre = case.defined()[4 * 64];
        assert_eq!(centre, if weight < 0 { 30 } else { 229 });
        case.check(&CurrentThread).expect("the sums are exact");
    }
}

#[test]
fn ties_round_to_even_and_values_far_outside_become_the_nearest_level() {
    let shape = BatchShape { images: 1, height: 1, width: 1 };
    let geometry = Geometry { side: 1, stride: 1, padding: 0 };
    let biases = [0.5, 1.5, 2.5, 253.5, 254.5, 255.5, -0.5, 1e30, -1e30, 3e9, -3e9, f32::MAX];
    let mut case = Case::new(shape, geometry, (1, biases.len()), None, 0.0);
    case.bias = biases.to_vec();
    let expected = [0, 2, 2, 254, 254, 255, 0, 255, 0, 255, 0, 255];
    for instructions in Int8Instructions::available() {
        assert_eq!(case.output(instructions, &CurrentThread), expected, "{instructions:?}");
    }
}

#[test]
fn poolings_of_levels_keep_images_and_channels_apart() {
    // Two images of 3 by 5 pixels. A pixel of the first image has its number as its level, in each of five channels
    // plus twenty times the channel. The second image has 255 minus these levels.
    let shape = BatchShape { images: 2, height: 3, width: 5 };
    let level = |pixel: usize, channel: usize| match pixel {
        0..15 => (pixel + 20 * channel) as u8,
        _ => 255 - (pixel - 15 + 20 * channel) as u8,
    };
    let input: Vec<u8> = (0..30 * 8).map(|at| if at % 8 < 5 { level(at / 8, at % 8) } else { 0 }).collect();
    for instructions in Int8Instructions::available() {
        let mut output = vec![77; 2 * 6 * 8];
        int8::max(&input, shape, 5, &mut output, instructions);
        let channel = |channel: usize| -> Vec<u8> { output.iter().skip(channel).step_by(8).copied().collect() };
        // The windows of the first row have the rows 0 and 1, and the columns 0-1, 1-3 and 3-4.
        assert_eq!(channel(0), [6, 8, 9, 11, 13, 14, 255, 254, 252, 250, 249, 247], "{instructions:?}");
        assert_eq!(channel(4)[..2], [86, 88], "{instructions:?}");
        assert_eq!(channel(7), [0; 12], "{instructions:?}");
    }
    let sums = int8::sums(&input, shape, 5);
    assert_eq!(sums, [105, 405, 705, 1005, 1305, 3720, 3420, 3120, 2820, 2520]);
}

#[test]
fn an_empty_batch_is_no_error() {
    for (images, height, width) in [(0, 5, 5), (1, 0, 5), (1, 5, 0)] {
        let geometry = Geometry { side: 3, stride: 1, padding: 1 };
        let case = Case::new(BatchShape { images, height, width }, geometry, (3, 2), None, 1.0);
        case.check(&CurrentThread).expect("an empty batch has no bytes to differ");
    }
}

#[test]
#[should_panic(expected = "input of")]
fn a_slice_of_the_wrong_length_panics() {
    let shape = BatchShape { images: 1, height: 4, width: 4 };
    let mut case = Case::new(shape, Geometry { side: 3, stride: 1, padding: 1 }, (3, 2), None, 1.0);
    case.input.pop();
    case.output(Int8Instructions::Portable, &CurrentThread);
}

/// A filter with one tap for each of three channels.
fn one_by_one() -> Int8Filter {
    let geometry = Geometry { side: 1, stride: 1, padding: 0 };
    Int8Filter::new(&[0; 9], (&[1.0; 3], &[0.0; 3]), 3, geometry, Int8Instructions::Portable)
}

/// A shape whose size wraps around to 0, the length of an empty slice: four bytes for each of 2⁶² pixels.
const WRAPPING: BatchShape = BatchShape { images: 1 << 62, height: 1, width: 1 };

#[test]
#[should_panic(expected = "larger than the memory")]
fn a_convolution_whose_size_wraps_around_panics() {
    int8::convolve(&[], WRAPPING, &one_by_one(), None, &mut [], &CurrentThread);
}

#[test]
#[should_panic(expected = "larger than the memory")]
fn a_max_pooling_whose_size_wraps_around_panics() {
    int8::max(&[], WRAPPING, 3, &mut [], Int8Instructions::Portable);
}

#[test]
#[should_panic(expected = "larger than the memory")]
fn sums_whose_size_wraps_around_panic() {
    int8::sums(&[], WRAPPING, 3);
}

#[test]
#[should_panic(expected = "number of weights")]
fn a_filter_whose_size_wraps_around_panics() {
    // The square of 2³² wraps around to 0, the number of weights.
    let geometry = Geometry { side: 1 << 32, stride: 1, padding: 0 };
    Int8Filter::new(&[], (&[1.0], &[0.0]), 1, geometry, Int8Instructions::Portable);
}

#[test]
#[should_panic(expected = "number of weights")]
fn a_classifier_whose_size_wraps_around_panics() {
    Int8Classifier::new(&[], (&[1.0; 4], &[0.0; 4]), 1 << 62, Int8Instructions::Portable);
}

/// Runs these parts of two.
struct Runs(&'static [usize]);

impl Executor for Runs {
    fn parts(&self) -> usize {
        2
    }

    fn run(&self, _parts: usize, work: &(dyn Fn(usize) + Sync)) {
        self.0.iter().for_each(|part| work(*part));
    }
}

#[test]
fn an_executor_that_does_not_run_each_part_once_panics() {
    let shape = BatchShape { images: 1, height: 1, width: 2 };
    for (runs, expected) in [(&[0, 0][..], "second time"), (&[0, 1, 2], "second time"), (&[0], "did not run all")] {
        let convolve = || int8::convolve(&[0; 8], shape, &one_by_one(), None, &mut [0; 8], &Runs(runs));
        let panic = std::panic::catch_unwind(convolve).expect_err("parts run wrongly");
        let message = panic.downcast_ref::<String>().expect("a message");
        assert!(message.contains(expected), "{runs:?}: {message}");
    }
}

#[test]
#[should_panic(expected = "may exceed 32 bits")]
fn a_filter_whose_sums_may_overflow_panics() {
    let geometry = Geometry { side: 7, stride: 1, padding: 3 };
    Int8Filter::new(&vec![0; 49 * 2000], (&[1.0], &[0.0]), 2000, geometry, Int8Instructions::Portable);
}
