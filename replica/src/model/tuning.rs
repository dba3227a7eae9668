//! Finds the fastest way to compute each layer on this machine, by running the whole network: only then does every layer
//! find its weights where they will be, which is rarely in a near cache.

use super::choice::Bounds;
use super::folded::Folded;
use super::fused::{Fused, Kernel, Kind, Layer, Maps, Plan};
use super::network::{Engine, Network};
use super::{Failure, Input, warm_up};
use convolution::direct::Geometry;
use std::collections::HashMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

/// Passes of which the fastest counts; what else the machine does only ever makes one slower.
const TRIES: usize = 2;

/// Ways that a layer may have.
const WAYS: usize = 2;

/// Layers of like sizes have like times.
type Sizes = (usize, usize, Geometry);

/// A layer in every way that is worth trying.
struct Candidates {
    sizes: Sizes,
    kernels: Vec<Kernel>,
}

/// Seconds of the fastest of all layers of some sizes by each way, for all pictures together.
type Seconds = HashMap<Sizes, [f64; WAYS]>;

/// A plan for `network` with each layer as it is fastest, with the matrix unit or without.
pub(super) fn tune(network: &Network<Folded>, bounds: Bounds, with_amx: bool) -> Result<Plan, Failure> {
    let Bounds { side, max_batch, threads } = bounds;
    let mut engine = Fused::new(threads);
    let candidates = |layer: &Folded| {
        let kernel = |kind: &Kind| Kernel::new(layer, *kind, engine.instructions);
        let kernels = Kind::candidates(layer, max_batch, with_amx).iter().map(kernel).collect();
        Ok::<_, Infallible>(Candidates { sizes: (layer.inputs, layer.bias.len(), layer.geometry), kernels })
    };
    let Ok(network) = network.map(candidates);
    // For one picture, and for the largest batch.
    let mut times: [Seconds; 2] = Default::default();
    for (batch, pictures) in [1, max_batch].into_iter().enumerate() {
        let pictures = engine.pictures(&warm_up::pictures(pictures, side), side);
        for turn in 0..WAYS {
            let mut timing = Timing { engine, turn, passed: HashMap::new(), seconds: &mut times[batch] };
            let logits = network.forward(&mut timing, &pictures)?;
            engine = timing.engine;
            engine.release(logits);
        }
        engine.release(pictures);
        if max_batch == 1 {
            times[1] = times[0].clone();
            break;
        }
    }
    let network = network.into_map(|Candidates { sizes, kernels }| {
        let line = |way: usize| Line::through(times[0][&sizes][way], times[1][&sizes][way], max_batch);
        tracing::debug!(?sizes, first = ?line(0), second = ?line(1), ways = kernels.len(), "tuned");
        let mut kernels = kernels.into_iter();
        match (kernels.next(), kernels.next()) {
            (Some(first), Some(second)) => match fastest(line(0), line(1), max_batch) {
                Fastest::First => Layer::always(first),
                Fastest::Second => Layer::always(second),
                Fastest::SecondFrom(count) => Layer::switching(first, count, second),
                Fastest::FirstFrom(count) => Layer::switching(second, count, first),
            },
            (only, _) => Layer::always(only.expect("every layer has a way")),
        }
    });
    let mut plan = Plan { network, alone: 0 };
    if max_batch > 1 {
        plan.alone = alone(&mut plan, &mut engine, &warm_up::pictures(max_batch, side), side)?;
    }
    Ok(plan)
}

/// The stage from which on `pictures` had better go together.
fn alone(plan: &mut Plan, engine: &mut Fused, pictures: &[Input], side: usize) -> Result<usize, Failure> {
    let mut fastest = (Duration::MAX, 0);
    let stages: Vec<usize> = std::iter::once(0).chain(plan.network.stages()).collect();
    for alone in stages {
        plan.alone = alone;
        for _ in 0..TRIES {
            let start = Instant::now();
            let logits = plan.forward(engine, pictures, side)?;
            fastest = fastest.min((start.elapsed(), alone));
            engine.release(logits);
        }
    }
    tracing::debug!(block = fastest.1, "pictures go together from this block on");
    Ok(fastest.1)
}

/// Seconds of a layer: some for its weights, some for every picture.
#[derive(Debug, Clone, Copy)]
struct Line {
    weights: f64,
    picture: f64,
}

impl Line {
    /// From the seconds for one picture and for `most`.
    fn through(one: f64, all: f64, most: usize) -> Self {
        let picture = if most > 1 { (all - one) / (most - 1) as f64 } else { one };
        Self { weights: one - picture, picture }
    }

    fn seconds(self, pictures: usize) -> f64 {
        self.weights + self.picture * pictures as f64
    }
}

/// Which of two ways, for as many pictures as there are.
#[derive(Debug, PartialEq, Eq)]
enum Fastest {
    First,
    Second,
    /// For fewer than these the second.
    FirstFrom(usize),
    /// For fewer than these the first.
    SecondFrom(usize),
}

/// Of the ways that take these times for up to `most` pictures.
fn fastest(first: Line, second: Line, most: usize) -> Fastest {
    let is_second = |pictures: usize| second.seconds(pictures) < first.seconds(pictures);
    let change = (2..=most).find(|&pictures| is_second(pictures) != is_second(1));
    match (is_second(1), change) {
        (false, None) => Fastest::First,
        (true, None) => Fastest::Second,
        (false, Some(count)) => Fastest::SecondFrom(count),
        (true, Some(count)) => Fastest::FirstFrom(count),
    }
}

/// Computes layers of like sizes in turns by either way, and measures.
struct Timing<'a> {
    engine: Fused,
    /// The way of the first of each sizes.
    turn: usize,
    /// Layers of each sizes so far.
    passed: HashMap<Sizes, usize>,
    seconds: &'a mut Seconds,
}

impl Engine<Candidates> for Timing<'_> {
    type Maps = Maps;

    fn convolve(
        &mut self,
        layer: &Candidates,
        maps: &Maps,
        residual: Option<&Maps>,
        rectify: bool,
    ) -> Result<Maps, Failure> {
        let passed = self.passed.entry(layer.sizes).or_default();
        let way = (self.turn + *passed) % WAYS;
        *passed += 1;
        let start = Instant::now();
        let out = self.engine.compute(&layer.kernels[way.min(layer.kernels.len() - 1)], maps, residual, rectify);
        let fastest = &mut self.seconds.entry(layer.sizes).or_insert([f64::INFINITY; WAYS])[way];
        *fastest = fastest.min(start.elapsed().as_secs_f64());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_changes_where_the_lines_cross() {
        // Seconds for one picture and for eight, by either way.
        for (first, second, expected) in [
            ((5.0, 40.0), (9.0, 19.0), Fastest::SecondFrom(3)),
            ((9.0, 19.0), (5.0, 40.0), Fastest::FirstFrom(3)),
            ((5.0, 40.0), (4.0, 32.0), Fastest::Second),
            ((5.0, 40.0), (6.0, 48.0), Fastest::First),
            ((5.0, 40.0), (11.0, 39.0), Fastest::SecondFrom(8)),
        ] {
            let line = |(one, all)| Line::through(one, all, 8);
            assert_eq!(fastest(line(first), line(second), 8), expected, "{first:?} {second:?}");
        }
        assert_eq!(fastest(Line::through(5.0, 5.0, 1), Line::through(4.0, 4.0, 1), 1), Fastest::Second);
    }
}
