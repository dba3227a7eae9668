//! Residual networks on this project's own convolutions, in which bias, residual addition and ReLU are fused. libtorch
//! computes nothing here.

use super::folded::FoldedConvolution;
use super::network::{Engine, Network};
use super::thread_team::ThreadTeam;
use super::{CHANNELS, InferenceError, Input, Model, Outputs};
use convolution::amx::{self, AmxFilter, TileUnit};
use convolution::direct::{self, DirectFilter};
use convolution::winograd::{self, TileSize, WinogradFilter};
use convolution::{BatchShape, Epilogue, Executor, Geometry, Instructions, Nonlinearity, pool};
use std::sync::Arc;

/// An algorithm for a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// The definition of a convolution, computed with vector instructions.
    Direct,
    /// Winograd's minimal filtering with tiles of the given size.
    Winograd(TileSize),
    /// Winograd's minimal filtering of the phases of an image, for a stride of 2.
    StridedWinograd,
    /// The definition of a convolution, computed on the matrix unit (AMX).
    Amx,
}

/// Whether the matrix unit of the processor may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MatrixUnit {
    /// The unit is available, and its slightly different results are accepted.
    Use,
    /// Only vectors of f32 may be used.
    Avoid,
}

impl Algorithm {
    /// The algorithms that are worth measuring for a layer: one or two. The first is the default, which is used unless
    /// the second is clearly faster.
    ///
    /// Larger tiles need fewer multiplications and more weights. If a batch is one image and the layer has many
    /// weights, reading more weights takes longer than the multiplications that larger tiles save. Such a layer with a
    /// stride of 2 is direct: Winograd's filtering would take about as long, and nearly three times the memory.
    pub(super) fn candidates(layer: &FoldedConvolution, max_batch: usize, matrix_unit: MatrixUnit) -> &'static [Self] {
        /// A layer with more transformed weights for 4×4 tiles than this number (16 MiB) uses 2×2 tiles if a batch is
        /// one image.
        const MOST_WEIGHTS_FOR_ONE_IMAGE: usize = 4 << 20;
        let is_long = 36 * layer.inputs * layer.bias.len() > MOST_WEIGHTS_FOR_ONE_IMAGE;
        let fits_winograd = layer.geometry == Geometry { side: 3, stride: 1, padding: 1 };
        let fits_strided = WinogradFilter::has_strided(layer.geometry) && !(is_long && max_batch == 1);
        match (fits_winograd, is_long && max_batch == 1, matrix_unit) {
            (true, true, MatrixUnit::Use) => &[Self::Winograd(TileSize::Two), Self::Amx],
            (true, false, MatrixUnit::Use) => &[Self::Winograd(TileSize::Four), Self::Amx],
            (false, _, MatrixUnit::Use) if fits_strided => &[Self::StridedWinograd, Self::Amx],
            (false, _, MatrixUnit::Use) => &[Self::Direct, Self::Amx],
            (true, true, MatrixUnit::Avoid) => &[Self::Winograd(TileSize::Two)],
            (true, false, MatrixUnit::Avoid) if is_long => {
                &[Self::Winograd(TileSize::Two), Self::Winograd(TileSize::Four)]
            }
            (true, false, MatrixUnit::Avoid) => &[Self::Winograd(TileSize::Four), Self::Winograd(TileSize::Two)],
            (false, _, MatrixUnit::Avoid) if fits_strided => &[Self::StridedWinograd],
            (false, _, MatrixUnit::Avoid) => &[Self::Direct],
        }
    }
}

/// The weights of a convolution in the order that its algorithm needs.
pub(super) enum PackedFilter {
    Direct(DirectFilter),
    Winograd(WinogradFilter),
    Amx(AmxFilter),
}

impl PackedFilter {
    /// Packs the weights of a layer, which must have one group.
    pub(super) fn new(layer: &FoldedConvolution, algorithm: Algorithm, instructions: Instructions) -> Self {
        let FoldedConvolution { weights, bias, inputs, geometry, .. } = layer;
        match algorithm {
            Algorithm::Direct => Self::Direct(DirectFilter::new(weights, bias, *inputs, *geometry, instructions)),
            Algorithm::Winograd(tile) => {
                Self::Winograd(WinogradFilter::new(weights, bias, *inputs, tile, instructions))
            }
            Algorithm::StridedWinograd => {
                Self::Winograd(WinogradFilter::strided(weights, bias, *inputs, *geometry, instructions))
            }
            Algorithm::Amx => Self::Amx(AmxFilter::new(weights, bias, *inputs, *geometry, TileUnit::Amx)),
        }
    }

    /// Channels and shape of the output for an input of `shape`.
    fn output(&self, shape: BatchShape) -> (usize, BatchShape) {
        match self {
            Self::Direct(filter) => (filter.outputs(), filter.geometry().output(shape)),
            Self::Winograd(filter) => (filter.outputs(), filter.geometry().output(shape)),
            Self::Amx(filter) => (filter.outputs(), filter.geometry().output(shape)),
        }
    }
}

/// A convolution, with the filter of the algorithm that is fastest for each number of images.
pub(super) enum Layer {
    /// One filter for any number of images.
    Fixed(PackedFilter),
    /// The filter `few` for fewer than `threshold` images, and `many` for `threshold` images or more.
    Switching { few: PackedFilter, threshold: usize, many: PackedFilter },
}

impl Layer {
    /// Whether the matrix unit computes the layer, for any number of images.
    fn uses_amx(&self) -> bool {
        let is_amx = |filter: &PackedFilter| matches!(filter, PackedFilter::Amx(_));
        match self {
            Self::Fixed(filter) => is_amx(filter),
            Self::Switching { few, many, .. } => is_amx(few) || is_amx(many),
        }
    }

    /// The filter for a batch of `images` images.
    fn filter(&self, images: usize) -> &PackedFilter {
        match self {
            Self::Fixed(filter) => filter,
            Self::Switching { threshold, many, .. } if images >= *threshold => many,
            Self::Switching { few, .. } => few,
        }
    }
}

/// The activations of a batch: `[images, height, width, channels]`.
pub(super) struct Activations {
    /// Memory that begins with the activations. The numbers after them are left from an earlier use of the memory.
    storage: Vec<f32>,
    shape: BatchShape,
    channels: usize,
}

#[cfg(test)]
impl FusedEngine {
    /// Activations of square images with the given numbers.
    pub(super) fn activations(&mut self, images: usize, side: usize, channels: usize, numbers: &[f32]) -> Activations {
        let mut activations = self.allocate(BatchShape { images, height: side, width: side }, channels);
        activations.numbers_mut().copy_from_slice(numbers);
        activations
    }
}

impl Activations {
    #[cfg(test)]
    pub(super) fn into_numbers(self) -> Vec<f32> {
        self.numbers().to_vec()
    }

    fn numbers(&self) -> &[f32] {
        &self.storage[..self.shape.pixels() * self.channels]
    }

    /// The numbers of each pixel: for images of one pixel, those of each image.
    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.numbers().chunks_exact(self.channels)
    }

    fn numbers_mut(&mut self) -> &mut [f32] {
        &mut self.storage[..self.shape.pixels() * self.channels]
    }
}

/// Computes layers with a team of threads, and keeps the memory of released activations.
pub(super) struct FusedEngine {
    team: ThreadTeam,
    pub(super) instructions: Instructions,
    /// Memory of released activations, for later activations. Mapping new memory would take about as long as a pooling.
    free: Vec<Vec<f32>>,
}

impl FusedEngine {
    /// An engine with a team of `threads` threads.
    ///
    /// # Errors
    /// If the operating system refuses a thread.
    pub(super) fn new(threads: usize) -> Result<Self, InferenceError> {
        Ok(Self { team: ThreadTeam::new(threads)?, instructions: Instructions::best(), free: Vec::new() })
    }

    /// Number of threads of the team.
    pub(super) fn threads(&self) -> usize {
        self.team.parts()
    }

    /// Copies images of `side` by `side` pixels into one batch.
    pub(super) fn batch(&mut self, images: &[Input], side: usize) -> Activations {
        let mut batch = self.allocate(BatchShape { images: images.len(), height: side, width: side }, CHANNELS);
        let copies = batch.numbers_mut().chunks_exact_mut(CHANNELS * side * side);
        copies.zip(images).for_each(|(to, image)| to.copy_from_slice(image));
        batch
    }

    /// Joins batches that differ only in their number of images to one batch.
    fn concatenate(&mut self, mut parts: Vec<Activations>) -> Activations {
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let images = parts.iter().map(|part| part.shape.images).sum();
        let (shape, channels) = parts
            .first()
            .map_or((BatchShape { images: 0, height: 0, width: 0 }, 0), |part| (part.shape, part.channels));
        let mut whole = self.allocate(BatchShape { images, ..shape }, channels);
        let mut filled = 0;
        for part in parts {
            let numbers = part.numbers();
            whole.numbers_mut()[filled..filled + numbers.len()].copy_from_slice(numbers);
            filled += numbers.len();
            self.release(part);
        }
        whole
    }

    /// Convolves `input` with a given filter.
    pub(super) fn convolve_with(
        &mut self,
        filter: &PackedFilter,
        input: &Activations,
        residual: Option<&Activations>,
        nonlinearity: Nonlinearity,
    ) -> Activations {
        let (channels, shape) = filter.output(input.shape);
        let mut output = self.allocate(shape, channels);
        let epilogue = Epilogue { residual: residual.map(Activations::numbers), nonlinearity };
        let (from, shape, to, team) = (input.numbers(), input.shape, output.numbers_mut(), &self.team);
        match filter {
            PackedFilter::Direct(filter) => direct::convolve(from, shape, filter, epilogue, to, team),
            PackedFilter::Winograd(filter) => winograd::convolve(from, shape, filter, epilogue, to, team),
            PackedFilter::Amx(filter) => amx::convolve(from, shape, filter, epilogue, to, team),
        }
        output
    }

    /// Convolves `input` with a given filter, applies ReLU and then max pooling.
    pub(super) fn convolve_and_pool_with(
        &mut self,
        filter: &PackedFilter,
        input: &Activations,
    ) -> Result<Activations, InferenceError> {
        let PackedFilter::Winograd(winograd) = filter else {
            let convolved = self.convolve_with(filter, input, None, Nonlinearity::Relu);
            let pooled = self.max_pool(&convolved)?;
            self.release(convolved);
            return Ok(pooled);
        };
        let (channels, shape) = filter.output(input.shape);
        let mut pooled = self.allocate(pool::max_output(shape), channels);
        let (from, to) = (input.numbers(), pooled.numbers_mut());
        winograd::convolve_and_pool(from, input.shape, winograd, Nonlinearity::Relu, to, &self.team);
        Ok(pooled)
    }

    /// Activations with arbitrary numbers, in released memory if there is some.
    fn allocate(&mut self, shape: BatchShape, channels: usize) -> Activations {
        let length = shape.pixels() * channels;
        // The shortest memory that is long enough. If none is, the longest: only the numbers that are appended to it
        // must be filled.
        let best = self.free.iter().enumerate().min_by_key(|(_, free)| match free.len() {
            enough if enough >= length => (0, enough),
            short => (1, usize::MAX - short),
        });
        let best = best.map(|(index, _)| index);
        let mut storage = best.map(|index| self.free.swap_remove(index)).unwrap_or_default();
        if storage.len() < length {
            storage.resize(length, 0.0);
        }
        Activations { storage, shape, channels }
    }
}

impl Engine<Layer> for FusedEngine {
    type Activations = Activations;

    fn convolve(
        &mut self,
        layer: &Layer,
        input: &Activations,
        residual: Option<&Activations>,
        nonlinearity: Nonlinearity,
    ) -> Result<Activations, InferenceError> {
        Ok(self.convolve_with(layer.filter(input.shape.images), input, residual, nonlinearity))
    }

    fn max_pool(&mut self, input: &Activations) -> Result<Activations, InferenceError> {
        let mut output = self.allocate(pool::max_output(input.shape), input.channels);
        pool::max(input.numbers(), input.shape, input.channels, output.numbers_mut(), self.instructions);
        Ok(output)
    }

    fn convolve_and_pool(&mut self, layer: &Layer, input: &Activations) -> Result<Activations, InferenceError> {
        self.convolve_and_pool_with(layer.filter(input.shape.images), input)
    }

    fn average_pool(&mut self, input: &Activations) -> Result<Activations, InferenceError> {
        let mut output = self.allocate(BatchShape { height: 1, width: 1, ..input.shape }, input.channels);
        pool::average(input.numbers(), input.shape, input.channels, output.numbers_mut());
        Ok(output)
    }

    fn release(&mut self, activations: Activations) {
        self.free.push(activations.storage);
    }
}

/// A network with the algorithms of its layers, and the first block that all images of a batch pass together.
pub(super) struct NetworkPlan {
    pub(super) network: Network<Layer>,
    /// The index of the first block that all images of a batch pass together; 0 if they are together from the stem on.
    /// Each image passes the blocks before this one by itself, because there the activations of one image fill the near
    /// caches. In later blocks the weights fill them, and reading the weights once for all images is faster.
    pub(super) batched_from: usize,
}

impl NetworkPlan {
    /// A description of the instructions that compute the network, for logs.
    pub(super) fn units(&self) -> String {
        let instructions = Instructions::best();
        let layers = self.network.layers().count();
        match self.network.layers().filter(|layer| layer.uses_amx()).count() {
            0 => format!("{instructions:?}"),
            by_amx => format!("{instructions:?}, and Amx in {by_amx} of {layers} layers"),
        }
    }

    /// The logits of images of `side` by `side` pixels.
    pub(super) fn forward(
        &self,
        engine: &mut FusedEngine,
        images: &[Input],
        side: usize,
    ) -> Result<Activations, InferenceError> {
        let (logits, means) = self.forward_with_means(engine, images, side)?;
        engine.release(means);
        Ok(logits)
    }

    /// The logits, and the mean of each channel before the last layer, of images of `side` by `side` pixels.
    fn forward_with_means(
        &self,
        engine: &mut FusedEngine,
        images: &[Input],
        side: usize,
    ) -> Result<(Activations, Activations), InferenceError> {
        let at_once = if self.batched_from == 0 { images.len() } else { 1 };
        let mut parts = Vec::new();
        for images in images.chunks(at_once) {
            let batch = engine.batch(images, side);
            parts.push(self.network.forward_to_block(engine, &batch, self.batched_from)?);
            engine.release(batch);
        }
        let activations = engine.concatenate(parts);
        self.network.forward_with_means(engine, activations, self.batched_from)
    }
}

/// A plan, and the engine that carries it out for one worker.
pub(super) struct FusedModel {
    plan: Arc<NetworkPlan>,
    engine: FusedEngine,
    side: usize,
}

impl FusedModel {
    /// A model for images of `side` by `side` pixels, with a team of `threads` threads.
    ///
    /// # Errors
    /// If the operating system refuses a thread.
    pub(super) fn new(plan: Arc<NetworkPlan>, side: usize, threads: usize) -> Result<Self, InferenceError> {
        Ok(Self { plan, engine: FusedEngine::new(threads)?, side })
    }
}

impl Model for FusedModel {
    fn logits(&mut self, images: &[Input]) -> Result<Vec<Vec<f32>>, InferenceError> {
        let logits = self.plan.forward(&mut self.engine, images, self.side)?;
        let rows = logits.rows().map(<[f32]>::to_vec).collect();
        self.engine.release(logits);
        Ok(rows)
    }

    fn logits_and_embeddings(&mut self, images: &[Input]) -> Result<Vec<Outputs>, InferenceError> {
        let (logits, means) = self.plan.forward_with_means(&mut self.engine, images, self.side)?;
        let outputs =
            logits.rows().zip(means.rows()).map(|(logits, means)| (logits.to_vec(), means.to_vec())).collect();
        self.engine.release(logits);
        self.engine.release(means);
        Ok(outputs)
    }
}
