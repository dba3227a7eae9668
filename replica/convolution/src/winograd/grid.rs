//! The division of images into tiles.
//!
//! A tile has `M` × `M` outputs. If `M` does not divide a height or width, the last tiles are short: they have `M - 1`
//! outputs in this dimension, and do without one of the `N` elements. For example, 14 outputs are tiles of 4, 4, 3 and
//! 3, which take 6 + 6 + 5 + 5 multiplications. Four tiles of 4 would take 24.

use crate::BatchShape;
use std::ops::Range;

/// The tiles of a batch of images.
#[derive(Debug, Clone, Copy)]
pub(super) struct TileGrid {
    images: usize,
    down: Line,
    across: Line,
}

/// The tiles of one dimension.
#[derive(Debug, Clone, Copy)]
struct Line {
    /// Number of outputs.
    length: usize,
    /// Number of outputs of a tile that is not short.
    side: usize,
    tiles: usize,
    /// How many of the tiles are short: the last ones.
    short: usize,
}

/// The outputs of a tile in one dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    /// Number of outputs within the image.
    pub(super) length: usize,
    pub(super) is_short: bool,
}

/// A tile: its image and its outputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    pub(super) image: usize,
    pub(super) down: Span,
    pub(super) across: Span,
}

impl TileGrid {
    /// Tiles of `side` × `side` outputs for images of the shape `outputs`.
    pub(super) fn new(outputs: BatchShape, side: usize) -> Self {
        let line = |length: usize| {
            let tiles = length.div_ceil(side);
            Line { length, side, tiles, short: (tiles * side - length).min(tiles) }
        };
        Self { images: outputs.images, down: line(outputs.height), across: line(outputs.width) }
    }

    /// Number of tiles of all images.
    pub(super) fn tiles(&self) -> usize {
        self.images * self.down.tiles * self.across.tiles
    }

    /// The rows of outputs of row `row` of tiles, in each image.
    pub(super) fn rows(&self, row: usize) -> Range<usize> {
        let Span { start, length, .. } = self.down.span(row);
        start..start + length
    }

    /// Number of tiles in a row of tiles.
    pub(super) fn across(&self) -> usize {
        self.across.tiles
    }

    /// Tile `index`. Tiles are numbered row by row through all images.
    #[inline(always)]
    pub(super) fn tile(&self, index: usize) -> Tile {
        let (row, column) = (index / self.across.tiles, index % self.across.tiles);
        Tile {
            image: row / self.down.tiles,
            down: self.down.span(row % self.down.tiles),
            across: self.across.span(column),
        }
    }
}

impl Line {
    #[inline(always)]
    fn span(&self, tile: usize) -> Span {
        let whole = self.tiles - self.short;
        let start = tile * self.side - tile.saturating_sub(whole);
        let is_short = tile >= whole;
        Span { start, length: (self.length - start).min(self.side - usize::from(is_short)), is_short }
    }
}

/// The tiles of one round, by the elements that they need: of the classes of elements, class 0 is needed by all tiles,
/// class 1 not by tiles that are short across, class 2 not by tiles that are short down, and class 3 by neither.
#[derive(Default)]
pub(super) struct Members {
    /// The tiles, those that are not short first. A tile that is not short so has the same place in each class.
    pub(super) tiles: Vec<Tile>,
    /// Number of tiles that are not short. All of their outputs lie within the image.
    pub(super) whole: usize,
    /// For each tile, its place among the tiles of each class.
    pub(super) places: Vec<[usize; CLASSES]>,
    /// For each class, the addresses of the transformed inputs of the tiles that need it.
    pub(super) starts: [Vec<*const f32>; CLASSES],
}

/// Number of classes of elements.
pub(super) const CLASSES: usize = 4;

/// The class of an element. `spare` is the element that short tiles do without.
#[inline(always)]
pub(super) fn class((down, across): (usize, usize), spare: usize) -> usize {
    2 * usize::from(down == spare) + usize::from(across == spare)
}

impl Members {
    /// Fills the lists with `tiles`. Their transformed inputs begin at `start` and lie `row` numbers apart.
    pub(super) fn fill(&mut self, tiles: impl Iterator<Item = Tile> + Clone, start: *const f32, row: usize) {
        self.tiles.clear();
        self.places.clear();
        self.starts.iter_mut().for_each(Vec::clear);
        let is_short = |tile: &Tile| tile.down.is_short || tile.across.is_short;
        self.tiles.extend(tiles.clone().filter(|tile| !is_short(tile)));
        self.whole = self.tiles.len();
        self.tiles.extend(tiles.filter(is_short));
        for (index, Tile { down, across, .. }) in self.tiles.iter().enumerate() {
            self.places.push(std::array::from_fn(|class| self.starts[class].len()));
            for (class, starts) in self.starts.iter_mut().enumerate() {
                let is_spared = down.is_short && class >= 2 || across.is_short && class % 2 == 1;
                if !is_spared {
                    starts.push(start.wrapping_add(index * row));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_output_is_in_one_tile() {
        for (length, side) in (1..40).flat_map(|length| (2..5).map(move |side| (length, side))) {
            let grid = TileGrid::new(BatchShape { images: 1, height: length, width: 1 }, side);
            let mut next = 0;
            for index in 0..grid.tiles() {
                let Span { start, length, is_short } = grid.tile(index).down;
                assert_eq!(start, next, "tile {index} of {grid:?}");
                assert!(
                    if is_short { 0 < length && length < side } else { length == side },
                    "tile {index} of {grid:?}"
                );
                next += length;
            }
            assert_eq!(next, length, "{grid:?}");
        }
    }
}
