//! Chooses the engine for a network on this machine: the fastest of those whose logits are the reference's.
//!
//! The reference is libtorch's plain pass, with the weights in the order of the file. All timed passes have as many
//! synthetic images as the largest batch (`--max-batch`).

use super::folded::FoldedConvolution;
use super::fused::{FusedModel, MatrixUnit, Plan};
use super::libtorch::{LibtorchModel, MemoryFormat, Placement};
use super::network::Network;
use super::tuning::tune;
use super::{Failure, Input, Model, warm_up};
use convolution::amx::TileUnit;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The largest difference from the reference's logits that is accepted, in parts of the largest logit. Winograd's
/// filtering differs by some 3e-6, the matrix unit by 1e-6.
const TOLERANCE: f32 = 1e-4;

/// The same for the matrix unit. Its difference on other images was seen to be 16 times that on the images compared
/// here, and must stay within [`TOLERANCE`] there too.
const TOLERANCE_OF_AMX: f32 = 6e-6;

/// Passes of which the fastest counts.
const TRIES: usize = 2;

/// libtorch's other memory formats are not measured where the own convolutions are more than this many times as fast as
/// its first pass: warm and in its best format, libtorch was never seen to be more than 2.3 times as fast as that.
const LIBTORCH_CAN_GAIN: u32 = 3;

/// `--kernel`: what computes convolutions on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KernelChoice {
    /// The fastest on this machine, with the processor's matrix unit (AMX) where it has one
    Auto,
    /// libtorch's convolutions
    Libtorch,
    /// This project's own convolutions with vectors of f32, without the matrix unit
    Winograd,
}

/// The chosen engine.
pub(super) enum Choice {
    Fused(Arc<Plan>),
    Libtorch(MemoryFormat),
}

/// The sizes of the forward passes that an engine is chosen for.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassLimits {
    /// Side of an image, pixels.
    pub(super) side: usize,
    /// Most images in one forward pass.
    pub(super) max_batch: usize,
    /// Threads of one forward pass.
    pub(super) threads: usize,
}

/// Chooses an engine for the CPU in single precision.
///
/// # Errors
/// When no engine computes the network, its logits are not finite, or `--kernel winograd` was given and the own
/// convolutions do not agree with libtorch.
pub(super) fn choose(
    network: &Network<FoldedConvolution>,
    kernel: KernelChoice,
    limits: PassLimits,
) -> Result<Choice, Failure> {
    let comparison = Comparison::new(network, limits)?;
    match kernel {
        KernelChoice::Libtorch => Ok(Choice::Libtorch(MemoryFormat::ChannelsLast)),
        KernelChoice::Winograd => match comparison.own(MatrixUnit::Avoid)? {
            Own { agrees: true, plan, .. } => Ok(Choice::Fused(plan)),
            _ => Err(Failure::new("--kernel winograd does not agree with libtorch on this machine; use auto")),
        },
        KernelChoice::Auto => comparison.fastest(),
    }
}

/// A network, the images that engines are compared with, and the reference's results on them.
struct Comparison<'a> {
    network: &'a Network<FoldedConvolution>,
    limits: PassLimits,
    images: Vec<Input>,
    reference: Vec<Vec<f32>>,
    /// Time of the reference's pass, its first.
    reference_time: Duration,
}

/// The own convolutions, tuned and measured.
struct Own {
    plan: Arc<Plan>,
    time: Duration,
    /// Whether their logits are the reference's.
    agrees: bool,
}

impl<'a> Comparison<'a> {
    fn new(network: &'a Network<FoldedConvolution>, limits: PassLimits) -> Result<Self, Failure> {
        let images = warm_up::images(limits.max_batch, limits.side);
        let placement = Placement { format: MemoryFormat::WeightsAsStored, ..Placement::CPU_F32 };
        let mut model = LibtorchModel::new(network, placement, limits.side)?;
        let (reference, reference_time) = timed(&mut model, &images, 1)?;
        if reference.iter().flatten().any(|logit| !logit.is_finite()) {
            return Err(Failure::new("the weights make logits that are not finite numbers"));
        }
        Ok(Self { network, limits, images, reference, reference_time })
    }

    /// The fastest engine whose logits are the reference's.
    fn fastest(&self) -> Result<Choice, Failure> {
        let own = self.best_own()?;
        if own.agrees && own.time * LIBTORCH_CAN_GAIN < self.reference_time {
            self.log_choice("own kernels", own.time);
            return Ok(Choice::Fused(own.plan));
        }
        let mut candidates = Vec::new();
        for (name, format) in
            [("libtorch", MemoryFormat::ChannelsLast), ("libtorch in oneDNN's layout", MemoryFormat::OneDnn)]
        {
            match self.libtorch(format) {
                Ok((logits, time)) if self.agrees(name, &logits, TOLERANCE) => {
                    candidates.push((name, time, Choice::Libtorch(format)));
                }
                Ok(_) => {}
                Err(failure) => tracing::debug!(%failure, "{name} cannot compute this network"),
            }
        }
        if own.agrees {
            candidates.push(("own kernels", own.time, Choice::Fused(own.plan)));
        }
        let fastest = candidates.into_iter().min_by_key(|(_, time, _)| *time);
        let (name, time, choice) = fastest.ok_or_else(|| {
            Failure::new("no engine agrees with libtorch's plain pass on this machine; try --kernel libtorch")
        })?;
        self.log_choice(name, time);
        Ok(choice)
    }

    /// The own convolutions: with the matrix unit if there is one and it agrees, else without.
    fn best_own(&self) -> Result<Own, Failure> {
        if TileUnit::Amx.is_available() {
            let own = self.own(MatrixUnit::Use)?;
            if own.agrees {
                return Ok(own);
            }
        }
        self.own(MatrixUnit::Avoid)
    }

    fn own(&self, matrix_unit: MatrixUnit) -> Result<Own, Failure> {
        let plan = Arc::new(tune(self.network, self.limits, matrix_unit)?);
        let mut model = FusedModel::new(plan.clone(), self.limits.side, self.limits.threads)?;
        let (logits, time) = timed(&mut model, &self.images, 1)?;
        let tolerance = match matrix_unit {
            MatrixUnit::Use => TOLERANCE_OF_AMX,
            MatrixUnit::Avoid => TOLERANCE,
        };
        let mut agrees = self.agrees("own kernels", &logits, tolerance);
        if self.images.len() > 1 {
            // One image may be computed by other algorithms than several.
            agrees &= self.agrees("own kernels", &model.logits(&self.images[..1])?, tolerance);
        }
        Ok(Own { plan, time, agrees })
    }

    /// Logits and time of libtorch's pass in a memory format, after a first pass.
    fn libtorch(&self, format: MemoryFormat) -> Result<(Vec<Vec<f32>>, Duration), Failure> {
        let placement = Placement { format, ..Placement::CPU_F32 };
        let mut model = LibtorchModel::new(self.network, placement, self.limits.side)?;
        model.logits(&self.images)?;
        timed(&mut model, &self.images, TRIES)
    }

    /// Whether the logits of the first images are the reference's. The difference is logged.
    fn agrees(&self, name: &'static str, logits: &[Vec<f32>], tolerance: f32) -> bool {
        let difference = difference(logits, &self.reference[..logits.len()]);
        let agrees = difference <= tolerance;
        match agrees {
            true => tracing::debug!(name, difference, "compared with libtorch's plain pass"),
            false => tracing::warn!(name, difference, tolerance, "does not agree with libtorch's plain pass: not used"),
        }
        agrees
    }

    /// Logs the chosen engine with its milliseconds for each image.
    fn log_choice(&self, name: &str, time: Duration) {
        let milliseconds = time.as_secs_f64() / self.images.len() as f64 * 1e3;
        tracing::info!(milliseconds = (milliseconds * 100.0).round() / 100.0, "{name}");
    }
}

/// The logits, and the time of the fastest of `tries` passes.
fn timed(model: &mut dyn Model, images: &[Input], tries: usize) -> Result<(Vec<Vec<f32>>, Duration), Failure> {
    let mut fastest = Duration::MAX;
    let mut logits = Vec::new();
    for _ in 0..tries {
        let start = Instant::now();
        logits = model.logits(images)?;
        fastest = fastest.min(start.elapsed());
    }
    Ok((logits, fastest))
}

/// The largest difference between two logits, in parts of the reference's largest; NaN if any logit is.
pub(super) fn difference(logits: &[Vec<f32>], reference: &[Vec<f32>]) -> f32 {
    let scale = reference.iter().flatten().fold(f32::MIN_POSITIVE, |largest, logit| largest.max(logit.abs()));
    let pairs = logits.iter().flatten().zip(reference.iter().flatten());
    // `f32::max` would drop NaN.
    let largest = |largest: f32, d: f32| if largest.is_nan() || d <= largest { largest } else { d };
    pairs.map(|(a, b)| (a - b).abs() / scale).fold(0.0, largest)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
