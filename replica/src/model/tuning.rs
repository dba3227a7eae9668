//! Finds the fastest way to compute each layer on this machine, by running the whole network in each: only then does every
//! layer find its weights where they will be, which is rarely in a near cache.

use super::folded::Folded;
use super::fused::{Fused, Kernel, Kind, Maps};
use super::network::{Engine, Network};
use super::{Failure, warm_up};
use convolution::direct::Geometry;
use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Instant;

/// Passes of which the fastest counts; what else the machine does only ever makes one slower.
const TRIES: usize = 2;

/// Layers of like sizes have like times.
type Sizes = (usize, usize, Geometry);

/// A layer in every way that is worth trying.
struct Candidates {
    sizes: Sizes,
    kernels: Vec<(Kind, Kernel)>,
}

/// Seconds that all layers of some sizes take for a picture, in each way.
type Times = HashMap<Sizes, Vec<f64>>;

/// `network` with each layer as it is fastest for one picture and for `max_batch` at a time, both counted alike.
pub(super) fn tune(
    network: &Network<Folded>,
    side: usize,
    max_batch: usize,
    threads: usize,
) -> Result<Network<Kernel>, Failure> {
    let mut engine = Fused::new(threads);
    let candidates = |layer: &Folded| {
        let kernel = |kind: &Kind| (*kind, Kernel::new(layer, *kind, engine.instructions));
        let kernels = Kind::candidates(layer, max_batch).iter().map(kernel).collect();
        Ok::<_, Infallible>(Candidates { sizes: (layer.inputs, layer.bias.len(), layer.geometry), kernels })
    };
    let Ok(network) = network.map(candidates);
    let mut times = Times::new();
    for pictures in if max_batch > 1 { vec![1, max_batch] } else { vec![1] } {
        let pictures = engine.pictures(&warm_up::pictures(pictures, side), side);
        for way in 0..2 {
            let mut fastest = Times::new();
            for _ in 0..TRIES {
                let mut timing = Timing { engine, way, times: Times::new() };
                let logits = network.forward(&mut timing, &pictures)?;
                engine = timing.engine;
                engine.release(logits);
                for (sizes, seconds) in timing.times {
                    let fastest = fastest.entry(sizes).or_insert_with(|| seconds.clone());
                    fastest.iter_mut().zip(seconds).for_each(|(fastest, seconds)| *fastest = fastest.min(seconds));
                }
            }
            for (sizes, seconds) in fastest {
                times.entry(sizes).or_default().extend(seconds);
            }
        }
        engine.release(pictures);
    }
    let fastest = |Candidates { sizes, kernels }: Candidates| {
        let ways = kernels.len();
        // Way 0 and 1 for one picture, then for a batch.
        let seconds = |way: usize| times[&sizes].iter().skip(way).step_by(2).sum::<f64>();
        let best = (0..ways).min_by(|&a, &b| seconds(a).total_cmp(&seconds(b))).unwrap_or(0);
        tracing::debug!(?sizes, kind = ?kernels[best].0, "tuned");
        kernels.into_iter().nth(best).expect("one of them").1
    };
    Ok(network.into_map(fastest))
}

/// Computes one way, and measures.
struct Timing {
    engine: Fused,
    way: usize,
    times: Times,
}

impl Engine<Candidates> for Timing {
    type Maps = Maps;

    fn convolve(
        &mut self,
        layer: &Candidates,
        maps: &Maps,
        residual: Option<&Maps>,
        rectify: bool,
    ) -> Result<Maps, Failure> {
        let start = Instant::now();
        let (_, kernel) = &layer.kernels[self.way.min(layer.kernels.len() - 1)];
        let out = self.engine.convolve(kernel, maps, residual, rectify)?;
        let seconds = start.elapsed().as_secs_f64() / maps.pictures() as f64;
        self.times.entry(layer.sizes).or_insert_with(|| vec![0.0])[0] += seconds;
        Ok(out)
    }

    fn max_pool(&mut self, maps: &Maps) -> Result<Maps, Failure> {
        self.engine.max_pool(maps)
    }

    fn average_pool(&mut self, maps: &Maps) -> Result<Maps, Failure> {
        self.engine.average_pool(maps)
    }

    fn release(&mut self, maps: Maps) {
        self.engine.release(maps);
    }
}
