//! Every tile, every set of instructions and any sizes against the definition of a convolution.

use proptest::prelude::*;
use winograd::{Activation, Alone, Filter, Instructions, Shape, Spread, Tile, convolve};

/// A thread for each part.
struct Threads(usize);

impl Spread for Threads {
    fn parts(&self) -> usize {
        self.0
    }

    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for part in 0..parts {
                scope.spawn(move || work(part));
            }
        });
    }
}

/// One convolution with everything that goes in.
struct Case {
    shape: Shape,
    inputs: usize,
    input: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    residual: Option<Vec<f32>>,
    rectify: bool,
}

impl Case {
    fn new(shape: Shape, inputs: usize, outputs: usize, residual: bool, rectify: bool) -> Self {
        let pixels = shape.images * shape.height * shape.width;
        Self {
            shape,
            inputs,
            input: numbers(pixels * inputs, 1),
            weights: numbers(9 * inputs * outputs, 2),
            bias: numbers(outputs, 3),
            residual: residual.then(|| numbers(pixels * outputs, 4)),
            rectify,
        }
    }

    /// By the definition, in f64.
    fn direct(&self) -> Vec<f64> {
        let Shape { images, height, width } = self.shape;
        let (inputs, outputs) = (self.inputs, self.bias.len());
        let mut all = Vec::new();
        for (image, y, x, output) in (0..images).flat_map(|image| {
            (0..height).flat_map(move |y| (0..width).flat_map(move |x| (0..outputs).map(move |o| (image, y, x, o))))
        }) {
            let mut sum = f64::from(self.bias[output]);
            for (down, across) in (0..9).map(|index| (index / 3, index % 3)) {
                let (row, column) = ((y + down).wrapping_sub(1), (x + across).wrapping_sub(1));
                if row < height && column < width {
                    let pixel = &self.input[((image * height + row) * width + column) * inputs..][..inputs];
                    for (input, number) in pixel.iter().enumerate() {
                        let weight = self.weights[(output * inputs + input) * 9 + 3 * down + across];
                        sum += f64::from(*number) * f64::from(weight);
                    }
                }
            }
            sum += self.residual.as_ref().map_or(0.0, |residual| f64::from(residual[all.len()]));
            all.push(if self.rectify { sum.max(0.0) } else { sum });
        }
        all
    }

    /// Largest difference from `expected`, in parts of the largest sum that there could be.
    fn error(&self, expected: &[f64], tile: Tile, instructions: Instructions, spread: &dyn Spread) -> f64 {
        let filter = Filter::new(&self.weights, &self.bias, self.inputs, tile, instructions);
        let activation = Activation { residual: self.residual.as_deref(), rectify: self.rectify };
        // What is not written stays wrong.
        let mut output = vec![f32::NAN; expected.len()];
        convolve(&self.input, self.shape, &filter, activation, &mut output, spread);
        let scale = (9 * self.inputs) as f64;
        let differences = output.iter().zip(expected).map(|(found, expected)| (f64::from(*found) - expected).abs());
        // Not `f64::max`, which forgets NaN.
        differences.fold(0.0, |largest, difference| if difference <= largest { largest } else { difference }) / scale
    }

    fn check(&self, spread: &dyn Spread) -> Result<(), TestCaseError> {
        let expected = self.direct();
        for (tile, bound) in [(Tile::Two, 2e-7), (Tile::Four, 2e-6)] {
            for instructions in Instructions::available() {
                let error = self.error(&expected, tile, instructions, spread);
                prop_assert!(error < bound, "{tile:?} {instructions:?}: off by {error:e}");
            }
        }
        Ok(())
    }
}

/// Numbers from -1 to 1 that look random (the finaliser of splitmix64).
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let number = |index: u64| {
        let mut bits = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed << 32);
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ bits >> 31) % 20_001) as f32 / 10_000.0 - 1.0
    };
    (0..count as u64).map(number).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_is_convolved_as_defined(
        (images, height, width) in (1..4_usize, 1..16_usize, 1..16_usize),
        (inputs, outputs) in (1..40_usize, 1..70_usize),
        (residual, rectify) in (any::<bool>(), any::<bool>()),
        threads in 1..5_usize,
    ) {
        let case = Case::new(Shape { images, height, width }, inputs, outputs, residual, rectify);
        case.check(&Threads(threads))?;
    }
}

#[test]
fn the_layers_of_a_resnet_are_convolved_as_defined() {
    for (channels, side, images) in [(64, 56, 1), (128, 28, 1), (256, 14, 1), (512, 7, 1), (64, 7, 32), (128, 14, 9)] {
        let case = Case::new(Shape { images, height: side, width: side }, channels, channels, true, true);
        for threads in [1, 2] {
            case.check(&Threads(threads)).unwrap_or_else(|error| panic!("{channels} channels of {side}: {error}"));
        }
    }
}

#[test]
fn no_pictures_are_no_work() {
    for (images, height, width) in [(0, 5, 5), (1, 0, 5), (1, 5, 0)] {
        Case::new(Shape { images, height, width }, 3, 2, false, false).check(&Alone).expect("nothing to compare");
    }
}

#[test]
#[should_panic(expected = "input of")]
fn a_slice_of_another_length_is_refused() {
    let shape = Shape { images: 1, height: 4, width: 4 };
    let mut case = Case::new(shape, 3, 2, false, false);
    case.input.pop();
    case.error(&[0.0; 32], Tile::Two, Instructions::Portable, &Alone);
}
