//! Finds the fastest algorithm for each layer on this machine. The whole network is run, not each layer repeatedly:
//! only then are the weights of a layer where they will be in service, which is rarely in a near cache.

use super::choice::PassLimits;
use super::folded::FoldedConvolution;
use super::fused::{Activations, Algorithm, FusedEngine, Layer, MatrixUnit, PackedFilter, Plan};
use super::network::{Engine, Network};
use super::{Failure, Input, warm_up};
use convolution::{Geometry, Instructions, Nonlinearity};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Passes of which the fastest counts: other load on the machine only makes a pass slower.
const TRIES: usize = 2;

/// Algorithms that are compared for a layer.
const VARIANTS: usize = 2;

/// The sizes of a layer. Layers of the same sizes are assumed to take the same time, and get the same algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct LayerSizes {
    inputs: usize,
    outputs: usize,
    geometry: Geometry,
}

/// A layer, packed for each algorithm that is measured: one or two.
struct Candidates {
    sizes: LayerSizes,
    filters: Vec<PackedFilter>,
}

/// For layers of each size, the seconds that the fastest one took with each variant, for all images together.
type Seconds = HashMap<LayerSizes, [f64; VARIANTS]>;

/// The fastest plan for `network`, with or without the matrix unit.
///
/// # Errors
/// When a forward pass fails.
pub(super) fn tune(
    network: &Network<FoldedConvolution>,
    limits: PassLimits,
    matrix_unit: MatrixUnit,
) -> Result<Plan, Failure> {
    let PassLimits { side, max_batch, threads } = limits;
    let mut engine = FusedEngine::new(threads)?;
    let instructions = engine.instructions;
    let candidates = network.each_ref().map(|layer| Candidates::new(layer, max_batch, matrix_unit, instructions));
    let for_one = measure(&candidates, &mut engine, 1, side)?;
    let for_batch = match max_batch {
        1 => for_one.clone(),
        _ => measure(&candidates, &mut engine, max_batch, side)?,
    };
    let network = candidates.map(|candidates| candidates.select(&for_one, &for_batch, max_batch));
    let mut plan = Plan { network, batched_from: 0 };
    if max_batch > 1 {
        plan.batched_from = tune_batched_from(&mut plan, &mut engine, &warm_up::images(max_batch, side), side)?;
    }
    Ok(plan)
}

impl Candidates {
    fn new(layer: &FoldedConvolution, max_batch: usize, matrix_unit: MatrixUnit, instructions: Instructions) -> Self {
        let pack = |algorithm: &Algorithm| PackedFilter::new(layer, *algorithm, instructions);
        let filters = Algorithm::candidates(layer, max_batch, matrix_unit).iter().map(pack).collect();
        let sizes = LayerSizes { inputs: layer.inputs, outputs: layer.bias.len(), geometry: layer.geometry };
        Self { sizes, filters }
    }

    /// The layer with the algorithms that are fastest for each number of images up to `max_batch`, given the times for
    /// one image and for `max_batch`.
    fn select(self, for_one: &Seconds, for_batch: &Seconds, max_batch: usize) -> Layer {
        let Self { sizes, filters } = self;
        let cost =
            |variant: usize| LinearCost::through(for_one[&sizes][variant], for_batch[&sizes][variant], max_batch);
        tracing::debug!(?sizes, first = ?cost(0), second = ?cost(1), variants = filters.len(), "tuned");
        let mut filters = filters.into_iter();
        match (filters.next(), filters.next()) {
            (Some(first), Some(second)) => match fastest(cost(0), cost(1), max_batch) {
                Fastest::First => Layer::Fixed(first),
                Fastest::Second => Layer::Fixed(second),
                Fastest::SecondFrom(threshold) => Layer::Switching { few: first, threshold, many: second },
                Fastest::FirstFrom(threshold) => Layer::Switching { few: second, threshold, many: first },
            },
            (only, _) => Layer::Fixed(only.expect("every layer has an algorithm")),
        }
    }
}

/// Times all layers in forward passes of `count` images. Layers of the same sizes use the variants in turns, and in the
/// second pass in the opposite order.
fn measure(
    candidates: &Network<Candidates>,
    engine: &mut FusedEngine,
    count: usize,
    side: usize,
) -> Result<Seconds, Failure> {
    let images = engine.batch(&warm_up::images(count, side), side);
    let mut seconds = Seconds::new();
    for turn in 0..VARIANTS {
        let mut timing = TimingEngine { engine, turn, passed: HashMap::new(), seconds: &mut seconds };
        let logits = candidates.forward(&mut timing, &images)?;
        engine.release(logits);
    }
    engine.release(images);
    Ok(seconds)
}

/// The value of [`Plan::batched_from`] with which `images` take the least time: 0, or a block that begins a stage.
fn tune_batched_from(
    plan: &mut Plan,
    engine: &mut FusedEngine,
    images: &[Input],
    side: usize,
) -> Result<usize, Failure> {
    let mut fastest = (Duration::MAX, 0);
    let starts: Vec<usize> = std::iter::once(0).chain(plan.network.stage_starts()).collect();
    for batched_from in starts {
        plan.batched_from = batched_from;
        for _ in 0..TRIES {
            let start = Instant::now();
            let logits = plan.forward(engine, images, side)?;
            fastest = fastest.min((start.elapsed(), batched_from));
            engine.release(logits);
        }
    }
    tracing::debug!(block = fastest.1, "all images of a batch are computed together from this block on");
    Ok(fastest.1)
}

/// The time of a layer as a linear function of the number of images, in seconds.
#[derive(Debug, Clone, Copy)]
struct LinearCost {
    /// The part that does not depend on the number of images: reading the weights.
    fixed: f64,
    per_image: f64,
}

impl LinearCost {
    /// The line through the seconds for one image and for `count` images.
    fn through(one: f64, all: f64, count: usize) -> Self {
        let per_image = if count > 1 { (all - one) / (count - 1) as f64 } else { one };
        Self { fixed: one - per_image, per_image }
    }

    fn seconds(self, images: usize) -> f64 {
        self.fixed + self.per_image * images as f64
    }
}

/// Which of two variants is the faster, by number of images.
#[derive(Debug, PartialEq, Eq)]
enum Fastest {
    First,
    Second,
    /// The first from this number of images on, the second for fewer.
    FirstFrom(usize),
    /// The second from this number of images on, the first for fewer.
    SecondFrom(usize),
}

/// Compares two variants for up to `max_batch` images.
fn fastest(first: LinearCost, second: LinearCost, max_batch: usize) -> Fastest {
    let is_second = |images: usize| second.seconds(images) < first.seconds(images);
    let change = (2..=max_batch).find(|&images| is_second(images) != is_second(1));
    match (is_second(1), change) {
        (false, None) => Fastest::First,
        (true, None) => Fastest::Second,
        (false, Some(count)) => Fastest::SecondFrom(count),
        (true, Some(count)) => Fastest::FirstFrom(count),
    }
}

/// An engine that measures the time of each convolution.
struct TimingEngine<'a> {
    engine: &'a mut FusedEngine,
    /// The variant of the first layer of each size.
    turn: usize,
    /// Layers of each size that this pass has computed so far.
    passed: HashMap<LayerSizes, usize>,
    seconds: &'a mut Seconds,
}

impl Engine<Candidates> for TimingEngine<'_> {
    type Activations = Activations;

    fn convolve(
        &mut self,
        layer: &Candidates,
        input: &Activations,
        residual: Option<&Activations>,
        nonlinearity: Nonlinearity,
    ) -> Result<Activations, Failure> {
        let passed = self.passed.entry(layer.sizes).or_default();
        let variant = (self.turn + *passed) % VARIANTS;
        *passed += 1;
        let filter = &layer.filters[variant.min(layer.filters.len() - 1)];
        let start = Instant::now();
        let output = self.engine.convolve_with(filter, input, residual, nonlinearity);
        let fastest = &mut self.seconds.entry(layer.sizes).or_insert([f64::INFINITY; VARIANTS])[variant];
        *fastest = fastest.min(start.elapsed().as_secs_f64());
        Ok(output)
    }

    fn max_pool(&mut self, input: &Activations) -> Result<Activations, Failure> {
        self.engine.max_pool(input)
    }

    fn average_pool(&mut self, input: &Activations) -> Result<Activations, Failure> {
        self.engine.average_pool(input)
    }

    fn release(&mut self, activations: Activations) {
        self.engine.release(activations);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variant_changes_where_the_lines_cross() {
        // Seconds for one image and for eight, of each variant.
        for (first, second, expected) in [
            ((5.0, 40.0), (9.0, 19.0), Fastest::SecondFrom(3)),
            ((9.0, 19.0), (5.0, 40.0), Fastest::FirstFrom(3)),
            ((5.0, 40.0), (4.0, 32.0), Fastest::Second),
            ((5.0, 40.0), (6.0, 48.0), Fastest::First),
            ((5.0, 40.0), (11.0, 39.0), Fastest::SecondFrom(8)),
        ] {
            let cost = |(one, all)| LinearCost::through(one, all, 8);
            assert_eq!(fastest(cost(first), cost(second), 8), expected, "{first:?} {second:?}");
        }
        let cost = |one| LinearCost::through(one, one, 1);
        assert_eq!(fastest(cost(5.0), cost(4.0), 1), Fastest::Second);
    }
}
