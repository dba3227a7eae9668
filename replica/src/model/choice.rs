//! Chooses the engine for a network on this machine: the fastest engine whose logits agree with the reference's.
//!
//! The reference is libtorch's plain pass of a few synthetic pictures, with the weights in the order of the file. Timed
//! passes have at most as many pictures, also if `--max-batch` is larger: a start must not take longer for it.

use super::folded::FoldedConvolution;
use super::fused::{FusedModel, MatrixUnit, NetworkPlan};
use super::libtorch::{LibtorchModel, MemoryFormat, TensorOptions};
use super::network::Network;
use super::stopwatch::Stopwatch;
use super::tuning::{LAST_SWITCH, tune};
use super::{InferenceError, Input, Model, warm_up};
use convolution::amx::TileUnit;
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// The largest accepted difference from the reference's logits, as a share of the largest logit. Winograd's filtering
/// differs by some 3e-6, the matrix unit by 1e-6.
const TOLERANCE: f32 = 1e-4;

/// The largest accepted difference of the matrix unit's logits from the reference's on the first picture, which is
/// noise, as a share of the largest logit. On other images the difference was seen to be 16 times that on noise, and it
/// must stay within [`TOLERANCE`] there too.
const TOLERANCE_OF_AMX: f32 = 6e-6;

/// Number of passes of which the fastest counts.
const TRIES: usize = 2;

/// If this project's convolutions are more than this number of times as fast as libtorch's first pass, libtorch's other
/// memory formats are not measured. In its best format and after a first pass, libtorch was never seen to be more than
/// 2.3 times as fast as in the first pass.
const MAX_LIBTORCH_SPEEDUP: u32 = 3;

/// libtorch replaces this project's convolutions only if it takes less than this share of their time. Times vary by
/// some percent, and starts should choose the same.
const CLEARLY_FASTER: f64 = 0.85;

/// `--kernel`: the engine for convolutions on the CPU in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KernelChoice {
    /// The fastest engine on this machine, which may use the processor's matrix unit (AMX)
    Auto,
    /// libtorch's convolutions
    Libtorch,
    /// This project's own convolutions with vectors of f32, without the matrix unit
    Winograd,
}

/// The chosen engine.
pub(super) enum Choice {
    Fused(Arc<NetworkPlan>),
    Libtorch(LibtorchModel),
}

/// The sizes of the forward passes that an engine is chosen for.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassLimits {
    /// Side of an image, in pixels.
    pub(super) side: usize,
    /// Largest number of images in one forward pass.
    pub(super) max_batch: usize,
    /// Number of threads of one forward pass.
    pub(super) threads: usize,
}

impl PassLimits {
    /// The pictures of a timed pass: all, or as many as a batch may have.
    fn timed(self, pictures: &[Input]) -> &[Input] {
        &pictures[..pictures.len().min(self.max_batch)]
    }
}

/// Chooses an engine for the CPU in f32.
///
/// # Errors
/// If no engine can compute the network, its logits are not finite, or `--kernel winograd` was given and the logits of
/// this project's convolutions do not agree with the reference's.
pub(super) fn choose(
    network: &Network<FoldedConvolution>,
    kernel: KernelChoice,
    limits: PassLimits,
) -> Result<Choice, InferenceError> {
    let has_groups = network.layers().any(|layer| layer.groups > 1);
    if kernel == KernelChoice::Winograd && has_groups {
        return Err(InferenceError::new(
            "--kernel winograd: only libtorch computes convolutions with groups (ResNeXt); give --kernel auto",
        ));
    }
    let matrix_unit = match kernel {
        KernelChoice::Auto if TileUnit::Amx.is_available() => MatrixUnit::Use,
        _ => MatrixUnit::Avoid,
    };
    let pictures = warm_up::pictures(limits.side);
    let own_kernels = |matrix_unit| OwnKernels::new(network, &pictures, limits, matrix_unit);
    let may_use_own = kernel != KernelChoice::Libtorch && !has_groups;
    let (comparison, own) = side_by_side(
        limits.threads,
        || EngineComparison::new(network, &pictures, limits),
        || may_use_own.then(|| own_kernels(matrix_unit)).transpose(),
    )?;
    let mut own = own.filter(|own| comparison.agrees_with(own));
    match kernel {
        KernelChoice::Libtorch => Ok(Choice::Libtorch(comparison.libtorch(MemoryFormat::ChannelsLast)?)),
        KernelChoice::Winograd => own.map(|own| Choice::Fused(own.plan)).ok_or_else(|| {
            InferenceError::new(
                "--kernel winograd: the logits differ from libtorch's on this machine; give --kernel auto",
            )
        }),
        KernelChoice::Auto => {
            if own.is_none() && may_use_own && matrix_unit == MatrixUnit::Use {
                own = Some(own_kernels(MatrixUnit::Avoid)?).filter(|own| comparison.agrees_with(own));
            }
            comparison.fastest(own)
        }
    }
}

/// The results of `first` and `second`. If passes have one thread and this process may use several processors, both run
/// at the same time, and a start takes about as long as the longer one. Passes of several threads would compete for the
/// processors, and would be timed wrong. On one processor the start would take as long, and more memory.
///
/// # Errors
/// If one of them fails, or the operating system refuses a thread.
fn side_by_side<A: Send, B>(
    threads: usize,
    first: impl FnOnce() -> Result<A, InferenceError> + Send,
    second: impl FnOnce() -> Result<B, InferenceError>,
) -> Result<(A, B), InferenceError> {
    if threads > 1 || thread::available_parallelism().map_or(1, NonZeroUsize::get) == 1 {
        return Ok((first()?, second()?));
    }
    thread::scope(|scope| {
        let first = thread::Builder::new().name("reference".into()).spawn_scoped(scope, first);
        let first = first.map_err(|error| InferenceError::new(format!("start a thread for the reference: {error}")))?;
        let second = second();
        Ok((first.join().unwrap_or_else(|panic| resume_unwind(panic))?, second?))
    })
}

/// A network, the pictures on which engines are compared, and the reference's logits for these pictures.
struct EngineComparison<'a> {
    network: &'a Network<FoldedConvolution>,
    limits: PassLimits,
    pictures: &'a [Input],
    reference: Vec<Vec<f32>>,
    /// The time of the reference's pass for one picture. It is libtorch's first pass, and may be measured beside the own
    /// passes.
    reference_time: Duration,
}

/// This project's convolutions after tuning.
struct OwnKernels {
    plan: Arc<NetworkPlan>,
    /// The time for one picture. If the reference is computed at the same time, the two share caches and memory, and the
    /// time is a little longer than alone, as it is when several workers run.
    time: Duration,
    /// The logits of the pictures, each computed by itself.
    singly: Vec<Vec<f32>>,
    /// The logits of the pictures in turn, computed as a batch; none if a batch is one picture.
    together: Vec<Vec<f32>>,
    /// The largest accepted difference from the reference's logits on the first picture.
    tolerance: f32,
}

impl OwnKernels {
    fn new(
        network: &Network<FoldedConvolution>,
        pictures: &[Input],
        limits: PassLimits,
        matrix_unit: MatrixUnit,
    ) -> Result<Self, InferenceError> {
        let PassLimits { side, max_batch, threads } = limits;
        let plan = Arc::new(tune(network, limits, matrix_unit)?);
        let mut model = FusedModel::new(plan.clone(), side, threads)?;
        let (mut singly, mut time) = (Vec::new(), Duration::MAX);
        for picture in pictures {
            let (row, elapsed) = timed(&mut model, std::slice::from_ref(picture), 1, threads)?;
            singly.extend(row);
            time = time.min(elapsed);
        }
        let mut together = Vec::new();
        if max_batch > 1 {
            // A batch may be computed by other algorithms than one picture.
            let repeated: Vec<Input> = pictures.iter().cycle().take(max_batch.min(LAST_SWITCH)).cloned().collect();
            together = model.logits(&repeated)?;
            time = timed(&mut model, limits.timed(pictures), TRIES, threads)?.1;
        }
        let tolerance = match matrix_unit {
            MatrixUnit::Use => TOLERANCE_OF_AMX,
            MatrixUnit::Avoid => TOLERANCE,
        };
        Ok(Self { plan, time, singly, together, tolerance })
    }
}

impl<'a> EngineComparison<'a> {
    fn new(
        network: &'a Network<FoldedConvolution>,
        pictures: &'a [Input],
        limits: PassLimits,
    ) -> Result<Self, InferenceError> {
        let options = TensorOptions { format: MemoryFormat::WeightsAsStored, ..TensorOptions::CPU_F32 };
        let mut model = LibtorchModel::new(network, options, limits.side)?;
        // Only the very first pass is slow, so the time of further pictures must not be a part of it.
        let (first, others) = pictures.split_at(1);
        let (mut reference, reference_time) = timed(&mut model, first, 1, limits.threads)?;
        reference.extend(model.logits(others)?);
        tracing::debug!(?reference_time, "libtorch's first pass");
        if reference.iter().flatten().any(|logit| !logit.is_finite()) {
            return Err(InferenceError::new("the weights give logits that are not finite numbers; give other weights"));
        }
        Ok(Self { network, limits, pictures, reference, reference_time })
    }

    /// The fastest engine whose logits agree with the reference's, among libtorch's and `own`.
    fn fastest(&self, own: Option<OwnKernels>) -> Result<Choice, InferenceError> {
        if let Some(own) = &own
            && own.time * MAX_LIBTORCH_SPEEDUP < self.reference_time
        {
            self.log_choice("own kernels", own.time);
            return Ok(Choice::Fused(own.plan.clone()));
        }
        // If the own logits agree, the own kernels are the default.
        let least = own.as_ref().map_or(Duration::MAX, |own| own.time.mul_f64(CLEARLY_FASTER));
        let mut fastest = None;
        for (name, format) in
            [("libtorch", MemoryFormat::ChannelsLast), ("libtorch in oneDNN's layout", MemoryFormat::OneDnn)]
        {
            match self.timed_libtorch(format) {
                Ok((model, logits, time)) if self.agrees(name, &logits, TOLERANCE) => {
                    if time < fastest.as_ref().map_or(least, |(_, time, _)| *time) {
                        fastest = Some((name, time, Choice::Libtorch(model)));
                    }
                }
                Ok(_) => {}
                Err(failure) => tracing::debug!(%failure, "{name} cannot compute this network"),
            }
        }
        let own = own.map(|own| ("own kernels", own.time, Choice::Fused(own.plan)));
        let (name, time, choice) = fastest.or(own).ok_or_else(|| {
            InferenceError::new(
                "the logits of all engines differ from libtorch's plain pass on this machine; give --kernel libtorch",
            )
        })?;
        self.log_choice(name, time);
        Ok(choice)
    }

    /// Whether the logits of this project's convolutions agree with the reference's.
    fn agrees_with(&self, own: &OwnKernels) -> bool {
        self.agrees("own kernels", &own.singly, own.tolerance)
            && (own.together.is_empty() || self.agrees("own kernels", &own.together, own.tolerance))
    }

    /// libtorch's model in a memory format.
    fn libtorch(&self, format: MemoryFormat) -> Result<LibtorchModel, InferenceError> {
        let options = TensorOptions { format, ..TensorOptions::CPU_F32 };
        LibtorchModel::new(self.network, options, self.limits.side)
    }

    /// libtorch's model in a memory format, with its logits and its time for one picture. A first pass is not timed.
    fn timed_libtorch(&self, format: MemoryFormat) -> Result<(LibtorchModel, Vec<Vec<f32>>, Duration), InferenceError> {
        let mut model = self.libtorch(format)?;
        let logits = model.logits(self.pictures)?;
        let (_, time) = timed(&mut model, self.limits.timed(self.pictures), TRIES, self.limits.threads)?;
        Ok((model, logits, time))
    }

    /// Whether `logits`, those of the pictures in turn, agree with the reference's. Logs the largest difference.
    fn agrees(&self, name: &'static str, logits: &[Vec<f32>], tolerance: f32) -> bool {
        let (agrees, difference) = agreement(logits, &self.reference, tolerance);
        match agrees {
            true => tracing::debug!(name, difference, "logits agree with libtorch's plain pass"),
            false => {
                tracing::warn!(name, difference, tolerance, "logits differ from libtorch's plain pass; engine not used")
            }
        }
        agrees
    }

    /// Logs the chosen engine with the time for a picture, in milliseconds.
    fn log_choice(&self, name: &str, time: Duration) {
        let milliseconds = time.as_secs_f64() * 1e3;
        tracing::info!(milliseconds = (milliseconds * 100.0).round() / 100.0, "chosen engine: {name}");
    }
}

/// The logits of `images`, and the time for one image in the fastest of `tries` passes.
fn timed(
    model: &mut dyn Model,
    images: &[Input],
    tries: usize,
    threads: usize,
) -> Result<(Vec<Vec<f32>>, Duration), InferenceError> {
    let mut fastest = Duration::MAX;
    let mut logits = Vec::new();
    for _ in 0..tries {
        let stopwatch = Stopwatch::start(threads);
        logits = model.logits(images)?;
        fastest = fastest.min(stopwatch.elapsed());
    }
    Ok((logits, fastest / u32::try_from(images.len().max(1)).unwrap_or(u32::MAX)))
}

/// Whether `logits`, those of the pictures in turn, agree with those of `reference`: within `tolerance` on the first
/// picture, and within [`TOLERANCE`] on the others. Also the largest difference.
fn agreement(logits: &[Vec<f32>], reference: &[Vec<f32>], tolerance: f32) -> (bool, f32) {
    // Each picture has a scale of its own. With a common one, large logits of one picture would hide errors of others.
    let differences = logits.iter().enumerate().map(|(index, own)| {
        let picture = index % reference.len();
        let tolerance = if picture == 0 { tolerance } else { TOLERANCE };
        (difference(std::slice::from_ref(own), std::slice::from_ref(&reference[picture])), tolerance)
    });
    // A difference of NaN is within no tolerance, and it counts as larger than all others.
    differences.fold((true, 0.0_f32), |(agrees, largest), (difference, tolerance)| {
        let larger = if difference <= largest || largest.is_nan() { largest } else { difference };
        (agrees && difference <= tolerance, larger)
    })
}

/// The largest difference of a logit from the reference's, as a share of the reference's largest logit; NaN if any
/// logit is NaN.
pub(super) fn difference(logits: &[Vec<f32>], reference: &[Vec<f32>]) -> f32 {
    let scale = reference.iter().flatten().fold(f32::MIN_POSITIVE, |largest, logit| largest.max(logit.abs()));
    let pairs = logits.iter().flatten().zip(reference.iter().flatten());
    // `f32::max` would return the number and drop NaN.
    let largest = |largest: f32, d: f32| if largest.is_nan() || d <= largest { largest } else { d };
    pairs.map(|(a, b)| (a - b).abs() / scale).fold(0.0, largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_on_any_picture_is_a_disagreement() {
        let reference = [vec![100.0, -50.0], vec![1.0, 0.0], vec![2.0, 4.0]];
        let agrees = |logits: &[Vec<f32>]| agreement(logits, &reference, 1e-6).0;
        assert!(agrees(&reference));
        assert!(agrees(&[&reference[..], &reference[..1]].concat()), "the pictures are repeated in turn");
        for picture in 0..3 {
            let mut logits = reference.to_vec();
            // Small beside the largest logit of all pictures, but not beside that of the second and third picture.
            logits[picture][1] += 0.001;
            assert!(!agrees(&logits), "picture {picture}");
            logits[picture][1] = f32::NAN;
            assert!(!agrees(&logits), "picture {picture}");
        }
        // The first picture, which is noise, has a stricter tolerance.
        assert!(!agrees(&[vec![100.001, -50.0]]));
        assert!(agrees(&[reference[0].clone(), vec![1.00001, 0.0]]));
    }

    #[test]
    fn differences_are_relative_to_the_largest_logit_and_keep_nan() {
        let reference = [vec![1.0, -4.0], vec![2.0, 0.0]];
        for (logits, expected) in [
            ([vec![1.0, -4.0], vec![2.0, 0.0]], 0.0),
            ([vec![1.0, -4.0], vec![2.0, 1.0]], 0.25),
            ([vec![0.0, -4.0], vec![4.0, 0.0]], 0.5),
        ] {
            assert_eq!(difference(&logits, &reference), expected);
        }
        for place in 0..4 {
            let mut logits = [1.0, -4.0, 2.0, 0.0];
            logits[place] = f32::NAN;
            let [a, b, c, d] = logits;
            assert!(difference(&[vec![a, b], vec![c, d]], &reference).is_nan(), "at {place}");
        }
    }

    #[test]
    fn two_computations_give_both_results_or_the_error_of_one_of_them() {
        let refused = |reason: &str| Err::<u8, _>(InferenceError::new(reason.to_owned()));
        for threads in [1, 2] {
            assert!(matches!(side_by_side(threads, || Ok(1), || Ok(2)), Ok((1, 2))), "{threads} threads");
            let first = side_by_side(threads, || refused("the first"), || Ok(2)).expect_err("the first has failed");
            let second = side_by_side(threads, || Ok(1), || refused("the second")).expect_err("the second has failed");
            assert!(first.to_string().ends_with("the first"), "{first}");
            assert!(second.to_string().ends_with("the second"), "{second}");
        }
        let panics = || side_by_side(1, || -> Result<u8, InferenceError> { panic!("a broken engine") }, || Ok(2));
        assert!(std::panic::catch_unwind(panics).is_err(), "a panic of the thread must not be lost");
    }
}
