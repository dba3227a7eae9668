//! Times the convolutions of a ResNet-18's basic blocks, each by itself.

use std::time::Instant;
use winograd::{Activation, Alone, Filter, Instructions, Shape, Tile, convolve};

fn main() {
    let batch: usize = std::env::args().nth(1).map_or(1, |text| text.parse().expect("a batch size"));
    println!("batch {batch}\nchannels  side  tile  instructions    ms/image   GMAC/s (direct)");
    for (channels, side) in [(64, 56), (128, 28), (256, 14), (512, 7)] {
        let shape = Shape { images: batch, height: side, width: side };
        let weights = numbers(9 * channels * channels);
        let bias = numbers(channels);
        let input = numbers(batch * side * side * channels);
        let mut output = vec![0.0; input.len()];
        for tile in [Tile::Two, Tile::Four] {
            for instructions in Instructions::available() {
                let filter = Filter::new(&weights, &bias, channels, tile, instructions);
                let activation = Activation { residual: Some(&input), rectify: true };
                let mut times: Vec<f64> = (0..30)
                    .map(|_| {
                        let start = Instant::now();
                        convolve(&input, shape, &filter, activation, &mut output, &Alone);
                        start.elapsed().as_secs_f64()
                    })
                    .collect();
                times.sort_by(f64::total_cmp);
                let time = times[times.len() / 2] / batch as f64;
                let work = 9.0 * (channels * channels * side * side) as f64;
                println!("{channels:>8} {side:>5}  {tile:<5?} {instructions:<12?} {:>9.3} {:>10.1}   min {:.3}", time * 1e3, work / time / 1e9, times[0] / batch as f64 * 1e3);
            }
        }
    }
}

/// Something between -1 and 1 that is not the same everywhere.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|index| ((index * 2_654_435_761) % 2001) as f32 / 1000.0 - 1.0).collect()
}
