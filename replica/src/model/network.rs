//! The connections between the layers of a residual network. Knows nothing of how a layer is computed.

use super::InferenceError;
use convolution::Nonlinearity;
use std::convert::Infallible;

/// A residual network of layers `L` (He et al. 2015, arXiv:1512.03385). Every layer is a convolution; its batch
/// normalisation is folded into it.
#[derive(Debug)]
pub(super) struct Network<L> {
    /// The first convolution: 7×7 with stride 2. A max pooling follows.
    pub(super) stem: L,
    pub(super) blocks: Vec<ResidualBlock<L>>,
    /// The last layer, a 1×1 convolution from the mean of each channel to the logits.
    pub(super) head: L,
}

/// A residual block: layers one after the other. The input of the block is added to the output of the last layer.
#[derive(Debug)]
pub(super) struct ResidualBlock<L> {
    /// All layers but the last.
    pub(super) first: Vec<L>,
    pub(super) last: L,
    /// A 1×1 convolution of the block's input before the addition. Only a block whose output has another shape than its
    /// input has one.
    pub(super) shortcut: Option<L>,
}

/// Computes layers of kind `L`.
pub(super) trait Engine<L> {
    /// The activations of a batch of images between two layers, in the engine's own memory format.
    type Activations;

    /// Convolves `input`, adds `residual` if there is one, and then applies the nonlinearity.
    fn convolve(
        &mut self,
        layer: &L,
        input: &Self::Activations,
        residual: Option<&Self::Activations>,
        nonlinearity: Nonlinearity,
    ) -> Result<Self::Activations, InferenceError>;

    /// Max pooling with 3×3 windows, stride 2 and padding 1.
    fn max_pool(&mut self, input: &Self::Activations) -> Result<Self::Activations, InferenceError>;

    /// Convolves `input`, applies ReLU and then [`Self::max_pool`]. An engine that pools rows while they are in a near
    /// cache has a version of its own.
    fn convolve_and_pool(&mut self, layer: &L, input: &Self::Activations) -> Result<Self::Activations, InferenceError> {
        let convolved = self.convolve(layer, input, None, Nonlinearity::Relu)?;
        let pooled = self.max_pool(&convolved)?;
        self.release(convolved);
        Ok(pooled)
    }

    /// Global average pooling: the mean of all pixels of each channel, as images of one pixel.
    fn average_pool(&mut self, input: &Self::Activations) -> Result<Self::Activations, InferenceError>;

    /// Takes back the memory of activations that are no longer needed.
    fn release(&mut self, _activations: Self::Activations) {}
}

impl<L> Network<L> {
    /// Computes the logits of normalised images: for each image, one pixel with a channel for each class.
    pub(super) fn forward<E: Engine<L>>(
        &self,
        engine: &mut E,
        images: &E::Activations,
    ) -> Result<E::Activations, InferenceError> {
        let activations = self.forward_to_block(engine, images, 0)?;
        self.forward_from_block(engine, activations, 0)
    }

    /// Computes the input of block `block` from normalised images.
    pub(super) fn forward_to_block<E: Engine<L>>(
        &self,
        engine: &mut E,
        images: &E::Activations,
        block: usize,
    ) -> Result<E::Activations, InferenceError> {
        let pooled = engine.convolve_and_pool(&self.stem, images)?;
        forward_blocks(engine, &self.blocks[..block], pooled)
    }

    /// Computes the logits from the input of block `block`.
    pub(super) fn forward_from_block<E: Engine<L>>(
        &self,
        engine: &mut E,
        input: E::Activations,
        block: usize,
    ) -> Result<E::Activations, InferenceError> {
        let (logits, means) = self.forward_with_means(engine, input, block)?;
        engine.release(means);
        Ok(logits)
    }

    /// Computes the logits, and the mean of each channel before the last layer, from the input of block `block`.
    pub(super) fn forward_with_means<E: Engine<L>>(
        &self,
        engine: &mut E,
        input: E::Activations,
        block: usize,
    ) -> Result<(E::Activations, E::Activations), InferenceError> {
        let activations = forward_blocks(engine, &self.blocks[block..], input)?;
        let means = engine.average_pool(&activations)?;
        engine.release(activations);
        let logits = engine.convolve(&self.head, &means, None, Nonlinearity::None)?;
        Ok((logits, means))
    }

    /// The indices of the blocks that begin a stage, without the first block of the network.
    pub(super) fn stage_starts(&self) -> impl Iterator<Item = usize> {
        self.blocks.iter().enumerate().skip(1).filter(|(_, block)| block.shortcut.is_some()).map(|(number, _)| number)
    }

    /// All layers.
    pub(super) fn layers(&self) -> impl Iterator<Item = &L> {
        let of_blocks =
            self.blocks.iter().flat_map(|block| block.first.iter().chain([&block.last]).chain(&block.shortcut));
        [&self.stem].into_iter().chain(of_blocks).chain([&self.head])
    }

    /// The same network with references to its layers.
    pub(super) fn each_ref(&self) -> Network<&L> {
        Network {
            stem: &self.stem,
            blocks: self.blocks.iter().map(ResidualBlock::each_ref).collect(),
            head: &self.head,
        }
    }

    /// The network with every layer converted.
    pub(super) fn map<M>(self, mut convert: impl FnMut(L) -> M) -> Network<M> {
        let Ok(network) = self.try_map(|layer| Ok::<_, Infallible>(convert(layer)));
        network
    }

    /// The network with every layer converted.
    ///
    /// # Errors
    /// If `convert` fails for a layer: the first error.
    pub(super) fn try_map<M, F>(self, mut convert: impl FnMut(L) -> Result<M, F>) -> Result<Network<M>, F> {
        Ok(Network {
            stem: convert(self.stem)?,
            blocks: self.blocks.into_iter().map(|block| block.try_map(&mut convert)).collect::<Result<_, F>>()?,
            head: convert(self.head)?,
        })
    }
}

impl<L> ResidualBlock<L> {
    fn forward<E: Engine<L>>(&self, engine: &mut E, input: &E::Activations) -> Result<E::Activations, InferenceError> {
        let mut inner: Option<E::Activations> = None;
        for layer in &self.first {
            let output = engine.convolve(layer, inner.as_ref().unwrap_or(input), None, Nonlinearity::Relu)?;
            if let Some(previous) = inner.replace(output) {
                engine.release(previous);
            }
        }
        let shortcut = match &self.shortcut {
            Some(layer) => Some(engine.convolve(layer, input, None, Nonlinearity::None)?),
            None => None,
        };
        let residual = shortcut.as_ref().unwrap_or(input);
        let last_input = inner.as_ref().unwrap_or(input);
        let output = engine.convolve(&self.last, last_input, Some(residual), Nonlinearity::Relu)?;
        for unused in inner.into_iter().chain(shortcut) {
            engine.release(unused);
        }
        Ok(output)
    }

    fn each_ref(&self) -> ResidualBlock<&L> {
        ResidualBlock { first: self.first.iter().collect(), last: &self.last, shortcut: self.shortcut.as_ref() }
    }

    fn try_map<M, F>(self, convert: &mut impl FnMut(L) -> Result<M, F>) -> Result<ResidualBlock<M>, F> {
        Ok(ResidualBlock {
            first: self.first.into_iter().map(&mut *convert).collect::<Result<_, F>>()?,
            last: convert(self.last)?,
            shortcut: self.shortcut.map(convert).transpose()?,
        })
    }
}

/// Computes blocks one after the other.
fn forward_blocks<L, E: Engine<L>>(
    engine: &mut E,
    blocks: &[ResidualBlock<L>],
    mut activations: E::Activations,
) -> Result<E::Activations, InferenceError> {
    for block in blocks {
        let output = block.forward(engine, &activations)?;
        engine.release(std::mem::replace(&mut activations, output));
    }
    Ok(activations)
}
