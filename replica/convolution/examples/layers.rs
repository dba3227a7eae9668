//! Times the convolutions of a ResNet-18 and some of a ResNet-50, each by itself, on one thread. A layer has several
//! copies of its weights and uses them in turn, so that weights come from memory or from a far cache, as in a network.
//!
//! Usage: layers [BATCH [PART]], where only lines with the text PART are measured: layers 8 "Avx2 Four"

use convolution::amx::{self, AmxFilter, TileUnit};
use convolution::direct::{self, DirectFilter};
use convolution::winograd::{self, TileSize, WinogradFilter};
use convolution::{BatchShape, CurrentThread, Epilogue, Geometry, Instructions, Nonlinearity};
use std::time::Instant;

/// How many numbers all copies of a layer's weights have together: 100 MB, or less if a layer has [`MAX_COPIES`].
const COPIED_WEIGHTS: usize = 25_000_000;

/// Largest number of copies of a layer's weights.
const MAX_COPIES: usize = 40;

/// Number of times that each convolution is run.
const REPEATS: usize = 60;

const STEM: Geometry = Geometry { side: 7, stride: 2, padding: 3 };
const THREE: Geometry = Geometry { side: 3, stride: 1, padding: 1 };
const THREE_STRIDED: Geometry = Geometry { side: 3, stride: 2, padding: 1 };
const ONE: Geometry = Geometry { side: 1, stride: 1, padding: 0 };
const ONE_STRIDED: Geometry = Geometry { side: 1, stride: 2, padding: 0 };

/// Input channels, output channels, input height and width, and geometry of each layer.
const LAYERS: [(usize, usize, usize, Geometry); 17] = [
    (3, 64, 224, STEM),
    (64, 64, 56, THREE),
    (64, 128, 56, THREE_STRIDED),
    (64, 128, 56, ONE_STRIDED),
    (128, 128, 28, THREE),
    (128, 256, 28, THREE_STRIDED),
    (128, 256, 28, ONE_STRIDED),
    (256, 256, 14, THREE),
    (256, 512, 14, THREE_STRIDED),
    (256, 512, 14, ONE_STRIDED),
    (512, 512, 7, THREE),
    (64, 256, 56, ONE),
    (256, 64, 56, ONE),
    (256, 1024, 14, ONE),
    (1024, 256, 14, ONE),
    (512, 2048, 7, ONE),
    (2048, 512, 7, ONE),
];

fn main() {
    let batch: usize =
        std::env::args().nth(1).map_or(1, |text| text.parse().expect("the argument is a batch size, such as 8"));
    println!(
        "batch {batch}\ninputs outputs side  filter  stride  kind           ms/image      min   GMAC/s of the definition at the minimum"
    );
    for (inputs, outputs, width, geometry) in LAYERS {
        let shape = BatchShape { images: batch, height: width, width };
        TimedLayer::new(inputs, outputs, shape, geometry).time_all();
    }
}

/// One convolution with its data.
struct TimedLayer {
    inputs: usize,
    outputs: usize,
    shape: BatchShape,
    geometry: Geometry,
    weights: Vec<f32>,
    bias: Vec<f32>,
    input: Vec<f32>,
    residual: Vec<f32>,
}

impl TimedLayer {
    fn new(inputs: usize, outputs: usize, shape: BatchShape, geometry: Geometry) -> Self {
        Self {
            inputs,
            outputs,
            shape,
            geometry,
            weights: numbers(geometry.side * geometry.side * inputs * outputs),
            bias: numbers(outputs),
            input: numbers(shape.pixels() * inputs),
            residual: vec![0.0; geometry.output(shape).pixels() * outputs],
        }
    }

    /// Times every algorithm that this processor and the geometry allow, with each set of instructions that it has.
    fn time_all(&self) {
        let Self { inputs, shape, geometry, weights, bias, input, .. } = self;
        let epilogue = Epilogue { residual: Some(&self.residual), nonlinearity: Nonlinearity::Relu };
        if TileUnit::Amx.is_available() {
            let filter = || AmxFilter::new(weights, bias, *inputs, *geometry, TileUnit::Amx);
            self.time("Amx".into(), weights.len(), filter, |filter, output| {
                amx::convolve(input, *shape, filter, epilogue, output, &CurrentThread);
            });
        }
        // The portable set is the last resort, and only processors without vector instructions need its times.
        let sets = Instructions::available();
        for instructions in sets.iter().copied().skip(usize::from(sets.len() > 1)) {
            self.time_vectors(instructions, epilogue);
        }
    }

    /// Times the algorithms that use vectors, with the given instructions.
    fn time_vectors(&self, instructions: Instructions, epilogue: Epilogue<'_>) {
        let Self { inputs, shape, geometry, weights, bias, input, .. } = self;
        let filter = || DirectFilter::new(weights, bias, *inputs, *geometry, instructions);
        self.time(format!("{instructions:?}"), weights.len(), filter, |filter, output| {
            direct::convolve(input, *shape, filter, epilogue, output, &CurrentThread);
        });
        if WinogradFilter::has_strided(*geometry) {
            // Transformed weights have up to nine times as many numbers, or twice as many for 7×7 taps.
            let length = weights.len() * if geometry.side == 3 { 9 } else { 2 };
            let filter = || WinogradFilter::strided(weights, bias, *inputs, *geometry, instructions);
            self.time(format!("{instructions:?} Strided"), length, filter, |filter, output| {
                winograd::convolve(input, *shape, filter, epilogue, output, &CurrentThread);
            });
        }
        if *geometry == THREE {
            for (tile, elements) in [(TileSize::Two, 16), (TileSize::Four, 36)] {
                let filter = || WinogradFilter::new(weights, bias, *inputs, tile, instructions);
                let length = weights.len() * elements / 9;
                self.time(format!("{instructions:?} {tile:?}"), length, filter, |filter, output| {
                    winograd::convolve(input, *shape, filter, epilogue, output, &CurrentThread);
                });
            }
        }
    }

    /// Runs `convolve` with the copies of the filter in turn, and prints the median and the least time. The weights of
    /// a filter are `length` numbers.
    fn time<F>(&self, kind: String, length: usize, filter: impl Fn() -> F, convolve: impl Fn(&F, &mut [f32])) {
        let Self { inputs, outputs, shape, geometry: Geometry { side, stride, .. }, .. } = *self;
        let name = format!("{inputs:>6} {outputs:>7} {:>4} {side:>7} {stride:>7}  {kind:<14}", shape.width);
        if std::env::args().nth(2).is_some_and(|part| !name.contains(&part)) {
            return;
        }
        let filters: Vec<F> = (0..COPIED_WEIGHTS.div_ceil(length).min(MAX_COPIES)).map(|_| filter()).collect();
        let mut output = vec![0.0; self.residual.len()];
        let mut seconds: Vec<f64> = filters
            .iter()
            .cycle()
            .take(REPEATS)
            .map(|filter| {
                let start = Instant::now();
                convolve(filter, &mut output);
                start.elapsed().as_secs_f64() / self.shape.images as f64
            })
            .collect();
        seconds.sort_by(f64::total_cmp);
        let output = self.geometry.output(BatchShape { images: 1, ..shape });
        let work = (side * side * inputs * outputs * output.pixels()) as f64;
        println!(
            "{name} {:>8.3} {:>8.3} {:>10.1}",
            seconds[REPEATS / 2] * 1e3,
            seconds[0] * 1e3,
            work / seconds[0] / 1e9
        );
    }
}

/// `count` numbers from -1 to 1. After 2001 different numbers they repeat.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|index| ((index * 2_654_435_761) % 2001) as f32 / 1000.0 - 1.0).collect()
}
