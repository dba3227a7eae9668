//! Finds the fastest algorithm for each layer on this machine. Each pass runs the whole network: in service, the
//! weights of a layer are rarely in a near cache, and repeated runs of one layer would keep them there.

use super::choice::PassLimits;
use super::folded::FoldedConvolution;
use super::fused::{Activations, Algorithm, FusedEngine, Layer, MatrixUnit, NetworkPlan, PackedFilter};
use super::network::{Engine, Network};
use super::stopwatch::Stopwatch;
use super::{InferenceError, Input, warm_up};
use convolution::{Geometry, Instructions, Nonlinearity};
use std::collections::HashMap;
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

/// An alternative replaces the default only if it takes less than this share of the default's time. Times vary, and starts
/// should choose the same.
const CLEARLY_FASTER: f64 = 0.85;

/// The sizes of a layer. Layers of equal sizes are assumed to take equal times, and get the same algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct LayerSizes {
    inputs: usize,
    outputs: usize,
    geometry: Geometry,
}

/// A layer with a packed filter for each kernel variant: one or two.
struct Candidates {
    sizes: LayerSizes,
    filters: Vec<PackedFilter>,
}

/// For the layers of each size, the least time that one of them took with each kernel variant, in seconds for all
/// images together.
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
    let candidates = network.each_ref().map(|layer| Candidates::new(layer, max_batch, matrix_unit, instructions));
    let for_one = measure(&candidates, &mut engine, 1, side)?;
    let measured = max_batch.min(MEASURED_BATCH);
    let for_batch = match measured {
        1 => for_one.clone(),
        _ => measure(&candidates, &mut engine, measured, side)?,
    };
    let network = candidates.map(|candidates| candidates.select(&for_one, &for_batch, max_batch));
    let mut plan = NetworkPlan { network, batched_from: 0 };
    if max_batch > 1 {
        plan.batched_from = tune_batched_from(&mut plan, &mut engine, &warm_up::images(measured, side), side)?;
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

    /// The layer with the algorithms that are fastest for each number of images up to `max_batch`, according to the
    /// times for one image and for [`MEASURED_BATCH`] images, or `max_batch` if that is less.
    fn select(self, for_one: &Seconds, for_batch: &Seconds, max_batch: usize) -> Layer {
        let Self { sizes, filters } = self;
        let measured = max_batch.min(MEASURED_BATCH);
        let cost = |variant: usize| LinearCost::through(for_one[&sizes][variant], for_batch[&sizes][variant], measured);
        let mut filters = filters.into_iter();
        match (filters.next(), filters.next()) {
            (Some(first), Some(second)) => {
                let chosen = fastest(cost(0), cost(1), max_batch);
                tracing::debug!(?sizes, ?chosen, first = ?cost(0), second = ?cost(1), "chose a variant of a layer");
                match chosen {
                    Fastest::First => Layer::Fixed(first),
                    Fastest::Second => Layer::Fixed(second),
                    Fastest::SecondFrom(threshold) => Layer::Switching { few: first, threshold, many: second },
                    Fastest::FirstFrom(threshold) => Layer::Switching { few: second, threshold, many: first },
                }
            }
            (only, _) => Layer::Fixed(only.expect("every layer has at least one algorithm")),
        }
    }
}

/// Times all layers in forward passes of `count` images. With one image, which is measured first, two passes before them
/// are not counted: the first use of memory is slow. Layers of equal sizes use the kernel variants in turn, and each pass begins with the other variant.
fn measure(
    candidates: &Network<Candidates>,
    engine: &mut FusedEngine,
    count: usize,
    side: usize,
) -> Result<Seconds, InferenceError> {
    let images = engine.batch(&warm_up::images(count, side), side);
    let mut seconds = Seconds::new();
    // The first passes of all are the first uses of each variant's memory.
    let uncounted = if count == 1 { VARIANTS } else { 0 };
    // A layer whose sizes no other layer has uses a variant in every second pass, so there are two passes for each try.
    for turn in 0..uncounted + VARIANTS * TRIES {
        if turn == uncounted {
            seconds.clear();
        }
        let mut timing = TimingEngine { engine, turn, passed: HashMap::new(), seconds: &mut seconds };
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
#[derive(Debug, PartialEq, Eq)]
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

/// An engine that measures the time of each convolution.
struct TimingEngine<'a> {
    engine: &'a mut FusedEngine,
    /// The index of the kernel variant for the first layer of each size.
    turn: usize,
    /// How many layers of each size this pass has computed so far.
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
    ) -> Result<Activations, InferenceError> {
        let passed = self.passed.entry(layer.sizes).or_default();
        let variant = (self.turn + *passed) % VARIANTS;
        *passed += 1;
        let filter = &layer.filters[variant.min(layer.filters.len() - 1)];
        let stopwatch = Stopwatch::start(self.engine.threads());
        let output = self.engine.convolve_with(filter, input, residual, nonlinearity);
        let fastest = &mut self.seconds.entry(layer.sizes).or_insert([f64::INFINITY; VARIANTS])[variant];
        *fastest = fastest.min(stopwatch.elapsed().as_secs_f64());
        Ok(output)
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
