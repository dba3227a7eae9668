//! Residual networks by this project's own convolutions. libtorch takes no part.

use super::folded::Folded;
use super::network::{Engine, Network};
use super::team::Team;
use super::{Failure, Input, Model};
use convolution::amx::{self, Registers};
use convolution::winograd::{self, Tile};
use convolution::{Activation, Instructions, Shape, direct, pool};
use std::convert::Infallible;
use std::sync::Arc;

/// Ways to compute a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// By its definition.
    Direct,
    /// Winograd's filtering with such tiles.
    Winograd(Tile),
    /// By its definition, with the matrix unit.
    Amx,
}

/// A convolution, laid out for one of them.
pub(super) enum Kernel {
    Direct(direct::Filter),
    Winograd(winograd::Filter),
    Amx(amx::Filter),
}

impl Kind {
    /// Those that are worth trying for a layer, two at most. Larger tiles take fewer multiplications and more weights: beyond
    /// some size, reading these for one picture takes longer than all else.
    pub(super) fn candidates(layer: &Folded, max_batch: usize, with_amx: bool) -> &'static [Self] {
        const MOST_FOR_ONE: usize = 4 << 20;
        let is_long = 36 * layer.inputs * layer.bias.len() > MOST_FOR_ONE;
        let is_winograds = layer.geometry == direct::Geometry { side: 3, stride: 1, padding: 1 };
        match (is_winograds, is_long && max_batch == 1) {
            (true, true) if with_amx => &[Self::Winograd(Tile::Two), Self::Amx],
            (true, false) if with_amx => &[Self::Winograd(Tile::Four), Self::Amx],
            (false, _) if with_amx => &[Self::Direct, Self::Amx],
            (true, true) => &[Self::Winograd(Tile::Two)],
            (true, false) => &[Self::Winograd(Tile::Two), Self::Winograd(Tile::Four)],
            (false, _) => &[Self::Direct],
        }
    }
}

impl Kernel {
    pub(super) fn new(layer: &Folded, kind: Kind, instructions: Instructions) -> Self {
        let Folded { weights, bias, inputs, geometry } = layer;
        match kind {
            Kind::Direct => Self::Direct(direct::Filter::new(weights, bias, *inputs, *geometry, instructions)),
            Kind::Winograd(tile) => Self::Winograd(winograd::Filter::new(weights, bias, *inputs, tile, instructions)),
            Kind::Amx => Self::Amx(amx::Filter::new(weights, bias, *inputs, *geometry, Registers::Amx)),
        }
    }

    /// Channels and sizes of what it makes of pictures of `shape`.
    fn output(&self, shape: Shape) -> (usize, Shape) {
        match self {
            Self::Direct(filter) => (filter.outputs(), filter.geometry().output(shape)),
            Self::Winograd(filter) => (filter.outputs(), shape),
            Self::Amx(filter) => (filter.outputs(), filter.geometry().output(shape)),
        }
    }
}

/// A convolution in the way that is fastest for as many pictures as there are.
pub(super) struct Layer {
    few: Kernel,
    /// From so many pictures on, another.
    many: Option<(usize, Kernel)>,
}

impl Layer {
    /// The same for any number.
    pub(super) fn always(kernel: Kernel) -> Self {
        Self { few: kernel, many: None }
    }

    /// `many` from `count` pictures on.
    pub(super) fn switching(few: Kernel, count: usize, many: Kernel) -> Self {
        Self { few, many: Some((count, many)) }
    }

    fn kernels(&self) -> impl Iterator<Item = &Kernel> {
        std::iter::once(&self.few).chain(self.many.as_ref().map(|(_, many)| many))
    }

    fn kernel(&self, pictures: usize) -> &Kernel {
        match &self.many {
            Some((count, many)) if pictures >= *count => many,
            _ => &self.few,
        }
    }
}

/// `[images, height, width, channels]`
pub(super) struct Maps {
    /// At the front; what follows is left from longer ones.
    storage: Vec<f32>,
    shape: Shape,
    channels: usize,
}

#[cfg(test)]
impl Fused {
    /// Maps with the given numbers.
    pub(super) fn filled(&mut self, images: usize, side: usize, channels: usize, numbers: &[f32]) -> Maps {
        let mut maps = self.maps(Shape { images, height: side, width: side }, channels);
        maps.numbers_mut().copy_from_slice(numbers);
        maps
    }
}

impl Maps {
    #[cfg(test)]
    pub(super) fn into_numbers(self) -> Vec<f32> {
        self.numbers().to_vec()
    }

    pub(super) fn pictures(&self) -> usize {
        self.shape.images
    }

    fn numbers(&self) -> &[f32] {
        &self.storage[..self.shape.pixels() * self.channels]
    }

    fn numbers_mut(&mut self) -> &mut [f32] {
        &mut self.storage[..self.shape.pixels() * self.channels]
    }
}

/// Computes layers with a team of threads, and keeps memory for the next.
pub(super) struct Fused {
    team: Team,
    pub(super) instructions: Instructions,
    /// What was released: asking the system for megabytes costs as much as filling them, and filling as much as pooling.
    free: Vec<Vec<f32>>,
}

impl Fused {
    pub(super) fn new(threads: usize) -> Self {
        Self { team: Team::new(threads), instructions: Instructions::best(), free: Vec::new() }
    }

    /// Copies `pictures` of `side` by `side` pixels one after the other.
    pub(super) fn pictures(&mut self, pictures: &[Input], side: usize) -> Maps {
        let mut maps = self.maps(Shape { images: pictures.len(), height: side, width: side }, super::CHANNELS);
        let each = maps.numbers_mut().chunks_exact_mut(super::CHANNELS * side * side);
        each.zip(pictures).for_each(|(to, picture)| to.copy_from_slice(picture));
        maps
    }

    /// Maps of like sizes as those of one batch.
    fn join(&mut self, mut parts: Vec<Maps>) -> Maps {
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let images = parts.iter().map(Maps::pictures).sum();
        let (shape, channels) =
            parts.first().map_or((Shape { images: 0, height: 0, width: 0 }, 0), |part| (part.shape, part.channels));
        let mut whole = self.maps(Shape { images, ..shape }, channels);
        let mut filled = 0;
        for part in parts {
            let numbers = part.numbers();
            whole.numbers_mut()[filled..filled + numbers.len()].copy_from_slice(numbers);
            filled += numbers.len();
            self.release(part);
        }
        whole
    }

    /// A convolution by a kernel.
    pub(super) fn compute(&mut self, kernel: &Kernel, maps: &Maps, residual: Option<&Maps>, rectify: bool) -> Maps {
        let (channels, shape) = kernel.output(maps.shape);
        let mut out = self.maps(shape, channels);
        let activation = Activation { residual: residual.map(Maps::numbers), rectify };
        let (from, shape, to, team) = (maps.numbers(), maps.shape, out.numbers_mut(), &self.team);
        match kernel {
            Kernel::Direct(filter) => direct::convolve(from, shape, filter, activation, to, team),
            Kernel::Winograd(filter) => winograd::convolve(from, shape, filter, activation, to, team),
            Kernel::Amx(filter) => amx::convolve(from, shape, filter, activation, to, team),
        }
        out
    }

    /// Room for maps. What is in it is left from others.
    fn maps(&mut self, shape: Shape, channels: usize) -> Maps {
        let length = shape.pixels() * channels;
        // The smallest that is long enough, or the longest to become so: what is there is not filled again.
        let best = self.free.iter().enumerate().min_by_key(|(_, free)| match free.len() {
            enough if enough >= length => (0, enough),
            short => (1, usize::MAX - short),
        });
        let best = best.map(|(index, _)| index);
        let mut storage = best.map(|index| self.free.swap_remove(index)).unwrap_or_default();
        if storage.len() < length {
            storage.resize(length, 0.0);
        }
        Maps { storage, shape, channels }
    }
}

impl Engine<Layer> for Fused {
    type Maps = Maps;

    fn convolve(
        &mut self,
        layer: &Layer,
        maps: &Maps,
        residual: Option<&Maps>,
        rectify: bool,
    ) -> Result<Maps, Failure> {
        Ok(self.compute(layer.kernel(maps.pictures()), maps, residual, rectify))
    }

    fn max_pool(&mut self, maps: &Maps) -> Result<Maps, Failure> {
        let mut out = self.maps(pool::max_output(maps.shape), maps.channels);
        pool::max(maps.numbers(), maps.shape, maps.channels, out.numbers_mut(), self.instructions);
        Ok(out)
    }

    fn average_pool(&mut self, maps: &Maps) -> Result<Maps, Failure> {
        let mut out = self.maps(Shape { height: 1, width: 1, ..maps.shape }, maps.channels);
        pool::average(maps.numbers(), maps.shape, maps.channels, out.numbers_mut());
        Ok(out)
    }

    fn release(&mut self, maps: Maps) {
        self.free.push(maps.storage);
    }
}

/// A network, and from where on pictures go through it together.
pub(super) struct Plan {
    pub(super) network: Network<Layer>,
    /// Up to this block each picture goes by itself: there its maps fill the near caches, and later the weights do, which
    /// several pictures had better share.
    pub(super) alone: usize,
}

/// A plan and what carries it out.
pub(super) struct FusedModel {
    plan: Arc<Plan>,
    engine: Fused,
    side: usize,
}

impl FusedModel {
    /// For pictures of `side` by `side` pixels.
    pub(super) fn new(plan: Arc<Plan>, side: usize, threads: usize) -> Self {
        Self { plan, engine: Fused::new(threads), side }
    }
}

impl Plan {
    /// What computes it, for people.
    pub(super) fn units(&self) -> String {
        let (mut layers, mut by_amx) = (0, 0);
        let count = |layer: &Layer| {
            layers += 1;
            by_amx += usize::from(layer.kernels().any(|kernel| matches!(kernel, Kernel::Amx(_))));
            Ok::<_, Infallible>(())
        };
        let Ok(_counted) = self.network.map(count);
        let instructions = Instructions::best();
        match by_amx {
            0 => format!("{instructions:?}"),
            _ => format!("{instructions:?}, and Amx in {by_amx} of {layers} layers"),
        }
    }

    /// The logits of pictures of `side` by `side` pixels.
    pub(super) fn forward(&self, engine: &mut Fused, pictures: &[Input], side: usize) -> Result<Maps, Failure> {
        let apart = if self.alone == 0 { pictures.len() } else { 1 };
        let mut fronts = Vec::new();
        for pictures in pictures.chunks(apart) {
            let input = engine.pictures(pictures, side);
            fronts.push(self.network.front(engine, &input, self.alone)?);
            engine.release(input);
        }
        let maps = engine.join(fronts);
        self.network.back(engine, maps, self.alone)
    }
}

impl Model for FusedModel {
    fn logits(&mut self, pictures: &[Input]) -> Result<Vec<Vec<f32>>, Failure> {
        let logits = self.plan.forward(&mut self.engine, pictures, self.side)?;
        let rows = logits.numbers().chunks_exact(logits.channels).map(<[f32]>::to_vec).collect();
        self.engine.release(logits);
        Ok(rows)
    }
}
