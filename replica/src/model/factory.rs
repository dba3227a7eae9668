//! Makes the models of all workers. The file is loaded, and the engine compared and chosen, only once.

use super::choice::{self, Choice, KernelChoice, PassLimits};
use super::device::{self, Device, Precision};
use super::file::ModelFile;
use super::folded::FoldedConvolution;
use super::fused::{FusedModel, Plan};
use super::libtorch::{LibtorchModel, MemoryFormat, Placement};
use super::network::Network;
use super::torchscript::{self, TorchScriptModel};
use super::weights::{self, Weights};
use super::{Architecture, Failure, Model, warm_up};
use std::fmt;
use std::sync::Arc;
use tch::CModule;

/// Images with which another device or precision is compared with the CPU in f32.
const ACCURACY_IMAGES: usize = 8;

/// How a model is to be run.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// What computes convolutions on the CPU.
    pub kernel: KernelChoice,
    /// The device that computes.
    pub device: Device,
    /// The precision of weights and activations.
    pub precision: Precision,
    /// Threads of one forward pass.
    pub threads: usize,
    /// Most images in one forward pass.
    pub max_batch: usize,
}

/// A loaded model, of which any thread can make a copy of its own.
pub struct ModelFactory {
    backend: Backend,
    side: usize,
    threads: usize,
    classes: usize,
}

/// The engine that computes the model, with the data that all copies share.
enum Backend {
    Fused(Arc<Plan>),
    Libtorch(Network<FoldedConvolution>, Placement),
    TorchScript(Arc<CModule>, Placement),
}

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The weights do not fit the architecture.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// The TorchScript program cannot be used.
    #[error(transparent)]
    TorchScript(#[from] torchscript::Error),
    /// The device does not exist.
    #[error(transparent)]
    Device(#[from] device::Error),
    /// No engine computes the model.
    #[error(transparent)]
    Failure(#[from] Failure),
}

impl ModelFactory {
    /// Loads the model of `file` for images of `side` by `side` pixels.
    ///
    /// # Errors
    /// When the file does not fit the architecture, the device does not exist, or no engine computes the model.
    pub fn new(file: ModelFile, side: usize, setup: Setup) -> Result<Self, Error> {
        tch::set_num_threads(i32::try_from(setup.threads).unwrap_or(i32::MAX));
        let format = MemoryFormat::ChannelsLast;
        let placement = Placement { device: setup.device.find()?, kind: setup.precision.kind(), format };
        let (backend, classes) = match file {
            ModelFile::TorchScript(file) => {
                let (module, classes) = file.load(placement, side, setup.max_batch)?;
                (Backend::TorchScript(module, placement), classes)
            }
            ModelFile::Weights(weights, architecture) => {
                Backend::of_weights(weights, architecture, placement, side, setup)?
            }
        };
        if matches!(backend, Backend::Fused(_)) {
            // libtorch computes nothing any more. Its idle threads would compete with the workers.
            tch::set_num_threads(1);
        }
        Ok(Self { backend, side, threads: setup.threads, classes })
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// A model for the calling thread.
    ///
    /// # Errors
    /// If the device has no memory for another copy, or the operating system refuses a thread.
    pub fn model(&self) -> Result<Box<dyn Model>, Failure> {
        Ok(match &self.backend {
            Backend::Fused(plan) => Box::new(FusedModel::new(plan.clone(), self.side, self.threads)?),
            Backend::Libtorch(network, placement) => Box::new(LibtorchModel::new(network, *placement, self.side)?),
            Backend::TorchScript(module, placement) => {
                Box::new(TorchScriptModel::new(module.clone(), *placement, self.side))
            }
        })
    }
}

impl Backend {
    /// The backend for weights, and the number of classes. Engines are compared only on the CPU in f32; anything else
    /// is libtorch's.
    fn of_weights(
        weights: Weights,
        architecture: Architecture,
        placement: Placement,
        side: usize,
        setup: Setup,
    ) -> Result<(Self, usize), Error> {
        let network = Network::fold(weights, architecture)?;
        let classes = network.head.bias.len();
        let Setup { kernel, max_batch, threads, .. } = setup;
        if placement != Placement::CPU_F32 {
            if kernel != KernelChoice::Auto {
                tracing::warn!(?kernel, ?placement, "--kernel needs cpu and f32; libtorch computes this model");
            }
            log_accuracy(&network, placement, side)?;
            return Ok((Self::Libtorch(network, placement), classes));
        }
        let backend = match choice::choose(&network, kernel, PassLimits { side, max_batch, threads })? {
            Choice::Fused(plan) => Self::Fused(plan),
            Choice::Libtorch(format) => Self::Libtorch(network, Placement { format, ..placement }),
        };
        Ok((backend, classes))
    }
}

impl fmt::Display for ModelFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.backend {
            Backend::Fused(plan) => write!(f, "own kernels, {}", plan.units()),
            Backend::Libtorch(_, placement) => write!(f, "libtorch, {placement:?}"),
            Backend::TorchScript(_, placement) => write!(f, "TorchScript, {placement:?}"),
        }
    }
}

/// Logs how far the logits on another device or in another precision are from those on the CPU in f32.
fn log_accuracy(network: &Network<FoldedConvolution>, placement: Placement, side: usize) -> Result<(), Failure> {
    let images = warm_up::images(ACCURACY_IMAGES, side);
    let reference = LibtorchModel::new(network, Placement::CPU_F32, side)?.logits(&images)?;
    let logits = LibtorchModel::new(network, placement, side)?.logits(&images)?;
    let likeliest = |row: &Vec<f32>| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let same_class =
        logits.iter().zip(&reference).filter(|(ours, theirs)| likeliest(ours) == likeliest(theirs)).count();
    let difference = choice::difference(&logits, &reference);
    let Placement { device, kind, .. } = placement;
    tracing::info!(?device, precision = ?kind, difference, same_class, of = images.len(), "accuracy");
    if !difference.is_finite() {
        return Err(Failure::new(format!("in {kind:?} the logits are not finite numbers; use --precision f32")));
    }
    Ok(())
}
