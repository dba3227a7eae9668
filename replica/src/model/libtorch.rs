//! Residual networks by libtorch: on any device, in any precision, and what the others are compared with.

use super::folded::Folded;
use super::network::{Engine, Network};
use super::{CHANNELS, Failure, Input, Model};
use tch::{Device, Kind, TchError, Tensor, no_grad};

/// How pictures lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Pictures with channels innermost, weights as they are stored: quick to load, slow to run.
    Stored,
    /// Channels innermost in both.
    ChannelsLast,
    /// In blocks of channels, as oneDNN likes it.
    OneDnn,
}

/// Where and in what precision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    pub(super) device: Device,
    pub(super) kind: Kind,
    pub(super) layout: Layout,
}

impl Place {
    /// The processor, in single precision.
    pub(super) const PLAIN: Self = Self { device: Device::Cpu, kind: Kind::Float, layout: Layout::ChannelsLast };
}

/// A convolution.
struct Layer {
    weights: Tensor,
    bias: Tensor,
    stride: [i64; 2],
    padding: [i64; 2],
}

impl Layer {
    fn new(layer: &Folded, Place { device, kind, layout }: Place) -> Result<Self, TchError> {
        let side = layer.geometry.side as i64;
        let shape = [layer.bias.len() as i64, layer.inputs as i64, side, side];
        let weights = Tensor::f_from_slice(&layer.weights)?.f_view(shape)?;
        let weights = if layout == Layout::ChannelsLast { channels_last(&weights)? } else { weights };
        Ok(Self {
            weights: weights.f_to_device(device)?.f_to_kind(kind)?,
            bias: Tensor::f_from_slice(&layer.bias)?.f_to_device(device)?.f_to_kind(kind)?,
            stride: [layer.geometry.stride as i64; 2],
            padding: [layer.geometry.padding as i64; 2],
        })
    }

    /// With weights in oneDNN's order.
    fn reordered(self) -> Result<Self, TchError> {
        let (stride, padding) = (self.stride, self.padding);
        let weights = self.weights.f_to_mkldnn(None::<Kind>)?;
        let weights = weights.f_mkldnn_reorder_conv2d_weight(padding, stride, [1, 1], 1, None::<&[i64]>)?;
        Ok(Self { weights, bias: self.bias.f_to_mkldnn(None::<Kind>)?, ..self })
    }
}

/// Computes layers; it has no state of its own.
struct Libtorch(Place);

impl Engine<Layer> for Libtorch {
    type Maps = Tensor;

    fn convolve(
        &mut self,
        layer: &Layer,
        maps: &Tensor,
        residual: Option<&Tensor>,
        rectify: bool,
    ) -> Result<Tensor, Failure> {
        let Layer { weights, bias, stride, padding } = layer;
        let mut out = match weights.is_mkldnn() {
            true => maps.f_mkldnn_convolution(weights, Some(bias), padding, stride, [1, 1], 1)?,
            false => maps.f_conv2d(weights, Some(bias), stride, padding, [1, 1], 1)?,
        };
        if let Some(residual) = residual {
            out = out.f_add_(residual)?;
        }
        Ok(if rectify { out.f_relu_()? } else { out })
    }

    fn max_pool(&mut self, maps: &Tensor) -> Result<Tensor, Failure> {
        Ok(match self.0.layout {
            Layout::Stored | Layout::ChannelsLast => maps.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?,
            Layout::OneDnn => maps.f_mkldnn_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?,
        })
    }

    fn average_pool(&mut self, maps: &Tensor) -> Result<Tensor, Failure> {
        let dense = match self.0.layout {
            Layout::Stored | Layout::ChannelsLast => maps.shallow_clone(),
            Layout::OneDnn => maps.f_internal_to_dense(Kind::Float, false)?,
        };
        Ok(dense.f_adaptive_avg_pool2d([1, 1])?)
    }
}

/// A network in libtorch's memory.
pub(super) struct LibtorchModel {
    network: Network<Layer>,
    place: Place,
    side: usize,
}

impl LibtorchModel {
    /// For pictures of `side` by `side` pixels.
    ///
    /// # Errors
    /// When libtorch refuses, for want of memory on the device for instance.
    pub(super) fn new(network: &Network<Folded>, place: Place, side: usize) -> Result<Self, Failure> {
        let layer = |layer: &Folded| match place.layout {
            Layout::Stored | Layout::ChannelsLast => Layer::new(layer, place),
            Layout::OneDnn => Layer::new(layer, place)?.reordered(),
        };
        let mut layers = network.map(layer)?;
        // What it is given is dense again.
        layers.head = Layer::new(&network.head, place)?;
        Ok(Self { network: layers, place, side })
    }
}

impl Model for LibtorchModel {
    fn logits(&mut self, pictures: &[Input]) -> Result<Vec<Vec<f32>>, Failure> {
        let Place { device, kind, layout } = self.place;
        no_grad(|| {
            let input = input(pictures, self.side, device, kind)?;
            let input = match layout {
                Layout::Stored | Layout::ChannelsLast => input,
                Layout::OneDnn => input.f_contiguous()?.f_to_mkldnn(None::<Kind>)?,
            };
            let logits = self.network.forward(&mut Libtorch(self.place), &input)?;
            rows(&logits, pictures.len())
        })
    }
}

/// Pictures on a device: `[n, 3, side, side]`, channels innermost in memory.
pub(super) fn input(pictures: &[Input], side: usize, device: Device, kind: Kind) -> Result<Tensor, TchError> {
    let numbers = match pictures {
        [one] => Tensor::f_from_slice(one)?,
        several => Tensor::f_from_slice(&several.concat())?,
    };
    // Interleaved channels are what libtorch calls channels_last: a view, no copy.
    let (side, channels) = (side as i64, CHANNELS as i64);
    let input = numbers.f_view([pictures.len() as i64, side, side, channels])?.f_permute([0, 3, 1, 2])?;
    match device {
        Device::Cpu => input.f_to_kind(kind),
        // From pinned memory the device copies by itself, while the processor goes on.
        _ => input.f_pin_memory(device)?.f_to_device_(device, kind, true, false),
    }
}

/// A row of numbers for each of `count` pictures; waits for the device.
pub(super) fn rows(logits: &Tensor, count: usize) -> Result<Vec<Vec<f32>>, Failure> {
    let classes = logits.numel() / count.max(1);
    let logits = logits.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
    let mut flat = vec![0.0; count * classes];
    logits.f_copy_data(&mut flat, count * classes)?;
    Ok(flat.chunks_exact(classes.max(1)).map(<[f32]>::to_vec).collect())
}

/// The same numbers with channels innermost in memory, which the CPU's convolutions like best.
fn channels_last(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])
}
