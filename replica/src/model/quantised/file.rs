//! The file of a quantised network: safetensors with 8-bit weights, scales, and metadata that says how well the network
//! agrees with f32.

use super::{Agreement, Int8Model, Int8Network, QuantisedConvolution, QuantisedNetwork};
use crate::bounded_file;
use crate::model::description::Description;
use crate::model::network::{Network, ResidualBlock};
use crate::model::weights::MAX_FILE_BYTES;
use crate::model::{CHANNELS, InferenceError, Model, warm_up};
use convolution::Geometry;
use convolution::int8::{Int8Instructions, PictureLevels};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

/// The name of the metadata in messages.
const METADATA: &str = "metadata of the weights";

/// The key of the metadata whose value [`PRECISION`] says that a file is one of these.
const PRECISION_KEY: &str = "precision";
const PRECISION: &str = "int8";
/// The metadata's keys of the agreement.
const AGREEING: &str = "calibration_agreeing";
const PICTURES: &str = "calibration_pictures";
/// The key of the network's name.
const ARCHITECTURE: &str = "architecture";
/// The side of the picture whose logits are in the file.
const INPUT_SIZE: &str = "input_size";

/// The tensors of the picture's levels, and of the logits of a synthetic picture.
const PICTURE_SCALE: &str = "picture.scale";
const PICTURE_ZERO: &str = "picture.zero";
const CHECK: &str = "check.logits";

/// Longest header that is read: a ResNet-152 has less than 100 KB.
const MAX_HEADER: u64 = 16 << 20;

/// Most products of one sum, so that the sum fits 32 bits.
const MAX_PRODUCTS: usize = 65_000;

/// A quantised network with what is known about it.
#[derive(Debug)]
pub struct QuantisedFile {
    pub(in crate::model) network: QuantisedNetwork,
    /// The metadata. It has the keys of the transform and of the labels, as a file of f32 weights may have.
    pub metadata: HashMap<String, String>,
    /// The transform and the labels.
    pub(in crate::model) description: Description,
    /// The agreement with f32 on the pictures of the calibration.
    pub agreement: Agreement,
    /// The name of the network's architecture.
    pub architecture: String,
    /// The logits of a synthetic picture whose side is `input_size`. Integers are exact, so every processor computes
    /// them bit by bit.
    check: Vec<f32>,
    input_size: usize,
    source: String,
}

/// Why a quantised file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// The file says that it is quantised, but a part of it is missing or malformed.
    #[error("{path}: {reason}; write the file again with replica quantize")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong with the file.
        reason: String,
    },
    /// The network agrees with f32 on too few pictures of its calibration.
    #[error(
        "{path}: the model in 8-bit integers gives the same class as f32 for {agreement}, less than --min-agreement \
         {min_percent} %; calibrate it with more pictures of the kind that it will get, serve the f32 weights, or lower \
         --min-agreement"
    )]
    Disagrees {
        /// The file.
        path: String,
        /// The agreement that the file records.
        agreement: Agreement,
        /// The least agreement, in percent.
        min_percent: f64,
    },
    /// This machine computes other logits than the machine that wrote the file.
    #[error(
        "{path}: this machine computes other logits than the machine that wrote the file, so the recorded agreement with \
         f32 does not hold; the file may be damaged: write it again with replica quantize"
    )]
    Differs {
        /// The file.
        path: String,
    },
    /// The network cannot be computed.
    #[error(transparent)]
    Inference(#[from] InferenceError),
}

/// The part of a safetensors header that tells the kind of a file.
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__", default)]
    metadata: HashMap<String, String>,
}

impl QuantisedFile {
    /// Adds to a network what a file records. `metadata` has the transform and the labels.
    ///
    /// # Errors
    /// If the network cannot be computed.
    pub(in crate::model) fn new(
        network: QuantisedNetwork,
        architecture: &str,
        input_size: usize,
        metadata: HashMap<String, String>,
    ) -> Result<Self, InferenceError> {
        let mut file = Self {
            network,
            description: Description::from_metadata(&metadata, METADATA).map_err(InferenceError::new)?,
            metadata,
            agreement: Agreement::default(),
            architecture: architecture.into(),
            check: Vec::new(),
            input_size,
            source: "the quantised network".into(),
        };
        file.check = file.check_logits()?;
        Ok(file)
    }

    /// Reads the file if its header says that it is quantised. `None` for every other file, also one that cannot be
    /// read.
    ///
    /// # Errors
    /// If the file is quantised, and malformed.
    pub fn open(path: &Path) -> Result<Option<Self>, Error> {
        let source = path.display().to_string();
        if !is_quantised(path) {
            return Ok(None);
        }
        let bytes =
            bounded_file::read(path, MAX_FILE_BYTES).map_err(|error| Error::Io { path: source.clone(), error })?;
        Self::parse(&bytes, &source).map(Some).map_err(|reason| Error::Malformed { path: source, reason })
    }

    /// Reads the contents of a file.
    fn parse(bytes: &[u8], source: &str) -> Result<Self, String> {
        let damaged = |error: safetensors::SafeTensorError| format!("damaged safetensors file: {error}");
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let number = |key: &str| -> Result<u64, String> {
            let text = metadata.get(key).ok_or_else(|| format!("the metadata has no {key}"))?;
            text.trim().parse().map_err(|_| format!("the metadata has {key} = {text:?}, which is no number"))
        };
        let agreement = Agreement { agreeing: number(AGREEING)?, pictures: number(PICTURES)? };
        if agreement.agreeing > agreement.pictures {
            return Err(format!("the metadata counts {agreement}: more agree than there are"));
        }
        let input_size = number(INPUT_SIZE)? as usize;
        if !(1..=8192).contains(&input_size) {
            return Err(format!("the metadata has {INPUT_SIZE} = {input_size}; it must be from 1 to 8192"));
        }
        let reader = Reader(&tensors);
        let three = |name: &str| -> Result<[f32; CHANNELS], String> {
            reader.numbers(name, CHANNELS)?.try_into().map_err(|_| format!("tensor {name} must have three numbers"))
        };
        let network = reader.network(PictureLevels { scale: three(PICTURE_SCALE)?, zero: three(PICTURE_ZERO)? })?;
        let check = reader.numbers(CHECK, network.layers.head.bias.len())?;
        let architecture = metadata.get(ARCHITECTURE).cloned().unwrap_or_else(|| "quantised".into());
        let description =
            Description::from_metadata(&metadata, METADATA).map_err(|error| format!("malformed metadata: {error}"))?;
        Ok(Self { network, metadata, description, agreement, architecture, check, input_size, source: source.into() })
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let mut metadata = self.metadata.clone();
        metadata.extend(
            [
                (PRECISION_KEY, PRECISION.to_owned()),
                (ARCHITECTURE, self.architecture.clone()),
                (AGREEING, self.agreement.agreeing.to_string()),
                (PICTURES, self.agreement.pictures.to_string()),
                (INPUT_SIZE, self.input_size.to_string()),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        let PictureLevels { scale, zero } = self.network.picture;
        let mut tensors = vec![
            Stored::numbers(PICTURE_SCALE, &scale),
            Stored::numbers(PICTURE_ZERO, &zero),
            Stored::numbers(CHECK, &self.check),
        ];
        for (name, layer) in named(&self.network.layers) {
            tensors.extend(Stored::layer(&name, layer));
        }
        let views = tensors.iter().map(|tensor| (&tensor.name, tensor.view()));
        let bytes = safetensors::serialize(views, Some(metadata)).expect("every tensor has the bytes of its shape");
        // Written beside the file and renamed, so that a full disk or a kill leaves no half of a file.
        let partial = path.with_extension("partial");
        let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path));
        written.map_err(|error| {
            let _gone = std::fs::remove_file(&partial);
            Error::Io { path: path.display().to_string(), error }
        })
    }

    /// Checks that the recorded agreement is high enough, and that it holds here: this machine computes the same
    /// logits.
    ///
    /// # Errors
    /// If the agreement is less than `min_share` (0 to 1), or the logits differ in one bit.
    pub fn verify(&self, min_share: f64) -> Result<(), Error> {
        let (path, agreement) = (self.source.clone(), self.agreement);
        if agreement.share() < min_share {
            return Err(Error::Disagrees { path, agreement, min_percent: min_share * 100.0 });
        }
        let bits = |logits: &[f32]| logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>();
        if bits(&self.check_logits()?) != bits(&self.check) {
            return Err(Error::Differs { path });
        }
        Ok(())
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.network.layers.head.bias.len()
    }

    /// A model with the fastest instructions of this processor, also if they are slower than f32.
    ///
    /// # Errors
    /// If the operating system refuses a thread.
    pub fn model(&self, side: usize, threads: usize) -> Result<Box<dyn Model>, InferenceError> {
        let network = Int8Network::new(&self.network, Int8Instructions::best());
        Ok(Box::new(Int8Model::new(Arc::new(network), side, threads)?))
    }

    /// The logits of one synthetic picture.
    fn check_logits(&self) -> Result<Vec<f32>, InferenceError> {
        Ok(self.model(self.input_size, 1)?.logits(&warm_up::images(1, self.input_size))?.concat())
    }
}

/// Whether the header of a safetensors file says that it is quantised.
fn is_quantised(path: &Path) -> bool {
    let header = || -> Option<Header> {
        // serde_json asks for one byte at a time.
        let mut file = BufReader::new(File::open(path).ok()?);
        let mut length = [0; 8];
        file.read_exact(&mut length).ok()?;
        let length = Some(u64::from_le_bytes(length)).filter(|length| *length <= MAX_HEADER)?;
        serde_json::from_reader(file.take(length)).ok()
    };
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors"))
        && header().is_some_and(|header| header.metadata.get(PRECISION_KEY).is_some_and(|value| value == PRECISION))
}

/// The name of block `index` of a network.
fn block_name(index: usize) -> String {
    format!("block.{index}")
}

/// All layers with their names.
fn named(layers: &Network<QuantisedConvolution>) -> Vec<(String, &QuantisedConvolution)> {
    let mut named = vec![("stem".to_owned(), &layers.stem), ("head".to_owned(), &layers.head)];
    for (index, block) in layers.blocks.iter().enumerate() {
        let name = block_name(index);
        named.extend(block.first.iter().enumerate().map(|(number, layer)| (format!("{name}.first.{number}"), layer)));
        named.push((format!("{name}.last"), &block.last));
        named.extend(block.shortcut.iter().map(|layer| (format!("{name}.shortcut"), layer)));
    }
    named
}

/// A tensor that is written.
struct Stored {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    fn numbers(name: &str, numbers: &[f32]) -> Self {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Self { name: name.into(), dtype: Dtype::F32, shape: vec![numbers.len()], bytes }
    }

    /// The tensors of a layer.
    fn layer(name: &str, layer: &QuantisedConvolution) -> [Self; 5] {
        let Geometry { side, stride, .. } = layer.geometry;
        let weights = Self {
            name: format!("{name}.weight"),
            dtype: Dtype::I8,
            shape: vec![layer.bias.len(), layer.inputs, side, side],
            bytes: layer.weights.iter().map(|weight| *weight as u8).collect(),
        };
        [
            weights,
            Self::numbers(&format!("{name}.weight_scale"), &layer.weight_scale),
            Self::numbers(&format!("{name}.bias"), &layer.bias),
            Self::numbers(&format!("{name}.output_scale"), &[layer.output_scale]),
            Self::numbers(&format!("{name}.stride"), &[stride as f32]),
        ]
    }

    fn view(&self) -> TensorView<'_> {
        TensorView::new(self.dtype, self.shape.clone(), &self.bytes).expect("the bytes are those of the shape")
    }
}

/// Reads layers from tensors, and checks that they fit each other.
struct Reader<'a>(&'a SafeTensors<'a>);

impl Reader<'_> {
    /// A tensor of `count` finite numbers.
    fn numbers(&self, name: &str, count: usize) -> Result<Vec<f32>, String> {
        let view = self.0.tensor(name).map_err(|_| format!("tensor {name} is missing"))?;
        if view.dtype() != Dtype::F32 || view.shape() != [count] {
            return Err(format!("tensor {name} must have {count} numbers in f32, and has {:?}", view.shape()));
        }
        let numbers: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        match numbers.iter().all(|number| number.is_finite()) {
            true => Ok(numbers),
            false => Err(format!("tensor {name} has a number that is not finite")),
        }
    }

    /// A tensor of `count` scales, which are above zero.
    fn scales(&self, name: &str, count: usize) -> Result<Vec<f32>, String> {
        let scales = self.numbers(name, count)?;
        match scales.iter().all(|scale| scale.is_normal() && *scale > 0.0) {
            true => Ok(scales),
            false => Err(format!("tensor {name} has a scale that is not above zero")),
        }
    }

    fn network(&self, picture: PictureLevels) -> Result<QuantisedNetwork, String> {
        if !picture.scale.iter().all(|scale| scale.is_normal() && *scale > 0.0) {
            return Err(format!("tensor {PICTURE_SCALE} has a scale that is not above zero"));
        }
        let stem = self.layer("stem", CHANNELS)?;
        // A 1×1 filter would read padded pixels, and those of a picture are not padded.
        if stem.geometry.side == 1 {
            return Err("the stem must be a filter of 3×3 or more".into());
        }
        let mut channels = stem.bias.len();
        let mut blocks = Vec::new();
        while self.0.tensor(&format!("{}.last.weight", block_name(blocks.len()))).is_ok() {
            let block = self.block(&block_name(blocks.len()), channels)?;
            channels = block.last.bias.len();
            blocks.push(block);
        }
        if blocks.is_empty() {
            return Err("there is no tensor block.0.last.weight".into());
        }
        let head = self.layer("head", channels)?;
        match head.geometry {
            Geometry { side: 1, stride: 1, .. } => {
                Ok(QuantisedNetwork { layers: Network { stem, blocks, head }, picture })
            }
            _ => Err("the head must be a 1×1 filter of stride 1".into()),
        }
    }

    fn block(&self, name: &str, inputs: usize) -> Result<ResidualBlock<QuantisedConvolution>, String> {
        let mut first: Vec<QuantisedConvolution> = Vec::new();
        let mut channels = inputs;
        while self.0.tensor(&format!("{name}.first.{}.weight", first.len())).is_ok() {
            let layer = self.layer(&format!("{name}.first.{}", first.len()), channels)?;
            channels = layer.bias.len();
            first.push(layer);
        }
        let last = self.layer(&format!("{name}.last"), channels)?;
        let shortcut = match self.0.tensor(&format!("{name}.shortcut.weight")) {
            Ok(_) => Some(self.layer(&format!("{name}.shortcut"), inputs)?),
            Err(_) => None,
        };
        // The residual must have the shape of the output.
        let stride: usize = first.iter().chain([&last]).map(|layer| layer.geometry.stride).product();
        let (outputs, by) = shortcut.as_ref().map_or((inputs, 1), |layer| (layer.bias.len(), layer.geometry.stride));
        match (outputs, by) == (last.bias.len(), stride) {
            true => Ok(ResidualBlock { first, last, shortcut }),
            false => Err(format!("the shortcut of {name} has another shape than its output")),
        }
    }

    /// A layer with `inputs` input channels.
    fn layer(&self, name: &str, inputs: usize) -> Result<QuantisedConvolution, String> {
        let weight = format!("{name}.weight");
        let view = self.0.tensor(&weight).map_err(|_| format!("tensor {weight} is missing"))?;
        let &[outputs, found, side, width] = view.shape() else {
            return Err(format!("tensor {weight} must have four dimensions, and has {:?}", view.shape()));
        };
        let fits = view.dtype() == Dtype::I8 && outputs > 0 && found == inputs && side == width && side % 2 == 1;
        if !fits || inputs.saturating_mul(side * side) > MAX_PRODUCTS {
            return Err(format!(
                "tensor {weight} must be i8 of [n, {inputs}, side, side] with an odd side and at most {MAX_PRODUCTS} \
                 weights for each output, and is {:?} of {:?}",
                view.dtype(),
                view.shape()
            ));
        }
        let stride = self.numbers(&format!("{name}.stride"), 1)?[0];
        if stride != 1.0 && stride != 2.0 {
            return Err(format!("tensor {name}.stride is {stride}, and must be 1 or 2"));
        }
        Ok(QuantisedConvolution {
            weights: view.data().iter().map(|byte| *byte as i8).collect(),
            weight_scale: self.scales(&format!("{name}.weight_scale"), outputs)?,
            bias: self.numbers(&format!("{name}.bias"), outputs)?,
            inputs,
            geometry: Geometry { side, stride: stride as usize, padding: side / 2 },
            output_scale: self.scales(&format!("{name}.output_scale"), 1)?[0],
        })
    }
}
