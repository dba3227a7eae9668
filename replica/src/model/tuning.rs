//! Finds the fastest way to compute each layer on this machine, by trying.

use super::Failure;
use super::folded::Folded;
use super::fused::{Fused, Kernel, Kind, Maps};
use super::network::{Engine, Network};
use convolution::direct::Geometry;
use std::collections::HashMap;
use std::time::Instant;

/// Passes of which the fastest counts; what else the machine does only ever makes one slower.
const TRIES: usize = 2;

/// Layers of like sizes have like times.
type Sizes = (usize, usize, Geometry);

/// An engine that measures as it goes.
pub(super) struct Tuning {
    fused: Fused,
    /// By what is measured, seconds a picture: over all batch sizes that were tried.
    tried: HashMap<Sizes, Vec<Candidate>>,
    /// Where the present pass stands with each.
    pass: usize,
    seen: HashMap<Sizes, usize>,
}

struct Candidate {
    kind: Kind,
    kernel: Kernel,
    seconds: f64,
}

impl Tuning {
    pub(super) fn new(threads: usize) -> Self {
        Self { fused: Fused::new(threads), tried: HashMap::new(), pass: 0, seen: HashMap::new() }
    }

    /// Tries every layer of `network` on `pictures` pictures of `side` by `side`.
    pub(super) fn measure(&mut self, network: &Network<Folded>, side: usize, pictures: usize) -> Result<(), Failure> {
        self.pass += 1;
        let input = self.fused.pictures(&super::warm_up::pictures(pictures, side), side);
        let logits = network.forward(self, &input)?;
        self.fused.release(logits);
        self.fused.release(input);
        Ok(())
    }

    /// `network` with each layer as it was fastest.
    pub(super) fn fastest(mut self, network: &Network<Folded>) -> Network<Kernel> {
        let mut fastest = HashMap::new();
        let kernel = |layer: &Folded| {
            // The first of its sizes was tried with its own weights, and so is there already.
            let tried = self.tried.remove(&sizes(layer)).unwrap_or_default();
            Ok(match tried.into_iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds)) {
                Some(best) => {
                    fastest.insert(sizes(layer), best.kind);
                    best.kernel
                }
                None => {
                    let kind = fastest.get(&sizes(layer)).copied().unwrap_or(Kind::Direct);
                    Kernel::new(layer, kind, self.fused.instructions)
                }
            })
        };
        network.map(kernel).unwrap_or_else(|never: std::convert::Infallible| match never {})
    }
}

fn sizes(layer: &Folded) -> Sizes {
    (layer.inputs, layer.bias.len(), layer.geometry)
}

impl Engine<Folded> for Tuning {
    type Maps = Maps;

    fn convolve(
        &mut self,
        layer: &Folded,
        maps: &Maps,
        residual: Option<&Maps>,
        rectify: bool,
    ) -> Result<Maps, Failure> {
        let fused = &mut self.fused;
        let instructions = fused.instructions;
        let candidates = self.tried.entry(sizes(layer)).or_insert_with(|| {
            let candidate =
                |kind: &Kind| Candidate { kind: *kind, kernel: Kernel::new(layer, *kind, instructions), seconds: 0.0 };
            Kind::candidates(layer).iter().map(candidate).collect()
        });
        // Once a pass; where there is no choice nothing needs measuring.
        let is_known = self.seen.insert(sizes(layer), self.pass) == Some(self.pass) || candidates.len() == 1;
        for candidate in candidates.iter_mut().filter(|_| !is_known) {
            let mut fastest = f64::INFINITY;
            for _ in 0..TRIES {
                let start = Instant::now();
                let out = fused.convolve(&candidate.kernel, maps, residual, rectify)?;
                fastest = fastest.min(start.elapsed().as_secs_f64());
                fused.release(out);
            }
            candidate.seconds += fastest / maps.pictures() as f64;
        }
        // Of another layer's weights perhaps, which matters to no time.
        fused.convolve(&candidates[0].kernel, maps, residual, rectify)
    }

    fn max_pool(&mut self, maps: &Maps) -> Result<Maps, Failure> {
        self.fused.max_pool(maps)
    }

    fn average_pool(&mut self, maps: &Maps) -> Result<Maps, Failure> {
        self.fused.average_pool(maps)
    }

    fn release(&mut self, maps: Maps) {
        self.fused.release(maps);
    }
}
