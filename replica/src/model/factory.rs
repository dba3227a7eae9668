//! Chooses the engine for a model's file once, and then makes a model for each worker.

use super::choice::{self, Choice, KernelChoice, PassLimits};
use super::device::{self, Device, Precision};
use super::file::ModelFile;
use super::folded::FoldedConvolution;
use super::fused::{FusedModel, NetworkPlan};
use super::libtorch::{LibtorchModel, MemoryFormat, TensorOptions};
use super::network::Network;
#[cfg(feature = "onnx")]
use super::onnx::OnnxNetwork;
use super::quantised::{Int8Model, Int8Network};
use super::torchscript::{self, TorchScriptModel};
use super::weights::{self, Weights};
use super::{Architecture, InferenceError, Model, warm_up};
use convolution::int8::Int8Instructions;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tch::CModule;

/// Number of images on which another device or precision is compared with the CPU in f32.
const ACCURACY_IMAGES: usize = 8;

/// The model's weights are f32, and `--precision int8` was given.
const NOT_CALIBRATED: &str = "--precision int8 needs a file with calibrated 8-bit weights; write one with replica \
    quantize --weights FILE --calibrate FOLDER --output FILE.safetensors, and give it as --weights";

/// The model's weights are 8-bit integers, and another precision was given.
const CALIBRATED: &str = "the file of --weights has 8-bit weights; give --precision int8, or a file of f32 weights";

/// The device has no 8-bit engine.
const ONLY_ON_CPU: &str = "--precision int8 is computed on the CPU only; give --device cpu, or another precision";

/// The processor has no instructions that make 8-bit integers faster.
const NO_VNNI: &str = "--precision int8: this processor has neither AVX-512-VNNI nor AVX-VNNI, and without them 8-bit \
    integers are slower than f32; give a file of f32 weights and --precision f32";

/// How a model is run.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// The engine that computes convolutions on the CPU in f32.
    pub kernel: KernelChoice,
    /// The device that computes the model.
    pub device: Device,
    /// The precision of weights and activations.
    pub precision: Precision,
    /// Number of threads of one forward pass.
    pub threads: usize,
    /// Largest number of images in one forward pass.
    pub max_batch: usize,
}

/// A loaded model. Each thread can make its own copy of it.
pub struct ModelFactory {
    backend: Backend,
    side: usize,
    threads: usize,
    classes: usize,
}

/// The engine that computes the model, with the data that all copies of the model share.
enum Backend {
    Fused(Arc<NetworkPlan>),
    /// The model of which each worker gets a shared one. The lock is there because tensors may move to another thread,
    /// but not be used by two threads through one reference.
    Libtorch(Mutex<LibtorchModel>),
    TorchScript(Arc<CModule>, TensorOptions),
    #[cfg(feature = "onnx")]
    Onnx(OnnxNetwork),
    Int8(Arc<Int8Network>),
}

/// Why no model can be made of a file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The weights do not fit the architecture.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// The TorchScript program cannot be used.
    #[error(transparent)]
    TorchScript(#[from] torchscript::Error),
    /// The ONNX network cannot be used.
    #[cfg(feature = "onnx")]
    #[error(transparent)]
    Onnx(#[from] ::onnx::Error),
    /// The device does not exist.
    #[error(transparent)]
    Device(#[from] device::Error),
    /// The file and the flag `--precision` do not fit each other.
    #[error("{0}")]
    Precision(&'static str),
    /// No engine can compute the model.
    #[error(transparent)]
    Inference(#[from] InferenceError),
}

impl ModelFactory {
    /// Loads the model of `file` for images of `side` by `side` pixels.
    ///
    /// # Errors
    /// If the file does not fit the architecture, the device does not exist, or no engine can compute the model.
    pub fn new(file: ModelFile, side: usize, setup: Setup) -> Result<Self, Error> {
        tch::set_num_threads(i32::try_from(setup.threads).unwrap_or(i32::MAX));
        if setup.precision == Precision::Int8 && !matches!(file, ModelFile::Quantised(_)) {
            return Err(Error::Precision(NOT_CALIBRATED));
        }
        let format = MemoryFormat::ChannelsLast;
        let options = TensorOptions { device: setup.device.find()?, kind: setup.precision.kind(), format };
        let (backend, classes) = match file {
            ModelFile::TorchScript(file) => {
                let (module, classes) = file.load(options, side, setup.max_batch)?;
                (Backend::TorchScript(module, options), classes)
            }
            ModelFile::Quantised(file) => {
                let network = Int8Network::new(&file.network, int8_instructions(setup)?);
                (Backend::Int8(Arc::new(network)), file.classes())
            }
            #[cfg(feature = "onnx")]
            ModelFile::Onnx(file) => {
                let (network, classes) = file.load(side, setup)?;
                (Backend::Onnx(network), classes)
            }
            ModelFile::Weights(weights, architecture) => {
                Backend::of_weights(weights, architecture, options, side, setup)?
            }
        };
        if !matches!(backend, Backend::Libtorch(..) | Backend::TorchScript(..)) {
            // libtorch computes nothing from now on. Its idle threads would compete with the workers.
            tch::set_num_threads(1);
        }
        Ok(Self { backend, side, threads: setup.threads, classes })
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Whether the models give embeddings. A program decides by itself what it returns.
    pub fn has_embeddings(&self) -> bool {
        matches!(self.backend, Backend::Fused(_) | Backend::Libtorch(..))
    }

    /// A model for the calling thread.
    ///
    /// # Errors
    /// If the device has no memory for another copy, or the operating system refuses a thread.
    pub fn model(&self) -> Result<Box<dyn Model>, InferenceError> {
        Ok(match &self.backend {
            Backend::Fused(plan) => Box::new(FusedModel::new(plan.clone(), self.side, self.threads)?),
            Backend::Int8(network) => Box::new(Int8Model::new(network.clone(), self.side, self.threads)?),
            Backend::Libtorch(model) => Box::new(model.lock().unwrap_or_else(PoisonError::into_inner).share()),
            Backend::TorchScript(module, options) => {
                Box::new(TorchScriptModel::new(module.clone(), *options, self.side))
            }
            #[cfg(feature = "onnx")]
            Backend::Onnx(network) => network.model()?,
        })
    }
}

impl Backend {
    /// The backend for weights, and the number of classes. On the CPU in f32, engines are compared. On other devices
    /// and in other precisions, libtorch computes the model.
    fn of_weights(
        weights: Weights,
        architecture: Architecture,
        options: TensorOptions,
        side: usize,
        setup: Setup,
    ) -> Result<(Self, usize), Error> {
        let network = Network::fold(weights, architecture)?;
        let classes = network.head.bias.len();
        let Setup { kernel, max_batch, threads, .. } = setup;
        if options != TensorOptions::CPU_F32 {
            if kernel != KernelChoice::Auto {
                tracing::warn!(
                    ?kernel,
                    ?options,
                    "libtorch computes this model; --kernel has an effect only with --device cpu and --precision f32"
                );
            }
            log_accuracy(&network, options, side)?;
            return Ok((Self::Libtorch(Mutex::new(LibtorchModel::new(&network, options, side)?)), classes));
        }
        let backend = match choice::choose(&network, kernel, PassLimits { side, max_batch, threads })? {
            Choice::Fused(plan) => Self::Fused(plan),
            Choice::Libtorch(model) => Self::Libtorch(Mutex::new(model)),
        };
        Ok((backend, classes))
    }
}

impl fmt::Display for ModelFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.backend {
            Backend::Fused(plan) => write!(f, "own kernels, {}", plan.units()),
            Backend::Libtorch(model) => {
                write!(f, "libtorch, {}", model.lock().unwrap_or_else(PoisonError::into_inner).options())
            }
            Backend::TorchScript(_, options) => write!(f, "TorchScript, {options}"),
            #[cfg(feature = "onnx")]
            Backend::Onnx(_) => f.write_str("ONNX Runtime, Cpu, Float"),
            Backend::Int8(network) => write!(f, "own kernels in 8-bit integers, {}", network.instructions()),
        }
    }
}

/// The instructions for a file with 8-bit weights.
///
/// # Errors
/// If `setup` asks for another precision or device, or the processor would be slower than in f32.
fn int8_instructions(setup: Setup) -> Result<Int8Instructions, Error> {
    match (setup.precision, setup.device, Int8Instructions::best()) {
        (Precision::F32 | Precision::F16 | Precision::Bf16, _, _) => Err(Error::Precision(CALIBRATED)),
        (_, Device::Cuda(_), _) => Err(Error::Precision(ONLY_ON_CPU)),
        (_, _, Int8Instructions::Portable) => Err(Error::Precision(NO_VNNI)),
        (_, _, vnni) => Ok(vnni),
    }
}

/// Logs how far the logits on another device or in another precision are from those on the CPU in f32.
fn log_accuracy(
    network: &Network<FoldedConvolution>,
    options: TensorOptions,
    side: usize,
) -> Result<(), InferenceError> {
    let images = warm_up::images(ACCURACY_IMAGES, side);
    let reference = LibtorchModel::new(network, TensorOptions::CPU_F32, side)?.logits(&images)?;
    let logits = LibtorchModel::new(network, options, side)?.logits(&images)?;
    let likeliest = |row: &Vec<f32>| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let same_class =
        logits.iter().zip(&reference).filter(|(ours, theirs)| likeliest(ours) == likeliest(theirs)).count();
    let difference = choice::difference(&logits, &reference);
    let TensorOptions { device, kind, .. } = options;
    let of = images.len();
    tracing::info!(?device, precision = ?kind, difference, same_class, of, "compared logits with the CPU in f32");
    if !difference.is_finite() {
        return Err(InferenceError::new(format!(
            "the logits are not finite numbers in {kind:?}; give --precision f32"
        )));
    }
    Ok(())
}
