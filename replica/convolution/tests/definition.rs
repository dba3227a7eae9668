//! Every kind, every set of instructions and any sizes against the definition of a convolution.

use convolution::amx::{self, Registers};
use convolution::direct::{self, Geometry};
use convolution::winograd::{self, Tile};
use convolution::{Activation, Alone, Instructions, Shape, Spread};
use proptest::prelude::*;

/// What Winograd's filtering is for.
const THREE: Geometry = Geometry { side: 3, stride: 1, padding: 1 };

/// What computes a convolution.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Direct(Instructions),
    Winograd(Tile, Instructions),
    Amx(Registers),
}

impl Kind {
    /// All that this processor can do for a geometry, and what each may be off by.
    fn all(geometry: Geometry) -> Vec<(Self, f64)> {
        let mut kinds = Vec::new();
        for instructions in Instructions::available() {
            kinds.push((Self::Direct(instructions), 2e-7));
            if geometry == THREE {
                kinds.push((Self::Winograd(Tile::Two, instructions), 2e-7));
                kinds.push((Self::Winograd(Tile::Four, instructions), 2e-6));
            }
        }
        // Two numbers that are off by 2⁻¹⁶ at most, and as much for the product that is left out.
        kinds.extend(Registers::available().into_iter().map(|registers| (Self::Amx(registers), 4.6e-5)));
        kinds
    }
}

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
    geometry: Geometry,
    inputs: usize,
    input: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    residual: Option<Vec<f32>>,
    rectify: bool,
}

impl Case {
    fn new(shape: Shape, geometry: Geometry, inputs: usize, outputs: usize, residual: bool, rectify: bool) -> Self {
        Self {
            shape,
            geometry,
            inputs,
            input: numbers(shape.pixels() * inputs, 1),
            weights: numbers(geometry.side * geometry.side * inputs * outputs, 2),
            bias: numbers(outputs, 3),
            residual: residual.then(|| numbers(geometry.output(shape).pixels() * outputs, 4)),
            rectify,
        }
    }

    /// By the definition, in f64.
    fn defined(&self) -> Vec<f64> {
        let Shape { images, height, width } = self.geometry.output(self.shape);
        let mut all = Vec::new();
        for image in 0..images {
            for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                for output in 0..self.bias.len() {
                    let mut sum = self.sum(image, (y, x), output);
                    sum += self.residual.as_ref().map_or(0.0, |residual| f64::from(residual[all.len()]));
                    all.push(if self.rectify { sum.max(0.0) } else { sum });
                }
            }
        }
        all
    }

    fn sum(&self, image: usize, (y, x): (usize, usize), output: usize) -> f64 {
        let (Geometry { side, stride, padding }, Shape { height, width, .. }) = (self.geometry, self.shape);
        let mut sum = f64::from(self.bias[output]);
        for (down, across) in (0..side * side).map(|index| (index / side, index % side)) {
            let row = (y * stride + down).wrapping_sub(padding);
            let column = (x * stride + across).wrapping_sub(padding);
            if row < height && column < width {
                let pixel = &self.input[((image * height + row) * width + column) * self.inputs..][..self.inputs];
                for (input, number) in pixel.iter().enumerate() {
                    let weight = self.weights[((output * self.inputs + input) * side + down) * side + across];
                    sum += f64::from(*number) * f64::from(weight);
                }
            }
        }
        sum
    }

    /// Largest difference from `expected`, in parts of the largest sum that there could be.
    fn error(&self, expected: &[f64], kind: Kind, spread: &dyn Spread) -> f64 {
        let (weights, bias) = (&self.weights, &self.bias);
        let activation = Activation { residual: self.residual.as_deref(), rectify: self.rectify };
        // What is not written stays wrong.
        let mut output = vec![f32::NAN; expected.len()];
        match kind {
            Kind::Winograd(tile, instructions) => {
                let filter = winograd::Filter::new(weights, bias, self.inputs, tile, instructions);
                winograd::convolve(&self.input, self.shape, &filter, activation, &mut output, spread);
            }
            Kind::Amx(registers) => {
                let filter = amx::Filter::new(weights, bias, self.inputs, self.geometry, registers);
                amx::convolve(&self.input, self.shape, &filter, activation, &mut output, spread);
            }
            Kind::Direct(instructions) => {
                let filter = direct::Filter::new(weights, bias, self.inputs, self.geometry, instructions);
                direct::convolve(&self.input, self.shape, &filter, activation, &mut output, spread);
            }
        }
        // The products, the bias and what is added, each of 1 at most.
        let scale = (self.geometry.side * self.geometry.side * self.inputs + 2) as f64;
        let differences = output.iter().zip(expected).map(|(found, expected)| (f64::from(*found) - expected).abs());
        // Not `f64::max`, which forgets NaN.
        let largest = |largest: f64, d: f64| if largest.is_nan() || d <= largest { largest } else { d };
        differences.fold(0.0, largest) / scale
    }

    fn check(&self, spread: &dyn Spread) -> Result<(), TestCaseError> {
        let expected = self.defined();
        for (kind, bound) in Kind::all(self.geometry) {
            let error = self.error(&expected, kind, spread);
            prop_assert!(error < bound, "{kind:?}: off by {error:e}");
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
        let case = Case::new(Shape { images, height, width }, THREE, inputs, outputs, residual, rectify);
        case.check(&Threads(threads))?;
    }

    #[test]
    fn any_filter_is_convolved_as_defined(
        (images, height, width) in (1..4_usize, 1..20_usize, 1..20_usize),
        (side, stride, padding) in (1..8_usize, 1..4_usize, 0..4_usize),
        (inputs, outputs) in (1..12_usize, 1..40_usize),
        (residual, rectify) in (any::<bool>(), any::<bool>()),
        threads in 1..5_usize,
    ) {
        let geometry = Geometry { side, stride, padding };
        let case = Case::new(Shape { images, height, width }, geometry, inputs, outputs, residual, rectify);
        case.check(&Threads(threads))?;
    }
}

#[test]
fn the_layers_of_a_resnet_are_convolved_as_defined() {
    for (channels, side, images) in [(64, 56, 1), (128, 28, 1), (256, 14, 1), (512, 7, 1), (64, 7, 32), (128, 14, 9)] {
        let shape = Shape { images, height: side, width: side };
        let case = Case::new(shape, THREE, channels, channels, true, true);
        for threads in [1, 2] {
            case.check(&Threads(threads)).unwrap_or_else(|error| panic!("{channels} channels of {side}: {error}"));
        }
    }
    for (inputs, outputs, side, geometry) in [
        (3, 64, 224, Geometry { side: 7, stride: 2, padding: 3 }),
        (64, 128, 56, Geometry { side: 3, stride: 2, padding: 1 }),
        (128, 256, 28, Geometry { side: 1, stride: 2, padding: 0 }),
        (128, 512, 28, Geometry { side: 1, stride: 1, padding: 0 }),
    ] {
        let shape = Shape { images: 2, height: side, width: side };
        let case = Case::new(shape, geometry, inputs, outputs, false, true);
        case.check(&Threads(2)).unwrap_or_else(|error| panic!("{geometry:?}: {error}"));
    }
}

#[test]
fn no_pictures_are_no_work() {
    for (images, height, width) in [(0, 5, 5), (1, 0, 5), (1, 5, 0)] {
        let case = Case::new(Shape { images, height, width }, THREE, 3, 2, false, false);
        case.check(&Alone).expect("nothing to compare");
    }
}

#[test]
#[should_panic(expected = "input of")]
fn a_slice_of_another_length_is_refused() {
    let shape = Shape { images: 1, height: 4, width: 4 };
    let mut case = Case::new(shape, THREE, 3, 2, false, false);
    case.input.pop();
    case.error(&[0.0; 32], Kind::Direct(Instructions::Portable), &Alone);
}

#[test]
fn what_is_no_number_stays_none() {
    let shape = Shape { images: 1, height: 4, width: 4 };
    let mut case = Case::new(shape, THREE, 16, 32, false, true);
    case.input.fill(f32::NAN);
    let expected = vec![0.0; 16 * 32];
    for (kind, _) in Kind::all(THREE) {
        assert!(case.error(&expected, kind, &Alone).is_nan(), "{kind:?}");
    }
}
