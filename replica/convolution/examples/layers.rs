//! Times the convolutions of a ResNet-18, each by itself, on one thread, with weights that are in no near cache: between two
//! uses of a layer, a network's other layers pass through it.

use convolution::amx::{self, Registers};
use convolution::direct::{self, Geometry};
use convolution::winograd::{self, Tile};
use convolution::{Activation, Alone, Instructions, Shape};
use std::time::Instant;

/// Weights that pass between two uses, in numbers: 100 MB.
const BETWEEN: usize = 25_000_000;

fn main() {
    let batch: usize = std::env::args().nth(1).map_or(1, |text| text.parse().expect("a batch size"));
    println!(
        "batch {batch}\ninputs outputs side  filter  stride  kind          ms/image      min   GMAC/s of the definition"
    );
    let three = |stride| Geometry { side: 3, stride, padding: 1 };
    for (inputs, outputs, width, geometry) in [
        (3, 64, 224, Geometry { side: 7, stride: 2, padding: 3 }),
        (64, 64, 56, three(1)),
        (64, 128, 56, three(2)),
        (64, 128, 56, Geometry { side: 1, stride: 2, padding: 0 }),
        (128, 128, 28, three(1)),
        (128, 256, 28, three(2)),
        (128, 256, 28, Geometry { side: 1, stride: 2, padding: 0 }),
        (256, 256, 14, three(1)),
        (256, 512, 14, three(2)),
        (256, 512, 14, Geometry { side: 1, stride: 2, padding: 0 }),
        (512, 512, 7, three(1)),
        (256, 64, 56, Geometry { side: 1, stride: 1, padding: 0 }),
        (512, 2048, 7, Geometry { side: 1, stride: 1, padding: 0 }),
    ] {
        let shape = Shape { images: batch, height: width, width };
        let output = geometry.output(shape);
        let weights = numbers(geometry.side * geometry.side * inputs * outputs);
        let (bias, input) = (numbers(outputs), numbers(shape.pixels() * inputs));
        let mut result = vec![0.0; output.pixels() * outputs];
        let residual = result.clone();
        let activation = Activation { residual: Some(&residual), rectify: true };
        let mut report = |kind: String, run: &mut dyn FnMut(&mut [f32])| {
            let mut times: Vec<f64> = (0..60)
                .map(|_| {
                    let start = Instant::now();
                    run(&mut result);
                    start.elapsed().as_secs_f64() / batch as f64
                })
                .collect();
            times.sort_by(f64::total_cmp);
            let work = (geometry.side * geometry.side * inputs * outputs * output.width * output.width) as f64;
            let Geometry { side, stride, .. } = geometry;
            println!(
                "{inputs:>6} {outputs:>7} {width:>4} {side:>7} {stride:>7}  {kind:<13} {:>8.3} {:>8.3} {:>10.1}",
                times[30] * 1e3,
                times[0] * 1e3,
                work / times[30] / 1e9
            );
        };
        if Registers::Amx.is_available() {
            let filter = || amx::Filter::new(&weights, &bias, inputs, geometry, Registers::Amx);
            let filters: Vec<_> = (0..BETWEEN.div_ceil(weights.len()).min(40)).map(|_| filter()).collect();
            let mut next = filters.iter().cycle();
            report("Amx".into(), &mut |result| {
                let filter = next.next().expect("endless");
                amx::convolve(&input, shape, filter, activation, result, &Alone);
            });
        }
        for instructions in Instructions::available().into_iter().rev().take(1) {
            let filter = || direct::Filter::new(&weights, &bias, inputs, geometry, instructions);
            let filters: Vec<_> = (0..BETWEEN.div_ceil(weights.len()).min(40)).map(|_| filter()).collect();
            let mut next = filters.iter().cycle();
            report(format!("{instructions:?}"), &mut |result| {
                let filter = next.next().expect("endless");
                direct::convolve(&input, shape, filter, activation, result, &Alone);
            });
            if geometry == three(1) {
                for tile in [Tile::Two, Tile::Four] {
                    let filter = || winograd::Filter::new(&weights, &bias, inputs, tile, instructions);
                    let numbers = weights.len() * if tile == Tile::Two { 16 } else { 36 } / 9;
                    let filters: Vec<_> = (0..BETWEEN.div_ceil(numbers).min(40)).map(|_| filter()).collect();
                    let mut next = filters.iter().cycle();
                    report(format!("{instructions:?} {tile:?}"), &mut |result| {
                        let filter = next.next().expect("endless");
                        winograd::convolve(&input, shape, filter, activation, result, &Alone);
                    });
                }
            }
        }
    }
}

/// Something between -1 and 1 that is not the same everywhere.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|index| ((index * 2_654_435_761) % 2001) as f32 / 1000.0 - 1.0).collect()
}
