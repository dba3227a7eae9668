//! Compares the results of every algorithm with the definition of a convolution, for many sizes and for every set of
//! instructions that this processor has.

mod threads;

use convolution::amx::{self, AmxFilter, TileUnit};
use convolution::direct::{self, DirectFilter};
use convolution::winograd::{self, TileSize, WinogradFilter};
use convolution::{BatchShape, CurrentThread, Epilogue, Executor, Geometry, Instructions, Nonlinearity, pool};
use proptest::prelude::*;
use threads::Threads;

/// The only geometry of stride 1 that Winograd's filtering can compute.
const THREE: Geometry = Geometry { side: 3, stride: 1, padding: 1 };

/// The geometries of stride 2 that Winograd's filtering can compute.
const STRIDED: [Geometry; 2] =
    [Geometry { side: 3, stride: 2, padding: 1 }, Geometry { side: 7, stride: 2, padding: 3 }];

/// A filter of one pixel, as in half of the layers of a ResNet-50.
const ONE: Geometry = Geometry { side: 1, stride: 1, padding: 0 };

/// An algorithm, and the instructions or the unit that computes it.
#[derive(Debug, Clone, Copy)]
enum Algorithm {
    Direct(Instructions),
    Winograd(TileSize, Instructions),
    StridedWinograd(Instructions),
    Amx(TileUnit),
}

impl Algorithm {
    /// The algorithms for a geometry that this processor can run, each with the largest accepted error as a share of
    /// the largest possible sum.
    fn all(geometry: Geometry) -> Vec<(Self, f64)> {
        let mut algorithms = Vec::new();
        for instructions in Instructions::available() {
            algorithms.push((Self::Direct(instructions), 2e-7));
            if geometry == THREE {
                algorithms.push((Self::Winograd(TileSize::Two, instructions), 2e-7));
                algorithms.push((Self::Winograd(TileSize::Four, instructions), 2e-6));
            }
            if WinogradFilter::has_strided(geometry) {
                algorithms.push((Self::StridedWinograd(instructions), 2e-6));
            }
        }
        // 3 × 2⁻¹⁶, the sum of three errors: each factor is off by 2⁻¹⁶ at most, and the product of the low parts,
        // which is left out, is 2⁻¹⁶ at most.
        algorithms.extend(TileUnit::available().into_iter().map(|unit| (Self::Amx(unit), 4.6e-5)));
        algorithms
    }
}

/// One convolution with its data.
struct Case {
    shape: BatchShape,
    geometry: Geometry,
    inputs: usize,
    input: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    residual: Option<Vec<f32>>,
    nonlinearity: Nonlinearity,
}

impl Case {
    fn new(
        shape: BatchShape,
        geometry: Geometry,
        inputs: usize,
        outputs: usize,
        has_residual: bool,
        relu: bool,
    ) -> Self {
        Self {
            shape,
            geometry,
            inputs,
            input: numbers(shape.pixels() * inputs, 1),
            weights: numbers(geometry.side * geometry.side * inputs * outputs, 2),
            bias: numbers(outputs, 3),
            residual: has_residual.then(|| numbers(geometry.output(shape).pixels() * outputs, 4)),
            nonlinearity: if relu { Nonlinearity::Relu } else { Nonlinearity::None },
        }
    }

    /// The output, computed by the definition in f64.
    fn defined(&self) -> Vec<f64> {
        let BatchShape { images, height, width } = self.geometry.output(self.shape);
        let mut all = Vec::new();
        for image in 0..images {
            for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                for output in 0..self.bias.len() {
                    let mut sum = self.sum(image, (y, x), output);
                    sum += self.residual.as_ref().map_or(0.0, |residual| f64::from(residual[all.len()]));
                    all.push(match self.nonlinearity {
                        Nonlinearity::Relu => sum.max(0.0),
                        Nonlinearity::None => sum,
                    });
                }
            }
        }
        all
    }

    /// The sum of the bias and of the products for one output.
    fn sum(&self, image: usize, (y, x): (usize, usize), output: usize) -> f64 {
        let (Geometry { side, stride, padding }, BatchShape { height, width, .. }) = (self.geometry, self.shape);
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

    /// The output of an algorithm.
    fn output(&self, algorithm: Algorithm, executor: &dyn Executor) -> Vec<f32> {
        let (weights, bias) = (&self.weights, &self.bias);
        let epilogue = Epilogue { residual: self.residual.as_deref(), nonlinearity: self.nonlinearity };
        // An output that is not written stays NaN.
        let mut output = vec![f32::NAN; self.geometry.output(self.shape).pixels() * self.bias.len()];
        match algorithm {
            Algorithm::Winograd(tile, instructions) => {
                let filter = WinogradFilter::new(weights, bias, self.inputs, tile, instructions);
                winograd::convolve(&self.input, self.shape, &filter, epilogue, &mut output, executor);
            }
            Algorithm::StridedWinograd(instructions) => {
                let filter = WinogradFilter::strided(weights, bias, self.inputs, self.geometry, instructions);
                winograd::convolve(&self.input, self.shape, &filter, epilogue, &mut output, executor);
            }
            Algorithm::Amx(unit) => {
                let filter = AmxFilter::new(weights, bias, self.inputs, self.geometry, unit);
                amx::convolve(&self.input, self.shape, &filter, epilogue, &mut output, executor);
            }
            Algorithm::Direct(instructions) => {
                let filter = DirectFilter::new(weights, bias, self.inputs, self.geometry, instructions);
                direct::convolve(&self.input, self.shape, &filter, epilogue, &mut output, executor);
            }
        }
        output
    }

    /// Largest difference from `expected`, as a share of the largest possible sum; NaN if any output is NaN.
    fn error(&self, expected: &[f64], algorithm: Algorithm, executor: &dyn Executor) -> f64 {
        let output = self.output(algorithm, executor);
        // The magnitudes of all products, of the bias and of the residual are 1 at most.
        let scale = (self.geometry.side * self.geometry.side * self.inputs + 2) as f64;
        let differences = output.iter().zip(expected).map(|(found, expected)| (f64::from(*found) - expected).abs());
        // `f64::max` would return the number and drop NaN.
        let largest = |largest: f64, d: f64| if largest.is_nan() || d <= largest { largest } else { d };
        differences.fold(0.0, largest) / scale
    }

    /// Checks the error of every algorithm.
    fn check(&self, executor: &dyn Executor) -> Result<(), TestCaseError> {
        let expected = self.defined();
        for (algorithm, bound) in Algorithm::all(self.geometry) {
            let error = self.error(&expected, algorithm, executor);
            prop_assert!(error < bound, "{algorithm:?}: the error {error:e} is not below {bound:e}");
        }
        Ok(())
    }
}

/// `count` pseudo-random numbers from -1 to 1: the finaliser of splitmix64 (Steele, Lea and Flood 2014).
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
        (residual, relu) in (any::<bool>(), any::<bool>()),
        threads in 1..5_usize,
    ) {
        let case = Case::new(BatchShape { images, height, width }, THREE, inputs, outputs, residual, relu);
        case.check(&Threads(threads))?;
    }

    #[test]
    fn any_shape_is_convolved_with_stride_2_as_defined(
        (images, height, width) in (1..3_usize, 1..30_usize, 1..30_usize),
        (inputs, outputs, geometry) in (1..40_usize, 1..70_usize, prop::sample::select(&STRIDED[..])),
        (residual, relu) in (any::<bool>(), any::<bool>()),
        threads in 1..5_usize,
    ) {
        let case = Case::new(BatchShape { images, height, width }, geometry, inputs, outputs, residual, relu);
        case.check(&Threads(threads))?;
    }

    #[test]
    fn a_pooled_convolution_is_a_convolution_and_a_pooling(
        (images, height, width) in (1..4_usize, 1..40_usize, 1..24_usize),
        (inputs, outputs, geometry) in (1..20_usize, 1..40_usize, prop::sample::select(&STRIDED[..])),
        threads in 1..5_usize,
    ) {
        let case = Case::new(BatchShape { images, height, width }, geometry, inputs, outputs, false, true);
        let (convolved, executor) = (geometry.output(case.shape), Threads(threads));
        for instructions in Instructions::available() {
            let output = case.output(Algorithm::StridedWinograd(instructions), &executor);
            let mut expected = vec![f32::NAN; pool::max_output(convolved).numbers(outputs)];
            pool::max(&output, convolved, outputs, &mut expected, instructions);
            let filter = WinogradFilter::strided(&case.weights, &case.bias, inputs, geometry, instructions);
            let mut found = vec![f32::NAN; expected.len()];
            winograd::convolve_and_pool(&case.input, case.shape, &filter, case.nonlinearity, &mut found, &executor);
            prop_assert_eq!(&found, &expected);
        }
    }

    #[test]
    fn any_filter_is_convolved_as_defined(
        (images, height, width) in (1..4_usize, 1..20_usize, 1..20_usize),
        (side, stride, padding) in (1..8_usize, 1..4_usize, 0..4_usize),
        (inputs, outputs) in (1..12_usize, 1..40_usize),
        (residual, relu) in (any::<bool>(), any::<bool>()),
        threads in 1..5_usize,
    ) {
        let geometry = Geometry { side, stride, padding };
        let case = Case::new(BatchShape { images, height, width }, geometry, inputs, outputs, residual, relu);
        case.check(&Threads(threads))?;
    }
}

#[test]
fn the_layers_of_a_resnet_are_convolved_as_defined() {
    for (channels, side, images) in [(64, 56, 1), (128, 28, 1), (256, 14, 1), (512, 7, 1), (64, 7, 32), (128, 14, 9)] {
        let shape = BatchShape { images, height: side, width: side };
        let case = Case::new(shape, THREE, channels, channels, true, true);
        for threads in [1, 2] {
            case.check(&Threads(threads)).unwrap_or_else(|error| panic!("{channels} channels of {side}: {error}"));
        }
    }
    for (inputs, outputs, side, geometry) in [
        (3, 64, 224, Geometry { side: 7, stride: 2, padding: 3 }),
        (64, 128, 56, Geometry { side: 3, stride: 2, padding: 1 }),
        (256, 128, 14, Geometry { side: 3, stride: 2, padding: 1 }),
        (128, 256, 28, Geometry { side: 1, stride: 2, padding: 0 }),
        (128, 512, 28, Geometry { side: 1, stride: 1, padding: 0 }),
    ] {
        let shape = BatchShape { images: 2, height: side, width: side };
        let case = Case::new(shape, geometry, inputs, outputs, false, true);
        case.check(&Threads(2)).unwrap_or_else(|error| panic!("{geometry:?}: {error}"));
    }
}

#[test]
fn an_empty_batch_is_no_error() {
    for (images, height, width) in [(0, 5, 5), (1, 0, 5), (1, 5, 0)] {
        let case = Case::new(BatchShape { images, height, width }, THREE, 3, 2, false, false);
        case.check(&CurrentThread).expect("an empty batch has no outputs to differ");
    }
}

#[test]
#[should_panic(expected = "input of")]
fn a_slice_of_the_wrong_length_panics() {
    let shape = BatchShape { images: 1, height: 4, width: 4 };
    let mut case = Case::new(shape, THREE, 3, 2, false, false);
    case.input.pop();
    case.error(&[0.0; 32], Algorithm::Direct(Instructions::Portable), &CurrentThread);
}

#[test]
#[should_panic(expected = "larger than the memory")]
fn a_shape_whose_size_wraps_around_panics() {
    // 2⁶² × 4 wraps around to 0, the length of the slices.
    let filter = DirectFilter::new(&[1.0], &[0.0], 1, ONE, Instructions::Portable);
    let shape = BatchShape { images: 1 << 62, height: 4, width: 1 };
    direct::convolve(&[], shape, &filter, Epilogue::default(), &mut [], &CurrentThread);
}

#[test]
#[should_panic(expected = "number of weights")]
fn a_filter_whose_size_wraps_around_panics() {
    // The square of 2³² wraps around to 0, the number of weights.
    let geometry = Geometry { side: 1 << 32, stride: 1, padding: 0 };
    DirectFilter::new(&[], &[0.0], 1, geometry, Instructions::Portable);
}

#[test]
#[should_panic(expected = "beyond the memory")]
fn padding_whose_size_wraps_around_panics() {
    Geometry { side: 1, stride: 1, padding: 1 << 63 }.output(BatchShape { images: 1, height: 1, width: 1 });
}

/// Every algorithm accepts a filter that moves far beyond a widely padded image, or panics. None reads outside it.
#[test]
fn enormous_strides_and_paddings_read_no_other_memory() {
    for (side, padding, stride) in [(1, 1 << 61, 1 << 62), (1, (1 << 61) - 1, 1 << 61), (3, 1 << 60, 1 << 61)] {
        let geometry = Geometry { side, stride, padding };
        let shape = BatchShape { images: 1, height: 1, width: 1 };
        assert!(geometry.output(shape).pixels() <= 4, "{geometry:?}");
        for inputs in [1, 8, 16, 40] {
            let case = Case::new(shape, geometry, inputs, 3, false, false);
            let expected = case.defined();
            for (algorithm, bound) in Algorithm::all(geometry) {
                let computed = std::panic::catch_unwind(|| case.error(&expected, algorithm, &CurrentThread));
                assert!(computed.is_err() || computed.is_ok_and(|error| error < bound), "{algorithm:?} {geometry:?}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "length of the output")]
fn a_pooled_output_of_the_wrong_length_panics() {
    let shape = BatchShape { images: 1, height: 8, width: 8 };
    let filter = WinogradFilter::strided(&[1.0; 9], &[0.0], 1, STRIDED[0], Instructions::Portable);
    winograd::convolve_and_pool(&[0.0; 64], shape, &filter, Nonlinearity::Relu, &mut [0.0; 3], &CurrentThread);
}

/// Runs the first part twice and never the last one.
struct Repeating;

impl Executor for Repeating {
    fn parts(&self) -> usize {
        2
    }

    fn run(&self, _parts: usize, work: &(dyn Fn(usize) + Sync)) {
        work(0);
        work(0);
    }
}

#[test]
#[should_panic(expected = "a second time")]
fn an_executor_that_repeats_a_part_panics() {
    let shape = BatchShape { images: 2, height: 8, width: 8 };
    let case = Case::new(shape, THREE, 16, 64, false, false);
    case.error(&[0.0; 2 * 64 * 64], Algorithm::Direct(Instructions::Portable), &Repeating);
}

#[test]
fn one_nan_or_infinity_reaches_the_outputs_of_its_windows() {
    let shape = BatchShape { images: 1, height: 7, width: 7 };
    // NaN with the payloads that rounding could turn into infinity or zero, and infinity.
    let payloads = [0x7fc0_0000, 0x7f80_0001, 0x7fff_ffff, 0xffff_ffff, 0x7f80_0000].map(f32::from_bits);
    let geometries = [THREE, ONE].into_iter().chain(STRIDED);
    for (geometry, number) in geometries.flat_map(|geometry| payloads.map(|number| (geometry, number))) {
        let mut case = Case::new(shape, geometry, 16, 32, false, true);
        case.input[24 * 16 + 5] = number;
        for (algorithm, _) in Algorithm::all(geometry) {
            let output = case.output(algorithm, &CurrentThread);
            let middle = geometry.output(shape).width / 2;
            let centre = &output[middle * (geometry.output(shape).width + 1) * 32..][..32];
            let lost = |output: &f32| output.is_finite() && (number.is_nan() || *output != 0.0);
            assert!(!centre.iter().any(lost), "{algorithm:?} {geometry:?} {number}: {centre:?}");
        }
    }
}

#[test]
fn nan_inputs_give_nan_outputs() {
    let shape = BatchShape { images: 1, height: 4, width: 4 };
    let mut case = Case::new(shape, THREE, 16, 32, false, true);
    case.input.fill(f32::NAN);
    let expected = vec![0.0; 16 * 32];
    for (algorithm, _) in Algorithm::all(THREE) {
        assert!(case.error(&expected, algorithm, &CurrentThread).is_nan(), "{algorithm:?}");
    }
}

/// An executor that first runs other work on the calling thread, as a pool that steals work may.
struct WithOtherWork<'a>(&'a (dyn Fn() + Sync));

impl Executor for WithOtherWork<'_> {
    fn parts(&self) -> usize {
        2
    }

    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        (self.0)();
        (0..parts).for_each(work);
    }
}

#[test]
fn an_executor_may_compute_another_convolution_on_the_calling_thread() {
    let [_, stem] = STRIDED;
    let shape = BatchShape { images: 1, height: 16, width: 16 };
    let input: Vec<f32> = (0..shape.numbers(3)).map(|index| (index % 7) as f32 - 3.0).collect();
    let weights: Vec<f32> = (0..49 * 3 * 8).map(|index| (index % 5) as f32 - 2.0).collect();
    let filter = WinogradFilter::strided(&weights, &[0.5; 8], 3, stem, Instructions::best());
    let convolve = |executor: &dyn Executor| {
        let mut output = vec![f32::NAN; 64 * 8];
        winograd::convolve(&input, shape, &filter, Epilogue::default(), &mut output, executor);
        output
    };
    let alone = convolve(&CurrentThread);
    let inner = || assert_eq!(convolve(&CurrentThread), alone);
    assert_eq!(convolve(&WithOtherWork(&inner)), alone);
}
