//! How a residual network's layers are connected, whatever computes them.

use super::Failure;

/// A residual network of layers `L`.
#[derive(Debug)]
pub(super) struct Network<L> {
    /// 7×7, every second pixel; a max-pooling follows.
    pub(super) stem: L,
    pub(super) blocks: Vec<Block<L>>,
    /// From mean channels to classes.
    pub(super) head: L,
}

/// Layers one after the other, around which what came in is carried to be added at the end.
#[derive(Debug)]
pub(super) struct Block<L> {
    /// All but the last.
    pub(super) first: Vec<L>,
    pub(super) last: L,
    /// Present where the block changes the shape of what passes through it.
    pub(super) shortcut: Option<L>,
}

/// Computes layers.
pub(super) trait Engine<L> {
    /// Channels of pictures, in whatever form suits the engine.
    type Maps;

    /// A convolution, with `residual` added to it, and negative numbers made zero if `rectify`.
    fn convolve(
        &mut self,
        layer: &L,
        maps: &Self::Maps,
        residual: Option<&Self::Maps>,
        rectify: bool,
    ) -> Result<Self::Maps, Failure>;

    /// The largest of 3×3, at every second pixel.
    fn max_pool(&mut self, maps: &Self::Maps) -> Result<Self::Maps, Failure>;

    /// The mean of all pixels.
    fn average_pool(&mut self, maps: &Self::Maps) -> Result<Self::Maps, Failure>;

    /// Takes back what is not needed any more.
    fn release(&mut self, _maps: Self::Maps) {}
}

impl<L> Network<L> {
    /// Normalised pictures → maps of one pixel, whose channels are the logits.
    pub(super) fn forward<E: Engine<L>>(&self, engine: &mut E, pictures: &E::Maps) -> Result<E::Maps, Failure> {
        let maps = self.front(engine, pictures, 0)?;
        self.back(engine, maps, 0)
    }

    /// Normalised pictures → what enters the block of that number.
    pub(super) fn front<E: Engine<L>>(
        &self,
        engine: &mut E,
        pictures: &E::Maps,
        blocks: usize,
    ) -> Result<E::Maps, Failure> {
        let stem = engine.convolve(&self.stem, pictures, None, true)?;
        let maps = engine.max_pool(&stem)?;
        engine.release(stem);
        pass(engine, &self.blocks[..blocks], maps)
    }

    /// What enters the block of that number → logits.
    pub(super) fn back<E: Engine<L>>(&self, engine: &mut E, maps: E::Maps, blocks: usize) -> Result<E::Maps, Failure> {
        let maps = pass(engine, &self.blocks[blocks..], maps)?;
        let means = engine.average_pool(&maps)?;
        engine.release(maps);
        let logits = engine.convolve(&self.head, &means, None, false)?;
        engine.release(means);
        Ok(logits)
    }

    /// Numbers of the blocks that a stage begins with, other than the first.
    pub(super) fn stages(&self) -> impl Iterator<Item = usize> {
        self.blocks.iter().enumerate().skip(1).filter(|(_, block)| block.shortcut.is_some()).map(|(number, _)| number)
    }

    /// The same network of other layers.
    pub(super) fn map<M, F>(&self, mut layer: impl FnMut(&L) -> Result<M, F>) -> Result<Network<M>, F> {
        Ok(Network {
            stem: layer(&self.stem)?,
            blocks: self.blocks.iter().map(|block| block.map(&mut layer)).collect::<Result<_, F>>()?,
            head: layer(&self.head)?,
        })
    }
}

fn pass<L, E: Engine<L>>(engine: &mut E, blocks: &[Block<L>], mut maps: E::Maps) -> Result<E::Maps, Failure> {
    for block in blocks {
        let out = block.forward(engine, &maps)?;
        engine.release(std::mem::replace(&mut maps, out));
    }
    Ok(maps)
}

impl<L> Network<L> {
    /// As [`Network::map`], with the layers themselves.
    pub(super) fn into_map<M>(self, mut layer: impl FnMut(L) -> M) -> Network<M> {
        Network {
            stem: layer(self.stem),
            blocks: self.blocks.into_iter().map(|block| block.into_map(&mut layer)).collect(),
            head: layer(self.head),
        }
    }
}

impl<L> Block<L> {
    fn into_map<M>(self, layer: &mut impl FnMut(L) -> M) -> Block<M> {
        Block {
            first: self.first.into_iter().map(&mut *layer).collect(),
            last: layer(self.last),
            shortcut: self.shortcut.map(layer),
        }
    }

    fn forward<E: Engine<L>>(&self, engine: &mut E, maps: &E::Maps) -> Result<E::Maps, Failure> {
        let mut inner: Option<E::Maps> = None;
        for layer in &self.first {
            let next = engine.convolve(layer, inner.as_ref().unwrap_or(maps), None, true)?;
            inner.replace(next).into_iter().for_each(|done| engine.release(done));
        }
        let carried = match &self.shortcut {
            Some(shortcut) => Some(engine.convolve(shortcut, maps, None, false)?),
            None => None,
        };
        let residual = carried.as_ref().unwrap_or(maps);
        let out = engine.convolve(&self.last, inner.as_ref().unwrap_or(maps), Some(residual), true)?;
        inner.into_iter().chain(carried).for_each(|done| engine.release(done));
        Ok(out)
    }

    fn map<M, F>(&self, layer: &mut impl FnMut(&L) -> Result<M, F>) -> Result<Block<M>, F> {
        Ok(Block {
            first: self.first.iter().map(&mut *layer).collect::<Result<_, F>>()?,
            last: layer(&self.last)?,
            shortcut: self.shortcut.as_ref().map(layer).transpose()?,
        })
    }
}
