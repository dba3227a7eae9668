//! Residual networks on libtorch's convolutions, for any device and precision. They are also the reference for the
//! other engines.

use super::folded::FoldedConvolution;
use super::network::{Engine, Network};
use super::{CHANNELS, InferenceError, Input, Model, Outputs};
use convolution::Nonlinearity;
use std::fmt;
use tch::{Device, Kind, TchError, Tensor, no_grad};

/// The order of images and weights in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemoryFormat {
    /// Images have channels innermost; weights stay in the order of the file. Quick to load, slow to run.
    WeightsAsStored,
    /// Images and weights have channels innermost.
    ChannelsLast,
    /// Images and weights are oneDNN's tensors, in blocks of channels.
    OneDnn,
}

/// The device, precision and memory format of a network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TensorOptions {
    pub(super) device: Device,
    pub(super) kind: Kind,
    pub(super) format: MemoryFormat,
}

impl fmt::Display for TensorOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {:?}, {:?}", self.device, self.kind, self.format)
    }
}

impl TensorOptions {
    /// The CPU in f32, with channels last.
    pub(super) const CPU_F32: Self =
        Self { device: Device::Cpu, kind: Kind::Float, format: MemoryFormat::ChannelsLast };
}

/// A convolution as libtorch's tensors.
pub(super) struct LibtorchLayer {
    weights: Tensor,
    bias: Tensor,
    stride: [i64; 2],
    padding: [i64; 2],
    groups: i64,
}

impl LibtorchLayer {
    /// A layer for images that are dense tensors.
    pub(super) fn new(
        layer: &FoldedConvolution,
        TensorOptions { device, kind, format }: TensorOptions,
    ) -> Result<Self, TchError> {
        let side = layer.geometry.side as i64;
        let groups = layer.groups as i64;
        let shape = [layer.bias.len() as i64, layer.inputs as i64 / groups, side, side];
        let weights = Tensor::f_from_slice(&layer.weights)?.f_view(shape)?;
        let weights = if format == MemoryFormat::ChannelsLast { channels_last(&weights)? } else { weights };
        Ok(Self {
            weights: weights.f_to_device(device)?.f_to_kind(kind)?,
            bias: Tensor::f_from_slice(&layer.bias)?.f_to_device(device)?.f_to_kind(kind)?,
            stride: [layer.geometry.stride as i64; 2],
            padding: [layer.geometry.padding as i64; 2],
            groups,
        })
    }

    /// The same layer, for another thread. Both use the same memory.
    fn share(&self) -> Self {
        Self { weights: self.weights.shallow_clone(), bias: self.bias.shallow_clone(), ..*self }
    }

    /// The layer for images that are oneDNN's tensors.
    fn into_onednn(self) -> Result<Self, TchError> {
        let (stride, padding, groups) = (self.stride, self.padding, self.groups);
        let weights = self.weights.f_to_mkldnn(None::<Kind>)?;
        let weights = weights.f_mkldnn_reorder_conv2d_weight(padding, stride, [1, 1], groups, None::<&[i64]>)?;
        Ok(Self { weights, bias: self.bias.f_to_mkldnn(None::<Kind>)?, ..self })
    }
}

/// Computes layers with libtorch.
pub(super) struct LibtorchEngine(pub(super) TensorOptions);

impl Engine<LibtorchLayer> for LibtorchEngine {
    type Activations = Tensor;

    fn convolve(
        &mut self,
        layer: &LibtorchLayer,
        input: &Tensor,
        residual: Option<&Tensor>,
        nonlinearity: Nonlinearity,
    ) -> Result<Tensor, InferenceError> {
        let LibtorchLayer { weights, bias, stride, padding, groups } = layer;
        let mut output = match weights.is_mkldnn() {
            true => input.f_mkldnn_convolution(weights, Some(bias), padding, stride, [1, 1], *groups)?,
            false => input.f_conv2d(weights, Some(bias), stride, padding, [1, 1], *groups)?,
        };
        if let Some(residual) = residual {
            output = output.f_add_(residual)?;
        }
        Ok(match nonlinearity {
            Nonlinearity::Relu => output.f_relu_()?,
            Nonlinearity::None => output,
        })
    }

    fn max_pool(&mut self, input: &Tensor) -> Result<Tensor, InferenceError> {
        Ok(match self.0.format {
            MemoryFormat::WeightsAsStored | MemoryFormat::ChannelsLast => {
                input.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?
            }
            MemoryFormat::OneDnn => input.f_mkldnn_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?,
        })
    }

    fn average_pool(&mut self, input: &Tensor) -> Result<Tensor, InferenceError> {
        let dense = match self.0.format {
            MemoryFormat::WeightsAsStored | MemoryFormat::ChannelsLast => input.shallow_clone(),
            MemoryFormat::OneDnn => input.f_internal_to_dense(Kind::Float, false)?,
        };
        Ok(dense.f_adaptive_avg_pool2d([1, 1])?)
    }
}

/// A residual network in libtorch's memory.
pub(super) struct LibtorchModel {
    network: Network<LibtorchLayer>,
    options: TensorOptions,
    side: usize,
}

impl LibtorchModel {
    /// A model for images of `side` by `side` pixels.
    ///
    /// # Errors
    /// If libtorch fails, for example because the device has too little memory.
    pub(super) fn new(
        network: &Network<FoldedConvolution>,
        options: TensorOptions,
        side: usize,
    ) -> Result<Self, InferenceError> {
        let mut layers = network.each_ref().try_map(|layer| match options.format {
            MemoryFormat::WeightsAsStored | MemoryFormat::ChannelsLast => LibtorchLayer::new(layer, options),
            MemoryFormat::OneDnn => LibtorchLayer::new(layer, options)?.into_onednn(),
        })?;
        // The input of the head is a dense tensor in every format; see `average_pool`.
        layers.head = LibtorchLayer::new(&network.head, options)?;
        Ok(Self { network: layers, options, side })
    }

    /// The same model, for another thread. Both use the same memory for their weights.
    pub(super) fn share(&self) -> Self {
        let Self { ref network, options, side } = *self;
        Self { network: network.each_ref().map(LibtorchLayer::share), options, side }
    }

    /// The device, precision and memory format of the model.
    pub(super) fn options(&self) -> TensorOptions {
        self.options
    }

    /// The logits, and the mean of each channel before the last layer.
    fn forward(&self, images: &[Input]) -> Result<(Tensor, Tensor), InferenceError> {
        let TensorOptions { device, kind, format } = self.options;
        let input = input(images, self.side, device, kind)?;
        let input = match format {
            MemoryFormat::WeightsAsStored | MemoryFormat::ChannelsLast => input,
            MemoryFormat::OneDnn => input.f_contiguous()?.f_to_mkldnn(None::<Kind>)?,
        };
        let mut engine = LibtorchEngine(self.options);
        let activations = self.network.forward_to_block(&mut engine, &input, 0)?;
        self.network.forward_with_means(&mut engine, activations, 0)
    }
}

impl Model for LibtorchModel {
    fn logits(&mut self, images: &[Input]) -> Result<Vec<Vec<f32>>, InferenceError> {
        no_grad(|| rows(&self.forward(images)?.0, images.len()))
    }

    fn logits_and_embeddings(&mut self, images: &[Input]) -> Result<Vec<Outputs>, InferenceError> {
        no_grad(|| {
            let (logits, means) = self.forward(images)?;
            Ok(rows(&logits, images.len())?.into_iter().zip(rows(&means, images.len())?).collect())
        })
    }
}

/// The images as a tensor `[n, 3, side, side]` on a device, with channels innermost in memory.
pub(super) fn input(images: &[Input], side: usize, device: Device, kind: Kind) -> Result<Tensor, TchError> {
    let numbers = match images {
        [one] => Tensor::f_from_slice(one)?,
        several => Tensor::f_from_slice(&several.concat())?,
    };
    // With channels innermost, images have libtorch's format channels_last. The permutation is a view, not a copy.
    let (side, channels) = (side as i64, CHANNELS as i64);
    let input = numbers.f_view([images.len() as i64, side, side, channels])?.f_permute([0, 3, 1, 2])?;
    match device {
        Device::Cpu => input.f_to_kind(kind),
        // The device copies from pinned memory without blocking this thread.
        _ => input.f_pin_memory(device)?.f_to_device_(device, kind, true, false),
    }
}

/// The logits of `count` images as rows of f32. Waits until the device has computed them.
pub(super) fn rows(logits: &Tensor, count: usize) -> Result<Vec<Vec<f32>>, InferenceError> {
    let classes = logits.numel() / count.max(1);
    let logits = logits.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
    let mut flat = vec![0.0; count * classes];
    logits.f_copy_data(&mut flat, count * classes)?;
    Ok(flat.chunks_exact(classes.max(1)).map(<[f32]>::to_vec).collect())
}

/// The same tensor with channels innermost in memory, the fastest order for convolutions on the CPU.
fn channels_last(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use convolution::Geometry;

    #[test]
    fn shared_models_compute_the_same_with_the_same_memory() {
        let layer = |inputs: usize, outputs: usize, side: usize, stride: usize| FoldedConvolution {
            weights: (0..outputs * inputs * side * side).map(|index| (index % 7) as f32 - 3.0).collect(),
            bias: vec![0.5; outputs],
            inputs,
            groups: 1,
            geometry: Geometry { side, stride, padding: side / 2 },
        };
        let network = Network { stem: layer(CHANNELS, 4, 7, 2), blocks: Vec::new(), head: layer(4, 2, 1, 1) };
        for format in [MemoryFormat::ChannelsLast, MemoryFormat::OneDnn] {
            let options = TensorOptions { format, ..TensorOptions::CPU_F32 };
            let mut model = LibtorchModel::new(&network, options, 8).expect("libtorch has memory");
            let mut shared = model.share();
            // The head is a dense tensor in every format. oneDNN's tensors have no address.
            assert_eq!(model.network.head.weights.data_ptr(), shared.network.head.weights.data_ptr());
            let image = vec![vec![0.25; CHANNELS * 64]];
            let expected = model.logits(&image).expect("libtorch computes");
            let found = std::thread::spawn(move || shared.logits(&image).expect("libtorch computes"));
            assert_eq!(found.join().expect("the thread has no error"), expected, "{format:?}");
        }
    }
}
