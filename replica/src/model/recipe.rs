//! What every worker makes a model of its own from: loaded, compared and chosen once.

use super::choice::{self, Bounds, Chosen, Wanted};
use super::device::{self, Device, Precision};
use super::file::ModelFile;
use super::folded::Folded;
use super::fused::{FusedModel, Plan};
use super::libtorch::{Layout, LibtorchModel, Place};
use super::network::Network;
use super::torchscript::{self, TorchScriptModel};
use super::weights;
use super::{Failure, Model, warm_up};
use std::fmt;
use std::sync::Arc;
use tch::CModule;

/// How a model is to be run.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// What computes convolutions on the processor.
    pub kernel: Wanted,
    /// Where.
    pub device: Device,
    /// How exactly.
    pub precision: Precision,
    /// Threads of one forward pass.
    pub threads: usize,
    /// Pictures in one forward pass at most.
    pub max_batch: usize,
}

/// A model that any thread can have an own copy of.
pub struct Recipe {
    way: Way,
    side: usize,
    threads: usize,
    classes: usize,
}

enum Way {
    Fused(Arc<Plan>),
    Libtorch(Network<Folded>, Place),
    TorchScript(Arc<CModule>, Place),
}

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The weights do not fit.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// The program cannot be used.
    #[error(transparent)]
    TorchScript(#[from] torchscript::Error),
    /// There is no such device.
    #[error(transparent)]
    Device(#[from] device::Error),
    /// Nothing computes it.
    #[error(transparent)]
    Failure(#[from] Failure),
}

impl Recipe {
    /// Builds the model of `file` for pictures of `side` by `side` pixels.
    ///
    /// # Errors
    /// When the file does not fit the architecture, the device is not there, or nothing computes the model.
    pub fn new(file: ModelFile, side: usize, setup: Setup) -> Result<Self, Error> {
        let Setup { kernel, precision, threads, max_batch, .. } = setup;
        tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        let place = Place { device: setup.device.find()?, kind: precision.kind(), layout: Layout::ChannelsLast };
        let (way, classes) = match file {
            ModelFile::TorchScript(file) => {
                let (module, classes) = file.load(place, side, max_batch)?;
                (Way::TorchScript(module, place), classes)
            }
            ModelFile::Weights(weights, architecture) => {
                let network = Network::fold(weights, architecture)?;
                let classes = network.head.bias.len();
                let bounds = Bounds { side, max_batch, threads };
                let way = match place == Place::PLAIN {
                    true => match choice::choose(&network, kernel, bounds)? {
                        Chosen::Fused(kernels) => Way::Fused(kernels),
                        Chosen::Libtorch(layout) => Way::Libtorch(network, Place { layout, ..place }),
                    },
                    false => {
                        if kernel != Wanted::Auto {
                            tracing::warn!(?kernel, ?place, "--kernel is for cpu and f32; libtorch computes this");
                        }
                        show_accuracy(&network, place, side)?;
                        Way::Libtorch(network, place)
                    }
                };
                (way, classes)
            }
        };
        if matches!(way, Way::Fused(_)) {
            // libtorch has no part in it any more; its idle threads would only be in the way.
            tch::set_num_threads(1);
        }
        Ok(Self { way, side, threads, classes })
    }

    /// How many classes it tells apart.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// A model for the calling thread.
    ///
    /// # Errors
    /// When the device has no room for another.
    pub fn model(&self) -> Result<Box<dyn Model>, Failure> {
        Ok(match &self.way {
            Way::Fused(network) => Box::new(FusedModel::new(network.clone(), self.side, self.threads)),
            Way::Libtorch(network, place) => Box::new(LibtorchModel::new(network, *place, self.side)?),
            Way::TorchScript(module, place) => Box::new(TorchScriptModel::new(module.clone(), *place, self.side)),
        })
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.way {
            Way::Fused(plan) => write!(f, "own kernels, {}", plan.units()),
            Way::Libtorch(_, place) => write!(f, "libtorch, {place:?}"),
            Way::TorchScript(_, place) => write!(f, "TorchScript, {place:?}"),
        }
    }
}

/// Says how far another device or precision is from the processor's single precision.
fn show_accuracy(network: &Network<Folded>, place: Place, side: usize) -> Result<(), Failure> {
    let pictures = warm_up::pictures(8, side);
    let reference = LibtorchModel::new(network, Place::PLAIN, side)?.logits(&pictures)?;
    let logits = LibtorchModel::new(network, place, side)?.logits(&pictures)?;
    let best = |row: &Vec<f32>| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let same = logits.iter().zip(&reference).filter(|(ours, theirs)| best(ours) == best(theirs)).count();
    let difference = choice::difference(&logits, &reference);
    tracing::info!(device = ?place.device, precision = ?place.kind, difference, same_class = same, of = pictures.len(), "accuracy");
    if !difference.is_finite() {
        return Err(Failure::new(format!(
            "in {:?} the logits are not finite numbers; use --precision f32",
            place.kind
        )));
    }
    Ok(())
}
