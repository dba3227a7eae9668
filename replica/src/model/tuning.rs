//! Finds the fastest algorithm for each layer on this machine. Each pass runs the whole network: in service, the
//! weights of a layer are rarely in a near cache, and repeated runs of one layer would keep them there.

use super::choice::PassLimits;
use super::folded::FoldedConvolution;
use super::fused::{Activations, Algorithm, FusedEngine, Layer, MatrixUnit, NetworkPlan, PackedFilter};
use super::network::{Engine, Network};
use super::stopwatch::Stopwatch;
use super::{InferenceError, Input, warm_up};
use convolution::{Geometry, Instructions, Nonlinearity};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// Number of timed passes, of which the fastest counts. Other load on the machine only makes a pass slower.
const TRIES: usize = 2;

/// Largest number of algorithms that are measured for a layer.
const VARIANTS: usize = 2;

/// The most images of a measured pass. The times of larger batches are on the line through the times of one image and
/// of this number, so that a start takes no longer with a larger `--max-batch`.
const MEASURED_BATCH: usize = 4;

/// The most images from which on another algorithm may be used. The agreement with the reference is tested with this
/// number of images, so that it tests every algorithm of a plan.
pub(super) const LAST_SWITCH: usize = 8;

/// An alternative replaces the default only if it takes less than this share of the default's time. Times vary, and
/// starts should choose the same.
const CLEARLY_FASTER: f64 = 0.85;

/// The sizes of a layer. Layers of equal sizes are assumed to take equal times, and get the same algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct LayerSizes {
    inputs: usize,
    outputs: usize,
    geometry: Geometry,
}

/// A layer with the filter of its default algorithm. If there is another algorithm, the first layer of each size has
/// that filter too, and both are measured there. Other layers get it only if it is chosen: writing the memory of a
/// filter takes longer than a pass.
struct Candidates<'a> {
    layer: &'a FoldedConvolution,
    sizes: LayerSizes,
    /// One or two. The first is the default.
    algorithms: &'static [Algorithm],
    default: PackedFilter,
    other: Option<PackedFilter>,
}

/// For each size that has two algorithms, the least time that its first layer took with each of them, in seconds for
/// all images together.
type Seconds = HashMap<LayerSizes, [f64; VARIANTS]>;

/// The fastest plan for `network`, with or without the matrix unit.
///
/// # Errors
/// If a forward pass fails, or the operating system refuses a thread.
pub(super) fn tune(
    network: &Network<FoldedConvolution>,
    limits: PassLimits,
    matrix_unit: MatrixUnit,
) -> Result<NetworkPlan, InferenceError> {
    let PassLimits { side, max_batch, threads } = limits;
    let mut engine = FusedEngine::new(threads)?;
    let instructions = engine.instructions;
    let mut seen = HashSet::new();
    let candidates = network.each_ref().map(|layer| {
        let sizes = LayerSizes { inputs: layer.inputs, outputs: layer.bias.len(), geometry: layer.geometry };
        let algorithms = Algorithm::candidates(layer, max_batch, matrix_unit);
        let pack = |algorithm: &Algorithm| PackedFilter::new(layer, *algorithm, instructions);
        let is_first_of_its_size = seen.insert(sizes);
        let other = algorithms.get(1).filter(|_| is_first_of_its_size).map(pack);
        Candidates { layer, sizes, algorithms, default: pack(&algorithms[0]), other }
    });
    let for_one = measure(&candidates, &mut engine, 1, side)?;
    let measured = max_batch.min(MEASURED_BATCH);
    let for_batch = match measured {
        1 => for_one.clone(),
        _ => measure(&candidates, &mut engine, measured, side)?,
    };
    let chosen: HashMap<LayerSizes, Fastest> = for_one
        .iter()
        .map(|(&sizes, one)| {
            let cost = |variant: usize| LinearCost::through(one[variant], for_batch[&sizes][variant], measured);
            let fastest = fastest(cost(0), cost(1), max_batch);
            tracing::debug!(?sizes, ?fastest, default = ?cost(0), other = ?cost(1), "chose the algorithm of a layer");
            (sizes, fastest)
        })
        .collect();
    let network = candidates.map(|candidates| {
        let fastest = chosen.get(&candidates.sizes).copied();
        candidates.select(fastest, instructions)
    });
    let mut plan = NetworkPlan { network, batched_from: 0 };
    if max_batch > 1 {
        plan.batched_from = tune_batched_from(&mut plan, &mut engine, &warm_up::images(measured, side), side)?;
    }
    Ok(plan)
}

impl Candidates<'_> {
    /// The layer with the algorithm that is fastest for each number of images; `None` means the default for all.
    fn select(self, fastest: Option<Fastest>, instructions: Instructions) -> Layer {
        let Self { layer, algorithms, default, other, .. } = self;
        let pack_other = || PackedFilter::new(layer, algorithms[VARIANTS - 1], instructions);
        let other = || other.unwrap_or_else(pack_other);
        match fastest {
            None | Some(Fastest::First) => Layer::Fixed(default),
            Some(Fastest::Second) => Layer::Fixed(other()),
            Some(Fastest::SecondFrom(threshold)) => Layer::Switching { few: default, threshold, many: other() },
            Some(Fastest::FirstFrom(threshold)) => Layer::Switching { few: other(), threshold, many: default },
        }
    }
}

/// Times the layers that have two algorithms, in forward passes of `count` images. With one image, which is measured
/// first, a pass before them is not counted: the first use of memory is slow.
fn measure(
    candidates: &Network<Candidates<'_>>,
    engine: &mut FusedEngine,
    count: usize,
    side: usize,
) -> Result<Seconds, InferenceError> {
    let images = engine.batch(&warm_up::images(count, side), side);
    let mut seconds = Seconds::new();
    let uncounted = usize::from(count == 1);
    for turn in 0..uncounted + TRIES {
        if turn == uncounted {
            seconds.clear();
        }
        let mut timing = TimingEngine { engine, turn, seconds: &mut seconds };
        let logits = candidates.forward(&mut timing, &images)?;
        engine.release(logits);
    }
    engine.release(images);
    Ok(seconds)
}

/// The value of [`NetworkPlan::batched_from`] with which `images` take the least time: the index of a block that begins
/// a stage, or 0. The default is the middle one, and another must be clearly faster.
fn tune_batched_from(
    plan: &mut NetworkPlan,
    engine: &mut FusedEngine,
    images: &[Input],
    side: usize,
) -> Result<usize, InferenceError> {
    let starts: Vec<usize> = std::iter::once(0).chain(plan.network.stage_starts()).collect();
    let mut times = vec![Duration::MAX; starts.len()];
    for _ in 0..TRIES {
        for (&start, fastest) in starts.iter().zip(&mut times) {
            plan.batched_from = start;
            let stopwatch = Stopwatch::start(engine.threads());
            let logits = plan.forward(engine, images, side)?;
            *fastest = stopwatch.elapsed().min(*fastest);
            engine.release(logits);
        }
    }
    let default = starts.len() / 2;
    let best = (0..starts.len()).min_by_key(|&index| times[index]).unwrap_or(default);
    let is_clear = times[best].as_secs_f64() < CLEARLY_FASTER * times[default].as_secs_f64();
    let chosen = starts[if is_clear { best } else { default }];
    tracing::debug!(block = chosen, ?starts, ?times, "all images of a batch are computed together from this block on");
    Ok(chosen)
}

/// The time of a layer as a linear function of the number of images, in seconds.
#[derive(Debug, Clone, Copy)]
struct LinearCost {
    /// The part that does not depend on the number of images: reading the weights.
    fixed: f64,
    per_image: f64,
}

impl LinearCost {
    /// The line through two times in seconds: `one` for one image, and `all` for `count` images.
    fn through(one: f64, all: f64, count: usize) -> Self {
        let per_image = if count > 1 { (all - one) / (count - 1) as f64 } else { one };
        Self { fixed: one - per_image, per_image }
    }

    fn seconds(self, images: usize) -> f64 {
        self.fixed + self.per_image * images as f64
    }
}

/// Which of two kernel variants is faster for which numbers of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fastest {
    First,
    Second,
    /// The first variant from this number of images on, the second for fewer images.
    FirstFrom(usize),
    /// The second variant from this number of images on, the first for fewer images.
    SecondFrom(usize),
}

/// Compares two kernel variants for up to `max_batch` images. The first one is the default. The variant may change at a
/// power of two up to [`LAST_SWITCH`]: at finer steps, noise would move the change from start to start.
fn fastest(first: LinearCost, second: LinearCost, max_batch: usize) -> Fastest {
    let is_second = |images: usize| second.seconds(images) < CLEARLY_FASTER * first.seconds(images);
    let powers = (1..).map(|power| 1 << power).take_while(|&images| images <= max_batch.min(LAST_SWITCH));
    let change = powers.into_iter().find(|&images| is_second(images) != is_second(1));
    match (is_second(1), change) {
        (false, None) => Fastest::First,
        (true, None) => Fastest::Second,
        (false, Some(count)) => Fastest::SecondFrom(count),
        (true, Some(count)) => Fastest::FirstFrom(count),
    }
}

/// An engine that measures the time of the layers that have two algorithms.
struct TimingEngine<'a> {
    engine: &'a mut FusedEngine,
    /// The number of this pass. Each pass begins with the other algorithm, because the second one finds its input in a
    /// near cache.
    turn: usize,
    seconds: &'a mut Seconds,
}

impl TimingEngine<'_> {
    /// The result of `compute` with a filter of `layer`: with each of them in turn, if there are two. Their results
    /// differ by roundings only.
    fn compute(
        &mut self,
        layer: &Candidates<'_>,
        compute: impl Fn(&mut FusedEngine, &PackedFilter) -> Result<Activations, InferenceError>,
    ) -> Result<Activations, InferenceError> {
        let Some(other) = &layer.other else { return compute(self.engine, &layer.default) };
        let filters: [&PackedFilter; VARIANTS] = [&layer.default, other];
        let mut timed = |variant: usize| {
            let stopwatch = Stopwatch::start(self.engine.threads());
            let output = compute(self.engine, filters[variant])?;
            let fastest = &mut self.seconds.entry(layer.sizes).or_insert([f64::INFINITY; VARIANTS])[variant];
            *fastest = fastest.min(stopwatch.elapsed().as_secs_f64());
            Ok::<_, InferenceError>(output)
        };
        let first = timed(self.turn % VARIANTS)?;
        let second = timed((self.turn + 1) % VARIANTS)?;
        self.engine.release(first);
        Ok(second)
    }
}

impl Engine<Candidates<'_>> for TimingEngine<'_> {
    type Activations = Activations;

    fn convolve(
        &mut self,
        layer: &Candidates<'_>,
        input: &Activations,
        residual: Option<&Activations>,
        nonlinearity: Nonlinearity,
    ) -> Result<Activations, InferenceError> {
        self.compute(layer, |engine, filter| Ok(engine.convolve_with(filter, input, residual, nonlinearity)))
    }

    fn convolve_and_pool(
        &mut self,
        layer: &Candidates<'_>,
        input: &Activations,
    ) -> Result<Activations, InferenceError> {
        self.compute(layer, |engine, filter| engine.convolve_and_pool_with(filter, input))
    }

    fn max_pool(&mut self, input: &Activations) -> Result<Activations, InferenceError> {
        self.engine.max_pool(input)
    }

    fn average_pool(&mut self, input: &Activations) -> Result<Activations, InferenceError> {
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
        // The seconds for one image and for eight images, of each variant.
        for (first, second, expected) in [
            ((5.0, 40.0), (9.0, 19.0), Fastest::SecondFrom(4)),
            ((9.0, 19.0), (5.0, 40.0), Fastest::FirstFrom(2)),
            ((5.0, 40.0), (4.0, 32.0), Fastest::Second),
            ((5.0, 40.0), (6.0, 48.0), Fastest::First),
            ((5.0, 40.0), (11.0, 32.0), Fastest::SecondFrom(8)),
        ] {
            let cost = |(one, all)| LinearCost::through(one, all, 8);
            assert_eq!(fastest(cost(first), cost(second), 8), expected, "{first:?} {second:?}");
        }
        let cost = |one| LinearCost::through(one, one, 1);
        assert_eq!(fastest(cost(5.0), cost(4.0), 1), Fastest::Second);
    }

    #[test]
    fn noise_of_some_percent_changes_no_choice() {
        // Two variants of equal speed, whose measured times differ by up to 3 % in either direction.
        for noise in (-3..=3).map(|percent| 1.0 + f64::from(percent) / 100.0) {
            for (one, four) in [(1.0, 4.0), (1.5, 3.0), (0.2, 0.8)] {
                let exact = LinearCost::through(one, four, 4);
                let noisy = LinearCost::through(one * noise, four / noise, 4);
                assert_eq!(fastest(exact, noisy, 4), Fastest::First, "{one} {four} {noise}");
                assert_eq!(fastest(noisy, exact, 4), Fastest::First, "{one} {four} {noise}");
            }
        }
    }

    #[test]
    fn no_variant_changes_at_more_images_than_are_tested() {
        let (first, second) = (LinearCost::through(1.0, 4.0, 4), LinearCost::through(9.0, 9.1, 4));
        assert_eq!(fastest(first, second, 64), Fastest::First, "the second is faster from 11 images on");
    }
}
