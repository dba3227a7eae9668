//! Chooses what computes a network on this machine: the fastest of those whose output is libtorch's.

use super::folded::Folded;
use super::fused::{FusedModel, Plan};
use super::libtorch::{Layout, LibtorchModel, Place};
use super::network::Network;
use super::tuning::tune;
use super::{Failure, Input, Model, warm_up};
use convolution::amx::Registers;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Difference from libtorch's logits, in parts of the largest one, beyond which an output is not the same. Winograd's
/// filtering is some 3e-6 away, the matrix unit 1e-6.
const TOLERANCE: f32 = 1e-4;

/// The same for the matrix unit. On pictures unlike those of the warm-up it was seen 16 times as far, and must stay within
/// the other.
const TOLERANCE_OF_AMX: f32 = 6e-6;

/// Passes of which the fastest counts.
const TRIES: usize = 2;

/// How many times faster than its first pass libtorch is at best, with other layouts and everything warm. Seen: 2.3.
const LIBTORCH_CAN_GAIN: u32 = 3;

/// `--kernel`: what computes convolutions on the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Wanted {
    /// Whichever is fastest here, with the processor's matrix unit (AMX) where it has one
    Auto,
    /// libtorch's
    Libtorch,
    /// This project's own with vectors of f32, and not the matrix unit
    Winograd,
}

/// What was chosen.
pub(super) enum Chosen {
    Fused(Arc<Plan>),
    Libtorch(Layout),
}

/// How much may be used, and for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Sides of a picture, pixels.
    pub(super) side: usize,
    /// Pictures that go together at most.
    pub(super) max_batch: usize,
    /// Threads of a pass.
    pub(super) threads: usize,
}

/// Chooses for the processor in single precision.
///
/// # Errors
/// When nothing computes the network, or its logits are not numbers.
pub(super) fn choose(network: &Network<Folded>, wanted: Wanted, bounds: Bounds) -> Result<Chosen, Failure> {
    let Bounds { side, max_batch, .. } = bounds;
    let pictures = warm_up::pictures(max_batch, side);
    let stored = Place { layout: Layout::Stored, ..Place::PLAIN };
    let (reference, first) = timed(&mut LibtorchModel::new(network, stored, side)?, &pictures, 1)?;
    if reference.iter().flatten().any(|logit| !logit.is_finite()) {
        return Err(Failure::new("the weights make logits that are not finite numbers"));
    }
    if wanted == Wanted::Libtorch {
        return Ok(Chosen::Libtorch(Layout::ChannelsLast));
    }
    let with_amx = wanted == Wanted::Auto && Registers::Amx.is_available();
    let mut own = Own::measured(network, bounds, with_amx, &pictures, &reference)?;
    if with_amx && !own.agrees {
        own = Own::measured(network, bounds, false, &pictures, &reference)?;
    }
    if wanted == Wanted::Winograd {
        return match own.agrees {
            true => Ok(Chosen::Fused(own.plan)),
            false => Err(Failure::new("--kernel winograd does not agree with libtorch on this machine; use auto")),
        };
    }
    if own.agrees && own.time * LIBTORCH_CAN_GAIN < first {
        tracing::info!(milliseconds = per_picture(own.time, &pictures), "own kernels");
        return Ok(Chosen::Fused(own.plan));
    }

    let mut candidates = Vec::new();
    for (name, layout) in [("libtorch", Layout::ChannelsLast), ("libtorch in oneDNN's layout", Layout::OneDnn)] {
        match libtorch(network, layout, &pictures, side) {
            Ok((logits, time)) if agree(name, &logits, &reference, TOLERANCE) => {
                candidates.push((name, time, Chosen::Libtorch(layout)))
            }
            Ok(_) => {}
            Err(failure) => tracing::debug!(%failure, "no {name} here"),
        }
    }
    if own.agrees {
        candidates.push(("own kernels", own.time, Chosen::Fused(own.plan)));
    }
    let fastest = candidates.into_iter().min_by_key(|(_, time, _)| *time);
    let (name, time, chosen) = fastest.ok_or_else(|| Failure::new("no two ways to compute it agree"))?;
    tracing::info!(milliseconds = per_picture(time, &pictures), "{name}");
    Ok(chosen)
}

/// The own kernels, and what they took.
struct Own {
    plan: Arc<Plan>,
    time: Duration,
    /// Whether their logits are the reference's.
    agrees: bool,
}

impl Own {
    fn measured(
        network: &Network<Folded>,
        bounds: Bounds,
        with_amx: bool,
        pictures: &[Input],
        reference: &[Vec<f32>],
    ) -> Result<Self, Failure> {
        let plan = Arc::new(tune(network, bounds, with_amx)?);
        let mut model = FusedModel::new(plan.clone(), bounds.side, bounds.threads);
        let (logits, time) = timed(&mut model, pictures, 1)?;
        let tolerance = if with_amx { TOLERANCE_OF_AMX } else { TOLERANCE };
        let mut agrees = agree("own kernels", &logits, reference, tolerance);
        if pictures.len() > 1 {
            // One picture by itself may go other ways than several.
            agrees &= agree("own kernels", &model.logits(&pictures[..1])?, &reference[..1], tolerance);
        }
        Ok(Self { plan, time, agrees })
    }
}

/// Whether logits are the reference's; says how far they are.
fn agree(name: &'static str, logits: &[Vec<f32>], reference: &[Vec<f32>], tolerance: f32) -> bool {
    let difference = difference(logits, reference);
    let agrees = difference <= tolerance;
    match agrees {
        true => tracing::debug!(name, difference, "compared with libtorch's plain pass"),
        false => tracing::warn!(name, difference, tolerance, "does not agree with libtorch's plain pass: not used"),
    }
    agrees
}

/// Logits and time of libtorch's pass, once it is warm.
fn libtorch(
    network: &Network<Folded>,
    layout: Layout,
    pictures: &[Input],
    side: usize,
) -> Result<(Vec<Vec<f32>>, Duration), Failure> {
    let mut model = LibtorchModel::new(network, Place { layout, ..Place::PLAIN }, side)?;
    model.logits(pictures)?;
    timed(&mut model, pictures, TRIES)
}

/// Logits, and the time of the fastest pass.
fn timed(model: &mut dyn Model, pictures: &[Input], tries: usize) -> Result<(Vec<Vec<f32>>, Duration), Failure> {
    let mut fastest = Duration::MAX;
    let mut logits = Vec::new();
    for _ in 0..tries {
        let start = Instant::now();
        logits = model.logits(pictures)?;
        fastest = fastest.min(start.elapsed());
    }
    Ok((logits, fastest))
}

/// Largest difference, in parts of the largest logit.
pub(super) fn difference(logits: &[Vec<f32>], reference: &[Vec<f32>]) -> f32 {
    let scale = reference.iter().flatten().fold(f32::MIN_POSITIVE, |largest, logit| largest.max(logit.abs()));
    let pairs = logits.iter().flatten().zip(reference.iter().flatten());
    // Not `f32::max`, which forgets NaN.
    let largest = |largest: f32, d: f32| if largest.is_nan() || d <= largest { largest } else { d };
    pairs.map(|(a, b)| (a - b).abs() / scale).fold(0.0, largest)
}

fn per_picture(time: Duration, pictures: &[Input]) -> f64 {
    (time.as_secs_f64() / pictures.len() as f64 * 1e5).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_to_the_largest_logit_and_nan_is_one() {
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
