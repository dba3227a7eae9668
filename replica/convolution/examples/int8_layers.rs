//! Times the convolutions of a ResNet-18 and some of a ResNet-50 in 8-bit integers, each by itself, on one thread, with
//! every set of VNNI instructions that this processor has. A layer has several copies of its weights and uses them in
//! turn, so that weights come from memory or from a far cache, as in a network.

use convolution::int8::{self, Bytes, Int8Filter, Int8Instructions, Residual};
use convolution::{BatchShape, CurrentThread, Geometry};
use std::time::Instant;

/// How many bytes all copies of a layer's weights have together, if there are no more than [`MAX_COPIES`].
const COPIED_WEIGHTS: usize = 25_000_000;

/// Largest number of copies of a layer's weights.
const MAX_COPIES: usize = 40;

/// Number of times that each convolution is run.
const REPEATS: usize = 60;

/// Input channels, output channels, input height and width, and side, stride and padding of each layer. The stem's
/// input has its border already.
const LAYERS: [(usize, usize, usize, [usize; 3]); 13] = [
    (3, 64, 230, [7, 2, 0]),
    (64, 64, 56, [3, 1, 1]),
    (64, 128, 56, [3, 2, 1]),
    (64, 128, 56, [1, 2, 0]),
    (128, 128, 28, [3, 1, 1]),
    (128, 256, 28, [3, 2, 1]),
    (256, 256, 14, [3, 1, 1]),
    (256, 512, 14, [3, 2, 1]),
    (512, 512, 7, [3, 1, 1]),
    (64, 256, 56, [1, 1, 0]),
    (256, 64, 56, [1, 1, 0]),
    (1024, 256, 14, [1, 1, 0]),
    (512, 2048, 7, [1, 1, 0]),
];

fn main() {
    let batch: usize =
        std::env::args().nth(1).map_or(1, |text| text.parse().expect("the argument is a batch size, such as 8"));
    let sets = Int8Instructions::available();
    let vnni = sets.strip_prefix(&[Int8Instructions::Portable]).unwrap_or(&sets);
    println!("batch {batch}\ninputs outputs side  filter  stride  {:<24} ms/image      min     GMAC/s", "instructions");
    for (inputs, outputs, width, [side, stride, padding]) in LAYERS {
        let shape = BatchShape { images: batch, height: width, width };
        for &instructions in vnni {
            time(inputs, outputs, shape, Geometry { side, stride, padding }, instructions);
        }
    }
}

/// Times one convolution, and prints the median and the least time.
fn time(inputs: usize, outputs: usize, shape: BatchShape, geometry: Geometry, instructions: Int8Instructions) {
    let Geometry { side, stride, .. } = geometry;
    let weights: Vec<i8> = (0..side * side * inputs * outputs).map(|index| (index * 37 % 255) as i8).collect();
    let (scale, bias) = (vec![1e-4; outputs], vec![1.0; outputs]);
    let copies = COPIED_WEIGHTS.div_ceil(weights.len()).min(MAX_COPIES);
    let filters: Vec<Int8Filter> =
        (0..copies).map(|_| Int8Filter::new(&weights, (&scale, &bias), inputs, geometry, instructions)).collect();
    let mut input = Bytes::zeroed(filters[0].input_bytes(shape));
    input.iter_mut().enumerate().for_each(|(index, level)| *level = (index * 41 % 251) as u8);
    let pixels = geometry.output(shape).pixels();
    let (residual, mut output) = (Bytes::zeroed(pixels * outputs), Bytes::zeroed(pixels * outputs));
    let mut seconds: Vec<f64> = filters
        .iter()
        .cycle()
        .take(REPEATS)
        .map(|filter| {
            let start = Instant::now();
            // The stem adds no residual.
            let residual = (inputs != 3).then_some(Residual { levels: &residual, factor: 0.5 });
            int8::convolve(&input, shape, filter, residual, &mut output, &CurrentThread);
            start.elapsed().as_secs_f64() / shape.images as f64
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let work = weights.len() as f64 * pixels as f64 / shape.images as f64;
    println!(
        "{inputs:>6} {outputs:>7} {:>4} {side:>7} {stride:>7}  {instructions:<24} {:>8.3} {:>8.3} {:>10.1}",
        shape.width,
        seconds[REPEATS / 2] * 1e3,
        seconds[0] * 1e3,
        work / seconds[REPEATS / 2] / 1e9
    );
}
